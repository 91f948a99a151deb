"""Empty cells among numbers: of a hyperparameter under a value of another one, or of one that is switched off.

pandas writes None as an empty cell, and also what does not exist in a trial.
"""

from collections.abc import Collection, Mapping
from typing import Any

LEAST = 2
"""Trials with, and trials without a value, from which on gaps are a choice and not a slip."""

MOST_VALUES = 10
"""Different values of a hyperparameter under whose values others may exist."""


def switched_off(
  name: str, values: Mapping[str, Mapping[str, Any]], trials: Collection[str], declared: Collection[str]
) -> list[str]:
  """Return the trials in which a numeric hyperparameter has an empty cell because it is switched off; none if another
  hyperparameter explains where it exists.

  Args:
    name: of the hyperparameter.
    values: of all of them: name -> trial -> value, without empty cells.
    trials: that were run.
    declared: names of hyperparameters that the user declares, which win.
  """
  own = values[name]
  without = [trial for trial in trials if trial not in own]
  there = [value for value in own.values() if value is not None]
  numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in there)
  if name in declared or not numeric or len(without) < LEAST or len(trials) - len(without) < LEAST:
    return []
  if any(_explains(column, own, trials) for other, column in values.items() if other != name):
    return []
  return without


def _explains(column: Mapping[str, Any], own: Mapping[str, Any], trials: Collection[str]) -> bool:
  """Return whether it follows from another hyperparameter's value in which trials one exists."""
  exists: dict[Any, set[bool]] = {}
  for trial in trials:
    exists.setdefault(repr(column.get(trial)), set()).add(trial in own)
  return len(exists) <= min(MOST_VALUES, len(trials) / 2) and all(len(each) == 1 for each in exists.values())
