"""Normalization layers of one call, `norm(x, train=...)`.

All compute their statistics in float32 whatever the dtype of x, and in two passes, since E[x²] - E[x]²
cancels; the result has x's dtype. The variance is the biased one, the mean of squared deviations.
"""

import math
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from trialbook.models.batch_norm import BatchNorm, GhostBatchNorm, affine, moments, scale_and_shift

Normalization = Literal["batch", "layer", "group", "none"]


class LayerNorm(nnx.Module):
  """Layer normalization (Ba et al. 2016): over the last axis, at each position of each example."""

  def __init__(self, features: int, *, epsilon: float = 1e-5, zero_init_scale: bool = False, rngs: nnx.Rngs):
    del rngs
    self.scale, self.bias = affine(features, zero_init_scale)
    self.epsilon = epsilon

  def __call__(self, x: Float[Array, "... features"], *, train: bool) -> Float[Array, "... features"]:
    del train
    x32 = x.astype(jnp.float32)
    mean, var = moments(x32, (-1,))
    standard = (x32 - mean) * jax.lax.rsqrt(var + self.epsilon)
    return scale_and_shift(standard, self.scale, self.bias).astype(x.dtype)


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
    self.scale, self.bias = affine(features, zero_init_scale)
    self.groups = groups
    self.epsilon = epsilon

  def __call__(self, x: Float[Array, "batch ... features"], *, train: bool) -> Float[Array, "batch ... features"]:
    del train
    x32 = x.astype(jnp.float32).reshape(*x.shape[:-1], self.groups, -1)
    mean, var = moments(x32, (*range(1, x.ndim - 1), -1))
    standard = ((x32 - mean) * jax.lax.rsqrt(var + self.epsilon)).reshape(x.shape)
    return scale_and_shift(standard, self.scale, self.bias).astype(x.dtype)


class Identity(nnx.Module):
  """No normalization, under the same call."""

  def __call__(self, x: Float[Array, "..."], *, train: bool) -> Float[Array, "..."]:
    del train
    return x


Norm = BatchNorm | GhostBatchNorm | LayerNorm | GroupNorm | Identity


def norm(
  kind: Normalization,
  features: int,
  *,
  groups: int = 1,
  virtual_batch_size: int | None = None,
  zero_init_scale: bool = False,
  rngs: nnx.Rngs,
) -> Norm:
  """Make the normalization layer of that kind; "batch" reads its momentum from the setting `batch_norm_momentum`.

  Args:
    kind: of the layer.
    features: the size of the last axis.
    groups: of features; counts only for "group".
    virtual_batch_size: examples that share statistics, None for the global batch; counts only for "batch".
    zero_init_scale: start with a scale of zero instead of one.
    rngs: of the parameters.
  """
  match kind:
    case "batch":
      if virtual_batch_size is None:
        return BatchNorm(features, zero_init_scale=zero_init_scale, rngs=rngs)
      return GhostBatchNorm(features, virtual_batch_size=virtual_batch_size, zero_init_scale=zero_init_scale, rngs=rngs)
    case "layer":
      return LayerNorm(features, zero_init_scale=zero_init_scale, rngs=rngs)
    case "group":
      return GroupNorm(features, groups=groups, zero_init_scale=zero_init_scale, rngs=rngs)
    case "none":
      return Identity()


def group_problems(groups: int, field: str, widths: Sequence[int]) -> list[str]:
  """Return what is wrong with `groups` for layers of these widths; `field` is the setting that gives the widths."""
  common = math.gcd(*widths)
  if common % groups == 0:
    return []
  divisors = [str(n) for n in range(1, common + 1) if common % n == 0]
  uneven = f"model.groups: {groups} groups do not divide {field} {', '.join(map(str, widths))}"
  return [f"{uneven}; these do: {', '.join(divisors)}"]
