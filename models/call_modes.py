"""How a model is called: its arguments, and the one among them that says whether it is in training."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

import jax

MODES = {
  "train": True,
  "training": True,
  "is_training": True,
  "deterministic": False,
  "use_running_average": False,
  "inference": False,
}
"""Names of such arguments, and their value in training."""


class Call:
  """The arguments of a model's call: `Call(source, target=target)` is `model(source, target=target)`."""

  def __init__(self, *args: Any, **kwargs: Any):
    self.args, self.kwargs = args, kwargs

  def __str__(self) -> str:
    named = [f"{name}={described(value)}" for name, value in self.kwargs.items()]
    return f"({', '.join([*map(described, self.args), *named])})"


def _unflatten(_: None, children: Iterable[Any]) -> Call:
  args, kwargs = children
  return Call(*args, **kwargs)


jax.tree_util.register_pytree_with_keys(
  Call,
  lambda call: (
    ((jax.tree_util.GetAttrKey("args"), call.args), (jax.tree_util.GetAttrKey("kwargs"), call.kwargs)),
    None,
  ),
  _unflatten,
)


def as_call(value: Any) -> Call:
  """Return the call of a model with one argument; a `Call` as it is."""
  return value if isinstance(value, Call) else Call(value)


def mode_arguments(call: Callable[..., Any], *, train: bool) -> dict[str, bool]:
  """Return the keyword arguments by which a call learns whether it is in training; {} if it has none.

  A call with `**kwargs` that names none of them is given `train`.
  """
  parameters = inspect.signature(call).parameters.values()
  keyword = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
  named = {parameter.name for parameter in parameters if parameter.kind in keyword} & MODES.keys()
  if not named and any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
    named = {"train"}
  return {name: in_training is train for name, in_training in MODES.items() if name in named}


def with_mode(call: Callable[..., Any], arguments: Call, *, train: bool) -> Call:
  """Return the arguments of a call and the mode, if the arguments do not have it already."""
  return Call(*arguments.args, **(mode_arguments(call, train=train) | arguments.kwargs))


def described(value: Any) -> str:
  """Return what a value is, for a message: `float32[16, 4]`, or a tree of such."""
  if hasattr(value, "shape") and hasattr(value, "dtype"):
    return f"{value.dtype}{list(value.shape)}"
  if isinstance(value, dict):
    return f"{{{', '.join(f'{name!r}: {described(one)}' for name, one in value.items())}}}"
  return type(value).__name__
