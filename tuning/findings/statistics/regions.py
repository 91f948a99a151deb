"""Where in the space bad points lie: one point, beyond a cut of one scale, a corner of two, or everywhere.

Bad points may be infeasible, or have a training loss that rises. A bug makes bad points everywhere, and a workload that
is hard to optimize makes them in a region, so that the answer decides what to do. Retrains of a point are one point.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import scipy.stats

from trialbook.tuning.findings.statistics.points import TriedPoint, is_numeric, searched, units_of
from trialbook.tuning.findings.statistics.separation import Separation, separation
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
TOGETHER = 0.2
"""Largest p of the test whether bad points lie together at which "everywhere" is not said: absence of a region is a
claim as well."""
TELLING = 5
"""Bad and good points each, for "everywhere": with fewer, no test finds any region."""


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
class Region:
  """Where bad points lie.

  Attributes:
    kind: "point": there is one only; "axis": beyond a cut of one hyperparameter, or at one value; "corner": of two;
      "together": close to each other, in no region that can be named; "everywhere": tested, and the test would have
      found a region; "unknown": too few points to say.
    bad: number of bad points.
    total: number of all points.
    cut: the best cut of one hyperparameter, whether or not it is significant; None if nothing was varied.
    corner: of "corner".
    p: corrected for all that was tried.
  """

  kind: Literal["point", "axis", "corner", "together", "everywhere", "unknown"]
  bad: int
  total: int
  cut: Separation | None
  corner: Corner | None
  p: float


def region_of(results: StudyResults, points: Sequence[TriedPoint], bad: Sequence[bool]) -> Region:
  """Return where the bad ones of some points lie.

  Args:
    results: of the study.
    points: all that can be bad.
    bad: whether each is: [points].
  """
  flags, axes = np.asarray(bad, bool), searched(results)
  count, total = int(flags.sum()), len(flags)
  make = functools.partial(Region, bad=count, total=total)
  cuts = [cut for one in axes if (cut := separation(one, points, list(flags))) is not None]
  cut = min(cuts, key=lambda cut: cut.p, default=None)
  p = min(1.0, cut.p * len(cuts)) if cut is not None else 1.0
  make = functools.partial(make, cut=cut)
  if count == 1:
    return make("point", corner=None, p=p)
  corner = _corner(axes, points, flags)
  # Half of the level each. A corner is named if it says more than one hyperparameter alone.
  if corner is not None and 2 * corner.p < LEVEL and corner.p < p / 10:
    return make("corner", corner=corner, p=2 * corner.p)
  if 2 * p < LEVEL:
    return make("axis", corner=None, p=2 * p)
  # Where not even a region that holds all bad points and no others would be significant, nothing was tested.
  least = 4 * len(axes) * (total - 1) / math.comb(total, count) if axes else 1.0
  if min(count, total - count) < TELLING or least >= LEVEL:
    return make("unknown", corner=None, p=p)
  together = _together(axes, points, flags)
  if together >= TOGETHER:
    return make("everywhere", corner=None, p=together)
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
        chances = scipy.stats.hypergeom.sf(inside - 1, total, bad, sizes)
        at = int(np.argmin(chances))
        if best is None or chances[at] < best.p:
          parts = (int(inside[at]), int(sizes[at])), (bad - int(inside[at]), total - int(sizes[at]))
          best = Corner((first, second), above, *parts, float(chances[at]))
  return None if best is None else dataclasses.replace(best, p=min(1.0, best.p * tried))


def _together(axes: Sequence[Hyperparameter], points: Sequence[TriedPoint], flags: np.ndarray) -> float:
  """Return the p-value of the test whether bad points have more bad neighbours than by chance, in all dimensions."""
  columns = []
  for one in axes:
    if is_numeric(one):
      columns.append(np.nan_to_num(units_of(one, points), nan=0.5)[:, None])
    else:
      values = [repr(point.values.get(one.name)) for point in points]
      columns.append(
        np.array([[float(value == other) / np.sqrt(2) for other in sorted(set(values))] for value in values])
      )
  places = np.concatenate(columns, axis=1)
  distances = ((places[:, None] - places[None]) ** 2).sum(axis=2)
  np.fill_diagonal(distances, np.inf)
  near = np.argsort(distances, axis=1, kind="stable")[:, : min(NEIGHBOURS, len(points) - 1)]
  rng = np.random.default_rng(0)

  def alike(marks: np.ndarray) -> int:
    return int(marks[near][marks].sum())

  seen = alike(flags)
  as_many = sum(alike(rng.permutation(flags)) >= seen for _ in range(PERMUTATIONS))
  return (1 + as_many) / (1 + PERMUTATIONS)
