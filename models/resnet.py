"""Residual networks for images (He et al. 2016), in the common "v1.5" form.

v1.5 puts the stride of a bottleneck block into its 3×3 convolution instead of the first 1×1. Padding is
explicit and symmetric, as in torchvision, whose parameter counts these networks have.
"""

from typing import Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float
from pydantic import Field, PositiveInt

from trialbook.models.activation import ACTIVATIONS, Activation
from trialbook.models.convolution import check_images, convolution
from trialbook.models.dropout import Dropout
from trialbook.models.initializer import scaled_normal
from trialbook.models.normalization import group_problems, norm
from trialbook.settings import Settings, Static, Traced

EXPANSION = {"basic": 1, "bottleneck": 4}


class ResNetConfig(Settings):
  """The defaults are the ResNet-20 for CIFAR; (3, 4, 6, 3), bottleneck, imagenet, width 64 is the ResNet-50.

  `stem` is a 3×3 convolution ("cifar") or a 7×7 convolution of stride 2 and a max pooling ("imagenet");
  `stage_sizes` counts the blocks of each stage, of which each but the first halves the image and doubles
  `width`. `groups` counts for group normalization only, and `virtual_batch_size`, the examples that share
  statistics (None: the global batch), for batch normalization only. `zero_init_residual` starts the last scale
  of each residual branch at zero (Goyal et al. 2017). Dropout, absent if its rate is None, is before the last
  layer.
  """

  name: Static[Literal["resnet"]] = "resnet"
  stem: Static[Literal["cifar", "imagenet"]] = "cifar"
  block: Static[Literal["basic", "bottleneck"]] = "basic"
  stage_sizes: Static[tuple[PositiveInt, ...]] = Field(default=(3, 3, 3), min_length=1)
  width: Static[PositiveInt] = 16
  activation: Static[Activation] = "relu"
  normalization: Static[Literal["batch", "layer", "group"]] = "batch"
  groups: Static[PositiveInt] = 8
  virtual_batch_size: Static[PositiveInt | None] = None
  zero_init_residual: Static[bool] = True
  dropout_rate: Traced[float | None] = Field(default=None, ge=0, lt=1)
  batch_norm_momentum: Traced[float] = Field(default=0.9, ge=0, lt=1)


def problems(config: ResNetConfig) -> list[str]:
  """Return the problems of several settings together; the width of every layer is a multiple of `width`."""
  return group_problems(config.groups, "model.width", (config.width,)) if config.normalization == "group" else []


class ResNet(nnx.Module):
  """A residual network from images [batch, height, width, channels] to outputs [batch, num_outputs].

  Raises:
    ValueError: `input_shape` is not (height, width, channels).
  """

  def __init__(self, config: ResNetConfig, *, input_shape: tuple[int, ...], num_outputs: int, rngs: nnx.Rngs):
    check_images("resnet", input_shape)
    kernel, stride = (3, 1) if config.stem == "cifar" else (7, 2)
    self.stem = ConvNorm(config, input_shape[-1], config.width, kernel, stride, rngs=rngs)
    self.pool_stem = config.stem == "imagenet"
    self.activation = ACTIVATIONS[config.activation]
    blocks, features = [], config.width
    for stage, size in enumerate(config.stage_sizes):
      for index in range(size):
        stride = 2 if stage > 0 and index == 0 else 1
        blocks.append(ResidualBlock(config, features, config.width * 2**stage, stride, rngs=rngs))
        features = config.width * 2**stage * EXPANSION[config.block]
    self.blocks = nnx.List(blocks)
    self.dropout = None if config.dropout_rate is None else Dropout("dropout_rate", rngs=rngs)
    self.output = nnx.Linear(features, num_outputs, kernel_init=scaled_normal(1.0, "in"), rngs=rngs)

  def __call__(self, x: Float[Array, "batch height width channels"], *, train: bool) -> Float[Array, "batch outputs"]:
    x = self.activation(self.stem(x, train=train))
    if self.pool_stem:
      pad = ((1, 1), (1, 1))
      x = nnx.max_pool(x, (3, 3), strides=(2, 2), padding=pad)  # pyright: ignore[reportArgumentType]
    for block in self.blocks:
      x = block(x, train=train)
    x = jnp.mean(x, axis=(1, 2))
    x = x if self.dropout is None else self.dropout(x, train=train)
    return self.output(x)


class ResidualBlock(nnx.Module):
  """The input plus a branch of two ("basic") or three ("bottleneck") convolutions of it.

  The shortcut is the input itself, or a 1×1 convolution of it where the branch changes the shape.
  """

  def __init__(self, config: ResNetConfig, inputs: int, width: int, stride: int, *, rngs: nnx.Rngs):
    outputs = width * EXPANSION[config.block]
    if config.block == "basic":
      layers = [(inputs, width, 3, stride), (width, outputs, 3, 1)]
    else:
      layers = [(inputs, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]
    *first, last = layers
    self.hidden = nnx.List(ConvNorm(config, *layer, rngs=rngs) for layer in first)
    self.last = ConvNorm(config, *last, zero_init_scale=config.zero_init_residual, rngs=rngs)
    same_shape = inputs == outputs and stride == 1
    self.shortcut = None if same_shape else ConvNorm(config, inputs, outputs, 1, stride, rngs=rngs)
    self.activation = ACTIVATIONS[config.activation]

  def __call__(
    self, x: Float[Array, "batch height width inputs"], *, train: bool
  ) -> Float[Array, "batch height2 width2 outputs"]:
    shortcut = x if self.shortcut is None else self.shortcut(x, train=train)
    for layer in self.hidden:
      x = self.activation(layer(x, train=train))
    return self.activation(shortcut + self.last(x, train=train))


class ConvNorm(nnx.Module):
  """A square convolution without bias, then normalization; an odd kernel and stride 1 keep the image size."""

  def __init__(
    self,
    config: ResNetConfig,
    inputs: int,
    outputs: int,
    kernel: int,
    stride: int,
    *,
    zero_init_scale: bool = False,
    rngs: nnx.Rngs,
  ):
    self.conv = convolution(inputs, outputs, kernel, stride, rngs=rngs)
    self.norm = norm(
      config.normalization,
      outputs,
      groups=config.groups,
      virtual_batch_size=config.virtual_batch_size,
      zero_init_scale=zero_init_scale,
      rngs=rngs,
    )

  def __call__(
    self, x: Float[Array, "batch height width inputs"], *, train: bool
  ) -> Float[Array, "batch height2 width2 outputs"]:
    return self.norm(self.conv(x), train=train)
