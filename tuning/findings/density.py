"""The number of points that were tried, and whether it is enough (PB-24).

The playbook: look at how many points lie in the good region; with few, a study can miss the best by chance. Here a
point is good if it lies within `GOOD` of the way from the best to the median point, or within `NOISE_TIMES` standard
deviations of the noise if that is more. If g points are good, half of the study would have found one with a probability
of about 1 - 2^-g, so a best point that stands alone was found by chance. Fewer points than `PER_DIMENSION` for each
hyperparameter do not even show the shape.
"""

import math
from typing import Any

import numpy as np

from trialbook.tuning.findings.finding import Finding, finding_of
from trialbook.tuning.findings.statistics.best_of_k import of_k
from trialbook.tuning.findings.statistics.points import feasible, points_of, searched
from trialbook.tuning.findings.statistics.seed_noise import noise_of
from trialbook.tuning.findings.wording import many
from trialbook.tuning.results import StudyResults

_finding = finding_of("PB-24", "density", plot="best_of_k")

GOOD = 0.5
"""Share of the way from the best to the median point. In a smooth valley of 3 dimensions about a sixth are good."""
ALONE = 1
"""Good points that may be found by chance: half of the study would have missed them every other time."""
WANTED = 4
"""Good points: half of the study finds one of four in 94 of 100 cases."""
PER_DIMENSION = 4
"""Points with a value for each hyperparameter: a valley takes three (where, how deep, how steep), and one to check.
Gaussian-process practice asks for ten."""
LEAST = 5
"""Points with a value, of which the median means something."""
NOISE_TIMES = 2.0
"""Standard deviations of the noise: a trial that is worse by less is as good as the best, but for noise."""


def find(results: StudyResults) -> list[Finding]:
  """Return how many points are good, how many there are for each dimension, and how many more are needed."""
  points = points_of(results)
  found = feasible(points)
  count, total = len(found), len(points)
  dimensions = len(searched(results))
  if count < LEAST:
    return [
      _finding(
        "cannot_tell",
        f"{many(count, 'point')} with a value: too few to see a good region",
        f"It takes {LEAST} to have a median, {max(LEAST, PER_DIMENSION * dimensions)} for"
        f" {many(dimensions, 'hyperparameter')}.",
        numbers={"points": count},
        action=f"Run {max(LEAST, PER_DIMENSION * dimensions) - count} more.",
      )
    ]
  costs = np.array([point.cost for point in found])
  noise = noise_of(results)
  within = max(GOOD * float(np.median(costs) - costs[0]), NOISE_TIMES * noise.deviation if noise else 0.0)
  good = int(np.sum(costs <= costs[0] + within))
  # A conditional hyperparameter takes its share of a dimension.
  active = float(np.mean([sum(one.name in point.values for one in searched(results)) for point in found]))
  per_axis = total ** (1 / active) if active else float(total)
  sign = results.objective.sign
  halves = [of_k((sign * costs).tolist(), sign, k, total - count).median for k in (max(1, total // 2), total)]
  numbers: dict[str, Any] = {
    "points": count,
    "dimensions": dimensions,
    "good": good,
    "within": within,
    "points_per_axis": per_axis,
    "found_by_half": 1 - 0.5**good,
    "median_of_half": halves[0],
    "median_of_all": halves[1],
  }
  why = (
    f"Within {within:.2g} of the best {'lies' if good == 1 else 'lie'} {many(good, 'point')} of {count}; half of the"
    f" study would have found one in {1 - 0.5**good:.0%} of cases. That makes {per_axis:.1f} points along each axis."
    f" The median of the best of {max(1, total // 2)} is {_text(halves[0])}, of {total} it is {_text(halves[1])}."
  )
  if count < PER_DIMENSION * active:
    if noise is not None and (equal := int(np.sum(costs <= costs[0] + NOISE_TIMES * noise.deviation))) >= WANTED:
      return [
        _finding(
          "note",
          f"{many(count, 'point')} for {dimensions} hyperparameters are few, but {equal} of them are as good as the"
          " best within noise",
          why,
          numbers=numbers,
          action="Before searching on, choose an objective or a validation set that tells the best apart.",
        )
      ]
    more = math.ceil(PER_DIMENSION * active * total / count) - total
    return [
      _finding(
        "warning",
        f"{many(count, 'point')} for {dimensions} hyperparameters are too few: the best one may be luck",
        f"{why} {PER_DIMENSION} for each hyperparameter would show the shape.",
        numbers={**numbers, "more": more},
        action=f"Try {max(more, 1)} more points, or fix hyperparameters that matter little.",
      )
    ]
  if good <= ALONE:
    more = total * (WANTED - good)
    return [
      _finding(
        "warning",
        f"The best point stands alone: no other of {count} is nearly as good",
        why,
        trials=found[0].trials,
        numbers={**numbers, "more": more},
        action=f"Search around it, or try about {more} more points: {WANTED} good ones are expected then.",
      )
    ]
  return [_finding("ok", f"{good} of {count} points are nearly as good as the best", why, numbers=numbers)]


def _text(value: float | None) -> str:
  return "nothing" if value is None else f"{value:.4g}"
