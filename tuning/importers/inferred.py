"""Scales of hyperparameters whose search space is not known, made up from the values that the trials had."""

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Linear, Log, OneOf, ReverseLog, Role, Scale

DECADE = 10.0
"""Largest value divided by the smallest, above which people may search logarithmically."""

MOST_CATEGORIES = 50
"""Different texts in a column; one with more holds notes, not a hyperparameter."""

SEEDS = ("seed", "random_seed", "rng_seed", "random_state", "repeat", "replicate", "repetition")
"""Last parts of names of columns that only separate retrains of a point (PB-40)."""

_LOGARITHMIC = re.compile(r"(?:^|[_\-])(?:lr|learning_?rate|weight_?decay|wd|l1|l2|eps|epsilon)$")
"""Last parts of names of hyperparameters that are searched logarithmically, wherever a search put its trials."""

_CONTINUOUS = re.compile(
  rf"{_LOGARITHMIC.pattern}|(?:^|_)(?:dropout|dropout_rate|momentum|beta_?[12]?|gamma|smoothing)$"
)
"""Last parts of names of hyperparameters that are not counts, even if all values happen to be whole."""


def hyperparameter(name: str, values: Iterable[Any], role: Role = "nuisance") -> Hyperparameter | None:
  """Return a hyperparameter that had these values, with a scale by the first of these rules that fits:

  1. one value only: it is fixed;
  2. a value that is not a number: categorical; None if there are more than `MOST_CATEGORIES` of them;
  3. whole numbers: integer, logarithmic if rule 4 holds for them;
  4. positive numbers that span more than a decade, and that have the name of a rate or a decay or lie more evenly on a
     logarithmic scale than on a linear one: log;
  5. numbers from 0.5 to less than 1 whose distances from 1 span more than a decade and lie more evenly on a logarithmic
     scale: reverse-log;
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
  scale = _numeric(name, sorted(set(found))) if numeric else OneOf(found)
  return Hyperparameter(name=name, path=path_of(name), scale=scale, role=role, inferred=True)


def path_of(name: str) -> str:
  """Return the field that a hyperparameter sets; for any of the seed's names it is `seed`."""
  return "seed" if _last_part(name) in SEEDS else name


def is_continuous(name: str) -> bool:
  """Return whether a hyperparameter of that name is not a count, even if all its values are whole."""
  return _CONTINUOUS.search(_last_part(name)) is not None


def _last_part(name: str) -> str:
  return re.split(r"[./]", name.lower())[-1]


def _numeric(name: str, values: list[Any]) -> Scale:
  low, high = values[0], values[-1]
  if low == high:
    return Discrete((low,))
  has_name = (
    _LOGARITHMIC.search(_last_part(name)) is not None and high > DECADE * low and not _are_a_linear_grid(values)
  )
  is_log = low > 0 and (has_name or _lie_evenly(values))
  if all(isinstance(value, int) for value in values):
    return Integer(low, high, log=is_log)
  if is_log:
    return Log(low, high)
  if low >= 0.5 and high < 1 and _lie_evenly([1 - value for value in reversed(values)]):
    return ReverseLog(low, high)
  return Linear(low, high)


def _are_a_linear_grid(values: Sequence[float]) -> bool:
  """Return whether sorted values, at least three, have equal distances."""
  step = (values[-1] - values[0]) / (len(values) - 1)
  return len(values) > 2 and all(
    math.isclose(after - before, step, rel_tol=1e-6) for before, after in itertools.pairwise(values)
  )


def _lie_evenly(values: Sequence[float]) -> bool:
  """Return whether sorted positive values span more than a decade, and are more probable under a uniform distribution
  of their logarithms than under one of themselves, both between the smallest and the largest value."""
  low, high = values[0], values[-1]
  if not high > DECADE * low:
    return False
  mean = math.fsum(map(math.log, values)) / len(values)
  decades = math.log(high) - math.log(low)
  return mean + math.log(decades) < math.log(high) + math.log1p(-low / high)
