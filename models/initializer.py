"""The initial values of kernels: normal, with a variance that the kernel's fan sets."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

KernelInitializer = Callable[..., jax.Array]


def scaled_normal(gain: float, fan: Literal["in", "out"]) -> KernelInitializer:
  """Return a normal initializer of variance gain / fan, for kernels [*window, features_in, features_out].

  A gain of 2 is for layers before a ReLU (He et al. 2015), 1 for linear ones (LeCun et al. 1998). The values
  are those of `jax.nn.initializers.variance_scaling(gain, "fan_" + fan, "normal")`, but drawn as one vector:
  XLA takes several times as long to compile a draw of four axes on a CPU, and a ResNet has dozens.
  """

  def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
    size = math.prod(shape[:-1]) if fan == "in" else math.prod(shape[:-2]) * shape[-1]
    values = jax.random.normal(key, (math.prod(shape),), dtype)
    return (values * jnp.asarray(math.sqrt(gain / size), dtype)).reshape(shape)

  return init
