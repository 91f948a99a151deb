"""The check of what a study's function returns, or yields one after the other: a mapping from metrics to numbers."""

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from trialbook.tuning.execution.trial_states import MistakeError

_LONGEST = 100
_COUNTS = ("examples", "num_examples")
"""Last parts of names under which a log holds the number of a split's examples."""


def metrics_of(name: str, metric: str, returned: Any) -> Iterator[dict[str, float]]:
  """Yield the metrics that a function returned, or yields.

  Args:
    name: of the function, for messages.
    metric: of the objective, for messages.
    returned: what the call of the function returned.

  Raises:
    MistakeError: if it is not what it should be.
  """
  wanted = f"it should return a mapping from metrics to numbers, such as {{{metric!r}: 0.5}}, or yield such mappings"
  if isinstance(returned, Mapping):
    yield _numbers(returned, f"function {name}: returned {_shown(returned)}", wanted)
    return
  if not isinstance(returned, Iterator):
    close(returned)
    what = f"function returned {_kind(returned)}"
    raise MistakeError(f"function {name}: returned {_shown(returned)}; {wanted}", what)
  for count, values in enumerate(returned, start=1):
    place = f"function {name}: yielded {_shown(values)} as value {count}"
    if not isinstance(values, Mapping):
      raise MistakeError(f"{place}; {wanted}", f"function yielded {_kind(values)}")
    yield _numbers(values, place, wanted)


def without(name: str, metric: str, found: Collection[str]) -> MistakeError:
  """Return the mistake of a function that never returned the objective's metric, but those that were `found`."""
  told = f"{', '.join(sorted(found))}; the objective must be one of its metrics" if found else "nothing"
  return MistakeError(f"function {name}: returned no {metric!r}; it returned {told}", f"no {metric}")


def close(returned: Any) -> None:
  """Close a generator or a coroutine. What it raises then is not reported, because its trial has ended."""
  try:
    if hasattr(returned, "throw"):
      returned.close()
  except Exception:
    return


def _numbers(values: Mapping[Any, Any], place: str, wanted: str) -> dict[str, float]:
  """Return the numbers by metric."""

  def mistake(what: str, kind: str) -> MistakeError:
    return MistakeError(f"{place}: {what}; {wanted}", f"function: {kind}")

  found = {}
  for key, value in values.items():
    number = _number(value)
    if not isinstance(key, str):
      raise mistake(f"the name {_shown(key)} is not a string", f"a name is {_kind(key)}")
    if key == "step":
      raise mistake("'step' is counted, so no metric can have this name", key)
    if number is None:
      shape = getattr(value, "shape", None)
      what = f"{_kind(value)} of shape {list(shape)}" if isinstance(shape, tuple) and shape else _kind(value)
      raise mistake(f"{key!r} is {what}, not a number", f"{key} is {_kind(value)}")
    split, _, last = key.rpartition("/")
    if last == "class_examples" or (split and last in _COUNTS and not math.isfinite(number)):
      raise mistake(f"{key!r} is a name for numbers of examples, so rename the metric", key)
    found[key] = number
  return found


def _number(value: Any) -> float | None:
  """Return a number, or the only element of an array, as a float; None if it is neither."""
  if isinstance(value, str | bytes | bytearray) or not hasattr(value, "__float__"):
    return None
  try:
    if getattr(value, "shape", None):
      value = value.item()  # It raises an error if there are several elements.
    return float(value)
  except Exception:
    return None


def _kind(value: Any) -> str:
  return "None" if value is None else f"a {type(value).__name__}"


def _shown(value: Any) -> str:
  """Return a value as its author would write it, in one line, shortened."""
  try:
    text = " ".join(repr(value).split())
  except Exception:
    text = f"<{type(value).__name__}>"
  return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
