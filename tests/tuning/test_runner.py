"""What becomes of each trial of a study, where it runs, and that neither order nor company changes its result."""

import dataclasses
import json
import pathlib
import queue
import re
from collections import Counter
from typing import Any

import forked_commands
import numpy as np
import pytest
import tiny
from tiny import numbers, state_of

from trialbook.errors import UserError
from trialbook.tuning import Discrete, Grid, Listed, Log, Minimize, OneOf, Study, StudyResults, read_results, run_study
from trialbook.tuning.execution.local_workers import LocalWorkers
from trialbook.tuning.plan import PlannedTrial
from trialbook.tuning.records import read_trials, trial_folder

MISHAPS = ("none", "infeasible", "killed", "killed once", "out of host memory", "raises", "nan")


def functions(**changes: Any) -> Study:
  study = Study(
    name="mishaps",
    goal="What becomes of a trial?",
    objective=Minimize("error"),
    function="tuned_functions:mishap",
    scientific={"mishap": OneOf(MISHAPS)},
    search=Grid(),
    max_attempts=2,
  )
  return dataclasses.replace(study, **changes)


def calls(folder: pathlib.Path) -> dict[str, int]:
  """How often each mishap was called."""
  return {path.name.removeprefix("calls of "): len(path.read_text().splitlines()) for path in folder.glob("calls of *")}


STUDY = (
  "import dataclasses, test_runner\ndef get_study():\n  return dataclasses.replace(test_runner.{name}(), {changes})\n"
)


def tune(file: pathlib.Path, folder: pathlib.Path, name: str, *flags: str, changes: str = "") -> tuple[int, str, str]:
  """Runs a study of this file by the command; returns its exit code, output and errors."""
  file.write_text(STUDY.format(name=name, changes=changes))
  output, errors = file.with_suffix(".out"), file.with_suffix(".err")
  run = forked_commands.start("run", f"--study={file}", f"--dir={folder}", *flags, output=output, errors=errors)
  return run.wait(), output.read_text(), errors.read_text()


