"""A study whose processes are killed at any moment, stopped, or out of disk, ends as if nothing had happened."""

import contextlib
import dataclasses
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from forked import ROOT, wait_for
from tiny import numbers, state_of

from launch.supervisor import newest_step
from tuning import StudyResults, load_study, read_results, run_study
from tuning.records import TrialRecord, read_trials, trial_folder
from tuning.study import Study

TESTS = pathlib.Path(__file__).resolve().parents[1]
SECONDS_TO_BE_GONE = 5.0
TRAININGS = """
import sys
sys.path.append({tests!r} + "/trainer")
import tiny
from tuning import Halton, Log, Minimize, OneOf, Study

def get_study():
  return Study(
    name="killed",
    goal="Which width?",
    objective=Minimize("validation/error"),
    config=tiny.mlp(max_train_steps={steps}, evaluation__every_steps={steps} // 5, optimizer__name="adam"),
    scientific={{"model.widths": OneOf({widths})}},
    nuisance={{"optimizer.learning_rate": Log(1e-3, 1e-2), "optimizer.beta1": Log(0.8, 0.95)}},
    trials={trials},
    search=Halton(seed=3),
    max_attempts=20,
  )
"""
FUNCTION = """
from tuning import Grid, Minimize, OneOf, Study

def get_study():
  return Study(
    name="full",
    goal="What does a full disk do?",
    objective=Minimize("error"),
    function="tuned_functions:mishap",
    scientific={"mishap": OneOf(["none", "fills the disk", "nan"])},
    search=Grid(),
  )
"""


def write_study(path: pathlib.Path, steps: int, trials: int, widths: str = "[(32,), (24, 24)]") -> pathlib.Path:
  path.write_text(TRAININGS.format(tests=str(TESTS), steps=steps, trials=trials, widths=widths))
  return path


def study_of(path: pathlib.Path) -> Study:
  study = load_study(path)
  assert isinstance(study, Study)
  return study


class Coordinator:
  """`python -m tuning run`, and all processes that it starts."""

  def __init__(self, study: pathlib.Path, folder: pathlib.Path, workers: int = 2, trials: int | None = None):
    self.folder, self.started = folder, time.time()
    command = [sys.executable, "-m", "tuning", "run", f"--study={study}", f"--dir={folder}", f"--workers={workers}"]
    command += [] if trials is None else [f"--trials={trials}"]
    environment = {**os.environ, "PYTHONPATH": str(TESTS / "tuning")}
    self.process = subprocess.Popen(
      command,
      cwd=ROOT,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      start_new_session=True,
    )

  def workers(self) -> list[int]:
    """Ids of the worker processes."""
    return [process for process, command in self.descendants().items() if "from tuning.worker import main" in command]

  def descendants(self) -> dict[int, str]:
    """Ids and commands of all processes below this one."""
    found, parents = {}, {self.process.pid}
    table = processes()
    while parents:
      below = {process: command for process, (parent, command) in table.items() if parent in parents}
      found |= below
      parents = set(below)
    return found

  def running(self) -> list[TrialRecord]:
    """Trials that run, and were started by this coordinator."""
    found = [record for record in read_trials(self.folder).values() if record.state == "running"]
    return [record for record in found if record.attempts[-1]["started"] > self.started]

  def wait_until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
    wait_for(lambda: self.process.poll() is not None or condition(), seconds)
    assert self.process.poll() is None, self.process.communicate()[0]

  def send(self, number: signal.Signals) -> tuple[int, str]:
    """Sends a signal; returns exit code and output, once it and all that it had started are gone."""
    below = self.descendants()
    self.process.send_signal(number)
    return self.finish(below)

  def finish(self, below: dict[int, str] | None = None) -> tuple[int, str]:
    """Exit code and output, once it and all that it had started are gone."""
    output, _ = self.process.communicate(timeout=300)
    with contextlib.suppress(AssertionError):
      wait_for(lambda: not set(below or ()) & set(processes()), SECONDS_TO_BE_GONE)
    left = set(below or ()) & set(processes())
    assert not left, [(below or {})[process] for process in left]
    return self.process.returncode, output


def processes() -> dict[int, tuple[int, str]]:
  """Id -> (parent's id, command) of all processes here but those that have ended and are not yet reaped."""
  found = {}
  for folder in pathlib.Path("/proc").iterdir():
    if folder.name.isdecimal():
      with contextlib.suppress(OSError):
        state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
        if state != "Z":
          found[int(folder.name)] = int(parent), (folder / "cmdline").read_text().replace("\0", " ")
  return found


