"""How many steps a whole training has, told from those that were logged.

Logs of others do not say it. Most trials of a study have the same length, or one that a hyperparameter sets: the number
of epochs, or the batch size if the number of epochs is fixed. Those that a rule, a target or a preemption ended are
shorter, and may be the most, so the longest trials count first.
"""

import bisect
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

SAME_LENGTH = 0.05
"""Share by which trainings of the same length may differ in the last step that they logged: one evaluation of
twenty."""
LEAST_LONGEST = 0.2
"""Share of the trials that must be about as long as the longest for this to be the usual length."""
MOST = 0.5
"""Share of the trials that must have about the same length for it to be the usual one although some are longer: of
trials that were ended anywhere, some have about the same length by chance."""
FEW_LONGER = 0.1
"""Share of the trials that may be longer then: more of them are the whole ones, and a rule ended the others."""
EXPLAINED = 0.8
"""Share of the trials that must have the length that a hyperparameter sets if its name does not say so."""
LARGEST = 1e12
"""Largest number that may set the length; one divided by it is the smallest."""
LEAST_OF_A_VALUE = 3
"""Trials of each value of a hyperparameter, if the value sets the length."""

_LENGTH = re.compile(r"(?:^|[._/])(?:(?:max|num|n|train|training|total)_)*(?:steps|epochs|iterations|iters|updates)$")
"""Names of hyperparameters that set the length of a training."""

Factor = Callable[[Mapping[str, Any]], float]
"""Number of units of a training, by its hyperparameters."""


def _one(values: Mapping[str, Any]) -> float:
  del values
  return 1.0


@dataclasses.dataclass(frozen=True)
class TrainingLength:
  """The steps of a whole training.

  Attributes:
    steps: of a training, or of one unit of what a hyperparameter sets.
    is_usual: whether enough trials have this length; if not, it is that of the longest.
    count: number of trials that have it.
    factor: number of units, by the hyperparameters.
    by_value: name of the hyperparameter each of whose values has a length of its own; None if it is another rule.
  """

  steps: float
  is_usual: bool
  count: int
  factor: Factor = _one
  by_value: str | None = None

  def of(self, values: Mapping[str, Any]) -> float:
    """Return the steps of a whole training with some values of the hyperparameters."""
    return self.steps * self.factor(values)


def usual_length(last_steps: Sequence[float]) -> TrainingLength:
  """Return the length that most trainings have, of several the longest; that of the longest if none is usual."""
  last = sorted(last_steps)
  if not last:
    return TrainingLength(0, False, 0)
  near = [at + 1 - bisect.bisect_left(last, (1 - SAME_LENGTH) * step) for at, step in enumerate(last)]
  if near[-1] >= max(2, LEAST_LONGEST * len(last)):
    return TrainingLength(last[-1], True, near[-1])
  count, step = max(zip(near, last, strict=True))
  longer = len(last) - bisect.bisect_right(last, step / (1 - SAME_LENGTH))
  if count >= max(2, MOST * len(last)) and longer <= FEW_LONGER * len(last):
    return TrainingLength(step, True, count)
  return TrainingLength(last[-1], False, near[-1])


def training_length(last_steps: Sequence[float], values: Sequence[Mapping[str, Any]]) -> TrainingLength:
  """Return the length of a whole training of a study.

  Args:
    last_steps: last step that each trial logged, of those that are recorded as complete.
    values: of its hyperparameters, by name.
  """
  best = usual_length(last_steps)
  for factor, is_named in _factors(values):
    units = [step / factor(each) for step, each in zip(last_steps, values, strict=True)]
    found = usual_length(units)
    least = MOST if is_named else EXPLAINED
    if found.is_usual and found.count > max(best.count, least * len(values)):
      best = dataclasses.replace(found, factor=factor)
      if is_named:
        return best
  if best.is_usual and best.count > MOST * len(values):
    return best
  return _by_value(last_steps, values) or best


def _factors(values: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Factor, bool]]:
  """Give what may set the length: each number of a trial and its inverse, those first whose name says so; and whether
  it does."""
  names = dict.fromkeys(name for each in values for name in each)
  for name in sorted(names, key=lambda one: not _LENGTH.search(one.lower())):
    numbers = [each.get(name) for each in values]
    is_number = all(
      isinstance(one, int | float) and not isinstance(one, bool) and 1 / LARGEST < one < LARGEST for one in numbers
    )
    if is_number and len(set(numbers)) > 1:
      yield functools.partial(_power, name, 1), bool(_LENGTH.search(name.lower()))
      yield functools.partial(_power, name, -1), False


def _power(name: str, exponent: int, values: Mapping[str, Any]) -> float:
  return float(values.get(name) or 1) ** exponent


def _by_value(last_steps: Sequence[float], values: Sequence[Mapping[str, Any]]) -> TrainingLength | None:
  """Return the length that each value of a hyperparameter sets; None if none does."""
  for name in dict.fromkeys(name for each in values for name in each):
    groups: dict[str, list[float]] = {}
    for step, each in zip(last_steps, values, strict=True):
      groups.setdefault(repr(each.get(name)), []).append(step)
    if len(groups) < 2 or min(map(len, groups.values())) < LEAST_OF_A_VALUE:
      continue
    usual = {value: usual_length(steps) for value, steps in groups.items()}
    count = sum(one.count for one in usual.values())
    if all(one.is_usual for one in usual.values()) and count >= EXPLAINED * len(values):
      longest = max(one.steps for one in usual.values())
      shares = {value: one.steps / longest for value, one in usual.items()}
      return TrainingLength(longest, True, count, functools.partial(_share, name, shares), name)
  return None


def _share(name: str, shares: Mapping[str, float], values: Mapping[str, Any]) -> float:
  return shares.get(repr(values.get(name)), 1.0)
