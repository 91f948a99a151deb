"""A baseline as trial 0 of any study, and Bayesian searches that begin with the results of earlier studies."""

import dataclasses
import json
import pathlib
from typing import Any

import pytest
from tiny import mlp

from trialbook.errors import ConfigError, UserError
from trialbook.tuning import (
  BayesianOptimization,
  Discrete,
  Grid,
  Halton,
  Listed,
  Log,
  Maximize,
  Minimize,
  OneOf,
  Optional,
  Study,
  by_scientific_value,
  run_study,
)
from trialbook.tuning.execution import earlier_studies
from trialbook.tuning.execution.planned_study import prepare
from trialbook.tuning.records import TrialRecord, read_study, read_trials, trial_folder, write_study, write_trial
from trialbook.tuning.search.bayesian import Observation

SPACE = {
  "optimizer": OneOf({"nesterov": {"learning_rate": Log(1e-3, 10.0), "one_minus_momentum": Log(1e-3, 1.0)}, "sgd": {}}),
  "schedule.warmup_steps": Discrete((0, 5)),
  "clip_norm": Optional(Log(0.1, 10.0)),
}


def study(**changes: Any) -> Study:
  made = Study(
    name="s",
    goal="why?",
    objective=Minimize("validation/error"),
    config=mlp(),
    nuisance=SPACE,
    trials=6,
    search=Halton(seed=3),
  )
  return dataclasses.replace(made, **changes)


def test_the_config_itself_is_trial_0_and_the_search_begins_behind_it():
  plain, planned = prepare(study()), prepare(study(baseline={}))
  first, *others = planned.points(0, 6)
  assert first.values == {
    "optimizer": "nesterov",
    "optimizer.nesterov.learning_rate": 0.1,
    "optimizer.nesterov.one_minus_momentum": 0.1,
    "schedule.warmup_steps": 0,
    "clip_norm.present": False,
  }
  assert mlp().override(first.changes) == mlp()
  assert [one.values for one in others] == [one.values for one in plain.points(0, 5)]
  assert [one.trial for one in (first, *others)] == list(range(6))
  assert planned.points(2, 4) == others[1:3]
  assert planned.preview() == [first, *others]
  assert planned.record().baseline == first.values


def test_values_that_are_given_take_the_place_of_the_configs():
  first = prepare(study(baseline={"optimizer": "sgd", "clip_norm.present": True, "clip_norm": 2.0})).points(0, 1)[0]
  assert first.values == {
    "optimizer": "sgd",
    "schedule.warmup_steps": 0,
    "clip_norm.present": True,
    "clip_norm": 2.0,
  }


@pytest.mark.parametrize("search", [Grid(2), Listed([{"optimizer.learning_rate": 0.2}])])
def test_a_search_that_has_an_end_has_one_trial_more(search: Any):
  made = study(nuisance={"optimizer.learning_rate": Log(1e-3, 1.0)}, search=search, trials=None, baseline={})
  count = search.count(prepare(made).hyperparameters)
  assert prepare(made).trials == count + 1
  assert prepare(made).preview()[0].values == {"optimizer.learning_rate": 0.1}
  with pytest.raises(UserError, match=f"trials = {count + 2}: .* has {count + 1} points"):
    prepare(dataclasses.replace(made, trials=count + 2))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"baseline": {"optimizer": "adam"}}, "baseline: optimizer = 'adam': should be a value of OneOf"),
    ({"baseline": {"optimizer.nesterov.learning_rat": 1.0}}, "baseline: unknown hyperparameter .*did you mean"),
    ({"baseline": {"optimizer": "sgd", "optimizer.nesterov.learning_rate": 1.0}}, "exists only where optimizer"),
    ({"baseline": {"clip_norm.present": True}}, "baseline: clip_norm is missing"),
    ({"baseline": 3}, "baseline = 3: should be values by name"),
    (
      {"baseline": {}, "nuisance": {"optimizer.learning_rate": Log(1.0, 10.0)}},
      r"baseline: optimizer\.learning_rate = 0\.1: should be a value of Log.*the config is not in this space: widen it",
    ),
  ],
)
def test_a_baseline_that_is_no_point_of_the_space_is_refused(changes: dict[str, Any], message: str):
  with pytest.raises(UserError, match=message):
    prepare(study(**changes))


def test_a_baseline_belongs_to_one_study_of_a_round():
  made = study(scientific={"optimizer": OneOf(["nesterov", "sgd"])}, nuisance={}, baseline={})
  with pytest.raises(ConfigError, match="its baseline has one of the values"):
    by_scientific_value(made)


FUNCTION = Study(
  name="f",
  goal="where is the optimum?",
  objective=Minimize("loss"),
  function="quadratics:half",
  nuisance={"x": Log(0.01, 100.0)},
  trials=3,
  search=Halton(seed=0),
)


