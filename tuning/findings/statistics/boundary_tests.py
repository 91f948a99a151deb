"""The sides of the space, and how the best points lie before each (PB-23, PB-80).

An edge is the space's, or the cliff beyond which points are infeasible (`statistics.feasible_range`). "At the edge"
means that a quadratic through the good points (`statistics.response_surface`) still falls towards it there, by a
one-sided t test over all sides, and that the best points stand on that side. "Near the edge" means the same at the
inner end of the outer part of the scale: the optimum is in that part, or beyond. Studies too small for the fit are
tested by how many of their best points lie in the outer part; and a few values of one hyperparameter, each with the
same others, by their order (`statistics.sweeps`). If a scale was inferred, its edges are the outermost values tried.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

from trialbook.tuning.findings.statistics import response_surface, sweeps
from trialbook.tuning.findings.statistics.expansion import bound_of, places_of
from trialbook.tuning.findings.statistics.feasible_range import before, cliffs_of
from trialbook.tuning.findings.statistics.points import (
  TriedPoint,
  feasible,
  is_numeric,
  points_of,
  searched,
  tried_points,
  unit_of,
  units_of,
)
from trialbook.tuning.findings.statistics.relevance import has_natural_zero, of_perfection, relevant
from trialbook.tuning.findings.statistics.response_surface import ResponseSurface
from trialbook.tuning.findings.statistics.seed_noise import noise_of, trial_noise
from trialbook.tuning.findings.statistics.separation import Separation
from trialbook.tuning.findings.statistics.sweeps import Sweep
from trialbook.tuning.once import once
from trialbook.tuning.results import StudyResults
from trialbook.tuning.space.scales import Hyperparameter

LEVEL = 0.05
"""Level of the tests of all sides together: an unneeded expansion costs density in all dimensions."""
LEAST_PLACES = 3
"""Fewest values on a scale: of two, each is at an edge."""
FEW_PLACES = 10
"""Number of values on a scale up to which each takes so much of it that a distance by its middle says little."""
LEAST = 8
"""Points with a value: with fewer, the best three do not differ from the others."""
NEAR = 0.4
"""Largest distance of half of the best points from the edge, as a share of the scale. Those of an optimum there lie in
the nearer third or so, as few points have landed right at it."""
MOST_SIDES_BY_COUNTS = 5
"""Hyperparameters up to which the test by counts can find anything: by chance, the best three are all in an outer sixth
in 1 of 216 cases."""
BEST, LEAST_BEST = 1 / 8, 3
"""Share of the points that are the best ones, and their least number."""
OUTER = 1 / 6
"""The outer part of a scale. The best points of usual studies spread by about a sixth (standard deviation) around the
optimum: an edge that is nearer cuts many of them off. In the test for small studies: three of three points there have
p = 0.005 by chance."""
AROUND = 2 * OUTER
"""Largest distance of half of the best points from an edge that they are near: those of an optimum in the outer part
lie to both sides of it."""
CLOSE = 0.6
"""Distance of the last value from the edge, as a share of that to the value before it, up to which it is at the edge.
Whole numbers stand in the middle of their parts of a scale, half of one from its edge."""
LEAST_STEP = 0.25
"""The least share of the scale by which a side is moved out: less is not worth a study."""
MOST_TIMES = 4.0
"""Most points that are proposed, as a multiple of those that there are: beyond, the forecast fails."""


@dataclasses.dataclass(frozen=True)
class Side:
  """One side of one hyperparameter, and what was found there.

  Attributes:
    upper: which side.
    cliff: that it ends at; None: at the edge of the space.
    points: before it that have a value, the best first.
    best: how many of them are the best ones.
    limits: whether the best points are limited by it.
    p_near: p-value of the test whether they lie near it, though it need not limit them; None if they do not.
    more: how many more points would decide it; None if it is decided, or would take too many.
    p: p-value of the test whether it limits them.
    optimum: of the fit, on the scale; None if there is none.
    how: that test was made, in a clause.
    sweep: the order of a few values, if that is what was tested.
    is_tied: whether the last two of these are the best ones, and about equal.
    is_fitted: whether a quadratic was tested.
  """

  one: Hyperparameter
  upper: bool
  cliff: Separation | None
  points: tuple[TriedPoint, ...]
  best: int = LEAST_BEST
  limits: bool = False
  p_near: float | None = None
  more: int | None = None
  p: float = 1.0
  optimum: float | None = None
  how: str = ""
  sweep: Sweep | None = None
  is_tied: bool = False
  is_fitted: bool = False

  @property
  def key(self) -> str:
    """Return its name among numbers."""
    return f"{self.one.name} {'above' if self.upper else 'below'}"

  @property
  def word(self) -> str:
    return "upper" if self.upper else "lower"

  @property
  def is_limiting_or_near(self) -> bool:
    """Return whether the best points lie at it or near it."""
    return self.limits or self.p_near is not None

  @property
  def trials(self) -> tuple[int, ...]:
    """Return the trials of the best points."""
    return tuple(sorted(number for point in self.points[: self.best] for number in point.trials))

  @property
  def edge(self) -> float:
    """Return where it is on the scale."""
    return self.cliff.unit if self.cliff is not None else float(self.upper)

  @property
  def inside(self) -> float:
    """Return the share of the scale before it."""
    return self.edge if self.upper else 1 - self.edge

  @functools.cached_property
  def distances(self) -> np.ndarray:
    """Return the distances of the points from it, as shares of the scale before it: [points]."""
    units = units_of(self.one, self.points)
    return (self.edge - units if self.upper else units - self.edge) / self.inside

  @property
  def distance(self) -> float:
    """Return the median distance of the best points."""
    return float(np.median(self.distances[: self.best]))

  @functools.cached_property
  def at_last(self) -> int:
    """Return how many of the best points have the last value before it; 0 unless most have."""
    last = self.distances.min()
    value = self.points[int(np.argmin(self.distances))].values[self.one.name]
    count = int(np.isclose(self.distances[: self.best], last).sum())
    tried = self.cliff is not None or value == bound_of(self.one.scale, self.upper)
    return count if tried and 2 * count > self.best else 0


def testable(results: StudyResults) -> list[Hyperparameter]:
  """Return the numeric hyperparameters with `LEAST_PLACES` values at least."""
  return [one for one in searched(results) if is_numeric(one) and places_of(one) >= LEAST_PLACES]


def level_of(axes: Sequence[Hyperparameter]) -> float:
  """Return the level of the test of one side of these hyperparameters."""
  return LEVEL / (2 * len(axes))


@once
def tested(results: StudyResults) -> list[Side]:
  """Return both sides of each testable hyperparameter that has enough points, the lower one first."""
  points, axes = points_of(results), testable(results)
  cliffs = {one.name: cliffs_of(one, points) for one in axes}
  kept, all_kept = before(points, axes, cliffs), before(tried_points(results), axes, cliffs)
  surface = response_surface.fit(kept, searched(results))
  found = feasible(kept)
  noise, seeds = noise_of(results), trial_noise(results)
  least = noise.deviation if noise is not None else 0.0
  best = results.objective.sign * found[0].cost if found else 0.0
  matters = relevant(results, best) if found else 0.0
  large = sweeps.LARGE * of_perfection(results, best) if found and has_natural_zero(results) else math.inf
  known, times = False, 1.96
  if seeds is not None and seeds.is_usable:
    known, times = True, float(scipy.stats.t.ppf(0.975, seeds.degrees_of_freedom))
  sides = []
  for one in axes:
    units = units_of(one, found)
    here = tuple(point for point, unit in zip(found, units.tolist(), strict=True) if math.isfinite(unit))
    few = len(here) < LEAST or len(set(units[np.isfinite(units)].tolist())) < LEAST_PLACES
    # Of few points any row says more than nothing.
    share = 0.0 if few else sweeps.MAINLY
    for upper in (False, True):
      side = Side(one, upper, cliffs[one.name].get(upper), here)
      swept = sweeps.sweep(one, upper, all_kept, searched(results), noise, known=known, times=times, least=share)
      if swept is not None:
        sides.append(_by_order(side, swept, sweeps.Matters(matters, large), sweeps.LEVEL / len(axes)))
      elif few:
        continue
      elif surface is not None:
        sides.append(_by_fit(side, surface, level_of(axes), least, max(least, matters)))
      else:
        sides.append(_by_counts(side, level_of(axes), response_surface.needed(searched(results))))
  return sides


def _by_order(side: Side, swept: Sweep, matters: sweeps.Matters, level: float) -> Side:
  """Return the side with the result of the test whether the objective gets better up to the last value.

  Args:
    matters: costs by which the last value has to be better than the one before it.
    level: of the test.
  """
  # Points beyond it that were pruned are worse.
  pruned = any(point.pruned and not point.infeasible for point in swept.beyond)
  limits = not pruned and swept.limits(matters, level)
  near = not pruned and (swept.is_near(matters, level) or limits)
  # Between the last of some drawn values and the edge the space was not searched.
  limits = limits and (swept.is_chosen or is_searched_up_to(side.one, swept))
  p_near = swept.p if near and not limits else None
  tied = swept.is_tied(matters)
  return dataclasses.replace(side, best=1, limits=limits, p_near=p_near, p=swept.p, sweep=swept, is_tied=tied)


def is_searched_up_to(one: Hyperparameter, swept: Sweep) -> bool:
  """Return whether the last value of a sweep is at the edge of the space, or as close as the values are to each
  other."""
  last, before_it = (unit_of(one, {one.name: value}) for value in swept.values[:-3:-1])
  return (1 - last if swept.upper else last) <= CLOSE * abs(last - before_it)


def _by_fit(side: Side, surface: ResponseSurface, level: float, least: float, asked: float) -> Side:
  """Return the side with the result of the test whether the fit still falls towards it.

  Args:
    level: of the test.
    least: cost by which it has to fall within the least step of an expansion.
    asked: the same, to ask for more points where it is not significant.
  """
  side = dataclasses.replace(side, best=max(LEAST_BEST, round(BEST * len(side.points))))
  gain, steep = _fall(side, surface, 0.0)
  p = float(scipy.stats.t.sf(steep, surface.degrees_of_freedom))
  close = side.distance < NEAR
  limits = gain > least and p < level and close
  more = None
  if close and steep > 0 and gain > asked and p >= level:
    # Standard errors shrink by the root of the number of points.
    times = (float(scipy.stats.t.isf(level, surface.degrees_of_freedom)) / steep) ** 2
    more = math.ceil((times - 1) * surface.points) if times <= MOST_TIMES else None
  gain, steep = _fall(side, surface, OUTER)
  p_near = float(scipy.stats.t.sf(steep, surface.degrees_of_freedom))
  return dataclasses.replace(
    side,
    limits=limits,
    p_near=p_near if gain > least and p_near < level and side.distance < AROUND and not limits else None,
    more=more,
    p=p,
    optimum=surface.lowest(side.one.name),
    how="a quadratic fit to the good points still gets better towards it there",
    is_fitted=True,
  )


def _fall(side: Side, surface: ResponseSurface, share: float) -> tuple[float, float]:
  """Return by how much the fit falls within the least step, outwards from a share of the scale before the side, and the
  slope there in standard errors."""
  place = share * side.inside
  slope, error = surface.slope(side.one.name, side.edge - place if side.upper else side.edge + place)
  fall = -slope if side.upper else slope
  return fall * LEAST_STEP, fall / error if error > 0 else 0.0


def _by_counts(side: Side, level: float, needed: int) -> Side:
  """Return the side with the result of the test whether more of the best points lie in its outer part than by chance.

  `needed` is the number of points that a fit takes.
  """
  outer = side.distances <= OUTER
  count = int(outer[: side.best].sum())
  chance = max(float(np.mean(outer)), OUTER)
  p = float(scipy.stats.binom.sf(count - 1, side.best, chance))
  # Otherwise the test could not reject chance even if all of the best points were there.
  could = chance**side.best < level
  return dataclasses.replace(
    side,
    limits=p < level and side.distance < NEAR,
    # Where none of the best lie, there is nothing to ask about.
    more=None if could or not count else max(needed - len(side.points), 1),
    p=p,
    how=f"the outer sixth of the scale holds {count} of the best {side.best} points",
  )
