"""What a study asks of a function, and what it tells about one that gives something else."""

import contextlib
import math
import os
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from in_process import run_in_process
from tiny import mlp

from trialbook.errors import InfeasibleError, UserError
from trialbook.tuning import (
  BayesianOptimization,
  Grid,
  Integer,
  Linear,
  Listed,
  Minimize,
  OneOf,
  QuantileStopping,
  Study,
  read_results,
  run_study,
)
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


class Shy:
  def __repr__(self) -> str:
    raise ValueError("no words for it")


def of_two_yields(second: Any) -> Iterator[Any]:
  yield {"loss": 2.0}
  yield second


MALFORMED: dict[str, tuple[Any, str]] = {
  "none as loss": ({"loss": None}, r"returned \{'loss': None\}: 'loss' is None, not a number; it should return"),
  "nothing": (None, "returned None; it should return a mapping from metrics to numbers, such as {'loss': 0.5}"),
  "a number": (0.3, r"returned 0\.3; it should"),
  "a text": ("low", "returned 'low'; it should"),
  "a list of mappings": ([{"loss": 1.0}], "returned \\[{'loss': 1.0}\\]; it should"),
  "a text as loss": ({"loss": "0.3"}, "'loss' is a str, not a number"),
  "bytes as loss": ({"loss": b"0.3"}, "'loss' is a bytes, not a number"),
  "a nested mapping": ({"loss": {"mean": 0.3}}, "'loss' is a dict, not a number"),
  "a complex number": ({"loss": 1j}, "'loss' is a complex, not a number"),
  "an array of two": ({"loss": np.ones(2)}, r"'loss' is a ndarray of shape \[2\], not a number"),
  "an array of none": ({"loss": np.ones(0)}, r"'loss' is a ndarray of shape \[0\], not a number"),
  "another metric is malformed": ({"loss": 0.3, "note": "good"}, "'note' is a str, not a number"),
  "a number that is too large": ({"loss": 10**400}, "'loss' is a int, not a number"),
  "nan as a name": ({math.nan: 0.3}, "the name nan is not a string"),
  "none as a name": ({None: 0.3}, "the name None is not a string"),
  "a reserved name": ({"loss": 0.3, "step": 3}, "'step' is counted, so no metric can have this name"),
  "a name of counts": ({"loss": 0.3, "validation/class_examples": 3.0}, "is a name for numbers of examples"),
  "no number of examples": ({"loss": 0.3, "validation/examples": math.nan}, "is a name for numbers of examples"),
  "another name": ({"los": 0.3}, "returned no 'loss'; it returned los; the objective must be one of its metrics"),
  "an empty mapping": ({}, "returned no 'loss'; it returned nothing"),
  "no words": ({"loss": Shy()}, "'loss' is a Shy, not a number"),
  "a long one": ({"loss": [0.0] * 10_000}, "…: 'loss' is a list, not a number"),
  "a malformed value in the middle": (of_two_yields({"loss": None}), r"yielded \{'loss': None\} as value 2: 'loss' is"),
  "no mapping in the middle": (of_two_yields(0.3), r"yielded 0\.3 as value 2; it should return"),
  "no value at all": (iter(()), "returned no 'loss'; it returned nothing"),
}


def malformed(x: float, kind: str = "none as loss") -> Any:
  """A loss, or what `kind` says where x is 0.25."""
  return MALFORMED[kind][0] if x == 0.25 else {"loss": x, "array": np.full((1, 1), x), "whole": True}


def always_none(x: float) -> Any:
  return {"loss": None if x < 2 else x}


def always_raises(x: float) -> Any:
  raise ZeroDivisionError(f"of {x}")


def two_mistakes(x: float) -> Any:
  return {"loss": None} if x < 0.5 else 0.3


def mended(x: float) -> Any:
  found = pathlib.Path(os.environ["MENDED"]).exists()
  return {"loss": x if found else None}


def infeasible_and_malformed(x: float) -> Any:
  if x < 0.7:
    raise InfeasibleError("too small")
  return {"loss": None}


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


