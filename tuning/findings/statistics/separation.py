"""The cut of a scale, or the value, that separates bad points from others, by Fisher's exact test."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from trialbook.tuning.findings.statistics.hypergeometric import tail
from trialbook.tuning.findings.statistics.points import TriedPoint, is_numeric, rounded, unit_of, units_of, value_at
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, OneOf

CUT_MOVES = 0.02
"""Share of the scale by which a cut may move to be a short number: points of a study lie about as close as that."""


@dataclasses.dataclass(frozen=True)
class Separation:
  """A cut that separates infeasible trials from feasible ones.

  Attributes:
    one: the hyperparameter.
    unit: where its scale is cut; NaN for a categorical one.
    above: whether the infeasible ones are above.
    value: at the cut, or the categorical value that is infeasible.
    inside: infeasible ones, and all, on the infeasible side.
    outside: the same on the other.
    p: of Fisher's test, corrected for the cuts of this hyperparameter.
  """

  one: Hyperparameter
  unit: float
  above: bool
  value: object
  inside: tuple[int, int]
  outside: tuple[int, int]
  p: float

  @property
  def edge(self) -> float:
    """Return the edge of a numeric scale that is cut there: a short number near `value`; for whole numbers the last
    that is kept."""
    value = float(str(self.value))
    if isinstance(self.one.scale, Integer):
      return math.floor(value) if self.above else math.ceil(value)
    return rounded(self.one, value, lambda new: abs(unit_of(self.one, {self.one.name: new}) - self.unit) < CUT_MOVES, 2)


def separation(one: Hyperparameter, points: Sequence[TriedPoint], bad: Sequence[bool]) -> Separation | None:
  """Return the best cut of a hyperparameter between bad points and others; None if there are not both."""
  flags = np.asarray(bad, bool)
  if not is_numeric(one):
    return _by_value(one, points, flags)
  units = units_of(one, points)
  there = np.isfinite(units)
  order = np.argsort(units[there], kind="stable")
  units, flags = units[there][order], flags[there][order]
  count, total = len(units), int(flags.sum())
  cuts = np.flatnonzero(np.diff(units) > 1e-9) + 1
  if not len(cuts) or total in (0, count):
    return None
  below = np.cumsum(flags)[cuts - 1]
  chances = [
    tail(below, count, total, cuts),
    tail(total - below, count, total, count - cuts),
  ]
  side = int(min(chances[1]) <= min(chances[0]))
  position = int(np.argmin(chances[side]))
  cut, low = int(cuts[position]), int(below[position])
  unit = float((units[cut - 1] + units[cut]) / 2)
  parts = (low, cut), (total - low, count - cut)
  value = value_at(one, unit)
  p = min(1.0, float(chances[side][position]) * 2 * len(cuts))
  return Separation(one, unit, bool(side), value, parts[side], parts[1 - side], p)


def _by_value(one: Hyperparameter, points: Sequence[TriedPoint], flags: np.ndarray) -> Separation | None:
  values = [repr(point.values[one.name]) if one.name in point.values else None for point in points]
  having = [value for value in values if value is not None]
  options = list(dict.fromkeys(having))
  total = sum(bool(flag) for value, flag in zip(values, flags, strict=True) if value is not None)
  if len(options) < 2 or total in (0, len(having)):
    return None
  best = None
  for option in options:
    inside = [bool(flag) for value, flag in zip(values, flags, strict=True) if value == option]
    p = float(tail(np.array(sum(inside)), len(having), total, np.array(len(inside)))) * len(options)
    if best is None or p < best.p:
      value = next(point.values[one.name] for point, v in zip(points, values, strict=True) if v == option)
      outside = total - sum(inside), len(having) - len(inside)
      best = Separation(one, float("nan"), False, value, (sum(inside), len(inside)), outside, min(1.0, p))
  return best


def without(found: Separation) -> dict[str, object] | None:
  """Return the space without the infeasible side, as `Hyperparameter.as_json`; None if nothing is left to vary."""
  scale = found.one.scale
  if isinstance(scale, OneOf):
    left = [value for value in scale.values if value != found.value]
    new = OneOf(left) if len(left) > 1 else None
  elif isinstance(scale, Discrete):
    left = [value for value in scale.values if (scale.unit(value) < found.unit) == found.above]
    new = Discrete(tuple(left)) if len(left) > 1 else None
  else:
    new = dataclasses.replace(scale, **{"max" if found.above else "min": found.edge})  # pyright: ignore
  if new is None or new.problems():
    return None
  return {found.one.name: dataclasses.replace(found.one, scale=new).as_json()}
