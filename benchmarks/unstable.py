"""Small trainings that are unstable: branches that do not start at zero, weights that start too small, outliers."""

import itertools
import math
from typing import Any

import numpy as np
from flax import nnx

HE = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")


class ResidualMlp(nnx.Module):
  """A residual network without normalization. Each branch doubles the variance, unless it starts at zero."""

  def __init__(
    self, num_classes: int, input_shape: tuple[int, ...], depth: int = 8, zero: bool = False, *, rngs: nnx.Rngs
  ):
    width, last = 32, nnx.initializers.zeros if zero else HE
    self.first = nnx.Linear(math.prod(input_shape), width, kernel_init=HE, rngs=rngs)
    self.hidden = nnx.List(nnx.Linear(width, width, kernel_init=HE, rngs=rngs) for _ in range(depth))
    self.branches = nnx.List(nnx.Linear(width, width, kernel_init=last, rngs=rngs) for _ in range(depth))
    self.output = nnx.Linear(width, num_classes, rngs=rngs)

  def __call__(self, x):
    x = self.first(x.reshape(x.shape[0], -1))
    for hidden, branch in zip(self.hidden, self.branches, strict=True):
      x = x + branch(nnx.relu(hidden(x)))
    return self.output(x)


class SmallStart(nnx.Module):
  """A network with layer normalization whose weights start far too small.

  Normalization makes each layer's output independent of the size of its weights, so the gradient is large where the
  weights are small: it grows as 1 / size. The first steps change the weights by many times what they are, unless the
  learning rate is small. The weights grow by that, so the same learning rate is harmless a few steps later.
  """

  def __init__(
    self,
    num_classes: int,
    input_shape: tuple[int, ...],
    depth: int = 3,
    width: int = 32,
    size: float = 0.0005,
    *,
    rngs: nnx.Rngs,
  ):
    start = nnx.initializers.variance_scaling(2.0 * size**2, "fan_in", "normal")
    widths = [math.prod(input_shape), *[width] * depth]
    self.layers = nnx.List(
      nnx.Linear(*pair, use_bias=False, kernel_init=start, rngs=rngs) for pair in itertools.pairwise(widths)
    )
    # An epsilon far below the variance of what such small weights give.
    self.norms = nnx.List(nnx.LayerNorm(width, epsilon=1e-12, use_scale=False, rngs=rngs) for _ in range(depth))
    self.output = nnx.Linear(width, num_classes, rngs=rngs)

  def __call__(self, x):
    x = x.reshape(x.shape[0], -1)
    for layer, norm in zip(self.layers, self.norms, strict=True):
      x = nnx.relu(norm(layer(x)))
    return self.output(x)


def outliers() -> dict[str, dict[str, Any]]:
  """Return a regression problem in which one of 500 training targets is far off, so that gradients spike."""
  rng = np.random.default_rng(0)
  into, out = rng.normal(size=(16, 8)), rng.normal(size=8)

  def split(count: int, size: float) -> dict[str, Any]:
    x = rng.normal(size=(count, 16))
    y = np.tanh(x @ into / 2) @ out / 2
    y += size * rng.choice([-1, 1], size=count) * (rng.uniform(size=count) < 0.002)
    return {"inputs": x.astype(np.float32), "targets": y.astype(np.float32)}

  return {"train": split(2000, 30.0), "validation": split(1000, 0.0)}
