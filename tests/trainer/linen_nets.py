"""Linen models as people write them, and one network twice: in Linen and in NNX."""

import math
from typing import Any

import jax
from flax import linen as nn
from flax import nnx


class ResidualBlock(nn.Module):
  filters: int
  train: bool

  @nn.compact
  def __call__(self, x: Any):
    def norm(x: Any) -> Any:
      return nn.BatchNorm(use_running_average=not self.train, momentum=0.9, axis_name="batch")(x)

    y = nn.relu(norm(nn.Conv(self.filters, (3, 3), use_bias=False)(x)))
    y = norm(nn.Conv(self.filters, (3, 3), use_bias=False)(y))
    if x.shape != y.shape:
      x = nn.Conv(self.filters, (1, 1), name="projection")(x)
    return nn.relu(x + y)


class ResNet(nn.Module):
  """Statistics over an axis named "batch", as under pmap."""

  num_classes: int
  depth: int = 2

  @nn.compact
  def __call__(self, x: Any, train: bool = True):
    for _ in range(self.depth):
      x = ResidualBlock(4, train)(x)
    return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))


class Transformer(nn.Module):
  """A causal language model, with `deterministic`."""

  num_classes: int
  width: int = 8
  depth: int = 2

  @nn.compact
  def __call__(self, tokens_BxL: Any, deterministic: bool):
    x = nn.Embed(self.num_classes, self.width)(tokens_BxL)
    x += self.param("positions", nn.initializers.normal(0.02), (tokens_BxL.shape[1], self.width))
    mask = nn.make_causal_mask(tokens_BxL)
    for _ in range(self.depth):
      y = nn.MultiHeadDotProductAttention(2, dropout_rate=0.1, deterministic=deterministic)(
        nn.LayerNorm()(x), mask=mask
      )
      x += nn.Dropout(0.1)(y, deterministic=deterministic)
      x += nn.Dense(self.width)(nn.gelu(nn.Dense(2 * self.width)(nn.LayerNorm()(x))))
    return nn.Dense(self.num_classes)(nn.LayerNorm()(x))


class LinenTwin(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, x: Any, train: bool):
    x = nn.Dense(6)(x.reshape(len(x), -1))
    x = nn.relu(nn.BatchNorm(use_running_average=not train)(x))
    return nn.Dense(self.num_classes)(x)


class NnxTwin(nnx.Module):
  """Attributes have the names that Linen gives."""

  def __init__(self, input_shape: tuple[int, ...], num_classes: int, *, rngs: nnx.Rngs):
    self.Dense_0 = nnx.Linear(math.prod(input_shape), 6, rngs=rngs)
    self.BatchNorm_0 = nnx.BatchNorm(6, rngs=rngs)
    self.Dense_1 = nnx.Linear(6, num_classes, rngs=rngs)

  def __call__(self, x: Any):
    return self.Dense_1(jax.nn.relu(self.BatchNorm_0(self.Dense_0(x.reshape(len(x), -1)))))