def test_the_baseline_is_run_first_recorded_and_part_of_what_the_study_is(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.syspath_prepend(pathlib.Path(__file__).parent)
  made = dataclasses.replace(FUNCTION, baseline={"x": 2.0})
  results = run_study(made, tmp_path / "f")
  assert results.trials[0].values["x"] == 2.0
  assert json.loads((tmp_path / "f" / "study.json").read_text())["baseline"] == {"x": 2.0}
  assert len(run_study(made, tmp_path / "f", trials=5).trials) == 5
  with pytest.raises(UserError, match=r"baseline\.x: 2\.0 there, 3\.0 here"):
    run_study(dataclasses.replace(FUNCTION, baseline={"x": 3.0}), tmp_path / "f")


def ended(folder: pathlib.Path, made: Study, values: list[float]) -> None:
  """A study of which trials have these values of the objective."""
  planned = prepare(made)
  write_study(folder, planned.record())
  (folder / "trials").mkdir()
  for one, value in zip(planned.preview(), values, strict=False):
    record = TrialRecord(
      trial=one.trial, state="complete", values=one.values, changes=one.changes, summary={"objective": value}
    )
    write_trial(trial_folder(folder, one.trial), record)
  assert read_trials(folder)
  assert read_study(folder).objective == made.objective


def seeded(earlier: list[pathlib.Path], **changes: Any) -> Study:
  return study(search=BayesianOptimization(sampler="tpe", earlier=tuple(map(str, earlier))), **changes)


@pytest.fixture
def optuna() -> None:
  pytest.importorskip("optuna", reason="pip install 'trialbook[bayes]'")


RATE = {"optimizer.learning_rate": Log(1e-3, 1.0)}


@pytest.mark.usefixtures("optuna")
def test_trials_of_earlier_studies_count_if_this_study_could_have_made_them(tmp_path: pathlib.Path):
  ended(tmp_path / "same", study(nuisance=RATE), [0.5, 0.4, 0.3])
  # A wider space, another hyperparameter whose value is the config's in one trial of two, and another seed.
  wide = {"optimizer.learning_rate": Log(1e-2, 10.0), "schedule.warmup_steps": Discrete((0, 5))}
  listed = Listed(
    [
      {"optimizer.learning_rate": 0.5, "schedule.warmup_steps": 0},
      {"optimizer.learning_rate": 0.5, "schedule.warmup_steps": 5},
      {"optimizer.learning_rate": 5.0, "schedule.warmup_steps": 0},
    ]
  )
  ended(tmp_path / "wide", study(nuisance=wide, search=listed, trials=3, config=mlp(seed=7)), [0.2, 0.1, 0.05])
  planned = prepare(seeded([tmp_path / "same", tmp_path / "wide"], nuisance=RATE))
  assert [one.objective for one in planned.earlier] == [0.5, 0.4, 0.3, 0.2]
  assert planned.earlier[-1] == Observation({"optimizer.learning_rate": 0.5}, "complete", 0.2)
  # What this study varies and the other one did not, has the other config's value.
  planned = prepare(seeded([tmp_path / "same"], nuisance=wide))
  assert {one.values["schedule.warmup_steps"] for one in planned.earlier} == {0}
  # As a complement, too.
  momentum = {"optimizer.learning_rate": Log(1e-3, 1.0), "optimizer.one_minus_momentum": Log(1e-3, 1.0)}
  planned = prepare(seeded([tmp_path / "same"], nuisance=momentum))
  assert {one.values["optimizer.one_minus_momentum"] for one in planned.earlier} == {0.1}


@pytest.mark.usefixtures("optuna")
@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"config": mlp(model__widths=(16,))},
      r"none of its 3 trials is a point .*model\.widths: \(32,\) there, \(16,\) here",
    ),
    ({"config": mlp(max_train_steps=30)}, r"none of its 3 trials .*(decay_steps|max_train_steps): 20 there, 30 here"),
    ({"objective": Maximize("validation/accuracy")}, "its objective is .*validation/error"),
    ({"nuisance": {"optimizer.learning_rate": Log(2.0, 3.0)}}, "none of its 3 trials .*should be a value of Log"),
  ],
)
def test_earlier_studies_of_other_trainings_are_refused(tmp_path: pathlib.Path, changes: dict[str, Any], message: str):
  ended(tmp_path / "same", study(nuisance=RATE), [0.5, 0.4, 0.3])
  with pytest.raises(UserError, match=message):
    prepare(seeded([tmp_path / "same"], **{"nuisance": RATE, **changes}))


@pytest.mark.usefixtures("optuna")
def test_a_folder_without_a_study_is_refused(tmp_path: pathlib.Path):
  with pytest.raises(UserError, match=r"search\.earlier: .*nowhere.* holds no study"):
    prepare(seeded([tmp_path / "nowhere"], nuisance=RATE))


@pytest.mark.usefixtures("optuna")
def test_earlier_results_take_the_place_of_the_first_quasi_random_trials():
  space = prepare(study(nuisance=RATE)).hyperparameters
  points = Halton(seed=5).points(space, 0, 20)
  earlier = [
    Observation(point, "complete", abs(space[0].scale.unit(point["optimizer.learning_rate"]) - 0.7)) for point in points
  ]
  search = BayesianOptimization(seed=1, sampler="tpe", explore=16)
  assert search.ask(space, [], 0) == Halton(seed=1).points(space, 0, 1)[0]
  units = []
  for index in range(8):
    proposed = search.ask(space, [], index, earlier)
    assert proposed not in points
    units.append(space[0].scale.unit(proposed["optimizer.learning_rate"]))
  assert sum(abs(unit - 0.7) < 0.25 for unit in units) >= 6, units


def test_reading_of_earlier_studies_needs_no_training(tmp_path: pathlib.Path):
  ended(tmp_path / "f", dataclasses.replace(FUNCTION, objective=Minimize("loss")), [3.0, 2.0])
  planned = prepare(FUNCTION)
  found = earlier_studies.read(FUNCTION, None, planned.hyperparameters, [str(tmp_path / "f")])
  assert [one.objective for one in found] == [3.0, 2.0]
