"""What an earlier version recorded stays readable: runs, studies and imports of before the namespace `trialbook`.

tests/old_records/make.sh made them. Their numbers are compared with a tolerance, since another machine or another
version of jax computes other last bits.
"""

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest
from in_process import InProcess
from in_process_command import run_command
from tiny import numbers

from trialbook import (
  Config,
  Halton,
  Linear,
  Log,
  Minimize,
  OneOf,
  Round,
  Study,
  errors,
  load,
  read_result,
  read_results,
  report,
  run,
  run_round,
  run_study,
)
from trialbook.input_pipeline import Table
from trialbook.input_pipeline import load as load_data
from trialbook.models import MlpConfig
from trialbook.trainer import Averaging, Checkpointing, Evaluation, Programs
from trialbook.trainer.config import Logging
from trialbook.trainer.optimizers import Adam
from trialbook.trainer.schedules import Cosine
from trialbook.trainer.workdir.existing_run import stored_config
from trialbook.tuning.rounds import read_round

HERE = pathlib.Path(__file__).resolve().parent / "old_records"
TOLERANCE = 1e-4


@pytest.fixture
def old(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
  """A copy of the records, below the current directory as when they were made."""
  shutil.copytree(HERE / "runs", tmp_path / "runs")
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(str(HERE))
  return pathlib.Path("runs")


def config(**changes: Any) -> Config:
  """The config in make.sh, as users write it now; strings in it need not change."""
  found = Config(
    dataset=Table(),
    model=MlpConfig(widths=(4,)),
    optimizer=Adam(learning_rate=0.01),
    schedule=Cosine(warmup_steps=5),
    clip_norm=1.0,
    averaging=Averaging(decay=0.9),
    max_train_steps=20,
    batch_size=32,
    evaluation=Evaluation(
      every_steps=5,
      batch_size=128,
      train_examples=64,
      test=True,
      predictions=2,
      metrics=("trainer.split_metrics:area_under_curve",),
    ),
    checkpointing=Checkpointing(keep_latest=1),
    logging=Logging(tensorboard=False),
    export=False,
    compilation_cache=None,
  )
  return found.override({path.replace("__", "."): value for path, value in changes.items()})


def trainings(**changes: Any) -> Study:
  """The study of trainings in make.sh."""
  found = Study(
    name="rates",
    goal="Which learning rate?",
    config=config(max_train_steps=10, evaluation__predictions=0),
    objective=Minimize("validation/error"),
    nuisance={"optimizer.learning_rate": Log(1e-3, 1.0)},
    trials=3,
  )
  return dataclasses.replace(found, **changes)


def bowls(**changes: Any) -> Study:
  """The study of a function in make.sh."""
  found = Study(
    name="bowls",
    goal="Which bowl is deeper?",
    objective=Minimize("loss"),
    function="bowl:bowl",
    scientific={"shape": OneOf(["wide", "narrow"])},
    nuisance={"x": Linear(-1.0, 1.0)},
    search=Halton(seed=0),
    trials=6,
  )
  return dataclasses.replace(found, **changes)


def assert_same_numbers(workdir: pathlib.Path, recorded: pathlib.Path) -> None:
  """Check that two runs logged the same at the same steps, within `TOLERANCE`."""
  found, wanted = numbers(workdir), numbers(recorded)
  assert [line.keys() for line in found] == [line.keys() for line in wanted]
  for line, expected in zip(found, wanted, strict=True):
    for name, value in expected.items():
      np.testing.assert_allclose(line[name], value, TOLERANCE, TOLERANCE, err_msg=f"{name} at step {expected['step']}")


def contents(folder: pathlib.Path) -> dict[pathlib.Path, bytes]:
  """Return what each file below a folder holds."""
  return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("name", "step"), [("complete", 20), ("fork", 20), ("warm", 5)])
def test_a_run_of_the_earlier_version_is_read_and_predicts_what_it_predicted(
  old: pathlib.Path, programs: Programs, name: str, step: int
):
  result = read_result(old / name)
  last = json.loads((old / name / "metrics.jsonl").read_text().splitlines()[-1])
  assert (result.status, result.step, last["step"]) == ("complete", step, step)
  assert result.metrics["validation/loss"] == last["validation/loss"]
  assert "test/area_under_curve" in result.best
  model = load(old / name)
  with np.load(old / name / "predictions" / f"{model.step}.npz") as saved:
    ids, outputs = saved["ids"], saved["outputs"]
  with load_data(Table(), seed=0, batch_size=32) as dataset:
    batch = dataset.eval_batch(0, "validation", 100)
  np.testing.assert_allclose(model.predict(batch["inputs"][ids]), outputs, rtol=TOLERANCE, atol=TOLERANCE)
  # There is nothing left to train, so nothing is written.
  before = contents(old / name)
  assert run(stored_config(old / name), old / name, programs=programs) == result
  assert contents(old / name) == before