@pytest.fixture
def noted(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
  """Where functions note their calls."""
  folder = tmp_path / "noted"
  folder.mkdir()
  monkeypatch.setenv("TUNED_FOLDER", str(folder))
  return folder


@pytest.mark.slow
def test_a_mishap_costs_an_attempt_of_its_trial_and_nothing_else(tmp_path: pathlib.Path, noted: pathlib.Path):
  folder = tmp_path / "study"
  command = (tmp_path / "study.py", folder, "functions", "--workers=2")
  code, output, errors = tune(*command)
  assert code == 1, errors
  found = {record.values["mishap"]: record for record in read_trials(folder).values()}
  assert {name: record.state for name, record in found.items()} == {
    "none": "complete",
    "infeasible": "infeasible",
    "killed": "failed",
    "killed once": "complete",
    "out of host memory": "failed",
    "raises": "failed",
    "nan": "infeasible",
  }
  assert {name: record.reason for name, record in found.items() if record.reason} == {
    "infeasible": "needs a device that is not there",
    "killed": "crashed 2 times; the last: ended by SIGKILL: the host was lost",
    "out of host memory": "crashed 2 times; the last: MemoryError",
    "raises": "crashed 2 times; the last: ValueError: a bug",
    "nan": "error was never finite",
  }
  once = {"none": 1, "infeasible": 1, "nan": 1}
  assert calls(noted) == dict.fromkeys(MISHAPS, 2) | once
  assert {name: len(record.attempts) for name, record in found.items()} == dict.fromkeys(MISHAPS, 2) | once
  assert (
    "ValueError: a bug\nof two lines" in (trial_folder(folder, MISHAPS.index("raises")) / "traceback.txt").read_text()
  )
  assert "2 complete" in output
  assert "3 failed" in output
  assert "trial 2: failed: crashed 2 times; the last: ended by SIGKILL" in errors
  assert "Traceback" not in errors

  before = [(trial_folder(folder, trial) / "trial.json").read_bytes() for trial in range(len(MISHAPS))]
  assert tune(*command)[0] == 1  # All have ended.
  assert [(trial_folder(folder, trial) / "trial.json").read_bytes() for trial in range(len(MISHAPS))] == before
  (noted / "mended").touch()
  assert tune(*command, "--retry_failed")[0] == 0
  after = [(trial_folder(folder, trial) / "trial.json").read_bytes() for trial in range(len(MISHAPS))]
  failed = [trial for trial, name in enumerate(MISHAPS) if found[name].state == "failed"]
  assert [trial for trial in range(len(MISHAPS)) if after[trial] != before[trial]] == failed
  again = read_trials(folder)
  assert {again[trial].state for trial in failed} == {"complete"}
  assert calls(noted) == {name: 3 if found[name].state == "failed" else calls(noted)[name] for name in MISHAPS}


@pytest.mark.slow
def test_workers_that_cannot_start_end_the_study_with_the_place_to_look(
  tmp_path: pathlib.Path, noted: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  shadow = tmp_path / "shadow"
  shadow.mkdir()
  (shadow / "jax.py").write_text("raise ImportError('no such accelerator')")
  monkeypatch.syspath_prepend(str(shadow))
  with pytest.raises(UserError, match=r"3 workers.*died while they started; see .*worker_0.log"):
    run_study(functions(max_attempts=5), tmp_path / "study")
  assert calls(noted) == {}
  assert "no such accelerator" in (tmp_path / "study" / "logs" / "worker_0.log").read_text()
  assert "running" not in {record.state for record in read_trials(tmp_path / "study").values()}


@pytest.mark.slow
def test_a_function_that_does_not_return_the_objective_ends_the_study(tmp_path: pathlib.Path, noted: pathlib.Path):
  changes = 'objective=test_runner.Minimize("eror"), scientific={"mishap": test_runner.OneOf(["none", "nan"])}'
  code, _, errors = tune(tmp_path / "study.py", tmp_path / "study", "functions", changes=changes)
  assert code == 2
  assert "returned no 'eror'; it returned error" in errors
  assert "Traceback" not in errors
  assert "All 2 trials that ended had this mistake" in errors
  assert calls(noted) == {"none": 1, "nan": 1}
  assert [record.state for record in read_trials(tmp_path / "study").values()] == ["failed"] * 2


def planned(*groups: str) -> list[PlannedTrial]:
  return [
    PlannedTrial(trial=trial, values={}, changes={}, refusal=None, group=group) for trial, group in enumerate(groups)
  ]


def test_a_worker_is_given_trials_of_a_program_that_it_has_then_of_one_that_none_has(tmp_path: pathlib.Path):
  workers = LocalWorkers(tmp_path, 2, 1, 1, queue.SimpleQueue())
  pending = planned("a", "a", "b", "c", "a", "b")

  def choose(idle: int | None = None) -> dict[str, int]:
    busy = {0: 1, 1: 0}.get(idle if idle is not None else -1)
    workers._workers = {} if busy is None else {busy: dataclasses.make_dataclass("Busy", ["trial"])(trial=99)}
    chosen = workers.choose(pending)
    for one, _ in chosen:
      pending.remove(one)
    return {where: one.trial for one, where in chosen}

  assert choose() == {"worker 0": 0, "worker 1": 2}
  assert choose(1) == {"worker 1": 5}  # Its own program first.
  assert choose(1) == {"worker 1": 3}  # Then one that the other has not.
  assert choose(0) == {"worker 0": 1}
  assert choose(1) == {"worker 1": 4}  # Rather than to stand idle.
  assert choose(1) == {}


def test_trials_that_are_compared_with_earlier_ones_start_in_order(tmp_path: pathlib.Path):
  workers = LocalWorkers(tmp_path, 2, 1, 1, queue.SimpleQueue(), in_order=True)
  pending = planned("a", "a", "b", "c", "a", "b")
  assert [(one.trial, where) for one, where in workers.choose(pending)] == [(0, "worker 0"), (1, "worker 1")]
  workers._workers = {0: dataclasses.make_dataclass("Busy", ["trial"])(trial=99)}  # pyright: ignore[reportAttributeAccessIssue]
  assert [one.trial for one, _ in workers.choose(pending[2:])] == [2]


WIDTHS, LARGE = ((32,), (24, 24)), (10**11,)
POINTS = (
  {"model.widths": WIDTHS[0], "optimizer.learning_rate": 0.1, "schedule.warmup_steps": 0},
  {"model.widths": WIDTHS[1], "optimizer.learning_rate": 0.1, "schedule.warmup_steps": 20},
  {"model.widths": WIDTHS[0], "optimizer.learning_rate": 1e10, "schedule.warmup_steps": 0},
  {"model.widths": WIDTHS[0], "optimizer.learning_rate": 0.3, "schedule.warmup_steps": 100},
  {"model.widths": LARGE, "optimizer.learning_rate": 0.1, "schedule.warmup_steps": 0},
  {"model.widths": WIDTHS[1], "optimizer.learning_rate": 0.2, "schedule.warmup_steps": 5},
  {"model.widths": WIDTHS[0], "optimizer.learning_rate": 0.05, "schedule.warmup_steps": 0},
  {"model.widths": WIDTHS[1], "optimizer.learning_rate": 0.15, "schedule.warmup_steps": 10},
)


def trainings() -> Study:
  return Study(
    name="trainings",
    goal="Which width?",
    objective=Minimize("validation/error"),
    config=tiny.mlp(max_train_steps=60, evaluation__every_steps=20),
    scientific={"model.widths": OneOf([*WIDTHS, LARGE])},
    nuisance={
      "optimizer.learning_rate": Log(1e-3, 1e10),
      "schedule.warmup_steps": Discrete([0, 5, 10, 20, 100]),
    },
    search=Listed(POINTS),
  )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="module")
def alone(folder: pathlib.Path) -> StudyResults:
  """The study by one worker, which tells what it compiles."""
  with pytest.MonkeyPatch.context() as changed:
    changed.setenv("JAX_LOG_COMPILES", "1")
    return run_study(trainings(), folder / "alone", workers=1)


@pytest.mark.slow
def test_values_that_cannot_work_are_infeasible_with_why_and_are_not_tried_again(alone: StudyResults):
  infeasible = {trial.trial: trial for trial in alone.trials if trial.state == "infeasible"}
  assert list(infeasible) == [2, 3, 4]
  told = re.fullmatch(r"(\S+) is (?:nan|inf) at step (\d+)", infeasible[2].reason or "")
  assert told, infeasible[2].reason
  metric, step = told[1], int(told[2])
  not_finite = [line["step"] for line in numbers(infeasible[2].folder) if line.get(metric) in ("NaN", "Infinity")]
  assert not_finite[0] == step > 1
  assert infeasible[3].reason == (
    "refused: schedule.warmup_steps = 100: should be at most the number of steps of the run, 60"
  )
  assert "out of device memory" in (infeasible[4].reason or "")
  assert "Out of memory allocating" in (infeasible[4].reason or "")
  assert [infeasible[trial].attempts for trial in infeasible] == [1, 0, 1]
  assert {trial.state for trial in alone.trials if trial.trial not in infeasible} == {"complete"}
  assert {trial.attempts for trial in alone.trials if trial.trial not in infeasible} == {1}


@pytest.mark.slow
def test_a_worker_compiles_each_static_group_once(alone: StudyResults):
  assert alone.study.sessions[-1]["programs"] == {"worker 0": 3}
  compiled = Counter(
    re.findall(
      r"Finished XLA compilation of jit\((train_step|eval_step|init)\)",
      (alone.folder / "logs" / "worker_0.log").read_text(),
    )
  )
  assert compiled == {"train_step": 3, "eval_step": 3, "init": 3}


def check_same(one: StudyResults, other: StudyResults) -> None:
  """Bit for bit: the trials, what they logged, and what they learned."""
  assert len(one.trials) == len(other.trials)
  for mine, theirs in zip(one.trials, other.trials, strict=True):
    for name in ("trial", "values", "changes", "state", "reason", "objective", "step", "attempts"):
      assert getattr(mine, name) == getattr(theirs, name), (mine.trial, name)
    assert numbers(mine.folder) == numbers(theirs.folder), mine.trial
    if mine.state == "complete":
      arrays, others = state_of(mine.folder), state_of(theirs.folder)
      assert arrays.keys() == others.keys()
      for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=f"trial {mine.trial}, {name}")


