import itertools
import math
import time

import numpy as np
import pytest

from trialbook.tuning import Discrete, Integer, Linear, Log, OneOf, ReverseLog
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.compared_settings import BUCKETS, buckets, compared_settings
from trialbook.tuning.space.scales import Hyperparameter, Role

SCALES = {
  "log": (Log(1e-4, 1.0), lambda value: math.log10(value) / 4 + 1),
  "linear": (Linear(-1.0, 3.0), lambda value: (value + 1) / 4),
  "reverse log": (ReverseLog(0.9, 0.9999), lambda value: -math.log10((1 - value) / 0.1) / 3),
  "integer": (Integer(1, 100), lambda value: (value - 0.5) / 100),
}
"""Each with where a value is on it, from 0 to 1, computed by hand."""


def study(values, scale, role: Role = "nuisance", name="x"):
  """Trials with such values of one hyperparameter, each worth its number; ...: it does not exist in the trial."""
  one = Hyperparameter(name=name, path=name, scale=scale, role=role)
  trials = [
    planted.trial(
      number, {} if value is ... else {name: value}, {"validation/error": ([1, 2], [1.0, 0.5 + number / 1000])}
    )
    for number, value in enumerate(values)
  ]
  return planted.results(trials, (one,))


def numbers(settings):
  return [[trial.trial for trial in setting.trials] for setting in settings]


@pytest.mark.parametrize("name", SCALES)
def test_slices_are_equally_wide_on_the_scale_and_hold_each_trial_once(name):
  scale, unit = SCALES[name]
  values = [scale.at(each) for each in np.random.default_rng(0).random(60).tolist()]
  results = study(values, scale)
  found = buckets(results.varied[0], results.trials)
  assert len(found) == BUCKETS
  assert sorted(itertools.chain(*numbers(found))) == list(range(60))
  for place, part in enumerate(found):
    for trial in part.trials:
      assert int(unit(trial.values["x"]) * 5) == place
    low, high = part.values["x"]
    # Bounds of slices of whole numbers are whole numbers.
    assert unit(low) == pytest.approx(place / 5, abs=0.01)
    assert unit(high) == pytest.approx((place + 1) / 5, abs=0.01)
  labels = [part.label for part in found]
  assert len(set(labels)) == 5
  for before, after in itertools.pairwise(labels):
    assert before.split(" to ")[1] == after.split(" to ")[0]


def test_the_bounds_themselves_are_in_the_outer_slices():
  results = study([1e-4, 1.0, 0.3, 0.03, 0.003, 0.0003], Log(1e-4, 1.0))
  found = buckets(results.varied[0], results.trials)
  assert 0 in numbers(found)[0]
  assert 1 in numbers(found)[-1]


def test_few_values_of_a_continuous_axis_are_settings_in_their_order():
  results = study([0.1, 0.01, 0.1, 0.001], Log(1e-4, 1.0))
  found = buckets(results.varied[0], results.trials)
  assert [setting.label for setting in found] == ["0.001", "0.01", "0.1"]
  assert numbers(found) == [[3], [1], [0, 2]]


@pytest.mark.parametrize(
  ("scale", "values", "labels"),
  [
    (OneOf(["sgd", "adam", "lamb"]), ["lamb", "sgd", "adam"], ["sgd", "adam", "lamb"]),
    (Discrete((0.9, 0.99, 0.999)), [0.999, 0.9, 0.99], ["0.9", "0.99", "0.999"]),
    # Three digits would make one setting of the last two.
    (Discrete((0.9, 0.9999, 0.99999)), [0.99999, 0.9, 0.9999], ["0.9", "0.9999", "0.99999"]),
    (OneOf([None, (64, 64), (32,)]), [(32,), (64, 64), None], ["None", "(64, 64)", "(32,)"]),
    (OneOf(["1", 1, True]), ["1", True], ["1", "True"]),
    (OneOf(["1", 1]), [1, "1"], ["'1'", "1"]),
  ],
)
def test_settings_stand_in_the_order_of_the_scale_and_have_names_of_their_own(scale, values, labels):
  results = study(values, scale, "scientific")
  found = compared_settings(results)
  assert [setting.label for setting in found] == labels
  assert sorted(itertools.chain(*numbers(found))) == list(range(len(values)))


