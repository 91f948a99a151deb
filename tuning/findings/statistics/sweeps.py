"""A few values of one hyperparameter, the others equal: whether the best is the first or the last of them (PB-23).

The commonest study is one of three to ten learning rates. It is too small for a fit, but if the objective gets better
from each value to the next up to the last one, larger ones may be better still. Whether chance makes such an order is
tested exactly (Jonckheere 1954, Terpstra 1952): under the null hypothesis all orders of the trials are equally likely.
Retrains of a value are compared with those of other values, and never with each other. In a grid, the values of one
hyperparameter are compared for each combination of the others, and the better half of these counts.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

from trialbook.tuning.findings.statistics.finite_spaces import is_chosen
from trialbook.tuning.findings.statistics.points import TriedPoint, unit_of
from trialbook.tuning.findings.statistics.seed_noise import Noise
from trialbook.tuning.space.scales import Hyperparameter

LEVEL = 0.025
"""Level of the test of one side: 0.05 for both. Five values are in order towards one side in 1 of 120 cases."""
NEAR_LEVEL = 0.05
"""The same for a note. Four values are in order towards one side in 1 of 24 cases."""
LARGE = 20.0
"""Multiple of the relevant distance from perfection (`relevance.of_perfection`), two fifths of that distance, by which
the last value is better than the one before it if that is no noise, whatever the noise is: retrains that differ by as
much are another finding. With three or four values it takes the place of the test."""
LEAST = 3
"""Values in a row: of two, each is at an end."""
MOST = 10
"""Values in a row up to which the order of them is looked at one by one; of more, a fit says more."""
MAINLY = 0.5
"""Share of the points in rows, from which on a study is taken for a sweep or a grid."""
EXACT = 40
"""Trials of a row up to which the distribution is computed, and not approximated by a normal one."""


@dataclasses.dataclass(frozen=True)
class Row:
  """Points that differ in one hyperparameter only.

  Attributes:
    values: in the order towards the side that is looked at.
    points: at each value, with a value of the objective.
    beyond: points beyond the last value that have no value of the objective.
  """

  values: tuple[float, ...]
  points: tuple[TriedPoint, ...]
  beyond: tuple[TriedPoint, ...]

  @property
  def best(self) -> float:
    """Return the lowest cost in the row."""
    return min(point.cost for point in self.points)


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The rows of one hyperparameter, looked at towards one side.

  Attributes:
    one: the hyperparameter.
    upper: the side.
    values: in the order towards that side: those that all rows have.
    costs: mean cost at each, over the rows.
    rows: those that count.
    p: of the test whether chance alone makes the costs fall as steadily towards that side.
    fall: by how much the last value is better than the one before it.
    margin: by which it is better by chance in 1 of 40 cases; 0 if no noise is known.
    is_noise_known: whether the margin is that of all noise, and not only of the draw of validation examples.
  """

  one: Hyperparameter
  upper: bool
  values: tuple[float, ...]
  costs: tuple[float, ...]
  rows: tuple[Row, ...]
  p: float
  fall: float
  margin: float
  is_noise_known: bool

  @property
  def is_last_best(self) -> bool:
    """Return whether the last value is the best, on average and in the best row."""
    row = min(self.rows, key=lambda row: row.best)
    return min(self.costs) == self.costs[-1] < self.costs[-2] and row.best == row.points[-1].cost

  @property
  def is_monotone(self) -> bool:
    """Return whether each value is better than the one before it."""
    return all(later < earlier for earlier, later in itertools.pairwise(self.costs))

  @property
  def is_chosen(self) -> bool:
    """Return whether the values look chosen, and not drawn at random."""
    return is_chosen(sorted(self.values))

  @property
  def beyond(self) -> tuple[TriedPoint, ...]:
    """Return the points beyond the last value that have none themselves."""
    return tuple(point for row in self.rows for point in row.beyond)

  @property
  def retrains(self) -> int:
    """Return the number of trials at each value, the fewest."""
    return min(len(point.retrains) for row in self.rows for point in row.points)

  def limits(self, matters: "Matters", level: float = LEVEL) -> bool:
    """Return whether the objective gets better up to the last value, by more than noise and by what is relevant."""
    if not self.is_last_best or self.fall <= max(self.margin, matters.relevant):
      return False
    return self.p < level or (self.is_monotone and self.fall > matters.large)

  def is_tied(self, matters: "Matters") -> bool:
    """Return whether the last value and the one before it are the best, and about equal."""
    return min(self.costs) in self.costs[-2:] and abs(self.fall) <= max(self.margin, matters.relevant)

  def is_near(self, matters: "Matters", level: float = LEVEL) -> bool:
    """Return whether the last value is among the best, but not surely better than the one before it, or chance may make
    the order of the values."""
    if self.limits(matters, level):
      return False
    in_order = self.p < NEAR_LEVEL / LEVEL * level
    if self.is_tied(matters):
      return in_order
    return self.is_last_best and (in_order or self.is_noise_known)


@dataclasses.dataclass(frozen=True)
class Matters:
  """How large a difference of costs is in practice.

  Attributes:
    relevant: the smallest that matters.
    large: one that no noise makes; infinite if the metric has no natural zero.
  """

  relevant: float
  large: float


