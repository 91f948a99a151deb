"""A study whose processes are killed at any moment, stopped, or out of disk, ends as if nothing had happened."""

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import forked_commands
import numpy as np
import pytest
from forked import Forked, wait_for
from held import Hold
from tiny import numbers, state_of

from trialbook.launch.supervisor import newest_step
from trialbook.tuning import StudyResults, read_results
from trialbook.tuning.records import read_trials, trial_folder

SECONDS_TO_BE_GONE = 20.0
TRAININGS = """
import os, held, tiny
from trialbook.tuning import Halton, Log, Minimize, OneOf, Study

if "HELD" in os.environ:
  held.install(os.environ["HELD"])

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
from trialbook.tuning import Grid, Minimize, OneOf, Study

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
  path.write_text(TRAININGS.format(steps=steps, trials=trials, widths=widths))
  return path


class Coordinator:
  """`trialbook tune run`, and all processes that it starts; its trainings are held by `Hold(folder.parent)`."""

  def __init__(
    self,
    study: pathlib.Path,
    folder: pathlib.Path,
    workers: int = 2,
    trials: int | None = None,
    by: Callable[..., Forked] = forked_commands.start,
  ):
    self.folder, self.hold = folder, Hold(folder.parent)
    output = study.with_name(f"output_{time.monotonic_ns()}.txt")
    command = ["run", f"--study={study}", f"--dir={folder}", f"--workers={workers}"]
    command += [] if trials is None else [f"--trials={trials}"]
    self.process = by(*command, output=output, HELD=str(folder.parent))

  def workers(self) -> list[int]:
    """Ids of the worker processes."""
    return [
      process
      for process, command in self.descendants().items()
      if "from trialbook.tuning.execution.worker import main" in command
    ]

  def descendants(self) -> dict[int, str]:
    """Ids and commands of all processes below this one."""
    found, parents = {}, {self.process.pid}
    table = processes()
    while parents:
      below = {process: command for process, (parent, command) in table.items() if parent in parents}
      found |= below
      parents = set(below)
    return found

  def wait_until(self, condition: Callable[[], object]) -> None:
    wait_for(lambda: self.process.poll() is not None or condition())
    assert self.process.poll() is None, self.process.text()

  def held(self, count: int) -> list[int]:
    """Ids of its workers that wait at the place that is held, once there are so many."""
    found: list[int] = []

    def look() -> bool:
      found[:] = self.hold.waiting().keys() & processes().keys()
      return len(found) == count

    self.wait_until(look)
    return found

  def send(self, number: signal.Signals) -> tuple[int, str]:
    """Sends a signal; returns exit code and output, once it and all that it had started are gone."""
    below = self.descendants()
    self.process.send(number)
    return self.finish(below)

  def finish(self, below: dict[int, str] | None = None) -> tuple[int, str]:
    """Exit code and output, once it and all that it had started are gone."""
    code = self.process.wait()
    with contextlib.suppress(AssertionError):
      wait_for(lambda: not set(below or ()) & set(processes()), SECONDS_TO_BE_GONE)
    left = set(below or ()) & set(processes())
    assert not left, [(below or {})[process] for process in left]
    return code, self.process.text()


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


def whole(study: pathlib.Path, folder: pathlib.Path, workers: int = 2) -> StudyResults:
  """The undisturbed study, by new interpreters."""
  command = ["run", f"--study={study}", f"--dir={folder}", f"--workers={workers}"]
  process = forked_commands.start_new(*command, output=study.with_name("whole.txt"))
  assert process.wait() == 0, process.text()
  results = read_results(folder)
  assert {trial.state for trial in results.trials} == {"complete"}
  assert {trial.attempts for trial in results.trials} == {1}
  return results


STEPS, TRIALS = 40, 4


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  return write_study(tmp_path_factory.mktemp("study") / "study.py", steps=STEPS, trials=TRIALS)


@pytest.fixture(scope="module")
def undisturbed(study_file: pathlib.Path) -> StudyResults:
  return whole(study_file, study_file.parent / "undisturbed")


class Ended:
  """Trials that have ended, which nothing may touch any more."""

  def __init__(self, folder: pathlib.Path):
    self._folder, self.done = folder, dict[int, bytes]()

  def check(self) -> None:
    now = ended(self._folder)
    assert {trial: now.get(trial) for trial in self.done} == self.done, "a trial that had ended was touched"
    self.done |= now


def check_killed(folder: pathlib.Path, undisturbed: StudyResults, crashes: int, interruptions: int) -> None:
  """That a study came to the undisturbed end, and what the kills cost at most."""
  results = read_results(folder)
  check_same(results, undisturbed)
  trials = len(results.trials)
  rows = (folder / "trials.csv").read_text().splitlines()
  assert [row.partition(",")[0] for row in rows] == ["trial", *map(str, range(trials))]
  attempts = [record.attempts for record in read_trials(folder).values()]
  ends = Counter(attempt["end"].partition(":")[0] for each in attempts for attempt in each)
  assert ends.keys() <= {"complete", "crashed", "interrupted"}
  assert ends["complete"] == trials
  assert ends["crashed"] <= crashes
  assert 1 <= ends["interrupted"] <= interruptions


@pytest.mark.slow
def test_kills_of_coordinator_and_workers_in_each_phase_change_no_bit_of_a_study(
  study_file: pathlib.Path, undisturbed: StudyResults, tmp_path: pathlib.Path, start: Start
):
  folder = tmp_path / "killed"
  hold, done = Hold(tmp_path), Ended(folder)

  def kill_one(workers: list[int]) -> None:
    os.kill(workers[0], signal.SIGKILL)

  # A worker while it measures the cost, and the coordinator when both have a trial, before the first checkpoint.
  hold.at("compiling")
  coordinator = start(study_file, folder)
  kill_one(coordinator.held(1))
  coordinator.held(2)
  coordinator.send(signal.SIGKILL)
  assert {record.state for record in read_trials(folder).values()} == {"running"}
  # A worker at a step, and the coordinator when another one has come to it.
  hold.at("step", 20)
  coordinator = start(study_file, folder)
  workers = coordinator.held(2)
  kill_one(workers)
  coordinator.wait_until(lambda: set(coordinator.held(2)) != set(workers))
  coordinator.send(signal.SIGKILL)
  # Both at the same time, with checkpoints that are written and have no name.
  hold.at("committing", 24)
  coordinator = start(study_file, folder)
  kill_one(coordinator.held(2))
  coordinator.send(signal.SIGKILL)
  # The coordinator, of trials that ended while it could not hear of it.
  hold.at("evaluating", STEPS)
  coordinator = start(study_file, folder)
  coordinator.held(2)
  coordinator.process.send(signal.SIGSTOP)
  hold.release()
  coordinator.wait_until(lambda: len(ended(folder)) == 2)
  coordinator.send(signal.SIGKILL)
  done.check()
  assert len(done.done) == 2
  # A worker only, of a trial (to measure one takes ten steps): the coordinator goes on to the end.
  hold.at("evaluating", 16)
  coordinator = start(study_file, folder)
  kill_one(coordinator.held(2))
  hold.release()
  code, output = coordinator.finish()
  assert code == 0, output
  done.check()
  assert sorted(done.done) == list(range(TRIALS))
  check_killed(folder, undisturbed, crashes=3, interruptions=6)
  sessions = json.loads((folder / "study.json").read_text())["sessions"]
  assert [session["finished"] is None for session in sessions] == [True] * 4 + [False]


@pytest.mark.slow
def test_no_worker_outlives_a_coordinator_that_is_killed(
  study_file: pathlib.Path, tmp_path: pathlib.Path, start: Start
):
  # All new interpreters, as users have them.
  coordinator = start(study_file, tmp_path / "study", by=forked_commands.start_new)
  coordinator.wait_until(lambda: len(coordinator.workers()) == 2 and any(tmp_path.glob("study/trials/*/run.json")))
  code, output = coordinator.send(signal.SIGKILL)
  assert code == -signal.SIGKILL, output


@pytest.mark.slow
@pytest.mark.long
def test_ten_kills_of_coordinator_and_workers_at_random_places_change_no_bit_of_a_study(
  tmp_path: pathlib.Path, start: Start
):
  rng, folder, steps, trials = (
    random.Random(os.environ.get("TRIALBOOK_KILL_SEED", "study")),
    tmp_path / "killed",
    400,
    6,
  )
  study = write_study(tmp_path / "study.py", steps, trials)
  undisturbed = whole(study, tmp_path / "undisturbed")
  hold, done = Hold(tmp_path), Ended(folder)
  for _ in range(5):
    coordinator = start(study, folder)
    for is_worker in (True, False):
      # No trial can end before the place of a last evaluation, and so no study.
      hold.at(
        *rng.choice(
          [
            ("compiling", 0),
            ("restoring", 0),
            *(("step", rng.randrange(steps)) for _ in range(4)),
            ("committing", rng.randrange(steps)),
            ("evaluating", steps),
          ]
        )
      )
      coordinator.wait_until(lambda coordinator=coordinator: hold.waiting().keys() & {*coordinator.workers()})
      done.check()
      if is_worker:
        os.kill(rng.choice(coordinator.workers()), signal.SIGKILL)
      else:
        coordinator.send(signal.SIGKILL)
      done.check()
  hold.release()
  coordinator = start(study, folder)
  code, output = coordinator.finish()
  assert code == 0, output
  done.check()
  assert sorted(done.done) == list(range(trials))
  # A killed worker costs its trial an attempt; a killed coordinator that of each of its two workers.
  check_killed(folder, undisturbed, crashes=5, interruptions=10)
  sessions = json.loads((folder / "study.json").read_text())["sessions"]
  assert [session["finished"] is None for session in sessions] == [True] * 5 + [False]


@pytest.mark.slow
def test_a_study_stops_at_ctrl_c_or_sigterm_saves_and_goes_on(
  study_file: pathlib.Path, undisturbed: StudyResults, tmp_path: pathlib.Path, start: Start
):
  folder, hold = tmp_path / "stopped", Hold(tmp_path)
  for number, step in ((signal.SIGINT, 12), (signal.SIGTERM, 20)):
    hold.at("step", step)
    coordinator = start(study_file, folder)
    coordinator.held(2)
    if number == signal.SIGINT:
      code, output = start(study_file, folder).finish()
      assert code == 2, output
      assert f"in use by process {coordinator.process.pid}" in output
    code, output = coordinator.send(number)
    assert code == 130, output
    assert "rerun the same command to resume" in output
    assert "Traceback" not in output
    stopped = [record for record in read_trials(folder).values() if record.state == "stopped"]
    assert len(stopped) == 2
    assert not [trial for trial in read_results(folder).trials if trial.state == "running"]
    for record in stopped:
      assert newest_step(trial_folder(folder, record.trial)) >= step
      assert record.attempts[-1]["end"].startswith("interrupted")
  hold.release()
  code, output = start(study_file, folder).finish()
  assert code == 0, output
  check_same(read_results(folder), undisturbed)
  for trial in (record.trial for record in stopped):
    run = json.loads((trial_folder(folder, trial) / "run.json").read_text())
    assert len(run["earlier"]) == 2, "it did not go on, but began again"


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
  assert "Free some space and rerun the same command" in output
  assert "Traceback" not in output


@pytest.mark.long
def test_a_full_disk_stops_trainings_with_one_message_and_they_go_on_with_more_room(
  tmp_path: pathlib.Path, small_disk: pathlib.Path, start: Start
):
  study = write_study(tmp_path / "study.py", steps=50, trials=4, widths="[(300, 200)]")
  code, output = start(study, tmp_path / "whole", workers=1).finish()
  assert code == 0, output
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
  check_same(read_results(folder), read_results(tmp_path / "whole"))
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
