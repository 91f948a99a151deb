"""The autopilot, whose stages are procedures and studies, is killed or stopped at any moment and repeats no trial."""

import json
import os
import pathlib
import random
import signal
from collections.abc import Iterator

import forked_commands
import pytest
import tiny
from forked import Forked, wait_for
from in_process import InProcess
from json_lines import read_json_lines

from trialbook.files import read_json
from trialbook.tuning import Grid, Integer, Minimize, Study, read_results
from trialbook.tuning.execution.coordinator import run_study
from trialbook.tuning.records import read_trials

EXPERIMENT = """
import tiny

def get_config():
  return tiny.mlp(max_train_steps=20, evaluation__every_steps=10)
"""
BUDGET = 20 * 34
FLAGS = (f"--steps={BUDGET}", "--skip=batch-size,max-steps,stability")
STUDIES = ("0_baseline/*", "3_round_*/study", "4_adopt/*", "5_finish/*")


class Flights:
  """Calls of the autopilot in one folder, the processes of which a test that fails leaves none behind."""

  def __init__(self, folder: pathlib.Path):
    self.folder, self.process = folder / "autopilot", None
    self._experiment = folder / "experiment.py"
    self._experiment.write_text(EXPERIMENT)
    self._calls = 0

  def start(self) -> Forked:
    """Start a call."""
    self._calls += 1
    output = self.folder.parent / f"output_{self._calls}.txt"
    flags = (f"--config={self._experiment}", f"--dir={self.folder}", *FLAGS)
    self.process = forked_commands.start("autopilot", *flags, output=output)
    return self.process

  def trials(self) -> dict[str, bytes]:
    """Return the records of all trials that have ended, by their folders."""
    found = {}
    for pattern in STUDIES:
      for study in self.folder.glob(pattern):
        if (study / "study.json").exists():
          for record in read_trials(study).values():
            path = study / "trials" / f"{record.trial:04d}" / "trial.json"
            if record.state in ("complete", "infeasible") and path.exists():
              found[str(path.relative_to(self.folder))] = path.read_bytes()
    return found

  def interrupt(self, after: int, how: signal.Signals) -> dict[str, bytes]:
    """Start a call and end it once so many trials have ended; return their records."""
    process = self.start()
    wait_for(lambda: process.poll() is not None or len(self.trials()) >= after)
    assert process.poll() is None, process.text()
    process.send(how)
    code = process.wait()
    assert code == (130 if how == signal.SIGINT else -how), process.text()
    if how == signal.SIGINT:
      assert "rerun the same command to resume" in process.text()
    return self.trials()


@pytest.fixture
def flights(tmp_path: pathlib.Path) -> Iterator[Flights]:
  made = Flights(tmp_path)
  yield made
  if made.process is not None:
    made.process.kill()


def check(flights: Flights, interruptions: list[tuple[int, signal.Signals]]) -> None:
  """Interrupt the autopilot so often, let it end, and check that no trial that had ended was touched."""
  done: dict[str, bytes] = {}
  for after, how in interruptions:
    now = flights.interrupt(after, how)
    assert {path: now.get(path) for path in done} == done, "a trial that had ended was touched"
    done = now
  process = flights.start()
  assert process.wait() == 0, process.text()
  now = flights.trials()
  assert {path: now.get(path) for path in done} == done, "a trial that had ended was touched"
  found = read_json(flights.folder / "conclusion.json") or {}
  assert found["changes"] is not None
  assert found["numbers"]["spent"] <= BUDGET
  # Each trial has ended once, whatever came in between.
  for record in now.values():
    ends = [attempt["end"] for attempt in json.loads(record)["attempts"]]
    assert sum(end == "complete" or end.startswith("infeasible") for end in ends) == 1, ends
  assert len(read_json_lines(flights.folder / "test_looks.jsonl")) == 1
  book = (flights.folder / "logbook.md").read_text()
  assert "Finished" in book.splitlines()[2]
  assert "## 1. baseline" in book


@pytest.mark.long
def test_the_autopilot_stopped_and_killed_in_its_stages_repeats_no_finished_trial(flights):
  check(flights, [(7, signal.SIGKILL), (20, signal.SIGINT)])


@pytest.mark.evidence
def test_the_autopilot_killed_at_random_moments_repeats_no_finished_trial(flights):
  rng = random.Random("autopilot")
  places = sorted(rng.sample(range(1, 30), 8))
  check(flights, [(place, rng.choice((signal.SIGKILL, signal.SIGINT))) for place in places])


def test_a_signal_that_comes_when_a_study_has_ended_ends_the_procedure_too(tmp_path):
  class LateSignal(InProcess):
    """Receives Ctrl-C while its workers leave, after the last trial."""

    def __exit__(self, *_: object) -> None:
      os.kill(os.getpid(), signal.SIGINT)

  study = Study(
    name="one",
    goal="Does it end?",
    objective=Minimize("validation/error"),
    config=tiny.mlp(),
    nuisance={"seed": Integer(1, 2)},
    search=Grid(per_dimension=2),
  )
  with pytest.raises(KeyboardInterrupt):
    run_study(study, tmp_path / "study", executor=lambda _, folder, events: LateSignal(folder, events=events))
  assert {trial.state for trial in read_results(tmp_path / "study").trials} == {"complete"}
