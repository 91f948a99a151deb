"""Where in the space bad points lie: one point, beyond a cut of one scale, a corner of two, or everywhere.

Bad points may be infeasible, or have a training loss that rises. A bug makes bad points everywhere, and a workload that
is hard to optimize makes them in a region, so that the answer decides what to do. Retrains of a point are one point.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np

from trialbook.tuning.findings.statistics.hypergeometric import tail
from trialbook.tuning.findings.statistics.points import TriedPoint, is_numeric, searched, units_of, value_at
from trialbook.tuning.findings.statistics.separation import Separation, separation
from trialbook.tuning.once import by_any_objective
from trialbook.tuning.results import StudyResults
from trialbook.tuning.space.scales import Hyperparameter

LEVEL = 0.01
"""Level of the tests for a region, over all cuts and corners: a region to leave out is a claim about trials that will
never be run."""
WEIGHTS = ((1.0, 1.0), (1.0, 2.0), (2.0, 1.0))
"""Slopes of the edge of a corner, in shares of both scales: with three, no slope is further off than a third."""
NEIGHBOURS = 3
"""Nearest points that are looked at for whether bad ones lie together: as few as can agree."""
PERMUTATIONS = 999
NOWHERE = 0.02
"""Largest p of any test for a region at which "everywhere" is not said: absence of a region is a claim as well."""
TELLING = 5
"""Bad and good points each, for "everywhere": with fewer, no test finds any region."""
POWER, DRAWS, PURE = 0.8, 30, 0.9
"""Share of drawn regions that the tests must see for "everywhere" to be said; number of these; and share of the bad
points that lie in each."""
MOST_ENDS = 48
"""Places along a hyperparameter at which intervals begin and end, at most."""
FEWER_PERMUTATIONS = 199
"""Permutations where p is not reported, or held against a large level only."""
AT_ONCE = 64
"""Permutations that are compared at once: their arrays fit into the caches of a processor."""


@dataclasses.dataclass(frozen=True)
class Corner:
  """A region in which two hyperparameters together make points bad.

  Attributes:
    axes: the two hyperparameters.
    above: of each, whether its large values are in the corner.
    inside: bad points, and all, in the corner.
    outside: the same of the rest.
    p: of Fisher's test, corrected for all cuts, corners and pairs.
  """

  axes: tuple[Hyperparameter, Hyperparameter]
  above: tuple[bool, bool]
  inside: tuple[int, int]
  outside: tuple[int, int]
  p: float

  @property
  def text(self) -> str:
    """Return the corner in words."""
    sizes = ["large" if above else "small" for above in self.above]
    names = [one.name for one in self.axes]
    if sizes[0] == sizes[1]:
      return f"{names[0]} and {names[1]} are both {sizes[0]}"
    return f"{names[0]} is {sizes[0]} and {names[1]} is {sizes[1]}"


@dataclasses.dataclass(frozen=True)
class Interval:
  """An interval of one hyperparameter, which has more or fewer of the bad points than by chance.

  Attributes:
    one: the hyperparameter.
    low, high: values at its ends; None where it reaches the end of the scale.
    is_inside: whether the bad points are in it; if not, they are below and above it.
    p: by permutation, over all intervals and hyperparameters.
    wrong: number of points that are not as it says: good ones there, and bad ones elsewhere.
  """

  one: Hyperparameter
  low: float | None
  high: float | None
  is_inside: bool
  p: float
  wrong: int


@dataclasses.dataclass(frozen=True)
class Region:
  """Where bad points lie.

  Attributes:
    kind: "point": there is one only; "axis": beyond a cut of one hyperparameter, or at one value; "corner": of two;
      "interval": in the middle, or at both ends, of one;
      "together": close to each other, in no region that can be named; "everywhere": tested, and the test would have
      found a region; "unknown": too few points to say.
    bad: number of bad points.
    total: number of all points.
    cut: the best cut of one hyperparameter, whether or not it is significant; None if nothing was varied.
    corner: of "corner".
    p: corrected for all that was tried.
    interval: of "interval".
  """

  kind: Literal["point", "axis", "corner", "interval", "together", "everywhere", "unknown"]
  bad: int
  total: int
  cut: Separation | None
  corner: Corner | None
  p: float
  interval: Interval | None = None


def region_of(results: StudyResults, points: Sequence[TriedPoint], bad: Sequence[bool]) -> Region:
  """Return where the bad ones of some points lie.

  Args:
    results: of the study.
    points: all that can be bad.
    bad: whether each is: [points].
  """
  flags, axes = np.asarray(bad, bool), searched(results)
  # Where points lie has nothing to do with what they are worth.
  places = [TriedPoint(point.values, point.trials, (), 0) for point in points]
  return by_any_objective(results, _region, axes, places, flags)


def _region(axes: Sequence[Hyperparameter], points: Sequence[TriedPoint], flags: np.ndarray) -> Region:
  """Return the region of the points with flags: [points]."""
  count, total = int(flags.sum()), len(flags)
  make = functools.partial(Region, bad=count, total=total)
  cuts = [cut for one in axes if (cut := separation(one, points, list(flags))) is not None]
  cut = min(cuts, key=lambda cut: cut.p, default=None)
  p = min(1.0, cut.p * len(cuts)) if cut is not None else 1.0
  make = functools.partial(make, cut=cut)
  if count == 1:
    return make("point", corner=None, p=p)
  corner = _corner(axes, points, flags)
  testable = min(count, total - count) >= TELLING and bool(axes)
  places = _Places.of(axes, points) if testable else None
  interval = places.interval(flags) if places is not None else None
  if (
    interval is not None
    and 2 * interval.p < LEVEL
    and 2 * interval.wrong
    < min([one.outside[0] + one.inside[1] - one.inside[0] for one in (corner, cut) if one is not None], default=total)
  ):
    return make("interval", corner=None, p=2 * interval.p, interval=interval)
  # Half of the level each. A corner is named if it says more than one hyperparameter alone.
  if corner is not None and 2 * corner.p < LEVEL and corner.p < p / 10:
    return make("corner", corner=corner, p=2 * corner.p)
  if 2 * p < LEVEL:
    return make("axis", corner=None, p=2 * p)
  if places is None or interval is None:
    return make("unknown", corner=None, p=p)
  if 2 * interval.p < LEVEL:
    return make("interval", corner=None, p=2 * interval.p, interval=interval)
  together = places.together(flags)
  by_corner = 1.0 if corner is None else corner.p
  if min(interval.p, together, p, by_corner) >= NOWHERE:
    # Only where a region would have been seen is it known that there is none.
    is_known = places.power(count) >= POWER
    return make("everywhere" if is_known else "unknown", corner=None, p=min(interval.p, together))
  return make("together" if together < LEVEL else "unknown", corner=None, p=together)


def _corner(axes: Sequence[Hyperparameter], points: Sequence[TriedPoint], flags: np.ndarray) -> Corner | None:
  """Return the corner of two numeric hyperparameters that separates bad points from others best."""
  numeric = [one for one in axes if is_numeric(one)]
  units = {one.name: units_of(one, points) for one in numeric}
  best: Corner | None = None
  tried = 0
  for first, second in itertools.combinations(numeric, 2):
    both = np.isfinite(units[first.name]) & np.isfinite(units[second.name])
    bad, total = int(flags[both].sum()), int(both.sum())
    if bad in (0, total):
      continue
    for above in ((True, True), (True, False), (False, True), (False, False)):
      into = [
        units[one.name][both] if up else 1 - units[one.name][both]
        for one, up in zip((first, second), above, strict=True)
      ]
      depths = [a * into[0] + b * into[1] for a, b in WEIGHTS] + [np.minimum(into[0], into[1])]
      for depth in depths:
        tried += total - 1
        order = np.argsort(-depth, kind="stable")
        inside = np.cumsum(flags[both][order])[:-1]
        sizes = np.arange(1, total)
        chances = tail(inside, total, bad, sizes)
        at = int(np.argmin(chances))
        if best is None or chances[at] < best.p:
          parts = (int(inside[at]), int(sizes[at])), (bad - int(inside[at]), total - int(sizes[at]))
          best = Corner((first, second), above, *parts, float(chances[at]))
  return None if best is None else dataclasses.replace(best, p=min(1.0, best.p * tried))


@dataclasses.dataclass(frozen=True)
class _Places:
  """Where points are.

  Attributes:
    numeric: hyperparameters with an order.
    units: places on their scales: [points, numeric]; NaN becomes the middle.
    near: numbers of each point's nearest neighbours, over all hyperparameters: [points, neighbours].
  """

  numeric: Sequence[Hyperparameter]
  units: np.ndarray
  near: np.ndarray

  @classmethod
  def of(cls, axes: Sequence[Hyperparameter], points: Sequence[TriedPoint]) -> "_Places":
    numeric = [one for one in axes if is_numeric(one)]
    units = np.array([np.nan_to_num(units_of(one, points), nan=0.5) for one in numeric]).reshape(-1, len(points)).T
    columns = [units]
    for one in axes:
      if not is_numeric(one):
        values = [repr(point.values.get(one.name)) for point in points]
        columns.append(
          np.array([[float(value == other) / np.sqrt(2) for other in sorted(set(values))] for value in values])
        )
    places = np.concatenate(columns, axis=1)
    distances = ((places[:, None] - places[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    near = np.argsort(distances, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(points) - 1)]
    return cls(numeric, units, near)

  def together(self, flags: np.ndarray, permutations: int = PERMUTATIONS) -> float:
    """Return the p-value of the test whether bad points have more bad neighbours than by chance, in all dimensions."""
    return self._p_value(self._alike, flags, permutations)

  def _alike(self, marks: np.ndarray) -> np.ndarray:
    """Return the number of bad neighbours of bad points: [permutations]."""
    return (marks[:, self.near] & marks[:, :, None]).sum(axis=(1, 2))

  def _p_value(self, statistic: Callable[[np.ndarray], np.ndarray], flags: np.ndarray, permutations: int) -> float:
    """Return the share of permutations, the observed one included, whose statistic is at least that of the flags.

    What a statistic is by chance depends on the number of bad points alone, so it is computed once for each.
    """
    count = int(flags.sum())
    key = (statistic.__name__, count, permutations)
    if key not in self._by_chance:
      some = np.arange(len(flags)) < count
      self._by_chance[key] = np.concatenate([statistic(marks) for marks in _permuted(some, permutations)])
    return float(1 + (self._by_chance[key] >= statistic(flags[None])).sum()) / (1 + permutations)

  @functools.cached_property
  def _by_chance(self) -> dict[tuple[str, int, int], np.ndarray]:
    """Statistics of permutations, by statistic, number of bad points and number of permutations."""
    return {}

  @functools.cached_property
  def _intervals(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the points in the order of each hyperparameter, and where the intervals begin and end in it."""
    total = len(self.units)
    ends = np.unique(np.linspace(0, total, min(total, MOST_ENDS) + 1).round().astype(int))
    first, last = np.triu_indices(len(ends), 1)
    sizes = ends[last] - ends[first]
    keep = (sizes > 1) & (sizes < total - 1)
    return np.argsort(self.units, axis=0, kind="stable").T, ends[first[keep]], ends[last[keep]]

  def _scores(self, marks: np.ndarray) -> np.ndarray:
    """Return how far each interval's number of bad points is from the mean: [permutations, numeric, intervals].

    Each row of `marks` has the same number of bad points.
    """
    orders, begins, ends = self._intervals
    total, share, sizes = marks.shape[1], marks[0].mean(), ends - begins
    sums = np.zeros((len(marks), len(orders), total + 1))
    np.cumsum(marks[:, orders], axis=2, out=sums[:, :, 1:])
    scale = np.sqrt(share * (1 - share) * sizes * (1 - sizes / total))
    return (sums[:, :, ends] - sums[:, :, begins] - share * sizes) / scale

  def _largest_score(self, marks: np.ndarray) -> np.ndarray:
    """Return the largest score of any interval, in either direction: [permutations]."""
    return np.abs(self._scores(marks)).max(axis=(1, 2))

  def interval(self, flags: np.ndarray, permutations: int = FEWER_PERMUTATIONS * 2) -> Interval | None:
    """Return the interval of one hyperparameter that has the most surprising number of bad points."""
    if not self.numeric:
      return None
    orders, begins, ends = self._intervals
    own, total = self._scores(flags[None])[0], len(flags)
    axis, window = divmod(int(np.abs(own).argmax()), own.shape[1])
    begin, end = int(begins[window]), int(ends[window])
    inside = int(flags[orders[axis]][begin:end].sum())
    wrong = int(flags.sum()) + end - begin - 2 * inside
    is_inside = bool(own[axis, window] > 0)
    one, units = self.numeric[axis], np.sort(self.units[:, axis])
    return Interval(
      one,
      None if begin == 0 else value_at(one, float(units[begin])),
      None if end == total else value_at(one, float(units[end - 1])),
      is_inside,
      self._p_value(self._largest_score, flags, permutations),
      wrong if is_inside else total - wrong,
    )

  def power(self, count: int) -> float:
    """Return the share of drawn regions of some bad points that the tests see: one side, both ends, or the middle of a
    hyperparameter, or a corner of two."""
    if not self.numeric:
      return 0.0
    rng, total = np.random.default_rng(0), len(self.units)
    seen = 0
    for draw in range(DRAWS):
      one, other = rng.integers(len(self.numeric), size=2)
      x = self.units[:, one] if rng.random() < 0.5 else 1 - self.units[:, one]
      depth = (x, np.abs(x - 0.5), -np.abs(x - 0.5), x + self.units[:, other])[draw % 4]
      flags = np.zeros(total, bool)
      inside = np.argsort(-depth, kind="stable")[: max(round(PURE * count), 1)]
      flags[inside] = True
      rest = np.flatnonzero(~flags)
      flags[rng.choice(rest, count - len(inside), replace=False)] = True
      interval = self.interval(flags, FEWER_PERMUTATIONS)
      by_interval = interval is not None and interval.p < NOWHERE
      seen += by_interval or self.together(flags, FEWER_PERMUTATIONS) < NOWHERE
    return seen / DRAWS


def _permuted(flags: np.ndarray, count: int) -> Iterator[np.ndarray]:
  """Yield permutations of flags, some at a time: [`AT_ONCE` or fewer, points]."""
  for first in range(0, count, AT_ONCE):
    yield flags[_permutations(len(flags))[first : min(first + AT_ONCE, count)]]


@functools.lru_cache(maxsize=2)
def _permutations(total: int) -> np.ndarray:
  """Return the permutations of so many points by which all tests compare: [permutations, points]."""
  rng = np.random.default_rng(0)
  return np.array([rng.permutation(total) for _ in range(PERMUTATIONS)], np.int32)