def sweep(
  one: Hyperparameter,
  upper: bool,
  points: Sequence[TriedPoint],
  others: Sequence[Hyperparameter],
  noise: Noise | None,
  known: bool = False,
  times: float = 1.96,
  least: float = MAINLY,
) -> Sweep | None:
  """Return the sweep of a hyperparameter towards one side; None if too few points are in rows of `LEAST` to `MOST`
  values.

  Args:
    one: numeric.
    upper: the side.
    points: that were tried, with or without a value.
    others: that were varied too.
    noise: of a trial, if it is known.
    known: whether that is all noise, and not only that of the validation examples.
    times: standard errors by which 95% of two equal points differ by less.
    least: share of the points with a value that must be in rows.
  """
  having = [point for point in points if math.isfinite(unit_of(one, point.values))]
  groups: dict[tuple[str, ...], list[TriedPoint]] = {}
  for point in having:
    key = tuple(repr(point.values.get(other.name)) for other in others if other.name != one.name)
    groups.setdefault(key, []).append(point)
  rows = [row for group in groups.values() if (row := _row(one, upper, group)) is not None]
  if not rows or sum(len(row.points) for row in rows) < least * sum(bool(point.retrains) for point in having):
    return None
  if len({value for row in rows for value in row.values}) > MOST:
    return None
  rows.sort(key=lambda row: row.best)
  rows = rows[: (len(rows) + 1) // 2]
  common = [value for value in rows[0].values if all(value in row.values for row in rows)]
  if len(common) < LEAST or any(row.values[-1] != common[-1] for row in rows):
    rows, common = rows[:1], list(rows[0].values)
  costs = np.array([[row.points[row.values.index(value)].cost for value in common] for row in rows])
  return Sweep(
    one,
    upper,
    tuple(common),
    tuple(costs.mean(axis=0).tolist()),
    tuple(rows),
    p_of([[row.points[row.values.index(value)].retrains for value in common] for row in rows]),
    float((costs[:, -2] - costs[:, -1]).mean()),
    _margin(rows, common, costs, times * noise.deviation if noise is not None else None),
    known if noise is not None else len(rows) > 1,
  )


def _row(one: Hyperparameter, upper: bool, group: Sequence[TriedPoint]) -> Row | None:
  if sum(bool(point.retrains) for point in group) < LEAST:
    return None
  ordered = sorted(group, key=lambda point: unit_of(one, point.values), reverse=not upper)
  known = [point for point in ordered if point.retrains]
  beyond = ordered[ordered.index(known[-1]) + 1 :]
  return Row(tuple(point.values[one.name] for point in known), tuple(known), tuple(beyond))


def _margin(rows: Sequence[Row], common: Sequence[float], costs: np.ndarray, noise: float | None) -> float:
  """Return by how much the mean of the last falls varies: by the noise of a trial, or by how the rows differ.

  Args:
    rows: that count.
    common: their values.
    costs: [rows, values].
    noise: half of the interval of a trial, if it is known.
  """
  count = len(rows)
  if noise is not None:
    variances = [sum(1 / len(row.points[row.values.index(value)].retrains) for value in common[-2:]) for row in rows]
    return noise * math.sqrt(sum(variances)) / count
  if count == 1:
    return 0.0
  if count > 2:
    falls = costs[:, -2] - costs[:, -1]
    return float(scipy.stats.t.ppf(0.975, count - 1) * np.std(falls, ddof=1)) / math.sqrt(count)
  # Of two rows, what is left of the last three values if rows and values add up.
  last = costs[:, -LEAST:]
  left = last - last.mean(axis=0) - last.mean(axis=1, keepdims=True) + last.mean()
  freedom = (count - 1) * (LEAST - 1)
  return float(scipy.stats.t.ppf(0.975, freedom) * math.sqrt(float(np.sum(left**2)) / freedom * 2 / count))


def p_of(rows: Sequence[Sequence[Sequence[float]]]) -> float:
  """Return the one-sided p-value of the order of costs, falling from each value to the next: [rows][values][retrains].

  Ties count as the wrong order, so that p is not too small.
  """
  observed = sum(
    int(np.sum(np.array(before)[:, None] > np.array(after)[None, :]))
    for row in rows
    for before, after in itertools.combinations(row, 2)
  )
  sizes = [tuple(map(len, row)) for row in rows]
  if sum(map(sum, sizes)) > EXACT:
    return _normal(sizes, observed)
  chances = np.ones(1)
  for each in sizes:
    chances = np.convolve(chances, _row_chances(each))
  return min(1.0, float(chances[observed:].sum()))


@functools.lru_cache(maxsize=256)
def _row_chances(sizes: tuple[int, ...]) -> np.ndarray:
  """Return the probability of each number of pairs in order, if all orders are equally likely: each new group is
  compared with all before it by an independent Mann-Whitney count."""
  chances = np.ones(1)
  for place in range(1, len(sizes)):
    chances = np.convolve(chances, _mann_whitney(sum(sizes[:place]), sizes[place]))
  return chances


@functools.lru_cache(maxsize=1024)
def _mann_whitney(first: int, second: int) -> np.ndarray:
  """Return the probability of each Mann-Whitney count of two groups of these sizes."""
  if not first or not second:
    return np.ones(1)
  # The largest of all is in the first group, which makes a pair with each of the second, or in the second.
  one, other = _mann_whitney(first - 1, second), _mann_whitney(first, second - 1)
  found = np.zeros(first * second + 1)
  found[second : second + len(one)] += one * first / (first + second)
  found[: len(other)] += other * second / (first + second)
  return found


def _normal(rows: Sequence[tuple[int, ...]], observed: int) -> float:
  mean = variance = 0.0
  for sizes in rows:
    total = sum(sizes)
    mean += (total**2 - sum(size**2 for size in sizes)) / 4
    variance += (total**2 * (2 * total + 3) - sum(size**2 * (2 * size + 3) for size in sizes)) / 72
  return float(scipy.stats.norm.sf((observed - 0.5 - mean) / math.sqrt(variance)))
