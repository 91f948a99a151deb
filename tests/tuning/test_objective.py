import json
import math
import statistics

import pytest

from trialbook.tuning.curves import read_log
from trialbook.tuning.objective import SMOOTHED_OVER, uncharacteristic, value_of
from trialbook.tuning.study import Maximize, Minimize

POINTS = [(0, 0.05), (10, 0.4), (20, 0.1), (30, 0.35), (40, 0.3), (50, 0.32), (60, 0.33)]
"""A lucky evaluation at step 20; and what is best of all is the state before the first step."""


def write(folder, *lines):
  (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def test_the_best_evaluation_the_last_one_and_the_smoothed_last_one():
  assert value_of(Minimize("m"), POINTS) == (20, 0.1)
  assert value_of(Maximize("m"), POINTS) == (10, 0.4)
  assert value_of(Minimize("m", "last"), POINTS) == (60, 0.33)
  middle = statistics.median([0.1, 0.35, 0.3, 0.32, 0.33])
  assert value_of(Minimize("m", "smoothed"), POINTS) == (60, middle) == (60, 0.32)


def test_smoothing_outvotes_two_lucky_evaluations():
  values = [0.5, 0.5, 0.1, 0.5, 0.1]
  assert len(values) == SMOOTHED_OVER
  assert value_of(Minimize("m", "smoothed"), list(enumerate(values, start=1))) == (5, 0.5)


def test_the_earliest_of_equal_evaluations_is_the_best():
  assert value_of(Minimize("m"), [(10, 0.2), (20, 0.1), (30, 0.1)]) == (20, 0.1)
  assert value_of(Maximize("m"), [(10, 0.2), (20, 0.1), (30, 0.2)]) == (10, 0.2)


def test_what_is_not_finite_is_worth_nothing():
  points = [(10, 0.2), (20, math.nan), (30, -math.inf)]
  for value in ("best", "last", "smoothed"):
    assert value_of(Minimize("m", value), points) == (10, 0.2)
    assert value_of(Minimize("m", value), points[1:]) is None
    assert value_of(Minimize("m", value), []) is None


def test_the_state_before_the_first_step_counts_only_where_there_is_nothing_else():
  assert value_of(Minimize("m"), [(0, 0.5), (10, math.nan)]) == (0, 0.5)


def test_curves_are_all_numbers_that_were_logged(tmp_path):
  write(
    tmp_path,
    {"step": 0, "validation/loss": 2.5, "validation/class_examples": [3, 7]},
    {"step": 1, "train/loss": 2.0},
    {"step": 2, "train/loss": "NaN", "validation/loss": "Infinity", "validation/count": 4},
  )
  found = read_log(tmp_path).curves
  assert found["validation/loss"] == [(0, 2.5), (2, math.inf)]
  assert found["train/loss"][0] == (1, 2.0)
  assert found["train/loss"][1][0] == 2
  assert math.isnan(found["train/loss"][1][1])
  assert found.keys() == {"validation/loss", "train/loss", "validation/count"}
  assert read_log(tmp_path).class_examples == {"validation/class_examples": [3, 7]}


def test_a_trial_without_records_has_no_curves(tmp_path):
  assert read_log(tmp_path).curves == {}
  assert read_log(tmp_path).class_examples == {}


def test_a_loss_that_was_never_better_than_at_initialization_is_uncharacteristic():
  points = {"validation/loss": [(0, 2.3), (10, 2.31), (20, 2.3)]}
  reason = uncharacteristic(Minimize("validation/loss"), points, {})
  assert reason == "validation/loss was never better than at initialization (2.3); the best was 2.3"
  points["validation/loss"][1] = (10, 2.29)
  assert uncharacteristic(Minimize("validation/loss"), points, {}) is None


def test_better_is_larger_where_the_objective_says_so():
  points = {"validation/score": [(0, 0.5), (10, 0.4)]}
  assert uncharacteristic(Minimize("validation/score"), points, {}) is None
  assert "never better than at initialization" in str(uncharacteristic(Maximize("validation/score"), points, {}))


def test_without_an_evaluation_at_step_0_there_is_nothing_to_compare_with():
  assert uncharacteristic(Minimize("loss"), {"loss": [(1, 1e9)]}, {}) is None


def test_what_was_never_finite_is_uncharacteristic():
  points = {"validation/loss": [(0, 2.3), (10, math.nan)]}
  assert uncharacteristic(Minimize("validation/loss"), points, {}) == "validation/loss was never finite after step 0"


@pytest.mark.parametrize(
  ("error", "is_chance"),
  # The most frequent class of 100 examples in 400: two standard errors are 2·√(0.25·0.75/400) = 0.0433.
  [(0.75, True), (0.71, True), (0.7, False), (0.5, False)],
)
def test_an_error_no_better_than_the_most_frequent_class_is_uncharacteristic(error, is_chance):
  counts = {"validation/class_examples": [100, 60, 60, 60, 60, 60]}
  error_curve = {"validation/error": [(0, 0.99), (10, error)]}
  accuracy_curve = {"validation/accuracy": [(0, 0.01), (10, 1 - error)]}
  for objective, points in (
    (Minimize("validation/error"), error_curve),
    (Maximize("validation/accuracy"), accuracy_curve),
  ):
    reason = uncharacteristic(objective, points, counts)
    assert (reason is not None) == is_chance
    assert not is_chance or "never better than the most frequent class alone" in str(reason)


def test_classes_are_those_of_the_objectives_split_and_say_nothing_of_a_loss():
  counts = {"validation/class_examples": [50, 50]}
  assert uncharacteristic(Minimize("train_subset/error"), {"train_subset/error": [(0, 0.9), (9, 0.5)]}, counts) is None
  assert uncharacteristic(Minimize("validation/loss"), {"validation/loss": [(0, 0.9), (9, 0.5)]}, counts) is None