@pytest.mark.slow
def test_the_command_evaluates_a_run_of_the_earlier_version(old: pathlib.Path, capsys: pytest.CaptureFixture[str]):
  code, output, _ = run_command(capsys, "evaluate", old / "complete", "--split=test")
  recorded = json.loads((old / "complete" / "best.json").read_text())["final"]
  found = json.loads(output)
  assert code == errors.DONE
  assert found["test/area_under_curve"] == pytest.approx(recorded["test/area_under_curve"], rel=TOLERANCE)
  assert found["test/loss"] == pytest.approx(recorded["test/loss"], rel=TOLERANCE)


@pytest.mark.slow
def test_a_run_that_the_earlier_version_stopped_is_resumed_to_the_numbers_of_an_uninterrupted_one(
  old: pathlib.Path, programs: Programs
):
  assert read_result(old / "stopped").status == "preempted"
  assert read_result(old / "stopped").step < 20
  result = run(config(), old / "stopped", programs=programs)
  assert (result.status, result.step) == ("complete", 20)
  assert_same_numbers(old / "stopped", old / "complete")
  earlier = json.loads((old / "stopped" / "run.json").read_text())["earlier"]
  assert [record["status"] for record in earlier] == ["preempted"]


@pytest.mark.slow
def test_a_fork_of_an_old_run_ends_as_one_that_the_earlier_version_made(old: pathlib.Path, programs: Programs):
  changed = config(optimizer__learning_rate=0.005)
  assert run(changed, old / "new", fork=old / "stopped", programs=programs).status == "complete"
  assert_same_numbers(old / "new", old / "fork")


@pytest.mark.slow
def test_a_warm_start_from_an_old_run_ends_as_one_that_the_earlier_version_made(old: pathlib.Path, programs: Programs):
  changed = config(max_train_steps=5, warm_start__source="runs/complete")
  assert run(changed, old / "new", programs=programs).status == "complete"
  assert_same_numbers(old / "new", old / "warm")


@pytest.mark.slow
def test_an_old_study_of_trainings_is_ranked_and_extended(old: pathlib.Path, programs: Programs):
  folder = old / "trainings"
  before = read_results(folder)
  assert [trial.state for trial in before.trials] == ["complete", "infeasible", "complete"]
  assert before.best is not None
  assert before.best.objective == pytest.approx(0.06)
  written = contents(folder / "trials")

  def in_process(study: Study, folder: pathlib.Path, events: Any) -> InProcess:
    made = InProcess(folder, events=events)
    made._programs = programs
    return made

  extended = run_study(trainings(), folder, trials=4, executor=in_process)
  assert [trial.state for trial in extended.trials[:3]] == [trial.state for trial in before.trials]
  assert extended.trials[3].state in ("complete", "infeasible")
  assert contents(folder / "trials").items() >= written.items()


def test_an_old_study_of_a_function_is_extended_by_the_points_that_it_would_have_had(old: pathlib.Path):
  folder = old / "function"
  before = read_results(folder)
  assert [trial.state for trial in before.trials] == ["complete"] * 6
  written = contents(folder / "trials")
  executor = lambda study, folder, events: InProcess(folder, events=events)  # noqa: E731
  extended = run_study(bowls(), folder, trials=8, executor=executor)
  assert contents(folder / "trials").items() >= written.items()
  new = run_study(bowls(trials=8), old / "new", executor=executor)
  assert [trial.values for trial in extended.trials] == [trial.values for trial in new.trials]
  assert [trial.objective for trial in extended.trials] == pytest.approx([trial.objective for trial in new.trials])


def test_an_old_round_is_read_and_extended(old: pathlib.Path):
  stored, studies = read_round(old / "round")
  assert stored["name"] == "shapes"
  assert [len(results.trials) for results in studies] == [2, 2]
  named = tuple(bowls(name=shape, scientific={"shape": OneOf([shape])}, trials=2) for shape in ("wide", "narrow"))
  round_ = Round(name="shapes", goal="Which bowl is deeper?", studies=named)
  executor = lambda study, folder, events: InProcess(folder, events=events)  # noqa: E731
  extended = run_round(round_, old / "round", trials=3, executor=executor)
  assert [len(results.trials) for results in extended.values()] == [3, 3]


def test_an_old_import_is_read_and_not_run(old: pathlib.Path):
  results = read_results(old / "imported")
  assert [trial.objective for trial in results.trials] == [0.30, 0.12, 0.15, 0.60]
  assert results.best is not None
  assert results.best.values == {"learning_rate": 0.01}
  with pytest.raises(errors.UserError, match="imported from csv"):
    run_study(bowls(), old / "imported")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["trainings", "function", "round", "imported"])
def test_old_studies_are_listed_ranked_and_reported(old: pathlib.Path, capsys: pytest.CaptureFixture[str], name: str):
  for command in (["list", old], ["status", old / name], ["best", old / name]):
    code, output, problems = run_command(capsys, "tune", *command)
    assert (code, problems) == (errors.DONE, "")
    assert {"trainings": "rates", "function": "bowls", "round": "wide", "imported": "table"}[name] in output
  for kind in ("html", "md", "json"):
    assert report(old / name, format=kind).stat().st_size > 0
