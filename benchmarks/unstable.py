"""Small trainings that are unstable: residual branches that do not start at zero, a stride of one, outliers."""

import math
from typing import Any

import jax.numpy as jnp
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


class StridedNet(nnx.Module):
  """Three residual blocks of convolutions without normalization. `stride` is that of the last one, as in figure 4."""

  def __init__(self, num_classes: int, input_shape: tuple[int, ...], stride: int = 2, *, rngs: nnx.Rngs):
    width = 8

    def convolution(inputs: int, kernel: int, stride: int) -> nnx.Conv:
      return nnx.Conv(inputs, width, (kernel, kernel), strides=stride, kernel_init=HE, rngs=rngs)

    self.stem = convolution(input_shape[-1], 3, 1)
    strides = (1, 2, stride)
    self.first = nnx.List(convolution(width, 3, one) for one in strides)
    self.second = nnx.List(convolution(width, 3, 1) for _ in strides)
    self.shortcuts = nnx.List(convolution(width, 1, one) for one in strides)
    side = math.prod(strides)
    features = width * math.ceil(input_shape[0] / side) * math.ceil(input_shape[1] / side)
    self.output = nnx.Linear(features, num_classes, rngs=rngs)

  def __call__(self, x):
    x = self.stem(x)
    for first, second, shortcut in zip(self.first, self.second, self.shortcuts, strict=True):
      x = shortcut(x) + second(nnx.relu(first(nnx.relu(x))))
    return self.output(jnp.reshape(nnx.relu(x), (x.shape[0], -1)))


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
