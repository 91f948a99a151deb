"""Dropout whose rate is an argument of the compiled program."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from trialbook.models.hyperparameter import Hyperparameter


class Dropout(nnx.Module):
  """Inverted dropout (Srivastava et al. 2014, with the kept values scaled by 1 / (1 - rate) in training).

  flax's own layer compares its rate with zero in Python, so each rate would be another program. Here a rate
  of zero is exact: every bit of the input passes.

  Args:
    rate: the name of the traced setting to read, or a constant, in [0, 1): the probability to drop a value.
    rngs: gives the stream `dropout`, of which the layer keeps a fork of its own.

  Raises:
    ValueError: a constant rate lies outside [0, 1).
  """

  def __init__(self, rate: str | float = "dropout_rate", *, rngs: nnx.Rngs):
    if not isinstance(rate, str) and not 0 <= rate < 1:
      raise ValueError(f"the dropout rate is {rate}; it must be in [0, 1)")
    self.rate = Hyperparameter.read(rate)
    self.rng = rngs["dropout"].fork()

  def __call__(self, x: Float[Array, "..."], *, train: bool) -> Float[Array, "..."]:
    """Drop values in training; otherwise return x and leave the random state alone."""
    if not train:
      return x
    keep = 1 - self.rate[...]
    kept = jax.random.bernoulli(self.rng(), keep, x.shape)
    # Divided in float32: a bfloat16 1 - rate would be off by up to 0.4%, and the mean with it.
    scaled = (x.astype(jnp.float32) / keep).astype(x.dtype)
    return jnp.where(kept, scaled, jnp.zeros_like(x))
