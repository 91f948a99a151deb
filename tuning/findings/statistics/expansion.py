"""The expansion of a scale: by how much a side moves out, as a short number, and where nothing lies beyond (PB-23).

A momentum is less than 1 and a dropout rate not negative, but the records of a study say only which values were
searched. So two values are taken for the end of what a hyperparameter can be, whatever its name: 0 if nothing below it
was searched, and 1 if it is a bound, or if all values lie between 0 and 1. Learning rates may exceed 1. Close to 1 a
scale is expanded by what its values lack to 1, as 0.9 to 0.999 is to 0.9997.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from trialbook.errors import UserError
from trialbook.tuning.findings.statistics.points import (
  MOST_DIGITS,
  TriedPoint,
  is_learning_rate,
  rounded,
  unit_of,
  units_of,
  value_at,
)
from trialbook.tuning.results import StudyResults
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Linear, Log, ReverseLog, Scale

SHARES = (
  *("momentum", "beta1", "beta2", "beta_1", "beta_2", "dropout", "dropout_rate", "label_smoothing", "probability"),
  *("averaging.decay", "ema_decay", "rate_of"),
)
"""Endings of the names of fields that are shares, from 0 to 1. Of these the end is known, of others it is guessed by
their bounds."""
DECADE = 10.0
"""Largest through smallest value from which on a linear scale hardly tries the small ones: nine of ten points lie in
the upper nine tenths."""
LEAST_MOVE = 0.05
"""Share of the scale by which a side must move to be worth a search: that much is within the distance of two points of
a usual study."""
BOTTOM = 1 / 6
"""Outer part of a logarithmic scale: if the best points lie in it, it is expanded too."""
MANY = 50
"""Whole numbers on a linear scale, of which a usual study does not try each."""
OUT = 0.25
"""Share by which a scale of another kind moves out, where the fit on the old scale says nothing of the new one."""


def bound_of(scale: Any, upper: bool) -> float:
  """Return the end of a numeric scale on one side."""
  if isinstance(scale, Discrete):
    return scale.values[-1 if upper else 0]
  return scale.max if upper else scale.min


def is_share(one: Hyperparameter) -> bool:
  """Return whether a hyperparameter is known to lie between 0 and 1: by its name, or as what a share lacks to 1."""
  named = one.sets == "complement" or one.path.endswith(SHARES) or ".one_minus_" in f".{one.path}"
  return named and bound_of(one.scale, False) >= 0 and bound_of(one.scale, True) <= 1


def limit_of(one: Hyperparameter, upper: bool) -> float | None:
  """Return the value that one side is not moved across, because it may be the end of what the hyperparameter can be;
  None if there is none."""
  low, high = bound_of(one.scale, False), bound_of(one.scale, True)
  whole = isinstance(one.scale, Integer) or all(isinstance(bound, int) for bound in (low, high))
  if upper:
    if is_share(one):
      return 1.0
    return None if is_learning_rate(one) or whole or high > 1 or (low < 0 and high < 1) else 1.0
  if low < 0:
    return -1.0 if low == -1 and high <= 1 else None
  if whole:
    return min(low, 1)
  return 1.0 if low == 1 and not is_learning_rate(one) else 0.0


def expanded(one: Hyperparameter, upper: bool, step: float) -> Any:
  """Return the scale with one side moved out by a share of its width; None if no value can lie beyond."""
  scale: Any = one.scale
  limit, bound = limit_of(one, upper), bound_of(one.scale, upper)
  if limit is not None and bound == limit:
    return None
  if isinstance(scale, Discrete):
    values = list(scale.values)
    new = _next(values if upper else values[::-1], limit)
    return None if new is None else Discrete(tuple([*values, new] if upper else [new, *values]))
  value = value_at(one, 1 + step if upper else -step)
  if isinstance(scale, Integer):
    new = _whole(scale, value)
    new = new if new != bound else new + (1 if upper else -1)
    new = new if upper or limit is None else max(new, int(limit))
    return dataclasses.replace(scale, **{"max" if upper else "min": new})
  if limit is not None and upper and value >= limit:
    return _towards_one(one)
  # Half of a positive value is a large step, whatever share of a linear scale it is.
  if limit == 0 and not upper and (value <= 0 or (isinstance(scale, Linear) and value < scale.min / 2)):
    return _towards_zero(one)
  if limit is not None and not upper and value <= limit:
    return dataclasses.replace(scale, min=limit)
  new = _short(one, value, upper, step)
  return dataclasses.replace(scale, **{"max" if upper else "min": new})


def across(one: Hyperparameter, upper: bool, step: float) -> float | None:
  """Return the bound across the limit on one side, if it is a guess that this is the limit; None otherwise."""
  if is_share(one) or limit_of(one, upper) != bound_of(one.scale, upper) or bound_of(one.scale, upper) != 1:
    return None
  if isinstance(one.scale, Integer) or isinstance(bound_of(one.scale, upper), int):
    return None
  if isinstance(one.scale, Discrete):
    values = list(one.scale.values)
    return _next(values if upper else values[::-1], None)
  value = value_at(one, 1 + step if upper else -step)
  return _short(one, value, upper, step) if value > 0 else None


def log_instead(one: Hyperparameter, points: Sequence[TriedPoint]) -> Scale | None:
  """Return the logarithmic scale that resolves the bottom of a linear one, where the best points lie; None if the scale
  does not span more than a decade of positive values.

  Args:
    one: with a linear scale.
    points: the best ones.
  """
  scale: Any = one.scale
  if not isinstance(scale, Linear | Integer) or (isinstance(scale, Integer) and scale.log):
    return None
  positive = [value for point in points if (value := point.values.get(one.name)) and value > 0]
  # A learning rate of 0 trains nothing; other things are switched off by it.
  low = scale.min if scale.min > 0 else min(positive, default=0) if is_learning_rate(one) else 0
  if low <= 0:
    return None
  wide = scale.max > DECADE * low
  if isinstance(scale, Integer):
    # Of few whole numbers each is tried often enough.
    return Integer(scale.min, scale.max, log=True) if wide and scale.max - scale.min > MANY else None
  if not wide and not (is_learning_rate(one) and value_at(one, -OUT) <= 0):
    return None
  new = dataclasses.replace(one, scale=Log(low, scale.max))
  if scale.min > 0 and float(sorted(units_of(new, points))[len(points) // 2]) >= BOTTOM:
    return new.scale
  return Log(_short(new, value_at(new, -OUT), False, OUT), scale.max)


def places_of(one: Hyperparameter) -> float:
  """Return the number of values of a scale."""
  match one.scale:
    case Discrete(values):
      return len(values)
    case Integer(low, high):
      return high - low + 1
    case _:
      return math.inf


def allowed(one: Hyperparameter, value: float, point: TriedPoint, results: StudyResults) -> bool:
  """Return whether the study's config accepts a value, with those of a good point; True if there is no config."""
  config = results.study.config
  if config is None:
    return True
  changes: dict[str, Any] = {}
  for other in results.space.values():
    if other.name in point.values and other.name != one.name:
      changes |= other.changes(point.values[other.name])
  try:
    config.override(changes)
  except UserError:
    return True  # The trouble is not this value.
  try:
    config.override({**changes, **one.changes(value)})
  except UserError:
    return False
  return True


