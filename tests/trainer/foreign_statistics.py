"""A model from outside the repository that keeps a statistic of its own in bfloat16."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class ForeignStatistics(nnx.Module):
  """Linear, of inputs from which a moving mean is subtracted."""

  def __init__(self, *, num_classes: int, input_shape: tuple[int, ...], rngs: nnx.Rngs):
    self.mean = nnx.BatchStat(jnp.zeros(64, jnp.bfloat16))
    self.output = nnx.Linear(64, num_classes, rngs=rngs)

  def __call__(self, x: Float[Array, "batch 8 8 1"], *, train: bool) -> Float[Array, "batch classes"]:
    x = x.reshape(x.shape[0], -1)
    if train:
      mean = self.mean[...].astype(jnp.float32)
      self.mean[...] = (mean + 0.1 * (x.mean(0).astype(jnp.float32) - mean)).astype(self.mean[...].dtype)
    # Strict about dtypes: a statistic in another one than it was made with would be an error.
    assert self.mean[...].dtype == jnp.bfloat16
    return self.output(x - self.mean[...].astype(x.dtype))
