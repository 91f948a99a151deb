"""Bayesian optimization: better than more quasi-random points, out of infeasible places, from the records alone."""

import importlib.util
import json
import logging
import math
import warnings

import numpy as np
import pytest

from trialbook.tuning.search.bayesian import BayesianOptimization, Observation
from trialbook.tuning.search.halton import Halton
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Linear, Log, OneOf, ReverseLog

HAS_TORCH = importlib.util.find_spec("torch") is not None
NEEDS_TORCH = (pytest.mark.long, pytest.mark.skipif(not HAS_TORCH, reason="`make test-long` installs torch"))
SAMPLERS = [pytest.param("gp", marks=NEEDS_TORCH), "tpe"]
EXPLORED, FURTHER = 24, 20


def needs_torch(test):
  """Mark a test of Gaussian processes."""
  for mark in NEEDS_TORCH:
    test = mark(test)
  return test


def hyperparameter(name, scale, parent=None):
  return Hyperparameter(name=name, path=name, scale=scale, role="nuisance", parent=parent)


TRAINING = [
  hyperparameter("learning_rate", Log(1e-4, 1.0)),
  hyperparameter("one_minus_momentum", Log(1e-3, 1.0)),
  hyperparameter("weight_decay", Log(1e-6, 1e-1)),
]
EDGE = -0.75
"""Of log10(learning rate / sqrt(1 - momentum)): what is above diverges, 37 % of the space."""


def training_error(values):
  """None where it diverges; the smallest one, 0.04 + 0.08 · 0.15², is at the edge, and smaller ones would be beyond."""
  rate, rest, decay = (math.log10(values[one.name]) for one in TRAINING)
  effective = rate - 0.5 * rest
  if effective > EDGE:
    return None
  return 0.04 + 0.08 * (effective + 0.6) ** 2 + 0.02 * (rest + 1) ** 2 + 0.01 * (decay + 4) ** 2


def record(values, function):
  objective = function(values)
  return Observation(values, "infeasible" if objective is None else "complete", objective)


def explored(hyperparameters, function, seed, count=EXPLORED):
  return [record(point, function) for point in Halton(seed).points(hyperparameters, 0, count)]


def further(search, hyperparameters, function, records, count=FURTHER):
  """The records of the next points, each asked for with all before it complete."""
  found = []
  for index in range(len(records), len(records) + count):
    found.append(record(search.ask(hyperparameters, [*records, *found], index), function))
  return found


def best(records):
  return min(one.objective for one in records if one.state == "complete")


def place(values):
  """Where a point is in the unit cube [3]."""
  return np.array([one.scale.unit(values[one.name]) for one in TRAINING])


@needs_torch
def test_twenty_points_of_three_seeds_beat_what_they_know_and_twenty_more_quasi_random_ones_and_most_are_feasible():
  bests = []
  for seed in range(3):
    records = explored(TRAINING, training_error, seed)
    found = further(BayesianOptimization(seed=seed), TRAINING, training_error, records)
    assert best(found) < best(records)
    assert sum(one.state == "complete" for one in found) >= 0.6 * FURTHER
    bests.append((best(found), best(explored(TRAINING, training_error, seed, EXPLORED + FURTHER))))
  # 0.0485 and 0.0557 were measured, where 0.0418 is possible.
  mean, quasi_random_mean = np.mean(bests, axis=0)
  assert mean < quasi_random_mean - 0.003


@pytest.mark.slow
def test_tpe_beats_what_it_knows_of_three_seeds_and_most_of_its_points_are_feasible():
  for seed in range(3):
    records = explored(TRAINING, training_error, seed)
    found = further(BayesianOptimization(seed=seed, sampler="tpe"), TRAINING, training_error, records, 40)
    assert best(found) < best(records)
    assert sum(one.state == "complete" for one in found) >= 0.6 * 40


