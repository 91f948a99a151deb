"""Wide residual networks for small images (Zagoruyko & Komodakis 2016): pre-activation, few layers, many features."""

from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field, PositiveInt

from trialbook.models.activation import ACTIVATIONS, Activation
from trialbook.models.convolution import HE_NORMAL, check_images, convolution
from trialbook.models.dropout import Dropout
from trialbook.models.initializer import scaled_normal
from trialbook.models.normalization import Norm, group_problems, norm
from trialbook.settings import Settings, Static, Traced

STEM_WIDTH = 16


class WideResNetConfig(Settings):
  """The default is the WRN-16-4; depth 28 and widen_factor 10 are the WRN-28-10.

  `depth` = 6n + 4 counts the convolutions: two in each of n blocks of three stages, one shortcut for each stage, and
  the stem. The stages have 16, 32 and 64 times `widen_factor` features. Dropout, absent if its rate is None, is
  between the convolutions of each block. `groups` counts for group normalization only, and `virtual_batch_size`,
  the examples that share statistics (None: the global batch), for batch normalization only.
  `zero_init_residual` starts the last convolution of each block at zero, so that its branch adds nothing at first.
  """

  name: Static[Literal["wide_resnet"]] = "wide_resnet"
  depth: Static[int] = Field(default=16, ge=10)
  widen_factor: Static[PositiveInt] = 4
  activation: Static[Activation] = "relu"
  normalization: Static[Literal["batch", "layer", "group"]] = "batch"
  groups: Static[PositiveInt] = 8
  virtual_batch_size: Static[PositiveInt | None] = None
  zero_init_residual: Static[bool] = False
  dropout_rate: Traced[float | None] = Field(default=None, ge=0, lt=1)
  batch_norm_momentum: Traced[float] = Field(default=0.9, ge=0, lt=1)


def problems(config: WideResNetConfig) -> list[str]:
  """Return the problems of settings that are each in their range; every width is a multiple of 16."""
  found = []
  if (config.depth - 4) % 6:
    below = config.depth - (config.depth - 4) % 6
    found.append(f"model.depth: {config.depth} is not of the form 6n + 4; the nearest are {below} and {below + 6}")
  if config.normalization == "group":
    found += group_problems(config.groups, "the width of the stem,", (STEM_WIDTH,))
  return found


class WideResNet(nnx.Module):
  """A wide residual network from images [batch, height, width, channels] to outputs [batch, num_outputs].

  Raises:
    ValueError: `input_shape` is not (height, width, channels).
  """

  def __init__(self, config: WideResNetConfig, *, input_shape: tuple[int, ...], num_outputs: int, rngs: nnx.Rngs):
    check_images("wide_resnet", input_shape)
    self.stem = convolution(input_shape[-1], STEM_WIDTH, 3, rngs=rngs)
    blocks, features = [], STEM_WIDTH
    for stage in range(3):
      width = STEM_WIDTH * 2**stage * config.widen_factor
      for index in range((config.depth - 4) // 6):
        stride = 2 if stage > 0 and index == 0 else 1
        blocks.append(PreActivationBlock(config, features, width, stride, rngs=rngs))
        features = width
    self.blocks = nnx.List(blocks)
    self.norm = _norm(config, features, rngs)
    self.activation = ACTIVATIONS[config.activation]
    self.output = nnx.Linear(features, num_outputs, kernel_init=scaled_normal(1.0, "in"), rngs=rngs)

  def __call__(self, x: Float[Array, "batch height width channels"], *, train: bool) -> Float[Array, "batch outputs"]:
    x = self.stem(x)
    for block in self.blocks:
      x = block(x, train=train)
    x = self.activation(self.norm(x, train=train))
    return self.output(jnp.mean(x, axis=(1, 2)))


class PreActivationBlock(nnx.Module):
  """x + f(x), f twice normalization → activation → 3×3 convolution; nothing is applied to the sum.

  Where f changes the shape, the shortcut is a 1×1 convolution of what f's first convolution sees.
  """

  def __init__(self, config: WideResNetConfig, inputs: int, outputs: int, stride: int, *, rngs: nnx.Rngs):
    self.norm1 = _norm(config, inputs, rngs)
    self.conv1 = convolution(inputs, outputs, 3, stride, rngs=rngs)
    self.norm2 = _norm(config, outputs, rngs)
    self.dropout = None if config.dropout_rate is None else Dropout("dropout_rate", rngs=rngs)
    last = nnx.initializers.zeros if config.zero_init_residual else HE_NORMAL
    self.conv2 = convolution(outputs, outputs, 3, kernel_init=last, rngs=rngs)
    same_shape = inputs == outputs and stride == 1
    self.shortcut = None if same_shape else convolution(inputs, outputs, 1, stride, rngs=rngs)
    self.activation = ACTIVATIONS[config.activation]

  def __call__(
    self, x: Float[Array, "batch height width inputs"], *, train: bool
  ) -> Float[Array, "batch height2 width2 outputs"]:
    branch = self.activation(self.norm1(x, train=train))
    shortcut = x if self.shortcut is None else self.shortcut(branch)
    branch = self.activation(self.norm2(self.conv1(branch), train=train))
    branch = branch if self.dropout is None else self.dropout(branch, train=train)
    return shortcut + self.conv2(branch)


def _norm(config: WideResNetConfig, features: int, rngs: nnx.Rngs) -> Norm:
  return norm(
    config.normalization,
    features,
    groups=config.groups,
    virtual_batch_size=config.virtual_batch_size,
    rngs=rngs,
  )
