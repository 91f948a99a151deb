"""What a study asks of a function, and what it tells about one that gives something else."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from in_process import run_in_process
from tiny import mlp

from trialbook.errors import UserError
from trialbook.tuning import BayesianOptimization, Grid, Integer, Linear, Listed, Minimize, OneOf, Study, run_study
from trialbook.tuning.records import read_trials


def named(kind: str, width: int | None = None) -> Mapping[str, float]:
  assert (width is not None) == (kind == "big")
  return {"loss": 1.0}


def all_of_them(**values: Any) -> Mapping[str, float]:
  assert set(values) == ({"kind", "width"} if values["kind"] == "big" else {"kind"})
  return {"loss": 1.0}


def one_dictionary(values: Mapping[str, Any]) -> Mapping[str, float]:
  return {"loss": values["x"]}


def always_wide(kind: str, width: int) -> Mapping[str, float]:
  return {"loss": float(width)}


def bare_number(x: float) -> Any:
  return 0.3


def text(x: float) -> Any:
  return {"loss": "low"}


def step_of_its_own(x: float) -> Any:
  return {"loss": 1.0, "step": 3}


def curve(x: float) -> Iterator[Mapping[str, float]]:
  yield {"loss": 2.0}
  yield {"loss": 1.0 + x}


def study(function: str, **changes: Any) -> Study:
  settings: dict[str, Any] = {"nuisance": {"x": Linear(0.0, 1.0)}, "search": Grid(2), **changes}
  name = f"{pathlib.Path(__file__).stem}:{function}"
  return Study(name="function", goal="What does it give?", function=name, objective=Minimize("loss"), **settings)


KINDS = {"kind": OneOf({"big": {"width": Integer(1, 3)}, "small": {}})}


@pytest.mark.parametrize("function", ["named", "all_of_them"])
def test_a_functions_parameters_are_the_hyperparameters_by_the_names_that_they_have_under_a_value(
  tmp_path: pathlib.Path, function: str
):
  declared = study(function, nuisance=KINDS, search=Grid(3))
  results = run_study(declared, tmp_path / "study", executor=run_in_process)
  assert [trial.state for trial in results.trials] == ["complete"] * 4


@pytest.mark.parametrize(
  ("function", "changes", "told"),
  [
    ("one_dictionary", {}, r"cannot be called with \(x=...\): missing a required argument: 'values'; its parameters"),
    ("curve", {"nuisance": {"rate": Linear(0.0, 1.0)}}, r"\(rate=...\): missing a required argument: 'x'"),
    ("curve", {"nuisance": {"x": Linear(0.0, 1.0), "y": Linear(0.0, 1.0)}}, "unexpected keyword argument 'y'"),
    ("always_wide", {"nuisance": KINDS, "search": Grid(3)}, r"\(kind=...\): missing a required argument: 'width'"),
  ],
)
def test_a_function_with_other_parameters_is_told_before_any_trial(
  tmp_path: pathlib.Path, function: str, changes: dict[str, Any], told: str
):
  with pytest.raises(UserError, match=told):
    run_study(study(function, **changes), tmp_path / "study", executor=run_in_process)
  assert not (tmp_path / "study").exists()


@pytest.mark.parametrize(
  ("function", "told"),
  [
    ("bare_number", r"returned 0\.3; it should return a mapping from metrics to numbers"),
    ("text", r"gave \{'loss': 'low'\}; it should return"),
    ("step_of_its_own", "none of them named 'step'"),
  ],
)
def test_a_function_that_returns_something_else_ends_the_study_at_once(
  tmp_path: pathlib.Path, function: str, told: str
):
  with pytest.raises(UserError, match=told):
    run_study(study(function), tmp_path / "study", executor=run_in_process)
  assert [record.state for record in read_trials(tmp_path / "study").values()] == ["stopped"]


def test_what_a_function_yields_is_a_curve(tmp_path: pathlib.Path):
  results = run_study(study("curve"), tmp_path / "study", executor=run_in_process)
  assert results.trials[1].curves["loss"] == [(1, 2.0), (2, 2.0)]
  assert results.best is not None
  assert (results.best.trial, results.best.objective, results.best.step) == (0, 1.0, 2)


@pytest.mark.slow
def test_a_study_is_corrected_in_its_folder_while_no_trial_was_started(tmp_path: pathlib.Path):
  def declared(metric: str) -> Study:
    return Study(
      name="corrected",
      goal="Is a mistake the end of a folder?",
      config=mlp(),
      objective=Minimize(metric),
      nuisance={"schedule.warmup_steps": Integer(0, 30)},
      # 30 steps of warmup do not fit into 20, which the config refuses before anything runs.
      search=Listed([{"schedule.warmup_steps": 30}, {"schedule.warmup_steps": 1}]),
    )

  with pytest.raises(UserError, match="objective: 'validation/eror' is not evaluated; did you mean 'validation/error'"):
    run_study(declared("validation/eror"), tmp_path / "study", executor=run_in_process)
  results = run_study(declared("validation/error"), tmp_path / "study", executor=run_in_process)
  assert [trial.state for trial in results.trials] == ["infeasible", "complete"]


def test_an_objective_is_missed_also_where_the_config_selects_by_another_metric(tmp_path: pathlib.Path):
  wrong = Study(
    name="wrong",
    goal="Is it found?",
    config=mlp(selection__metric="validation/loss"),
    objective=Minimize("validation/eror"),
    nuisance={"optimizer.learning_rate": Linear(0.01, 0.1)},
    search=Grid(2),
  )
  with pytest.raises(UserError, match="objective: 'validation/eror'"):
    run_study(wrong, tmp_path / "study", executor=run_in_process)


def test_a_study_that_came_to_nothing_is_corrected_and_one_that_came_to_something_is_refused(tmp_path: pathlib.Path):
  search = BayesianOptimization(sampler="tpe", explore=2)

  def run(function: str) -> list[str]:
    declared = study(function, search=search, trials=2)
    results = run_study(declared, tmp_path / "study", executor=run_in_process)
    return [trial.state for trial in results.trials]

  with pytest.raises(UserError, match=r"returned 0\.3"):
    run("bare_number")
  assert run("curve") == ["complete"] * 2
  with pytest.raises(UserError, match="another study"):
    run("bare_number")