def test_of_several_scientific_hyperparameters_each_combination_that_was_tried_is_a_setting():
  space = tuple(
    Hyperparameter(name=name, path=name, scale=OneOf(values), role="scientific")
    for name, values in (("model", ["mlp", "cnn"]), ("width", [8, 16]))
  )
  had = [("cnn", 8), ("mlp", 16), ("mlp", 8), ("mlp", 16)]
  curve = {"validation/error": ([1], [0.5])}
  trials = [planted.trial(number, {"model": model, "width": width}, curve) for number, (model, width) in enumerate(had)]
  found = compared_settings(planted.results(trials, space))
  assert [(setting.label, setting.values) for setting in found] == [
    ("model=mlp, width=8", {"model": "mlp", "width": 8}),
    ("model=mlp, width=16", {"model": "mlp", "width": 16}),
    ("model=cnn, width=8", {"model": "cnn", "width": 8}),
  ]
  assert numbers(found) == [[2], [1, 3], [0]]


def test_trials_in_which_a_hyperparameter_does_not_exist_are_in_no_slice_and_a_setting_of_their_own():
  results = study([0.1, ..., 0.2, ...], Log(1e-4, 1.0), "scientific")
  assert numbers(buckets(results.varied[0], results.trials)) == [[0], [2]]
  found = compared_settings(results)
  assert numbers(found) == [[0], [2], [1, 3]]
  assert (found[2].label, found[2].values) == ("without x", {})


def test_a_hyperparameter_that_does_not_exist_is_left_out_of_the_setting():
  space = (
    Hyperparameter(name="optimizer", path="optimizer", scale=OneOf(["adam", "sgd"]), role="scientific"),
    Hyperparameter(name="a", path="a", scale=OneOf([True, False]), role="scientific", parent=("optimizer", "adam")),
  )
  had = [{"optimizer": "sgd"}, {"optimizer": "adam", "a": False}, {"optimizer": "adam", "a": True}, {}] * 2
  trials = [planted.trial(number, values, {"validation/error": ([1], [0.5])}) for number, values in enumerate(had)]
  found = compared_settings(planted.results(trials, space))
  assert [setting.label for setting in found] == [
    "optimizer=adam, a=True", "optimizer=adam, a=False", "optimizer=sgd", "without optimizer, a"
  ]  # fmt: skip
  assert [setting.values for setting in found] == [had[2], had[1], had[0], {}]
  assert numbers(found) == [[2, 6], [1, 5], [0, 4], [3, 7]]


def test_values_beyond_the_bounds_are_in_the_outer_slices():
  results = study([-9.0, 0.1, 0.3, 0.5, 0.7, 0.9, 9.0], Linear(0.0, 1.0), "scientific")
  assert numbers(compared_settings(results)) == [[0, 1], [2], [3], [4], [5, 6]]


def test_settings_of_thousands_of_trials_come_at_once():
  space = tuple(Hyperparameter(name=n, path=n, scale=OneOf(list(range(5))), role="scientific") for n in "ab")
  trials = [planted.trial(n, {"a": n % 5, "b": n // 5 % 5}, {"validation/error": ([1], [0.5])}) for n in range(2000)]
  results = planted.results(trials, space)
  assert len(results.varied) == 2
  start = time.process_time()
  found = compared_settings(results)
  assert time.process_time() - start < 0.05
  assert len(found) == 25
  assert all(len(setting.trials) == 80 for setting in found)


def test_where_nothing_is_scientific_all_trials_are_one_setting():
  results = study([0.1, 0.2], Log(1e-4, 1.0))
  (only,) = compared_settings(results)
  assert (only.label, only.values, list(only.trials)) == ("all trials", {}, list(results.trials))
