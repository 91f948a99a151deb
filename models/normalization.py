"""Normalization layers of one call, `norm(x, train=...)`.

All compute their statistics in float32 whatever the dtype of x, and in two passes, since E[x²] - E[x]²
cancels; the result has x's dtype. The variance is the biased one, the mean of squared deviations, also in the
moving averages (PyTorch's are unbiased).
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from models.hyperparameter import Hyperparameter

Normalization = Literal["batch", "layer", "group", "none"]


class BatchNorm(nnx.Module):
  """Batch normalization over the global batch (Ioffe & Szegedy 2015): over all axes but the last.

  Written for the whole array, so under jit on a mesh the statistics are synchronized over all devices.
  In training it normalizes by the batch and moves `mean` and `var` (float32, [features]) to
  `momentum * old + (1 - momentum) * batch`; in evaluation it normalizes by these.

  Args:
    features: the size of the last axis.
    momentum: the name of the traced setting to read, or a constant, in [0, 1).
    epsilon: added to the variance.
    zero_init_scale: start with a scale of zero instead of one.
  """

  def __init__(
    self,
    features: int,
    *,
    momentum: str | float = "batch_norm_momentum",
    epsilon: float = 1e-5,
    zero_init_scale: bool = False,
    rngs: nnx.Rngs,
  ):
    del rngs  # The same call as layers that draw their parameters.
    self.scale, self.bias = _affine(features, zero_init_scale)
    self.mean = nnx.BatchStat(jnp.zeros(features, jnp.float32))
    self.var = nnx.BatchStat(jnp.ones(features, jnp.float32))
    self.momentum = Hyperparameter.read(momentum)
    self.epsilon = epsilon

  def __call__(self, x: Float[Array, "... features"], *, train: bool) -> Float[Array, "... features"]:
    x32 = x.astype(jnp.float32)
    if train:
      mean, var = _moments(x32, tuple(range(x.ndim - 1)))
      momentum = self.momentum[...]
      self.mean[...] = momentum * self.mean[...] + (1 - momentum) * mean.reshape(-1)
      self.var[...] = momentum * self.var[...] + (1 - momentum) * var.reshape(-1)
    else:
      mean, var = self.mean[...], self.var[...]
    standard = (x32 - mean) * jax.lax.rsqrt(var + self.epsilon)
    return _scale_and_shift(standard, self.scale, self.bias).astype(x.dtype)


class LayerNorm(nnx.Module):
  """Layer normalization (Ba et al. 2016): over the last axis, at each position of each example."""

  def __init__(self, features: int, *, epsilon: float = 1e-5, zero_init_scale: bool = False, rngs: nnx.Rngs):
    del rngs
    self.scale, self.bias = _affine(features, zero_init_scale)
    self.epsilon = epsilon

  def __call__(self, x: Float[Array, "... features"], *, train: bool) -> Float[Array, "... features"]:
    del train
    x32 = x.astype(jnp.float32)
    mean, var = _moments(x32, (-1,))
    standard = (x32 - mean) * jax.lax.rsqrt(var + self.epsilon)
    return _scale_and_shift(standard, self.scale, self.bias).astype(x.dtype)


class GroupNorm(nnx.Module):
  """Group normalization (Wu & He 2018): over all positions of an example and the features of one group.

  Raises:
    ValueError: `groups` does not divide `features`.
  """

  def __init__(
    self,
    features: int,
    *,
    groups: int,
    epsilon: float = 1e-5,
    zero_init_scale: bool = False,
    rngs: nnx.Rngs,
  ):
    del rngs
    if features % groups:
      raise ValueError(f"group normalization: {groups} groups do not divide {features} features")
    self.scale, self.bias = _affine(features, zero_init_scale)
    self.groups = groups
    self.epsilon = epsilon

  def __call__(self, x: Float[Array, "batch ... features"], *, train: bool) -> Float[Array, "batch ... features"]:
    del train
    x32 = x.astype(jnp.float32).reshape(*x.shape[:-1], self.groups, -1)
    mean, var = _moments(x32, (*range(1, x.ndim - 1), -1))
    standard = ((x32 - mean) * jax.lax.rsqrt(var + self.epsilon)).reshape(x.shape)
    return _scale_and_shift(standard, self.scale, self.bias).astype(x.dtype)


class Identity(nnx.Module):
  """No normalization, under the same call."""

  def __call__(self, x: Float[Array, "..."], *, train: bool) -> Float[Array, "..."]:
    del train
    return x


Norm = BatchNorm | LayerNorm | GroupNorm | Identity


def norm(
  kind: Normalization,
  features: int,
  *,
  groups: int = 1,
  zero_init_scale: bool = False,
  rngs: nnx.Rngs,
) -> Norm:
  """The normalization layer of that kind; `groups` counts only for "group".

  Batch normalization reads its momentum from the setting `batch_norm_momentum`.
  """
  match kind:
    case "batch":
      return BatchNorm(features, zero_init_scale=zero_init_scale, rngs=rngs)
    case "layer":
      return LayerNorm(features, zero_init_scale=zero_init_scale, rngs=rngs)
    case "group":
      return GroupNorm(features, groups=groups, zero_init_scale=zero_init_scale, rngs=rngs)
    case "none":
      return Identity()


def _affine(features: int, zero_init_scale: bool) -> tuple[nnx.Param, nnx.Param]:
  scale = jnp.zeros if zero_init_scale else jnp.ones
  return nnx.Param(scale(features, jnp.float32)), nnx.Param(jnp.zeros(features, jnp.float32))


def _moments(x: jax.Array, axes: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
  """Mean and biased variance over `axes`, which are kept with size one."""
  mean = x.mean(axes, keepdims=True)
  return mean, jnp.square(x - mean).mean(axes, keepdims=True)


def _scale_and_shift(x: jax.Array, scale: nnx.Param, bias: nnx.Param) -> jax.Array:
  return x * scale[...].astype(x.dtype) + bias[...].astype(x.dtype)
