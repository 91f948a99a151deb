"""Scales of hyperparameters whose search space is not known, made up from the values that the trials had."""

from collections.abc import Iterable
from typing import Any

from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Linear, Log, OneOf, ReverseLog, Role, Scale

DECADE = 10.0
"""Largest through smallest value from which on people search logarithmically."""

MOST_CATEGORIES = 50
"""Different texts in a column; one with more holds notes, not a hyperparameter."""

SEEDS = ("seed", "random_seed", "rng_seed")
"""Names of columns that only separate retrains of a point (PB-40)."""


def hyperparameter(name: str, values: Iterable[Any], role: Role = "nuisance") -> Hyperparameter | None:
  """Return a hyperparameter that had these values, with a scale by the first of these rules that fits:

  1. one value only: it is fixed;
  2. a value that is not a number: categorical; None if there are more than `MOST_CATEGORIES` of them;
  3. whole numbers: integer, logarithmic if all are positive and they span more than a decade;
  4. positive numbers that span more than a decade: log;
  5. numbers from 0.5 to less than 1 whose distances from 1 span more than a decade: reverse-log;
  6. other numbers: linear.

  Bounds are the smallest and the largest value.
  """
  distinct = list(dict.fromkeys((type(value) is bool, value) for value in values))
  found = [value for _, value in distinct]
  numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)
  if not numeric and len(found) > MOST_CATEGORIES:
    return None
  if len(found) == 1:
    role = "fixed"
  scale = _numeric(sorted(set(found))) if numeric else OneOf(found)
  return Hyperparameter(name=name, path=path_of(name), scale=scale, role=role, inferred=True)


def path_of(name: str) -> str:
  """Return the field that a hyperparameter sets; for any of the seed's names it is `seed`."""
  return "seed" if name.lower() in SEEDS else name


def _numeric(values: list[Any]) -> Scale:
  low, high = values[0], values[-1]
  if low == high:
    return Discrete((low,))
  if all(isinstance(value, int) for value in values):
    return Integer(low, high, log=low >= 1 and high > DECADE * low)
  if low > 0 and high > DECADE * low:
    return Log(low, high)
  if low >= 0.5 and high < 1 and 1 - low > DECADE * (1 - high):
    return ReverseLog(low, high)
  return Linear(low, high)
