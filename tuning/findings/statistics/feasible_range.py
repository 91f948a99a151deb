"""The places where a scale is cut off: beyond them points are infeasible, or for a learning rate much worse (PB-80)."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from trialbook.tuning.findings.statistics.points import TriedPoint, feasible, is_learning_rate, unit_of
from trialbook.tuning.findings.statistics.separation import Separation, separation
from trialbook.tuning.space.scales import Hyperparameter

INSIDE, OUTSIDE = 0.8, 0.15
"""Beyond a cliff this share is bad, and not more than that before it."""
WITHIN = 0.05
"""Share of the scale: a cut that is nearer to an end is that end."""
LEAST = 3
"""Beyond a cliff: two may be chance."""
LEVEL = 0.05
"""Level of the test of one hyperparameter, which is corrected for its cuts."""
MUCH_WORSE = 10.0
"""Multiple of the median excess of the better half: a trial that diverged and came back counts as beyond a cliff too.
Smooth valleys do not fall that far within a scale."""


def cliffs_of(one: Hyperparameter, points: Sequence[TriedPoint]) -> dict[bool, Separation]:
  """Return by side (True: upper) the cut beyond which points are infeasible, or for a learning rate much worse."""
  found = feasible(points)
  if not found:
    return {}
  worse = math.inf
  if is_learning_rate(one):
    half = np.array([point.cost for point in found])[: (len(found) + 1) // 2]
    worse = found[0].cost + MUCH_WORSE * float(np.median(half - half[0])) if half[-1] > half[0] else math.inf
  kinds = [[not point.retrains for point in points]]
  if math.isfinite(worse):
    kinds.append([not point.retrains or point.cost > worse for point in points])
  cliffs: dict[bool, Separation] = {}
  for bad in kinds:
    cut = separation(one, points, bad)
    if cut is None or (bad is not kinds[0] and not cut.above):
      continue
    sharp = cut.inside[0] >= INSIDE * cut.inside[1] and cut.outside[0] <= OUTSIDE * cut.outside[1]
    inner = WITHIN < cut.unit < 1 - WITHIN
    if sharp and inner and cut.inside[0] >= LEAST and cut.p < LEVEL:
      cliffs.setdefault(cut.above, cut)
  return cliffs


def before(
  points: Sequence[TriedPoint], axes: Sequence[Hyperparameter], cliffs: Mapping[str, Mapping[bool, Separation]]
) -> list[TriedPoint]:
  """Return the points that do not lie beyond a cliff."""
  kept = list(points)
  for one in axes:
    for upper, cut in cliffs[one.name].items():
      units = [(point, unit_of(one, point.values)) for point in kept]
      kept = [point for point, unit in units if not (unit > cut.unit if upper else unit < cut.unit)]
  return kept