def check_same(one: StudyResults, other: StudyResults) -> None:
  """Bit for bit: the trials, what they logged, and what they learned."""
  assert [trial.trial for trial in one.trials] == [trial.trial for trial in other.trials]
  for mine, theirs in zip(one.trials, other.trials, strict=True):
    assert (mine.state, mine.reason, mine.values) == (theirs.state, theirs.reason, theirs.values)
    assert (mine.objective, mine.step) == (theirs.objective, theirs.step)
    assert numbers(mine.folder) == numbers(theirs.folder), mine.trial
    if mine.state == "complete" and (mine.folder / "checkpoints").exists():
      arrays, others = state_of(mine.folder), state_of(theirs.folder)
      assert arrays.keys() == others.keys()
      for name, array in arrays.items():
        np.testing.assert_array_equal(array, others[name], err_msg=f"trial {mine.trial}, {name}")


def ended(folder: pathlib.Path) -> dict[int, bytes]:
  """The records of trials that have ended."""
  found = {}
  for record in read_trials(folder).values():
    if record.state == "complete":
      found[record.trial] = (trial_folder(folder, record.trial) / "trial.json").read_bytes()
  return found


Start = Callable[..., Coordinator]


@pytest.fixture
def start() -> Iterator[Start]:
  """Makes coordinators, of which a test that fails leaves none behind."""
  made: list[Coordinator] = []

  def call(*arguments: Any, **named: Any) -> Coordinator:
    made.append(Coordinator(*arguments, **named))
    return made[-1]

  yield call
  for coordinator in made:
    coordinator.process.kill()
    coordinator.process.communicate()


TRIALS = 6


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  return write_study(tmp_path_factory.mktemp("study") / "study.py", steps=400, trials=TRIALS)


@pytest.fixture(scope="module")
def undisturbed(study_file: pathlib.Path) -> StudyResults:
  results = run_study(study_of(study_file), study_file.parent / "undisturbed", workers=2)
  assert [trial.state for trial in results.trials] == ["complete"] * TRIALS
  assert {trial.attempts for trial in results.trials} == {1}
  return results


@pytest.mark.slow
def test_ten_kills_of_coordinator_and_workers_change_no_bit_of_a_study(
  study_file: pathlib.Path, undisturbed: StudyResults, tmp_path: pathlib.Path, start: Start
):
  rng, folder = random.Random(os.environ.get("TRIALBOOK_KILL_SEED", "study")), tmp_path / "killed"
  done: dict[int, bytes] = {}

  def check_the_ended() -> None:
    now = ended(folder)
    assert {trial: now.get(trial) for trial in done} == done, "a trial that had ended was touched"
    done.update(now)

  killed_workers = 0
  for kill in range(5):
    coordinator = start(study_file, folder)
    coordinator.wait_until(coordinator.running if kill else coordinator.workers)
    time.sleep(rng.uniform(0, 1.5))
    if workers := coordinator.workers():
      os.kill(rng.choice(workers), signal.SIGKILL)
      killed_workers += 1
    time.sleep(rng.uniform(0, 2))
    check_the_ended()
    coordinator.send(signal.SIGKILL)
    check_the_ended()
  assert killed_workers == 5
  coordinator = start(study_file, folder)
  code, output = coordinator.finish()
  assert code == 0, output
  check_the_ended()

  results = read_results(folder)
  assert sorted(done) == list(range(TRIALS))
  check_same(results, undisturbed)
  rows = (folder / "trials.csv").read_text().splitlines()
  assert [row.partition(",")[0] for row in rows] == ["trial", *map(str, range(TRIALS))]
  attempts = [record.attempts for record in read_trials(folder).values()]
  ends = [attempt["end"].partition(":")[0] for each in attempts for attempt in each]
  # A killed worker costs its trial an attempt; a killed coordinator that of each of its two workers.
  assert ends.count("complete") == TRIALS
  assert ends.count("crashed") <= 5
  assert 1 <= ends.count("interrupted") <= 5 * 2
  assert len(ends) == ends.count("complete") + ends.count("crashed") + ends.count("interrupted")
  sessions = json.loads((folder / "study.json").read_text())["sessions"]
  assert [session["finished"] is None for session in sessions] == [True] * 5 + [False]


def last_step(folder: pathlib.Path) -> int:
  """The last step that a trial has logged; 0 if none."""
  lines = numbers(folder)
  return lines[-1]["step"] if lines else 0