@pytest.mark.parametrize("kind", MALFORMED)
def test_one_malformed_return_costs_its_trial_and_the_study_goes_on(tmp_path: pathlib.Path, kind: str):
  points = [{"x": 0.25, "kind": kind}, *({"x": x, "kind": kind} for x in (0.5, 0.75, 1.0))]
  space = {"x": Linear(0.0, 1.0), "kind": OneOf([*MALFORMED])}
  declared = study("malformed", nuisance=space, search=Listed(points))
  results = run_study(declared, tmp_path / "study", executor=run_in_process)
  assert [trial.state for trial in results.trials] == ["failed", "complete", "complete", "complete"]
  reason = results.trials[0].reason or ""
  assert re.search(MALFORMED[kind][1], reason), reason
  assert reason.startswith("function test_functions_as_trials:malformed: ")
  assert len(reason) < 400
  assert results.trials[0].attempts == 1
  assert results.best is not None
  assert results.best.trial == 1
  assert results.by(Minimize("array", "last")).trials[1].objective == 0.5
  # What it logged before stays readable.
  assert read_results(tmp_path / "study").curve_rows("loss")
  again = run_study(declared, tmp_path / "study", executor=run_in_process)
  assert [trial.attempts for trial in again.trials] == [1] * 4


@pytest.mark.parametrize(
  ("function", "told"),
  [
    ("bare_number", r"returned 0\.3; it should return a mapping from metrics to numbers"),
    ("text", r"returned \{'loss': 'low'\}: 'loss' is a str, not a number; it should return"),
    ("step_of_its_own", "'step' is counted"),
    ("always_none", "'loss' is None, not a number"),
    (
      "always_raises",
      r"function \S+:always_raises: trial 0 crashed 3 times; the last: ZeroDivisionError: of 0\.0; see \S+traceback",
    ),
  ],
)
@pytest.mark.parametrize(("trials", "run"), [(5, 3), (2, 2), (1, 1)])
def test_the_same_mistake_in_all_of_the_first_trials_stops_the_study(
  tmp_path: pathlib.Path, function: str, told: str, trials: int, run: int
):
  declared = study(function, search=Listed([{"x": x / 10} for x in range(trials)]))
  with pytest.raises(UserError, match=told) as caught:
    run_study(declared, tmp_path / "study", executor=run_in_process)
  assert "rerun the same command with --retry_failed" in caught.value.problems[-1]
  assert [record.state for record in read_trials(tmp_path / "study").values()] == ["failed"] * run


def test_after_a_mistake_is_corrected_the_failed_trials_are_run_again_and_without_that_the_others_are(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setenv("MENDED", str(tmp_path / "mended"))

  def states(**options: Any) -> list[str]:
    with contextlib.suppress(UserError):
      run_study(study("mended", search=Grid(8)), tmp_path / "study", executor=run_in_process, **options)
    return [record.state for record in read_trials(tmp_path / "study").values()]

  assert states() == ["failed"] * 3
  assert states(retry_failed=True) == ["failed"] * 3
  # Who does not correct it gets on nevertheless, three trials at a time.
  assert states() == ["failed"] * 6
  (tmp_path / "mended").touch()
  assert states() == ["failed"] * 6 + ["complete"] * 2
  assert states(retry_failed=True) == ["complete"] * 8
  (tmp_path / "mended").unlink()
  with pytest.raises(UserError, match="another study"):
    run_study(study("bare_number", search=Grid(8)), tmp_path / "study", executor=run_in_process)


def test_different_mistakes_do_not_stop_a_study_and_infeasible_trials_say_nothing(tmp_path: pathlib.Path):
  def at(function: str, *values: float) -> Study:
    return study(function, search=Listed([{"x": x} for x in values]))

  results = run_study(at("two_mistakes", 0.1, 0.9, 0.2, 0.8), tmp_path / "two", executor=run_in_process)
  assert [trial.state for trial in results.trials] == ["failed"] * 4
  declared = at("infeasible_and_malformed", 0.1, 0.2, 0.8, 0.3, 0.9, 0.75, 0.85)
  with pytest.raises(UserError, match="All 3 trials that ended had this mistake"):
    run_study(declared, tmp_path / "infeasible", executor=run_in_process)
  states = [record.state for record in read_trials(tmp_path / "infeasible").values()]
  assert states == ["infeasible", "infeasible", "failed", "infeasible", "failed", "failed"]


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


def test_what_early_stopping_has_judged_is_not_judged_again_after_a_retry(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setenv("MENDED", str(tmp_path / "mended"))
  declared = study("mended", search=Grid(8), stopping=QuantileStopping(quantile=0.5, at=(1,), after=2))
  with pytest.raises(UserError):
    run_study(declared, tmp_path / "study", executor=run_in_process)
  (tmp_path / "mended").touch()
  run_study(declared, tmp_path / "study", executor=run_in_process)
  before = {path: path.read_bytes() for path in sorted((tmp_path / "study").rglob("trial.json"))}
  assert [record.state for record in read_trials(tmp_path / "study").values()].count("failed") == 3
  with pytest.raises(UserError, match="early stopping has judged 5 later trials without it"):
    run_study(declared, tmp_path / "study", executor=run_in_process, retry_failed=True)
  assert before == {path: path.read_bytes() for path in before}
