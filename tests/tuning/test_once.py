"""What is computed once is what would be computed each time, by any objective and after any change of the trials."""

import bisect
import dataclasses

import numpy as np
import pytest
import scipy.stats

from trialbook.tuning import Minimize, StudyResults
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.findings import findings
from trialbook.tuning.findings.statistics import hypergeometric
from trialbook.tuning.findings.statistics.points import points_of
from trialbook.tuning.findings.statistics.regions import region_of
from trialbook.tuning.findings.statistics.stopping_replay import BLOCK, better_before
from trialbook.tuning.once import by_any_objective, once

OBJECTIVES = (Minimize("validation/error", "last"), Minimize("validation/loss"), Minimize("train_subset/error"))


def study() -> StudyResults:
  return planted.healthy(5, trials=24, diverges=lambda units, rng: rng.random() < 0.3)


@pytest.mark.slow
def test_findings_do_not_depend_on_the_objectives_that_were_asked_for_before():
  asked = study()
  for objective in OBJECTIVES:
    assert findings(asked.by(objective)) == findings(study().by(objective))


def test_results_of_other_trials_have_findings_of_their_own():
  whole = study()
  seen = findings(whole)
  fewer = dataclasses.replace(whole, trials=whole.trials[:16])
  assert findings(fewer) == findings(dataclasses.replace(study(), trials=study().trials[:16])) != seen


def test_other_bad_points_have_a_region_of_their_own():
  results = study()
  points = points_of(results)
  unit = [point.values["optimizer.learning_rate"] for point in points]
  large = [one > np.median(unit) for one in unit]
  for bad in (large, [not one for one in large]):
    found = region_of(results, points, bad)
    assert found.kind == "axis"
    assert found.cut is not None
    assert found.cut.above == (bad is large)


def test_a_function_is_called_once_for_the_same_results_and_arguments():
  calls = []

  def sign(results: StudyResults, factor: int) -> int:
    calls.append((results.objective.metric, factor))
    return factor * results.objective.sign

  def total(array: np.ndarray, text: str) -> float:
    calls.append((text, len(array)))
    return float(array.sum())

  results = study()
  remembered = once(sign)
  assert [remembered(results, 2), remembered(results, 2), remembered(results, 3)] == [2, 2, 3]
  other = results.by(OBJECTIVES[1])
  assert remembered(other, 2) == 2
  assert calls == [("validation/error", 2), ("validation/error", 3), ("validation/loss", 2)]
  calls.clear()
  for one in (results, other):
    assert by_any_objective(one, total, np.ones(3), "a") == 3.0
    assert by_any_objective(one, total, np.ones(4), "a") == 4.0
  assert calls == [("a", 3), ("a", 4)]


@pytest.mark.parametrize("most_cells", [hypergeometric.MOST_CELLS, 0])
def test_tails_are_those_of_scipy(monkeypatch, most_cells):
  monkeypatch.setattr(hypergeometric, "MOST_CELLS", most_cells)
  rng = np.random.default_rng(0)
  for total, bad in ((2, 1), (10, 3), (40, 20), (300, 31), (900, 800)):
    sizes, inside = rng.integers(0, total + 1, 50), rng.integers(0, bad + 1, 50)
    expected = scipy.stats.hypergeom.sf(inside - 1, total, bad, sizes)
    np.testing.assert_allclose(hypergeometric.tail(inside, total, bad, sizes), expected, rtol=1e-9, atol=1e-300)


def test_how_many_before_are_better_is_counted():
  rng = np.random.default_rng(0)
  costs = rng.choice([*rng.random(20), np.inf], (3, 2 * BLOCK + 5))
  for row, found in zip(costs.tolist(), better_before(costs).tolist(), strict=True):
    earlier: list[float] = []
    for cost, count in zip(row, found, strict=True):
      assert count == bisect.bisect_left(earlier, cost)
      bisect.insort(earlier, cost)