@needs_torch
def test_one_objective_close_to_divergence_does_not_hide_the_others():
  records = explored(TRAINING, training_error, 0)
  worst = max(one.objective for one in records if one.objective is not None)
  huge = [Observation(one.values, "complete", 1e6) if one.objective == worst else one for one in records]
  search = BayesianOptimization()
  points = [search.ask(TRAINING, one, EXPLORED) for one in (records, huge)]
  # What is far above the median counts as far above the median, by how much ever.
  assert np.linalg.norm(place(points[0]) - place(points[1])) < 0.05


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_records_give_the_same_point_and_another_index_or_seed_another_one(sampler):
  records = explored(TRAINING, training_error, 0)
  point = BayesianOptimization(sampler=sampler).ask(TRAINING, records, 30)
  again = [Observation(json.loads(json.dumps(one.values)), one.state, one.objective) for one in records]
  np.random.seed(3)  # noqa: NPY002, what Optuna might draw from
  assert BayesianOptimization(sampler=sampler).ask(TRAINING, again, 30) == point
  assert BayesianOptimization(sampler=sampler).ask(TRAINING, records, 31) != point
  assert BayesianOptimization(sampler=sampler, seed=1).ask(TRAINING, records, 30) != point


@needs_torch
def test_where_a_trial_runs_no_other_is_proposed():
  records = explored(TRAINING, training_error, 0)
  search = BayesianOptimization()
  first = search.ask(TRAINING, records, 24)
  second = search.ask(TRAINING, [*records, Observation(first, "running")], 25)
  unaware = search.ask(TRAINING, records, 25)
  # Without the running one it would be the same place again.
  assert np.linalg.norm(place(first) - place(unaware)) < 0.01
  assert np.linalg.norm(place(first) - place(second)) > 0.05


@needs_torch
def test_many_trials_that_run_at_nearly_the_same_place_are_no_trouble():
  records = explored(TRAINING, training_error, 0)
  [near, *_] = [one.values for one in records if one.objective == best(records)]
  running = [Observation({name: value * (1 + 1e-6 * i) for name, value in near.items()}, "running") for i in range(12)]
  point = BayesianOptimization().ask(TRAINING, [*records, *running], 40)
  assert np.linalg.norm(place(point) - place(near)) > 0.01


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_of_a_few_values_each_is_proposed_once_before_any_is_again(sampler):
  few = [hyperparameter("activation", OneOf(["relu", "gelu", "silu"])), hyperparameter("layers", Integer(1, 3))]
  records = [record(point, lambda values: values["layers"]) for point in Halton(0).points(few, 0, 4)]
  assert len({tuple(one.values.values()) for one in records}) == 4
  search = BayesianOptimization(sampler=sampler, explore=4)
  for index in range(4, 9):
    records.append(Observation(search.ask(few, records, index), "running"))
  assert len({tuple(one.values.values()) for one in records}) == 9
  assert search.ask(few, records, 9).keys() == {"activation", "layers"}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_kind_of_scale_gives_values_of_its_own(sampler):
  kinds = [
    hyperparameter("linear", Linear(-1.0, 1.0)),
    hyperparameter("decay", ReverseLog(0.9, 0.9999)),
    hyperparameter("layers", Integer(1, 6)),
    hyperparameter("width", Integer(8, 4096, log=True)),
    hyperparameter("heads", Integer(1, 16, log=True)),
    hyperparameter("dropout", Discrete([0.0, 0.1, 0.3])),
    hyperparameter("norm", OneOf(["batch", None, ("group", 8)])),
    hyperparameter("fixed", OneOf(["only"])),
  ]

  def error(values):
    if values["decay"] > 0.999 and values["norm"] is None:
      return None
    return abs(values["linear"]) + values["dropout"] + abs(values["layers"] - 4) + abs(math.log2(values["width"] / 256))

  records = explored(kinds, error, 0)
  for index in range(24, 27):
    point = BayesianOptimization(sampler=sampler).ask(kinds, records, index)
    records.append(record(point, error))
    assert -1 <= point["linear"] <= 1
    assert 0.9 <= point["decay"] <= 0.9999
    assert {type(point[name]) for name in ("layers", "width", "heads")} == {int}
    assert 1 <= point["layers"] <= 6
    assert 8 <= point["width"] <= 4096
    assert 1 <= point["heads"] <= 16
    assert point["dropout"] in (0.0, 0.1, 0.3)
    assert point["norm"] in ("batch", None, ("group", 8))
    assert point["fixed"] == "only"


OPTIMIZERS = [
  hyperparameter("optimizer", OneOf({"sgd": {}, "adam": {}})),
  hyperparameter("optimizer.sgd.learning_rate", Log(1e-3, 10.0), ("optimizer", "sgd")),
  hyperparameter("optimizer.adam.learning_rate", Log(1e-5, 1e-1), ("optimizer", "adam")),
  hyperparameter("averaging.present", OneOf([False, True]), ("optimizer", "adam")),
  hyperparameter("averaging.decay", ReverseLog(0.9, 0.9999), ("averaging.present", True)),
  hyperparameter("dropout", Linear(0.0, 0.5)),
]


