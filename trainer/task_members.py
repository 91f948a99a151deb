"""What an object must have to be a task, and how its functions are called."""

import inspect
from collections.abc import Callable
from typing import Any

from trialbook.naming import nearest

MEMBERS = {
  "keys": ("self", "info"),
  "num_outputs": ("self", "info"),
  "prepare": ("self", "batch"),
  "model_inputs": ("self", "batch"),
  "loss": ("self", "outputs", "batch"),
  "metrics": ("self", "outputs", "batch"),
  "rows": ("self", "outputs", "batch", "model"),
  "split_metrics": ("self",),
}
"""The functions of a task, each with the arguments that it is given by position."""
BY_NAME = {
  "prepare": ("settings", "rngs", "train", "info"),
  "model_inputs": ("settings", "train", "info"),
  "loss": ("settings", "train", "sown", "info"),
  "metrics": ("settings", "train", "sown", "info"),
  "rows": ("settings", "sown", "info"),
}
"""The arguments that a function is given by name, if it has them."""
_MOVED = {
  "initial_batch": "keys(self, info), which returns the keys of a batch that the task needs",
  "training_batch": "keys(self, info), which may name mixed_labels and mixing",
  "counts": "metrics, with Sum(...) for what is added up",
  "of_split": "split_metrics(self), which returns functions of (means, rows) by name",
}
"""Members of tasks of version 0.1, and what takes their place."""


def problems(name: str, task: Any) -> list[str]:
  """Return why an object is not a task, with what to write instead; empty if it is one."""
  shown = f"task.name = {name!r}"
  if moved := [member for member in _MOVED if hasattr(task, member)]:
    return [f"{shown}: {member} is not called any more; write {_MOVED[member]}" for member in moved]
  missing = [member for member in ("keys", "loss") if not callable(getattr(task, member, None))]
  if missing:
    return [f"{shown} is not a task: it has no {', '.join(missing)} (see trialbook.trainer.tasks.Task)"]
  found = []
  for member, by_position in MEMBERS.items():
    function = getattr(task, member, None)
    if function is None:
      continue
    required = [
      name
      for name, parameter in list(inspect.signature(function).parameters.items())[len(by_position) - 1 :]
      if parameter.default is parameter.empty
      and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    known = BY_NAME.get(member, ())
    for unknown in [name for name in required if name not in known]:
      there = f"it can have {', '.join(known)}" if known else "it can have no other"
      found.append(
        f"{shown}: {member} asks for {unknown!r}; beside {', '.join(by_position)} {there}{nearest(unknown, known)}"
      )
    try:
      inspect.signature(function).bind_partial(*by_position[1:])
    except TypeError:
      found.append(f"{shown}: {member} must be def {member}({', '.join(by_position)}, ...)")
  return found


def by_keyword(function: Callable[..., Any], after: int) -> list[str]:
  """Return the names that may be given by keyword, after so many arguments by position."""
  found = list(inspect.signature(function).parameters.values())[after:]
  return [one.name for one in found if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
