"""Where bad points lie is said of regions of every form, and "everywhere" only where a region would have been seen."""

from collections.abc import Callable

import numpy as np
import pytest

from trialbook.tuning import StudyResults
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.findings import infeasible
from trialbook.tuning.findings.statistics.points import points_of
from trialbook.tuning.findings.statistics.regions import Region, region_of
from trialbook.tuning.space.scales import Hyperparameter, Log


def study(seed: int, bad: Callable[[np.ndarray], np.ndarray], dimensions: int, count: int) -> StudyResults:
  """Return a study of which some points are infeasible, by their places: [points, dimensions] → [points]."""
  rng = np.random.default_rng(seed)
  space = tuple(
    Hyperparameter(name=f"h{n}", path=f"h{n}", scale=Log(1e-4, 1.0), role="nuisance") for n in range(dimensions)
  )
  units = rng.random((count, dimensions))
  flags = bad(units)
  trials = []
  for number, (own, is_bad) in enumerate(zip(units, flags, strict=True)):
    values = {one.name: one.scale.at(unit) for one, unit in zip(space, own, strict=True)}
    state = "infeasible" if is_bad else "complete"
    curve = ([1], [0.1 + own[0]])
    trials.append(planted.trial(number, values, {planted.OBJECTIVE.metric: curve}, state=state))
  return planted.results(trials, space, planted.OBJECTIVE)


def found(results: StudyResults) -> Region:
  points = points_of(results)
  return region_of(results, points, [not point.retrains for point in points])


@pytest.mark.parametrize(
  ("bad", "dimensions", "count"),
  [
    (lambda u: (u[:, 0] > 0.88) | (u[:, 0] < 0.12), 3, 48),
    (lambda u: (u[:, 0] > 0.88) | (u[:, 0] < 0.12), 6, 48),
    (lambda u: np.abs(u[:, 0] - 0.5) < 0.12, 3, 48),
    (lambda u: u[:, 0] + u[:, 1] > 1.4, 4, 32),
    (lambda u: (u[:, 0] > 0.8) & (u[:, 1] < 0.7), 4, 32),
  ],
  ids=["both ends", "both ends of one of six", "the middle", "a corner", "a part of one side"],
)
def test_a_region_of_any_form_is_not_everywhere(bad, dimensions, count):
  kinds = [found(study(seed, bad, dimensions, count)).kind for seed in range(20)]
  assert kinds.count("everywhere") <= 1


def test_both_ends_of_a_hyperparameter_are_named():
  named = 0
  for seed in range(10):
    results = study(seed, lambda u: (u[:, 0] > 0.85) | (u[:, 0] < 0.15), 3, 48)
    (finding,) = infeasible.find(results)
    named += "h0 below" in finding.title and " or above " in finding.title
    assert "bug" not in finding.title
  assert named >= 8


@pytest.mark.slow
def test_what_is_scattered_is_everywhere_if_there_are_enough_points():
  rng = np.random.default_rng(1)
  kinds = [found(study(seed, lambda u: rng.random(len(u)) < 0.3, 3, 64)).kind for seed in range(10)]
  assert kinds.count("everywhere") >= 5
  assert {*kinds} <= {"everywhere", "unknown"}
