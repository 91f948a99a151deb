"""The vision transformer (Dosovitskiy et al. 2021): an image as a sequence of patches."""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import PositiveInt

from trialbook.models import layout, transformer_block
from trialbook.models.convolution import check_images
from trialbook.models.dropout import Dropout
from trialbook.models.initializer import scaled_normal
from trialbook.models.transformer_block import BlockConfig
from trialbook.settings import Static


class VitConfig(BlockConfig):
  """Patches of patch_size × patch_size pixels; the rest is `BlockConfig`'s.

  Patch size 16, width 384, depth 12 and 6 heads are the ViT-S/16. `pooling` is what the last layer sees: "token"
  is a trained vector that is put before the patches and attends to them, "mean" the mean over patches. Positions
  are trained vectors, so the images of one network have one size.
  """

  name: Static[Literal["vit"]] = "vit"
  patch_size: Static[PositiveInt] = 4
  pooling: Static[Literal["token", "mean"]] = "token"


def problems(config: VitConfig) -> list[str]:
  """Return the problems of settings that are each in their range."""
  return transformer_block.problems(config)


class Vit(nnx.Module):
  """A vision transformer from images [batch, height, width, channels] to outputs [batch, num_outputs].

  Raises:
    ValueError: `input_shape` is not (height, width, channels), or is not a whole number of patches.
  """

  def __init__(self, config: VitConfig, *, input_shape: tuple[int, ...], num_outputs: int, rngs: nnx.Rngs):
    check_images("vit", input_shape)
    height, width, channels = input_shape
    size = config.patch_size
    if height % size or width % size:
      fitting = [str(n) for n in range(1, min(height, width) + 1) if height % n == 0 and width % n == 0]
      raise ValueError(
        f"model.patch_size: {size} does not divide images of {height} × {width}; these do: {', '.join(fitting)}"
      )
    self.patch_size = size
    self.embedding = nnx.Linear(size * size * channels, config.width, kernel_init=scaled_normal(1.0, "in"), rngs=rngs)
    self.token = nnx.Param(jnp.zeros((1, config.width), jnp.float32)) if config.pooling == "token" else None
    length = (height // size) * (width // size) + (config.pooling == "token")
    self.positions = nnx.Param(0.02 * jax.random.normal(rngs.params(), (length, config.width), jnp.float32))
    self.dropout = None if config.dropout_rate is None else Dropout("dropout_rate", rngs=rngs)
    self.blocks = transformer_block.blocks(config, rngs=rngs)
    self.norm = transformer_block.last_norm(config, rngs=rngs)
    self.output = nnx.Linear(config.width, num_outputs, kernel_init=scaled_normal(1.0, "in"), rngs=rngs)

  @property
  def sharding_rules(self) -> Mapping[str, layout.Axes]:
    """Return how `mesh.tensor` splits the blocks."""
    return {f"blocks/{pattern}": axes for pattern, axes in self.blocks.sharding_rules.items()}

  def __call__(self, x: Float[Array, "batch height width channels"], *, train: bool) -> Float[Array, "batch outputs"]:
    x = self.embedding(patches(x, self.patch_size))
    if self.token is not None:
      x = jnp.concatenate([jnp.broadcast_to(self.token[...], (x.shape[0], *self.token.shape)), x], axis=1)
    x = x + self.positions[...]
    x = x if self.dropout is None else self.dropout(x, train=train)
    x = self.norm(self.blocks(x, train=train), train=train)
    return self.output(jnp.mean(x, axis=1) if self.token is None else x[:, 0])


def patches(x: Float[Array, "batch height width channels"], size: int) -> Float[Array, "batch count pixels"]:
  """Cut images into squares, row by row; a patch is its pixels [size, size, channels], flattened."""
  batch, height, width, channels = x.shape
  x = x.reshape(batch, height // size, size, width // size, size, channels)
  return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, size * size * channels)
