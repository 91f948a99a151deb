"""The log of a trial: its curves, and the number of examples that they were measured on."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from trialbook import files
from trialbook.record import shown
from trialbook.trainer.records import METRICS, check_ends, read_metrics
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
  """A `Log` that is read from a trial's folder once, when it is first asked for; see `read_log`."""

  def __init__(self, folder: pathlib.Path, first: int | None, last: int | None, count: int | None):
    self._folder, self._first, self._last, self._count = folder, first, last, count

  @functools.cached_property
  def _log(self) -> Logged:
    return read_log(self._folder, self._first, self._last, self._count)

  @property
  def curves(self) -> Mapping[str, Curve]:
    return self._log.curves

  @property
  def class_examples(self) -> Mapping[str, Sequence[int]]:
    return self._log.class_examples

  @property
  def examples(self) -> Mapping[str, int]:
    return self._log.examples


def read_log(
  folder: pathlib.Path, first: int | None = None, last: int | None = None, count: int | None = None
) -> Logged:
  """Return what the trial in a folder has logged until now.

  Args:
    folder: of the trial.
    first: the step of the first line, where each step has a line; None: steps only increase.
    last: the step of the last line, where it is known.
    count: the number of lines, where it is known.

  Raises:
    UserError: if its `metrics.jsonl` cannot be read, or lines are missing.
  """
  curves: dict[str, list[tuple[int, float]]] = {}
  class_examples: dict[str, list[int]] = {}
  examples: dict[str, int] = {}
  path = folder / "metrics.jsonl"
  lines = read_metrics(folder, first)
  check_ends(folder, lines, last, count)
  parts: dict[str, tuple[str, str]] = {}
  for number_of_line, line in enumerate(lines, start=1):
    step = line["step"]
    for name, value in line.items():
      if type(value) is float and name in curves:  # Nearly all are these.
        curves[name].append((step, value))
        continue
      if name not in parts:
        parts[name] = (name.rpartition("/")[0], name.rpartition("/")[2])
      split, kind = parts[name]
      number: Any = files.number(value) if type(value) is str else value
      if kind == "class_examples":
        if not isinstance(value, list) or not all(type(count) is int for count in value):
          raise METRICS.error(
            path, [f"{name} is {shown(value)}, and should be a list of whole numbers"], number_of_line
          )
        class_examples[name] = value
        examples[split] = sum(value)
      elif split and kind in ("examples", "num_examples"):
        if not isinstance(number, int | float) or not math.isfinite(number):
          raise METRICS.error(path, [f"{name} is {shown(value)}, and should be a whole number"], number_of_line)
        examples[split] = int(number)
      elif name != "step" and isinstance(number, int | float):
        curves.setdefault(name, []).append((step, float(number)))
  return Logged(curves=curves, class_examples=class_examples, examples=examples)
