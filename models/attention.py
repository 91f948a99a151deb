"""Multi-head self-attention (Vaswani et al. 2017), with rotary positions (Su et al. 2021) if asked for."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from trialbook.models import layout
from trialbook.models.attention_kernel import attend, compute_capability, kernel, platform_of_trace
from trialbook.models.initializer import KernelInitializer, scaled_normal
from trialbook.models.rematerialization import saved

ROTARY_BASE = 10_000.0


class Attention(nnx.Module):
  """Each position takes a mean of all positions' values, or, if `causal`, of those up to itself.

  The softmax is computed in float32 whatever the dtype of x.

  Args:
    width: of x; `heads` divides it.
    heads: attend each on its own, with width / heads features.
    causal: whether no position sees a later one.
    rotary: whether queries and keys are turned by their position.
    output_init: of the last kernel.
    fastest: whether the fastest kernel of the platform computes it, or always XLA.
    rngs: of the parameters.
  """

  def __init__(
    self,
    width: int,
    heads: int,
    *,
    causal: bool,
    rotary: bool,
    output_init: KernelInitializer,
    fastest: bool = True,
    rngs: nnx.Rngs,
  ):
    projections = [nnx.Linear(width, width, kernel_init=scaled_normal(1.0, "in"), rngs=rngs) for _ in range(3)]
    self.query, self.key, self.value = projections
    self.output = nnx.Linear(width, width, kernel_init=output_init, rngs=rngs)
    self.heads = heads
    self.causal = causal
    self.rotary = rotary
    self.fastest = fastest

  def __call__(self, x: Float[Array, "batch length width"]) -> Float[Array, "batch length width"]:
    def by_head(projection: nnx.Linear) -> Float[Array, "batch length heads features"]:
      heads = projection(x).reshape(*x.shape[:-1], self.heads, -1)
      return layout.activations(heads, layout.DATA_AXES, None, layout.TENSOR, None)

    query, key, value = by_head(self.query), by_head(self.key), by_head(self.value)
    if self.rotary:
      query, key = rotate(query), rotate(key)
    platform, length, features = platform_of_trace(), *query.shape[1::2]
    capability = compute_capability(platform)
    fastest = kernel(platform, length, features, query.dtype, capability) if self.fastest else "xla"
    mean = attend(query, key, value, causal=self.causal, kernel=fastest)
    return self.output(saved(mean.reshape(x.shape), "attended"))


def rotate(x: Float[Array, "batch length heads features"]) -> Float[Array, "batch length heads features"]:
  """Turn the pairs (i, i + features / 2) of position p by the angle p / 10000^(2i / features), in float32.

  So inner products of two rotated vectors depend on the distance of their positions alone.
  """
  length, half = x.shape[1], x.shape[-1] // 2
  frequency = ROTARY_BASE ** -(jnp.arange(half, dtype=jnp.float32) / half)
  angle = jnp.arange(length, dtype=jnp.float32)[:, None, None] * frequency
  cos, sin = jnp.cos(angle), jnp.sin(angle)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)
