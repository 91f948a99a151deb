"""Runs a study's trials in this process, one after the other: no worker has to start."""

import pathlib
import queue
from collections.abc import Sequence
from typing import Any

from trialbook.errors import UserError
from trialbook.trainer import Programs
from trialbook.tuning import Study
from trialbook.tuning.execution import training, trial
from trialbook.tuning.execution.executor import Ended
from trialbook.tuning.execution.trial_states import Cost
from trialbook.tuning.plan import PlannedTrial
from trialbook.tuning.records import trial_folder


class InProcess:
  """In place of `trialbook.tuning.execution.local_workers.LocalWorkers`."""

  name = "in process"
  count = 1

  def __init__(
    self,
    study: pathlib.Path,
    count: int = 1,
    cores: int = 1,
    devices: int = 1,
    events: "queue.SimpleQueue[Any] | None" = None,
    *,
    in_order: bool = False,
  ):
    self._study, self._programs = study, Programs(capacity=32)
    self.programs: dict[str, int] = {}
    self._trial: int | None = None

  def __enter__(self) -> "InProcess":
    return self

  def __exit__(self, *_: object) -> None:
    return

  def adopt(self, unfinished: Sequence[int]) -> set[int]:
    return set()

  def prepare(self, wanted: int) -> None:
    return

  def measure(self, planned: PlannedTrial) -> Cost | None:
    return training.measure(self._study, planned.changes, self._programs)

  def choose(self, pending: Sequence[PlannedTrial]) -> list[tuple[PlannedTrial, str]]:
    return [] if self._trial is not None else [(planned, "here") for planned in pending[:1]]

  def start(self, chosen: Sequence[tuple[PlannedTrial, str]]) -> None:
    for planned, _ in chosen:
      self._trial = planned.trial

  def wait(self, seconds: float) -> list[Ended]:
    assert self._trial is not None
    ended, self._trial = Ended(self._trial), None
    try:
      trial.run_trial(self._study, trial_folder(self._study, ended.trial), self._programs)
    except UserError as error:
      return [ended._replace(problems=tuple(error.problems))]
    return [ended]

  def stop(self) -> list[Ended]:
    return []


def run_in_process(study: Study, folder: pathlib.Path, events: "queue.SimpleQueue[Any]") -> InProcess:
  """For `run_study(executor=…)`."""
  return InProcess(folder, events=events)
