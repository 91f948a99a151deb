"""The number of points that were tried, and whether it is enough (PB-24).

The playbook: look at how many points lie in the good region; with few, a study can miss the best by chance. Here a
point is good if it lies within `GOOD` of the way from the best to the median point, or within `NOISE_TIMES` standard
deviations of the noise if that is more. If g points are good, half of the study would have found one with a probability
of about 1 - 2^-g. So a best point that stands alone was found by chance, unless there are so few points that the best
of them is often alone. Fewer points than `PER_DIMENSION` for each hyperparameter do not even show the shape. Retrains
of a point count once, and points that a rule ended early count as tried: that they are not among the best is known.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trialbook.tuning.findings.finding import Finding, finding_of
from trialbook.tuning.findings.left_out import left_out, pruned_points
from trialbook.tuning.findings.statistics.best_of_k import of_k
from trialbook.tuning.findings.statistics.finite_spaces import FiniteSpace, finite_space, instead
from trialbook.tuning.findings.statistics.points import TriedPoint, feasible, points_of, searched, tried_points
from trialbook.tuning.findings.statistics.seed_noise import noise_of
from trialbook.tuning.findings.wording import apart, many
from trialbook.tuning.results import StudyResults

_finding = finding_of("PB-24", "density", plot="best_of_k")

GOOD = 0.5
"""Share of the way from the best to the median point. In a smooth valley of 3 dimensions about a sixth are good."""
ALONE = 1
"""Good points that may be found by chance: half of the study would have missed them every other time."""
ALONE_LEVEL = 0.02
"""Chance that the best of as many points of a smooth valley, or of as many equal ones with noise, leads by as much. Of
five points it often does."""
WANTED = 4
"""Good points: half of the study finds one of four in 94 of 100 cases."""
PER_DIMENSION = 4
"""Points for each hyperparameter: a valley takes three (where, how deep, how steep), and one to check. Gaussian-process
practice asks for ten."""
NOISE_TIMES = 2.0
"""Standard deviations of the noise: a trial that is worse by less is as good as the best, but for noise."""
DRAWS = 2000
"""Draws of a smooth valley, which give `ALONE_LEVEL` to 0.005."""


def find(results: StudyResults) -> list[Finding]:
  """Return how many points are good, how many there are for each dimension, and how many more are needed."""
  found, tried = feasible(points_of(results)), tried_points(results)
  if not found:
    what = f"{many(len(tried), 'point')} {'was' if len(tried) == 1 else 'were'} tried." if tried else "Nothing was run."
    return [_finding("cannot_tell", "No point has a value", f"{what}{left_out(results)}", action="Run trials.")]
  if len(found) == 1 or not searched(results):
    varied = any(one.role != "fixed" and one.path != "seed" for one in results.space.values())
    return [
      _finding(
        "cannot_tell" if varied else "ok",
        "Only one point has a value: it shows no good region" if varied else "No hyperparameter is varied",
        f"Retrains of a point count once.{left_out(results)}",
        numbers={"points": len(found)},
        action="Try other points." if varied else None,
      )
    ]
  space = finite_space(results)
  sign, noise = results.objective.sign, noise_of(results)
  costs = np.array([point.cost for point in found])
  count, total, dimensions = len(found), len(tried), len(searched(results))
  within = max(GOOD * float(np.median(costs) - costs[0]), NOISE_TIMES * noise.deviation if noise else 0.0)
  good = int(np.sum(costs <= costs[0] + within))
  # A conditional hyperparameter takes its share of a dimension.
  active = float(np.mean([sum(one.name in point.values for one in searched(results)) for point in found]))
  per_axis = total ** (1 / active) if active else float(total)
  half = max(1, total // 2)
  halves = [of_k((sign * costs).tolist(), sign, k, total - count).median for k in (half, total)]
  numbers: dict[str, Any] = {
    "points": count,
    "tried": total,
    "dimensions": dimensions,
    "good": good,
    "within": within,
    "points_per_axis": per_axis,
    "found_by_half": 1 - 0.5**good,
    "median_of_half": halves[0],
    "median_of_all": halves[1],
  }
  texts = iter(apart([value for value in halves if value is not None]))
  medians = ["nothing" if value is None else next(texts) for value in halves]
  spread = (
    f"{good} of {many(count, 'point')} with a value {'lies' if good == 1 else 'lie'} within {within:.2g} of the best,"
    f" which is {_within(costs, within)}."
  )
  why = (
    f"{spread} Half of the study would have found one of them in {1 - 0.5**good:.0%} of cases. The median of the best"
    f" is {medians[0]} for {many(half, 'point')} and {medians[1]} for {total}. The points are as dense as a grid of"
    f" {per_axis:.1f} values per hyperparameter.{left_out(results)}"
  )
  if space is not None and space.left == 0:
    return [_exhausted(space, results, good, within, f"{spread}{left_out(results)}", numbers)]
  pruned = len(pruned_points(results))
  if count + pruned < PER_DIMENSION * active:
    if noise is not None and (equal := int(np.sum(costs <= costs[0] + NOISE_TIMES * noise.deviation))) >= WANTED:
      return [
        _finding(
          "note",
          f"{many(count, 'point')} for {many(dimensions, 'hyperparameter')} are few, but {equal} of them are as good as"
          f" the best within twice the {noise.source}",
          why,
          numbers=numbers,
          action="Before searching on, choose an objective or a validation set that shows differences between the"
          " best.",
        )
      ]
    more = max(math.ceil(PER_DIMENSION * active * total / count) - total, 1)
    return [_few(count, dimensions, more, space, why, numbers)]
  if good <= ALONE and (chance := _chance_alone(costs, active, pruned)) < ALONE_LEVEL:
    return [_alone(found, total * (WANTED - good), chance, space, why, numbers)]
  if good <= ALONE:
    title = f"The best of {count} points leads by {costs[1] - costs[0]:.2g}, as the best of so few often does"
  else:
    title = f"The best region was found more than once: {good} of {count} points lie within {within:.2g} of the best"
  return [_finding("ok", title, why, numbers=numbers)]


def _within(costs: np.ndarray, within: float) -> str:
  """Return what the distance is up to which points are good, in a clause."""
  if within > GOOD * float(np.median(costs) - costs[0]):
    return "twice the noise"
  return "half of the way to the median point"


def _exhausted(
  space: FiniteSpace, results: StudyResults, good: int, within: float, why: str, numbers: dict[str, Any]
) -> Finding:
  """Return the finding that no points are left to try."""
  return _finding(
    "ok",
    f"{good} of {numbers['points']} points {'lies' if good == 1 else 'lie'} within {within:.2g} of the best, and"
    " nothing is left to try",
    f"{why} {space.said}.",
    numbers={**numbers, "combinations": space.combinations, "left": 0},
    action=f"To go on, retrain the best points with other seeds, or {instead(space, results)}.",
  )


def _few(
  count: int, dimensions: int, more: int, space: FiniteSpace | None, why: str, numbers: dict[str, Any]
) -> Finding:
  """Return the finding that there are too few points for the number of hyperparameters."""
  left = space.left if space is not None else more
  more = min(more, left)
  which = f"the {more} combinations that are left" if space is not None and more == left else many(more, "more point")
  are = "is" if count == 1 else "are"
  return _finding(
    "warning",
    f"{many(count, 'point')} for {many(dimensions, 'hyperparameter')} {are} too few to show where the best values are",
    f"{why} It takes about {PER_DIMENSION} points for each hyperparameter to see where an optimum is.",
    numbers={**numbers, "more": more},
    action=f"Try {which}, or fix hyperparameters that matter little.",
    until=f"{which[0].upper()}{which[1:]}.",
  )


def _alone(
  found: Sequence[TriedPoint], more: int, chance: float, space: FiniteSpace | None, why: str, numbers: dict[str, Any]
) -> Finding:
  """Return the finding that the best point stands alone."""
  more = min(more, space.left) if space is not None else more
  return _finding(
    "warning",
    f"The best point stands alone: it leads the other {len(found) - 1} by {found[1].cost - found[0].cost:.2g}",
    f"{why} Among the points of a smooth valley, or equal ones with noise, the best leads by as much in {chance:.1%} of"
    " studies.",
    trials=found[0].trials,
    numbers={**numbers, "more": more, "chance": chance},
    action=f"Retrain the best point with other seeds. If it stays the best, search around it; about {more} more points"
    f" of the same search would contain {WANTED} as good ones.",
    until="Retrains of the best point that are no better than the next point.",
  )


def _chance_alone(costs: np.ndarray, active: float, pruned: int) -> float:
  """Return the chance that the best of as many points leads the second by as large a share of its distance to the
  median: in a smooth valley of this many dimensions, or if all differences are noise. Points that were pruned are the
  worst of those that are drawn."""
  lead = (costs[1] - costs[0]) / (float(np.median(costs)) - costs[0])
  rng = np.random.default_rng(0)
  # In a quadratic valley of d dimensions, the share of points that cost less than x grows as x^(d / 2).
  valley = rng.random((DRAWS, len(costs) + pruned)) ** (2 / max(active, 1.0))
  chances = []
  for drawn in (valley, rng.standard_normal(valley.shape)):
    drawn = np.sort(drawn, axis=1)[:, : len(costs)]
    chances.append(np.mean(drawn[:, 1] - drawn[:, 0] >= lead * (np.median(drawn, axis=1) - drawn[:, 0])))
  return float(max(chances))
