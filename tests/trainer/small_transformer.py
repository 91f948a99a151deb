"""A small transformer from outside the repository, for tests: digits are read as 8 tokens of 8 features, row by row.

Its matrices are large enough to be split over devices, its biases, norms, positions and ends are not.
"""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from tiny import mlp

from trialbook.trainer import Config


class SmallTransformer(nnx.Module):
  """Pre-norm blocks of attention and MLP between a linear embedding and the mean over tokens."""

  sharding_rules: ClassVar = {
    "blocks/*/hidden/kernel": (None, "tensor"),
    "blocks/*/hidden/bias": ("tensor",),
    "blocks/*/back/kernel": ("tensor",),
  }

  def __init__(
    self,
    width: int = 128,
    depth: int = 2,
    heads: int = 4,
    *,
    num_classes: int,
    input_shape: tuple[int, ...],
    rngs: nnx.Rngs,
  ):
    tokens, features = input_shape[:2]
    self.embedding = nnx.Linear(features, width, rngs=rngs)
    self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (tokens, width)))
    self.blocks = nnx.List([Block(width, heads, rngs) for _ in range(depth)])
    self.norm = nnx.LayerNorm(width, rngs=rngs)
    self.output = nnx.Linear(width, num_classes, rngs=rngs)

  def __call__(self, x: Float[Array, "batch 8 8 1"], *, train: bool) -> Float[Array, "batch classes"]:
    del train
    x = self.embedding(x[..., 0]) + self.positions[...]
    for block in self.blocks:
      x = block(x)
    return self.output(jnp.mean(self.norm(x), axis=1))


class Block(nnx.Module):
  """x + attention(norm(x)), then x + mlp(norm(x))."""

  def __init__(self, width: int, heads: int, rngs: nnx.Rngs):
    self.heads = heads
    self.attention_norm, self.mlp_norm = (nnx.LayerNorm(width, rngs=rngs) for _ in range(2))
    self.query_key_value = nnx.Linear(width, 3 * width, rngs=rngs)
    self.projection = nnx.Linear(width, width, rngs=rngs)
    self.hidden, self.back = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

  def __call__(self, x: Float[Array, "batch tokens width"]) -> Float[Array, "batch tokens width"]:
    parts = self.query_key_value(self.attention_norm(x)).reshape(*x.shape[:2], 3, self.heads, -1)
    attended = jax.nn.dot_product_attention(*jnp.moveaxis(parts, 2, 0))
    x = x + self.projection(attended.reshape(x.shape))
    return x + self.back(nnx.gelu(self.hidden(self.mlp_norm(x))))


def transformer(**changes: Any) -> Config:
  """A config of it with Adam, as `tiny.mlp` otherwise."""
  config = mlp(model__name="small_transformer:SmallTransformer", optimizer__name="adam", optimizer__learning_rate=1e-3)
  return config.override({path.replace("__", "."): value for path, value in changes.items()})