@pytest.mark.slow
def test_four_workers_give_the_same_bits_as_one(folder: pathlib.Path, alone: StudyResults):
  code, _, errors = tune(folder / "four.py", folder / "four", "trainings", "--workers=4")
  assert code == 0, errors
  results = read_results(folder / "four")
  check_same(results, alone)
  workers = {record.attempts[0]["worker"] for record in read_trials(results.folder).values() if record.attempts}
  assert workers == {f"worker {index}" for index in range(4)}


@pytest.mark.slow
def test_a_study_that_is_extended_and_goes_on_with_other_workers_gives_the_same_bits(
  folder: pathlib.Path, alone: StudyResults
):
  path = folder / "extended"
  records: dict[int, bytes] = {}
  for trials, workers in ((2, 1), (len(POINTS), 2)):
    flags = (f"--trials={trials}", f"--workers={workers}")
    code, _, errors = tune(folder / "extended.py", path, "trainings", *flags)
    assert code == 0, errors
    results = read_results(path)
    assert len(results.trials) == trials
    for trial, before in records.items():
      assert (trial_folder(path, trial) / "trial.json").read_bytes() == before, "what had ended was touched"
    records = {one.trial: (one.folder / "trial.json").read_bytes() for one in results.trials}
  check_same(read_results(path), alone)
  sessions = json.loads((path / "study.json").read_text())["sessions"]
  assert [session["workers"] for session in sessions] == [1, 2]
  # Three groups are left for the last session; a worker compiles the other's rather than to stand idle.
  assert all(1 <= count <= 3 for count in sessions[-1]["programs"].values())
  with pytest.raises(UserError, match=f"trials = 3: .* has trial {len(POINTS) - 1} already"):
    run_study(trainings(), path, trials=3)
  with pytest.raises(UserError, match="holds another study"):
    run_study(dataclasses.replace(trainings(), objective=Minimize("validation/loss")), path)
