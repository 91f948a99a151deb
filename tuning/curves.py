"""The log of a trial: its curves, and the number of examples that they were measured on."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from trialbook import files
from trialbook.errors import UserError
from trialbook.tuning.objective import Curve


class Log(Protocol):
  """All that is known of a trial beside its record.

  Attributes:
    curves: metric -> (step, value), in order of steps; what is not finite is kept.
    class_examples: `SPLIT/class_examples` -> the number of examples of each class; {} where there are no classes.
    examples: split -> the number of examples of an evaluation, where it was logged.
  """

  @property
  def curves(self) -> Mapping[str, Curve]: ...

  @property
  def class_examples(self) -> Mapping[str, Sequence[int]]: ...

  @property
  def examples(self) -> Mapping[str, int]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logged:
  """A `Log` in memory."""

  curves: Mapping[str, Curve]
  class_examples: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
  examples: Mapping[str, int] = dataclasses.field(default_factory=dict)


class LogFile:
  """A `Log` that is read from a trial's folder once, when it is first asked for."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder

  @functools.cached_property
  def _log(self) -> Logged:
    return read_log(self._folder)

  @property
  def curves(self) -> Mapping[str, Curve]:
    return self._log.curves

  @property
  def class_examples(self) -> Mapping[str, Sequence[int]]:
    return self._log.class_examples

  @property
  def examples(self) -> Mapping[str, int]:
    return self._log.examples


def read_log(folder: pathlib.Path) -> Logged:
  """Return what the trial in a folder has logged until now. Raise UserError if its `metrics.jsonl` cannot be read."""
  curves: dict[str, list[tuple[int, float]]] = {}
  class_examples: dict[str, list[int]] = {}
  examples: dict[str, int] = {}
  path = folder / "metrics.jsonl"
  for number_of_line, line in enumerate(files.read_json_lines(path), start=1):
    if not isinstance(line, dict) or type(step := line.get("step")) is not int:
      raise UserError(f"{path}, line {number_of_line} cannot be read: it is no object with a step")
    for name, value in line.items():
      split, _, last = name.rpartition("/")
      number: Any = files.number(value)
      if last == "class_examples":
        if not isinstance(value, list) or not all(type(count) is int for count in value):
          raise UserError(f"{path}, line {number_of_line}, {name}: {value!r} should be a list of whole numbers")
        class_examples[name] = value
        examples[split] = sum(value)
      elif split and last in ("examples", "num_examples"):
        if not isinstance(number, int | float) or not math.isfinite(number):
          raise UserError(f"{path}, line {number_of_line}, {name}: {value!r} should be a whole number")
        examples[split] = int(number)
      elif name != "step" and isinstance(number, int | float):
        curves.setdefault(name, []).append((step, float(number)))
  for points in curves.values():
    points.sort(key=lambda point: point[0])
  return Logged(curves=curves, class_examples=class_examples, examples=examples)
