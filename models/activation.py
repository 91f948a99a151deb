"""The activation functions that a model's settings can name."""

from collections.abc import Callable
from typing import Literal

import jax

Activation = Literal["relu", "gelu", "silu", "tanh"]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "relu": jax.nn.relu,
  "gelu": jax.nn.gelu,
  "silu": jax.nn.silu,
  "tanh": jax.nn.tanh,
}
