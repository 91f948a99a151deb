"""States are saved by steps and by time between evaluations too, on all hosts after the same step."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tiny import mlp, numbers, state_of

from trialbook.errors import ConfigError
from trialbook.trainer import Guard, Programs, run
from trialbook.trainer.between_evaluations import BetweenEvaluations
from trialbook.trainer.checkpoints.storage import Saver, saved_steps
from trialbook.trainer.config import Checkpointing
from trialbook.trainer.hosts.joining import Hosts

AHEAD = 4  # Steps that are dispatched before the first of them is made.


@dataclasses.dataclass
class Job:
  """Simulated hosts that make steps of a given duration, each with a clock of its own that is off by some seconds."""

  seconds_of: Callable[[int], float]
  every_seconds: float | None = None
  every_steps: int | None = None
  num_hosts: int = 2

  def saves(self, steps: int) -> tuple[list[tuple[int, float]], int]:
    """Return step and time of each save, and how many times the hosts asked the lead."""
    time, questions = [0.0], [0]
    job = self

    class Host(Hosts):
      def exchange(self, name: str, value: Any, seconds: float | None = None) -> list[Any]:
        questions[0] += self.is_lead
        assert (value is None) == (not self.is_lead)
        return [time[0] - job.started, *[None] * (self.count - 1)]

    config = Checkpointing(every_seconds=self.every_seconds, every_steps=self.every_steps)
    hosts = [
      BetweenEvaluations(config, Host(index=i, count=self.num_hosts), 0, now=lambda i=i: time[0] + 1000 * i)
      for i in range(self.num_hosts)
    ]
    self.started, found = 0.0, []
    for step in range(1, steps + 1):
      time[0] += self.seconds_of(step) if step > AHEAD else 0.0
      looks = {host.next_look(step - 1) for host in hosts}
      assert len(looks) == 1, "hosts look after different steps"
      if step < looks.pop():
        continue
      due = {host.is_due(step) for host in hosts}
      assert len(due) == 1, "hosts do not save after the same step"
      if due.pop():
        found.append((step, time[0] - self.started))
        self.started = time[0]
        for host in hosts:
          host.restart(step)
    return found, questions[0]


@pytest.mark.parametrize("seconds", [0.002, 0.1, 7.0])
def test_saves_by_time_come_when_the_time_is_up_at_any_rate(seconds: float):
  saves, questions = Job(lambda step: seconds, every_seconds=90.0).saves(int(400 / seconds))
  assert len(saves) == 4
  assert all(90 <= elapsed <= 90 + 2 * seconds for _, elapsed in saves)
  # From one step after the last save to halfway, and from there to the time.
  assert questions <= 5 * (2 * np.log2(90 / seconds) + 3)


def test_steps_that_become_slower_delay_a_save_by_half_of_the_time_at_most():
  saves, _ = Job(lambda step: 0.1 if step < 300 else 1.0, every_seconds=60.0).saves(1000)
  assert saves
  assert all(elapsed <= 60 + 10 for _, elapsed in saves[1:])
  # Halfway at the old rate is as far as a look can be.
  assert saves[0][1] <= 60 + 5 * 60


def test_after_an_evaluation_the_next_look_is_after_another_step():
  # An evaluated state is saved where a checkpoint is due, and not because of the clock.
  between = BetweenEvaluations(Checkpointing(every_seconds=10.0), Hosts(), 0, now=lambda: 100.0)
  assert between.next_look(0) == 1
  assert between.next_look(1) == 2


def test_saves_by_steps_come_after_each_multiple_and_need_no_question():
  saves, questions = Job(lambda step: 1.0, every_steps=7).saves(30)
  assert [step for step, _ in saves] == [7, 14, 21, 28]
  assert questions == 0


class Killed(Guard):
  """A guard in whose process the power fails before a step."""

  def __init__(self, at: int):
    super().__init__()
    self._polls, self._at = 0, at

  def poll(self) -> bool:
    self._polls += 1
    if self._polls == self._at:
      raise KeyboardInterrupt
    return super().poll()


@pytest.mark.parametrize("between", [{"every_steps": 7}, {"every_seconds": 1e-6}])
def test_a_run_that_dies_goes_on_from_what_was_saved_between_evaluations_to_the_same_end(
  tmp_path: pathlib.Path, programs: Programs, between: dict[str, Any]
):
  changes = {"max_train_steps": 30, "evaluation.every_steps": 25, "evaluation.train_examples": 0}
  config = mlp().override({**changes, "checkpointing.every_seconds": None})
  run(config, tmp_path / "undisturbed", programs=programs)
  saving = config.override({f"checkpointing.{name}": value for name, value in between.items()})
  with pytest.raises(KeyboardInterrupt):
    run(saving, tmp_path / "run", programs=programs, guard=Killed(at=18))
  saved = saved_steps(tmp_path / "run" / "checkpoints")
  # That of step 0 is evaluated; of those between evaluations the newest stays.
  assert saved == [0, 14 if "every_steps" in between else saved[-1]]
  assert saved[-1] >= 14
  lines = numbers(tmp_path / "run")
  assert [line["step"] for line in lines][-1] >= saved[-1], "what is saved is ahead of the records"
  run(saving, tmp_path / "run", programs=programs)
  assert numbers(tmp_path / "run") == numbers(tmp_path / "undisturbed")
  states = state_of(tmp_path / "run"), state_of(tmp_path / "undisturbed")
  for name, array in states[1].items():
    np.testing.assert_array_equal(states[0][name], array, err_msg=name)
  assert saved_steps(tmp_path / "run" / "checkpoints") == saved_steps(tmp_path / "undisturbed" / "checkpoints")


def test_a_multiple_of_the_steps_that_falls_on_an_evaluation_is_saved(tmp_path: pathlib.Path, programs: Programs):
  changes = {"max_train_steps": 40, "evaluation.every_steps": 10, "evaluation.train_examples": 0}
  rare = {"checkpointing.every_evaluations": 4, "checkpointing.every_steps": 20, "checkpointing.keep_latest": 9}
  run(mlp().override(changes | rare), tmp_path, programs=programs)
  assert saved_steps(tmp_path / "checkpoints") == [0, 20, 40]


def test_steps_between_checkpoints_are_refused_where_there_are_none(tmp_path: pathlib.Path):
  off = {"checkpointing.every_evaluations": 0, "checkpointing.every_steps": 20}
  with pytest.raises(ConfigError, match="every_evaluations = 0 turns checkpoints off; set that to 1 or more"):
    run(mlp().override(off), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_a_state_is_saved_to_the_bit_without_a_copy_on_the_device(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
):
  config = mlp(max_train_steps=40, evaluation__every_steps=10)
  run(config, tmp_path / "copied", programs=programs)
  made = []

  class Direct(Saver):
    def __init__(self, *arguments: Any, **named: Any):
      made.append(super().__init__(*arguments, **named | {"copies_on_device": False}))

  monkeypatch.setattr("trialbook.trainer.start_or_resume.Saver", Direct)
  run(config, tmp_path / "direct", programs=programs)
  assert made
  assert numbers(tmp_path / "direct") == numbers(tmp_path / "copied")
  # Reading them back verifies the checksums, which were computed before the loop went on.
  first, second = (state_of(tmp_path / name) for name in ("direct", "copied"))
  for name, array in second.items():
    np.testing.assert_array_equal(first[name], array, err_msg=name)
  assert run(config, tmp_path / "direct", programs=programs).status == "complete"
