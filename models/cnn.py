"""A plain convolutional network: stages of convolutions, each followed by pooling."""

from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field, PositiveInt

from trialbook.models.activation import ACTIVATIONS, Activation
from trialbook.models.convolution import check_images, convolution
from trialbook.models.dropout import Dropout
from trialbook.models.initializer import scaled_normal
from trialbook.models.normalization import Normalization, group_problems, norm
from trialbook.settings import Settings, Static, Traced


class CnnConfig(Settings):
  """A stage for each of `widths`, then the mean over positions and a linear layer.

  A stage is `convolutions_per_stage` times convolution → normalization → activation, then 2×2 `pooling` that
  halves the image, rounding up, and dropout; `kernel_size` is odd. `groups` counts for group normalization only,
  and `virtual_batch_size`, the examples that share statistics (None: the global batch), for batch normalization
  only. `dropout_rate` None leaves the dropout layers out.
  """

  name: Static[Literal["cnn"]] = "cnn"
  widths: Static[tuple[PositiveInt, ...]] = Field(default=(32, 64, 128), min_length=1)
  convolutions_per_stage: Static[PositiveInt] = 2
  kernel_size: Static[PositiveInt] = 3
  pooling: Static[Literal["max", "average"]] = "max"
  activation: Static[Activation] = "relu"
  normalization: Static[Normalization] = "batch"
  groups: Static[PositiveInt] = 8
  virtual_batch_size: Static[PositiveInt | None] = None
  dropout_rate: Traced[float | None] = Field(default=None, ge=0, lt=1)
  batch_norm_momentum: Traced[float] = Field(default=0.9, ge=0, lt=1)


def problems(config: CnnConfig) -> list[str]:
  """Return the problems of settings that are each in their range."""
  found = []
  if config.kernel_size % 2 == 0:
    found.append(
      f"model.kernel_size: {config.kernel_size} is even; use an odd size, such as 3, which keeps the image's size"
    )
  if config.normalization == "group":
    found += group_problems(config.groups, "model.widths", config.widths)
  return found


class Cnn(nnx.Module):
  """A convolutional network from images [batch, height, width, channels] to outputs [batch, num_outputs].

  Raises:
    ValueError: `input_shape` is not (height, width, channels).
  """

  def __init__(self, config: CnnConfig, *, input_shape: tuple[int, ...], num_outputs: int, rngs: nnx.Rngs):
    check_images("cnn", input_shape)
    sizes = (input_shape[-1], *config.widths)
    self.stages = nnx.List(
      Stage(config, inputs, outputs, rngs=rngs) for inputs, outputs in zip(sizes, config.widths, strict=False)
    )
    self.output = nnx.Linear(sizes[-1], num_outputs, kernel_init=scaled_normal(1.0, "in"), rngs=rngs)

  def __call__(self, x: Float[Array, "batch height width channels"], *, train: bool) -> Float[Array, "batch outputs"]:
    for stage in self.stages:
      x = stage(x, train=train)
    return self.output(jnp.mean(x, axis=(1, 2)))


class Stage(nnx.Module):
  """Convolutions, each with normalization and activation; then pooling and dropout."""

  def __init__(self, config: CnnConfig, inputs: int, outputs: int, *, rngs: nnx.Rngs):
    sizes = (inputs, *[outputs] * config.convolutions_per_stage)
    use_bias = config.normalization == "none"  # Normalization has a bias of its own.
    self.convs = nnx.List(
      convolution(before, outputs, config.kernel_size, use_bias=use_bias, rngs=rngs) for before in sizes[:-1]
    )
    self.norms = nnx.List(
      norm(
        config.normalization,
        outputs,
        groups=config.groups,
        virtual_batch_size=config.virtual_batch_size,
        rngs=rngs,
      )
      for _ in self.convs
    )
    self.activation = ACTIVATIONS[config.activation]
    self.pooling = config.pooling
    self.dropout = None if config.dropout_rate is None else Dropout("dropout_rate", rngs=rngs)

  def __call__(
    self, x: Float[Array, "batch height width inputs"], *, train: bool
  ) -> Float[Array, "batch height2 width2 outputs"]:
    for conv, normalize in zip(self.convs, self.norms, strict=True):
      x = self.activation(normalize(conv(x), train=train))
    x = _pool(x, self.pooling)
    return x if self.dropout is None else self.dropout(x, train=train)


def _pool(x: Float[Array, "batch height width c"], kind: str) -> Float[Array, "batch height2 width2 c"]:
  """Pool over 2×2 windows, the last ones over what is there; means are formed in float32."""
  if kind == "max":
    return nnx.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
  x32 = x.astype(jnp.float32)
  return nnx.avg_pool(x32, (2, 2), strides=(2, 2), padding="SAME", count_include_pad=False).astype(x.dtype)
