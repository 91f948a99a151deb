"""Rematerialization: what a layer's backward pass computes again, instead of keeping it from the forward pass."""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

Remat = Literal["full", "dots", "names", "offload"]
"""What is kept of a layer beside its input: nothing; the results of products with its parameters; the results that
`saved` names; or these and the input, in the memory of the host."""
INPUT = "layer_input"
NAMES = ("attended", "branch")
"""Results of a layer that have the size of its input, and take long to compute again."""
OFFLOAD_MEMORY = "pinned_host"

Function = TypeVar("Function", bound=Callable[..., Any])


def of_flag(value: Any) -> Any:
  """Return a setting as it is called now: earlier versions had True and False."""
  return {True: "full", False: None}[value] if isinstance(value, bool) else value


def saved(x: Array, name: str) -> Array:
  """Return x, under a name by which policies keep it."""
  assert name in (INPUT, *NAMES), name
  return checkpoint_name(x, name)


def rematerialized(layer: Function, remat: Remat | None) -> Function:
  """Return a layer whose backward pass computes again what `remat` does not keep; None keeps all, and changes nothing.

  Args:
    layer: the body of a loop (`jax.lax.scan`).
    remat: what is kept.
  """
  if remat is None:
    return layer
  policies = jax.checkpoint_policies
  policy = {
    "full": policies.nothing_saveable,
    "dots": policies.dots_with_no_batch_dims_saveable,
    "names": policies.save_only_these_names(*NAMES),
    "offload": policies.save_and_offload_only_these_names(
      names_which_can_be_saved=[],
      names_which_can_be_offloaded=[INPUT, *NAMES],
      offload_src="device",
      offload_dst=OFFLOAD_MEMORY,
    ),
  }[remat]
  # Forward and backward are two loops, which the compiler does not merge, so no barrier has to prevent it.
  return jax.checkpoint(layer, policy=policy, prevent_cse=False)  # pyright: ignore[reportReturnType]