def _short(one: Hyperparameter, value: float, upper: bool, step: float) -> float:
  """Return a short number near a value beyond a side; of a narrow scale a short number may be the old bound."""

  def fits(new: float) -> bool:
    moved = unit_of(one, {one.name: new})
    return step / 2 <= (moved - 1 if upper else -moved) <= 2 * step

  return rounded(one, value, fits, 2 if isinstance(one.scale, Linear) else 1)


def _whole(scale: Integer, value: float) -> int:
  """Return a whole number near a value: a power of two where both bounds are, as of batch sizes, or with two digits."""
  if scale.log and all(bound & (bound - 1) == 0 for bound in (scale.min, scale.max)):
    return 2 ** round(math.log2(max(value, 1)))
  return int(float(f"{value:.2g}")) if abs(value) >= 100 else round(value)


def _towards_one(one: Hyperparameter) -> Scale | None:
  """Return the scale expanded towards 1, which it does not reach; None if it is too close to it already."""
  scale: Any = one.scale
  lacks, most = 1 - scale.max, 1 - scale.min
  if isinstance(scale, Linear) and most >= DECADE * lacks - 1e-9:
    new = dataclasses.replace(one, scale=ReverseLog(scale.min, scale.max))
    return ReverseLog(scale.min, _short(new, value_at(new, 1 + OUT), True, OUT))
  moved = float(f"{1 - lacks / 2:.3g}")
  if moved >= 1 or unit_of(one, {one.name: moved}) - 1 < LEAST_MOVE:
    return None
  return dataclasses.replace(scale, max=moved)


def _towards_zero(one: Hyperparameter) -> Scale:
  """Return the scale expanded to 0 if the hyperparameter is a share, which may be 0, else half of the way to it."""
  scale: Any = one.scale
  return dataclasses.replace(scale, min=0.0 if is_share(one) else float(f"{scale.min / 2:.2g}"))


def _next(values: Sequence[float], limit: float | None) -> float | None:
  """Return the next value of a list: by its last factor where its factors are alike, or where its last difference would
  go to 0 or below, else by its last difference; near 1 in what is missing to 1. None if none lies before the limit."""
  last, before = values[-1], values[-2]
  whole = all(isinstance(value, int) for value in values)
  new = last + (last - before)
  by_factor = min(values) > 0 and _alike(values) and len(values) > 2
  factor = last * last / before if before else 0.0
  if not whole:
    factor = float(f"{factor:.3g}")
  if by_factor and not math.isclose(last - before, before - values[-3]):
    new = factor
  if limit == 1 and last > before and new >= 1:
    lacks = float(f"{(1 - last) ** 2 / (1 - before):.2g}")
    new = round(1 - lacks, MOST_DIGITS) if last > 0.5 else float(f"{math.sqrt(last):.1g}")
  elif new <= 0 < min(values):
    new = factor
  if whole:
    new = round(new)
  if new == last or (limit is not None and (new > limit if last > before else new < limit)):
    return None
  return new


def _alike(values: Sequence[float]) -> bool:
  """Return whether the factors from one positive value to the next are about the same."""
  if len(values) < 2 or min(values) <= 0:
    return False
  factors = [b / a for a, b in itertools.pairwise(values)]
  return max(factors) / min(factors) < 1.5
