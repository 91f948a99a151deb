"""A run that SIGTERM ends, at any moment, any number of times, ends as if nothing had happened."""

import json
import os
import pathlib
import random
import time

import numpy as np
import pytest
from forked import Forked, New, python
from json_lines import read_json_lines
from tiny import numbers, state_of

from trialbook import errors

# It takes tenths of a second, and more on a busy machine; clouds give half a minute.
SECONDS_TO_LEAVE = 15.0
# The signal comes from inside, so its moment is exact.
EXPERIMENT = """
import os, pathlib, signal, sys, time
sys.path.insert(0, {tests!r})
import tiny
from trialbook.trainer import train
from trialbook.trainer.hosts import shutdown_guard
from trialbook.trainer.hosts.shutdown_guard import Guard

moment, number = os.environ.get("MOMENT", "never"), int(os.environ.get("NUMBER", "0"))
counts = dict(training=0, evaluating=0, any=0)
phase = "training"

def poll(self, before=Guard.poll):
  for name in (phase, "any"):
    counts[name] += 1
    if moment == name and counts[name] == number:
      pathlib.Path({folder!r}, "sent").write_text(str(time.time()))
      os.kill(os.getpid(), signal.SIGTERM)
      while moment == "evaluating" and self.cause is None:
        time.sleep(0.001)
  return before(self)

def evaluate(*arguments, before=train.evaluate, **named):
  global phase
  phase = "evaluating"
  try:
    return before(*arguments, **named)
  finally:
    phase = "training"

Guard.poll, train.evaluate = poll, evaluate

def get_config():
  return tiny.mlp(**{changes!r})
"""
CHANGES = {
  "optimizer__name": "adam",
  "schedule__warmup_steps": 50,
  "averaging__decay": 0.9,
  "max_train_steps": 420,
  "evaluation__every_steps": 60,
  "evaluation__batch_size": 4,
  "logging__every_steps": 25,
}