def optimizers_error(values):
  rate = values.get("optimizer.sgd.learning_rate", 100 * values.get("optimizer.adam.learning_rate", 0.0))
  return None if rate > 2 else (math.log10(rate) + 1) ** 2 + values["dropout"]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_branch_is_tuned_with_the_hyperparameters_that_it_has_and_no_others(sampler):
  records = explored(OPTIMIZERS, optimizers_error, 0, 32)
  found = further(BayesianOptimization(sampler=sampler), OPTIMIZERS, optimizers_error, records, 8)
  for one in found:
    expected = {"optimizer", f"optimizer.{one.values['optimizer']}.learning_rate", "dropout"}
    if one.values["optimizer"] == "adam":
      expected |= {"averaging.present"} | ({"averaging.decay"} if one.values["averaging.present"] else set())
    assert one.values.keys() == expected
  branches = [(one.values["optimizer"], one.values.get("averaging.present")) for one in found]
  assert set(branches) == {("sgd", None), ("adam", False), ("adam", True)}
  # Of each branch, and not those of the quasi-random sequence.
  points = Halton(0).points(OPTIMIZERS, 32, 40)
  assert all(one.values != point for one, point in zip(found, points, strict=True))


def test_the_first_points_are_quasi_random_and_so_is_one_without_results_to_learn_from():
  search = BayesianOptimization(seed=5, explore=4)
  points = Halton(5).points(TRAINING, 0, 40)
  records = explored(TRAINING, training_error, 5)
  assert [search.ask(TRAINING, records, index) for index in range(4)] == points[:4]
  running = [Observation(point, "running") for point in points[:20]]
  diverged = [Observation(point, "infeasible") for point in points[:20]]
  # Three results of three hyperparameters are too few, however many others run or have diverged.
  three = [one for one in records if one.state == "complete"][:3]
  for few in ([], running, diverged, [*diverged, *three]):
    assert search.ask(TRAINING, few, 30) == points[30]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_optuna_says_nothing_and_its_verbosity_stays(sampler, monkeypatch):
  import optuna

  said = []
  handler = logging.Handler()
  monkeypatch.setattr(handler, "emit", said.append)
  logger = logging.getLogger("optuna")
  monkeypatch.setattr(logger, "handlers", [handler])
  optuna.logging.set_verbosity(optuna.logging.INFO)
  records = explored(TRAINING, training_error, 0)
  with warnings.catch_warnings():
    warnings.simplefilter("error")
    BayesianOptimization(sampler=sampler).ask(TRAINING, records, EXPLORED)
  assert said == []
  assert optuna.logging.get_verbosity() == optuna.logging.INFO
  # What it says otherwise arrives here.
  optuna.create_study()
  assert said


def absent(monkeypatch, *names):
  found = importlib.util.find_spec
  monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in names else found("math", *rest))


def test_a_missing_package_is_named_with_how_to_install_it(monkeypatch):
  absent(monkeypatch, "optuna")
  [problem] = BayesianOptimization().problems(TRAINING)
  assert problem == "BayesianOptimization needs Optuna, which is missing: pip install 'trialbook[bayes]'"
  assert BayesianOptimization(sampler="tpe").problems(TRAINING) == [problem]


def test_without_torch_tpe_can_be_asked_for(monkeypatch):
  absent(monkeypatch, "torch")
  [problem] = BayesianOptimization().problems(TRAINING)
  assert "needs torch" in problem
  assert "pip install 'trialbook[bayes]'" in problem
  assert 'BayesianOptimization(sampler="tpe")' in problem
  assert BayesianOptimization(sampler="tpe").problems(TRAINING) == []


@pytest.mark.parametrize(
  ("wrong", "part"), [({"seed": -1}, "seed"), ({"sampler": "bo"}, "'gp' or 'tpe'"), ({"explore": -1}, "explore")]
)
def test_a_wrong_attribute_is_a_problem(monkeypatch, wrong, part):
  absent(monkeypatch)
  [problem] = BayesianOptimization(**wrong).problems(TRAINING)
  assert part in problem


def test_as_json_has_all_that_a_point_depends_on():
  stored = json.loads(json.dumps(BayesianOptimization(seed=3, sampler="tpe").as_json()))
  assert stored == {"name": "bayesian_optimization", "seed": 3, "sampler": "tpe", "explore": 16}
