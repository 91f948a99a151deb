"""A rule that ends trials early, in real processes: workers, kills and late decisions change nothing."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import forked_commands
import pruned_functions
import pytest
from forked import Forked, wait_for
from held import Hold
from in_process import run_in_process
from slurm_cluster import missing, slurm_cluster
from test_early_stopping import check_same, lines, steps_of
from tiny import numbers

from trialbook.launch.local import run_local
from trialbook.tuning import Listed, StudyResults, read_results, run_study
from trialbook.tuning.execution.trial_states import started
from trialbook.tuning.records import TrialRecord, read_trials, trial_folder, write_trial

FUNCTIONS = """
import pruned_functions

def get_study():
  return pruned_functions.study(function="pruned_functions:slow")
"""
TRAININGS = """
import os, held, pruned_functions

if "HELD" in os.environ:
  held.install(os.environ["HELD"])

def get_study():
  return pruned_functions.trainings({changes})
"""


def tune(folder: pathlib.Path, study: str, workers: int = 1, held: pathlib.Path | None = None) -> Forked:
  """Starts the command of a study in folder/study."""
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "study.py").write_text(study)
  command = ["run", f"--study={folder / 'study.py'}", f"--dir={folder / 'study'}", f"--workers={workers}"]
  output = folder / f"output_{time.monotonic_ns()}.txt"
  environment = {} if held is None else {"HELD": str(held)}
  return forked_commands.start(*command, output=output, errors=None, **environment)


@pytest.fixture
def noted(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
  """Where functions find what is to happen to them."""
  folder = tmp_path / "noted"
  folder.mkdir()
  monkeypatch.setenv(pruned_functions.FOLDER, str(folder))
  return folder


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
  """The study of functions, its trials one after the other."""
  folder = tmp_path_factory.mktemp("alone")
  (folder / "noted").mkdir()
  with pytest.MonkeyPatch.context() as changed:
    changed.setenv(pruned_functions.FOLDER, str(folder / "noted"))
    process = tune(folder, FUNCTIONS)
  assert process.wait() == 0, process.text()
  results = read_results(folder / "study")
  assert results.count("pruned") > 5
  assert results.count("infeasible") > 1
  return results


def values(results: StudyResults, trial: int) -> str:
  """The name of a trial for its function."""
  return f"{results.trials[trial].values['x']:.6f}"


@pytest.mark.slow
def test_three_workers_kills_and_late_decisions_give_the_states_values_and_logs_of_one_worker(
  alone: StudyResults, tmp_path: pathlib.Path, noted: pathlib.Path
):
  # A trial that others are compared with is slower than they are, so that they end before the decision on them; others
  # are killed before the step at which they are compared, right after it, and later.
  held = noted / f"hold {values(alone, 5)} 2"
  held.touch()
  pruned = [trial.trial for trial in alone.trials if trial.state == "pruned"]
  killed = {pruned[0]: 2, pruned[2]: 3, 6: 5, 9: 11, 15: 4}
  for trial, step in killed.items():
    (noted / f"kill {values(alone, trial)} {step}").touch()
  process = tune(tmp_path, FUNCTIONS, workers=3)
  folder = tmp_path / "study"
  wait_for(lambda: process.poll() is not None or sum(record.state == "complete" for record in _read(folder)) >= 10)
  early = [record.trial for record in _read(folder) if record.state == "complete" and record.trial in pruned]
  assert early, "no trial ended before the decision on it"
  # The coordinator, and with it all workers.
  process.kill()
  assert process.poll() is not None
  held.unlink()
  process = tune(tmp_path, FUNCTIONS, workers=3)
  assert process.wait() == 0, process.text()
  results = read_results(folder)
  check_same(results, alone, logs=lines)
  assert steps_of(results) == steps_of(alone)
  assert not list(noted.glob("kill *")), "a trial that was to be killed did not come there"
  records = read_trials(folder)
  assert any(attempt["end"].startswith("crashed") for trial in killed for attempt in records[trial].attempts)
  assert f"trial {early[0]}: pruned at step " in process.text()
  assert any(noted.glob("* closed")), "no generator was closed"


def _read(folder: pathlib.Path) -> list[Any]:
  return list(read_trials(folder).values())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
  """The study of trainings by one worker."""
  folder = tmp_path_factory.mktemp("trained")
  process = tune(folder, TRAININGS.format(changes=""))
  assert process.wait() == 0, process.text()
  results = read_results(folder / "study")
  assert 3 <= results.count("pruned") <= 8, process.text()
  return results


@pytest.mark.slow
def test_the_rule_ends_trainings_as_it_would_have_been_replayed(trained: StudyResults, tmp_path: pathlib.Path):
  process = tune(tmp_path, TRAININGS.format(changes="stopping=None"), workers=2)
  assert process.wait() == 0, process.text()
  whole = read_results(tmp_path / "study")
  assert "pruned" not in {trial.state for trial in whole.trials}
  for ended, other in zip(trained.trials, whole.trials, strict=True):
    if ended.state != "pruned":
      assert (ended.state, ended.objective) == (other.state, other.objective)
      assert numbers(ended.folder) == numbers(other.folder)
      continue
    step = ended.last_step
    assert step in (20, 40)
    assert numbers(ended.folder) == [line for line in numbers(other.folder) if line["step"] <= step]
    run = json.loads((ended.folder / "run.json").read_text())
    assert (run["status"], run["reason"]) == ("pruned", ended.reason)
    assert not (ended.folder / "checkpoints").exists()
    assert not (ended.folder / "best.json").exists()
    assert {int(path.stem) for path in (ended.folder / "predictions").iterdir()} == set(range(0, step + 1, 10))


@pytest.mark.long
def test_kills_of_trainings_around_the_comparison_change_no_bit(trained: StudyResults, tmp_path: pathlib.Path):
  hold = Hold(tmp_path)
  study = TRAININGS.format(changes="")
  places = (("step", 21), ("evaluating", 40), ("committing", 30))
  for number, place in enumerate(places):
    hold.at(*place)
    process = tune(tmp_path, study, workers=3, held=tmp_path)
    wait_for(lambda process=process: process.poll() is not None or hold.waiting())
    assert process.poll() is None, process.text()
    if number % 2:
      process.send(signal.SIGTERM)
      assert process.wait() == 130, process.text()
    else:
      os.kill(next(iter(hold.waiting())), signal.SIGKILL)
      process.kill()
  hold.release()
  process = tune(tmp_path, study, workers=3, held=tmp_path)
  assert process.wait() == 0, process.text()
  results = read_results(tmp_path / "study")
  check_same(results, trained, logs=numbers)
  assert {record.state for record in read_trials(results.folder).values()} >= {"complete", "pruned"}
  for trial in results.trials:
    assert (trial_folder(results.folder, trial.trial) / "checkpoints").exists() == (trial.state == "complete")


@pytest.mark.long
def test_hosts_of_one_trial_end_it_together(tmp_path: pathlib.Path):
  rate, folder = "optimizer.learning_rate", tmp_path / "study"
  search = Listed([{rate: value} for value in (0.1, 0.05, 0.2, 1e-4)])
  study = pruned_functions.trainings(search=search, trials=4, devices_per_trial=2)
  run_study(study, folder, executor=run_in_process)
  place = trial_folder(folder, 3)
  alone, logged = read_trials(folder)[3], numbers(place)
  assert alone.state == "pruned"
  shutil.rmtree(place)
  write_trial(place, started(TrialRecord(trial=3, values=alone.values, changes=alone.changes), "two hosts"))
  said: list[str] = []
  command = ["-m", "trialbook", "tune", "trial", str(folder), "3"]
  assert run_local(command, hosts=2, workdir=place, say=said.append) == 0
  assert said == [], "a host left with another code than the lead"
  record = read_trials(folder)[3]
  assert (record.state, record.reason) == ("pruned", alone.reason)
  assert [line["step"] for line in numbers(place)] == [line["step"] for line in logged]


@pytest.mark.long
def test_jobs_of_slurm_end_the_trials_that_workers_here_end(trained: StudyResults, tmp_path: pathlib.Path):
  if lacking := missing():
    pytest.skip(lacking)
  (tmp_path / "study.py").write_text(TRAININGS.format(changes=""))
  tests = pathlib.Path(__file__).resolve().parents[1]
  paths = os.pathsep.join(map(str, [tests.parent, tests / "tuning", tests / "trainer"]))
  command = ["run", f"--study={tmp_path / 'study.py'}", f"--dir={tmp_path / 'study'}", "--executor=slurm"]
  command += ["--slurm=max_parallel=3", "--slurm=minutes=10"]
  with slurm_cluster(), (tmp_path / "output").open("wb") as output:
    done = subprocess.run(
      [sys.executable, "-m", "trialbook", "tune", *command],
      env=os.environ | {"PYTHONPATH": paths},  # Where the cluster is, too.
      stdout=output,
      stderr=output,
      timeout=900,
    )
  assert done.returncode == 0, (tmp_path / "output").read_text()
  results = read_results(tmp_path / "study")
  assert [(trial.state, trial.reason) for trial in results.trials] == [
    (trial.state, trial.reason) for trial in trained.trials
  ]