class Runs:
  """Runs of one experiment.

  Attributes:
    folder: of everything.
    output: of the last command.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder, self._experiment = folder, folder / "experiment.py"
    tests = str(pathlib.Path(__file__).parent)
    self._experiment.write_text(EXPERIMENT.format(tests=tests, folder=str(folder), changes=CHANGES))
    self.output = ""

  def train(self, name: str, moment: str = "never", number: int = 0, *flags: str) -> int:
    """As the command does, with SIGTERM at the `number`-th poll of a kind; returns the exit code."""
    return self._run(Forked, name, moment, number, *flags)

  def command(self, name: str, moment: str, number: int, *flags: str) -> int:
    """As `train`, by a new interpreter."""
    return self._run(New, name, moment, number, *flags)

  def _run(self, start: type[Forked], name: str, moment: str, number: int, *flags: str) -> int:
    path, sent = self.folder / f"{name}.txt", self.folder / "sent"
    sent.unlink(missing_ok=True)
    arguments = ["-m", "trialbook", "train", f"--config={self._experiment}", f"--workdir={self.folder / name}", *flags]
    environment = {**os.environ, "MOMENT": moment, "NUMBER": str(number)}
    code, self.output = python(arguments, path, start, environment=environment)
    if sent.exists():
      assert time.time() - float(sent.read_text()) < SECONDS_TO_LEAVE
    return code

  def record(self, name: str, file: str = "run.json") -> dict:
    return json.loads((self.folder / name / file).read_text())

  def last_line(self, name: str) -> dict:
    return read_json_lines(self.folder / name / "metrics.jsonl")[-1]

  def assert_same(self, one: str, other: str) -> None:
    assert numbers(self.folder / one) == numbers(self.folder / other)
    first, second = state_of(self.folder / one), state_of(self.folder / other)
    assert first.keys() == second.keys()
    for name, array in first.items():
      np.testing.assert_array_equal(array, second[name], err_msg=name)
    assert self.record(one, "best.json") == self.record(other, "best.json")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
  made = Runs(tmp_path_factory.mktemp("preempted"))
  assert made.train("undisturbed") == 0, made.output
  assert made.record("undisturbed")["status"] == "complete"
  return made


@pytest.mark.long
def test_runs_that_are_preempted_at_random_moments_change_no_bit_of_the_end(runs: Runs):
  rng = random.Random(os.environ.get("TRIALBOOK_KILL_SEED", 0))
  code = runs.command("often", "training", rng.randrange(20, 100))
  moments = ["evaluating", "any", "training"]
  extended = 0
  for moment in moments:
    assert code == errors.TRY_AGAIN, runs.output
    assert "Traceback" not in runs.output
    record, last = runs.record("often"), runs.last_line("often")
    step = record["step"]
    assert (record["status"], record["reason"]) == ("preempted", "received SIGTERM")
    assert f"received SIGTERM: stopped at step {step}; step {step} is saved" in runs.output
    assert last["step"] == step
    end = runs.record("often", "logs/host_0.exit.json")
    assert (end["code"], end["host"]) == (errors.TRY_AGAIN, 0)
    extended += step % 60 == 0 and "validation/loss" not in last
    code = runs.train("often", moment, rng.randrange(1, 90 if moment == "training" else 80))
    assert f"continues from the checkpoint of step {step}" in runs.output
  assert extended > 0, "no evaluation was interrupted"
  if code == errors.TRY_AGAIN:
    code = runs.train("often")
  assert code == 0, runs.output
  runs.assert_same("often", "undisturbed")
  record = runs.record("often")
  assert record["status"] == "complete"
  assert [earlier["status"] for earlier in record["earlier"]][: len(moments)] == ["preempted"] * len(moments)


@pytest.mark.slow
def test_a_run_that_is_preempted_in_each_of_its_evaluations_changes_no_bit_of_the_end(runs: Runs):
  # Batches of an evaluation: 64 / 4 of the subset, then 250 / 4 of validation.
  for number, step in ((8, 0), (16 + 40, 0), (79 + 20, 60)):
    assert runs.train("evaluations", "evaluating", number) == errors.TRY_AGAIN, runs.output
    assert runs.record("evaluations")["step"] == step, runs.output
    assert (runs.folder / "evaluations" / "checkpoints" / "60").exists() == (step == 60)
  assert runs.last_line("evaluations")["step"] == 60
  assert "validation/loss" not in runs.last_line("evaluations")
  assert runs.train("evaluations") == 0, runs.output
  runs.assert_same("evaluations", "undisturbed")


@pytest.mark.slow
def test_a_run_that_is_preempted_at_step_0_saves_nothing_and_starts_again(runs: Runs):
  assert runs.train("at once", "evaluating", 2) == errors.TRY_AGAIN, runs.output
  assert runs.record("at once")["step"] == 0
  assert runs.record("at once")["status"] == "preempted"
  assert "stopped at step 0; nothing is saved" in runs.output
  assert not list((runs.folder / "at once" / "checkpoints").iterdir())
  assert runs.train("at once") == 0, runs.output
  assert "starts from the beginning" in runs.output
  runs.assert_same("at once", "undisturbed")


@pytest.mark.slow
def test_without_checkpoints_a_run_that_is_preempted_starts_again(runs: Runs):
  flags = ("--set=checkpointing.every_evaluations=0",)
  assert runs.train("off", "training", 130, *flags) == errors.TRY_AGAIN, runs.output
  assert runs.record("off")["status"] == "preempted"
  assert "nothing is saved" in runs.output
  assert not list((runs.folder / "off" / "checkpoints").iterdir())
  assert runs.train("off", "never", 0, *flags) == 0, runs.output
  assert "starts from the beginning" in runs.output
  assert numbers(runs.folder / "off") == numbers(runs.folder / "undisturbed")


@pytest.mark.slow
def test_what_a_preemption_saved_between_rare_checkpoints_is_where_the_run_goes_on(runs: Runs):
  flags = ("--set=checkpointing.every_evaluations=5",)
  # To an interpreter as users start it; the next one goes on with another hash seed.
  assert runs.command("rare", "training", 150, *flags) == errors.TRY_AGAIN, runs.output
  step = runs.record("rare")["step"]
  assert step % 60 != 0
  assert runs.train("rare", "evaluating", 100, *flags) == errors.TRY_AGAIN, runs.output
  assert f"continues from the checkpoint of step {step}" in runs.output
  assert runs.train("rare", "never", 0, *flags) == 0, runs.output
  assert "continues from the checkpoint of step 240" in runs.output
  assert numbers(runs.folder / "rare") == numbers(runs.folder / "undisturbed")
  first, second = state_of(runs.folder / "rare"), state_of(runs.folder / "undisturbed")
  for name, array in second.items():
    np.testing.assert_array_equal(first[name], array, err_msg=name)


@pytest.mark.slow
def test_what_a_preemption_saved_where_no_checkpoint_was_due_is_not_selected(runs: Runs):
  flags = ("--set=checkpointing.every_evaluations=2",)
  assert runs.train("due", "never", 0, *flags) == 0, runs.output
  # In the evaluation of step 60, which is saved for the preemption only: 79 batches of an evaluation come before.
  assert runs.train("not due", "evaluating", 79 + 20, *flags) == errors.TRY_AGAIN, runs.output
  assert runs.record("not due")["step"] == 60
  assert runs.train("not due", "never", 0, *flags) == 0, runs.output
  runs.assert_same("not due", "due")
  kept = [sorted(path.name for path in (runs.folder / name / "checkpoints").iterdir()) for name in ("due", "not due")]
  assert kept[0] == kept[1]
