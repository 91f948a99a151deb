"""Rows of a trained table in place of whole numbers."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int


class Embedding(nnx.Module):
  """A table [rows, width], normal with standard deviation `std`; index i stands for row i.

  An index outside [0, rows) gives NaN, so that wrong data shows in the loss instead of passing for another row.
  """

  def __init__(self, rows: int, width: int, *, std: float, rngs: nnx.Rngs):
    self.table = nnx.Param(std * jax.random.normal(rngs.params(), (rows, width), jnp.float32))

  def __call__(self, indices: Int[Array, "..."]) -> Float[Array, "... width"]:
    return self.table[...].at[indices].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)

  def similarity(self, x: Float[Array, "... width"]) -> Float[Array, "... rows"]:
    """Return the inner product of x with each row: the table as an output layer."""
    return x @ self.table[...].T