def advanced(coordinator: Coordinator, before: dict[int, int]) -> set[int]:
  """Trials that run and have come further than they were."""
  running = {record.trial for record in coordinator.running()}
  return {trial for trial in running if last_step(trial_folder(coordinator.folder, trial)) > before[trial]}


@pytest.mark.slow
def test_a_study_stops_at_ctrl_c_or_sigterm_saves_and_goes_on(
  study_file: pathlib.Path, undisturbed: StudyResults, tmp_path: pathlib.Path, start: Start
):
  folder = tmp_path / "stopped"
  saved: set[int] = set()
  for number in (signal.SIGINT, signal.SIGTERM):
    before = {trial: last_step(trial_folder(folder, trial)) for trial in range(4)}
    coordinator = start(study_file, folder, trials=4)
    if not saved:
      coordinator.wait_until(coordinator.workers)
      code, output = start(study_file, folder, trials=4).finish()
      assert code == 2, output
      assert f"in use: process {coordinator.process.pid}" in output
    trained: set[int] = set()
    coordinator.wait_until(lambda: trained.update(advanced(coordinator, before)) or trained)  # noqa: B023
    code, output = coordinator.send(number)
    assert code == 130, output
    assert "the same command goes on" in output
    assert "Traceback" not in output
    stopped = [record for record in read_trials(folder).values() if record.state == "stopped"]
    assert 1 <= len(stopped) <= 2
    assert not [trial for trial in read_results(folder).trials if trial.state == "running"]
    assert {record.trial for record in stopped} & trained
    for record in stopped:
      if record.trial in trained:
        saved.add(record.trial)
        assert newest_step(trial_folder(folder, record.trial)) > 0
      assert record.attempts[-1]["end"].startswith("interrupted")
  done = ended(folder)
  results = run_study(study_of(study_file), folder, workers=2, trials=4)
  assert ended(folder).items() >= done.items()
  check_same(results, dataclasses.replace(undisturbed, trials=undisturbed.trials[:4]))
  for trial in saved:
    run = json.loads((trial_folder(folder, trial) / "run.json").read_text())
    assert run["earlier"], "it did not go on, but began again"


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
  """A file system of 7 MiB, which `remount` enlarges."""
  small = tmp_path / "small"
  small.mkdir()
  mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=7m", "tmpfs", str(small)], capture_output=True)
  if mounted.returncode:
    pytest.skip("a small file system of its own cannot be mounted here")
  try:
    yield small
  finally:
    subprocess.run(["umount", str(small)], check=True)


def check_full(code: int, output: str) -> None:
  assert code == 2, output
  assert output.count("No space left on device") == 1, output
  assert "make room and give the same command again" in output
  assert "Traceback" not in output


@pytest.mark.slow
def test_a_full_disk_stops_trainings_with_one_message_and_they_go_on_with_more_room(
  tmp_path: pathlib.Path, small_disk: pathlib.Path, start: Start
):
  study = write_study(tmp_path / "study.py", steps=50, trials=4, widths="[(300, 200)]")
  whole = run_study(study_of(study), tmp_path / "whole", workers=1)
  folder = small_disk / "study"
  check_full(*start(study, folder).finish())
  before = {trial.trial: trial.state for trial in read_results(folder).trials}
  assert set(before.values()) <= {"complete", "running", "stopped"}
  assert set(before.values()) > {"complete"}
  done = ended(folder)
  subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
  code, output = start(study, folder, workers=1).finish()
  assert code == 0, output
  assert ended(folder).items() >= done.items()
  check_same(read_results(folder), whole)
  ends = [attempt["end"] for record in read_trials(folder).values() for attempt in record.attempts]
  assert not [end for end in ends if end.startswith("crashed")], "a full disk is no trial's fault"


@pytest.mark.slow
def test_a_full_disk_stops_a_study_of_a_function_and_no_call_counts_against_it(
  tmp_path: pathlib.Path, small_disk: pathlib.Path, start: Start, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setenv("TUNED_FOLDER", str(small_disk))
  study, folder = tmp_path / "study.py", small_disk / "study"
  study.write_text(FUNCTION)
  check_full(*start(study, folder, workers=1).finish())
  (small_disk / "ballast").unlink()
  (small_disk / "room was made").touch()
  code, output = start(study, folder, workers=1).finish()
  assert code == 0, output
  trials = read_results(folder).trials
  assert [trial.state for trial in trials] == ["complete", "complete", "infeasible"]
  assert trials[0].attempts == 1
  ends = [re.split(":", attempt["end"])[0] for attempt in read_trials(folder)[1].attempts]
  assert ends == ["interrupted", "complete"]
