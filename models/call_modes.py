"""The argument of a model's call that says whether it is in training."""

import inspect
from collections.abc import Callable
from typing import Any

MODES = {
  "train": True,
  "training": True,
  "is_training": True,
  "deterministic": False,
  "use_running_average": False,
  "inference": False,
}
"""Names of such arguments, and their value in training."""


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
