"""The activation functions that a model's settings can name.

"gelu" is the approximation by a tanh, as in GPT-2; "exact_gelu" is that of torch and of public vision transformers.
"""

import functools
from collections.abc import Callable
from typing import Literal

import jax

Activation = Literal["relu", "gelu", "exact_gelu", "silu", "tanh"]

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  "relu": jax.nn.relu,
  "gelu": jax.nn.gelu,
  "exact_gelu": functools.partial(jax.nn.gelu, approximate=False),
  "silu": jax.nn.silu,
  "tanh": jax.nn.tanh,
}
