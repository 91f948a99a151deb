"""What becomes of a trial's record when it is started, interrupted, refused or has crashed.

The coordinator of a study writes these without running a trial, so nothing here imports jax.
"""

import dataclasses
import pathlib
import time

from trialbook.errors import UserError
from trialbook.launch.supervisor import newest_step
from trialbook.tuning.records import CRASHED, State, TrialRecord


class StudyError(UserError):
  """What is wrong is the study's and not a trial's: no trial of it can be run."""


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a few steps took.

  Attributes:
    step_seconds: one training step, its data included.
    evaluation_seconds: one evaluation of all splits.
    compilation_seconds: to trace and compile, or to read from the cache.
  """

  step_seconds: float
  evaluation_seconds: float
  compilation_seconds: float


def crashed(folder: pathlib.Path, record: TrialRecord, cause: str, max_attempts: int) -> TrialRecord:
  """The record after an attempt that ended for no known reason: to be tried again, or failed."""
  record = ended(record, "pending", None, f"{CRASHED}: {cause}", newest_step(folder))
  if record.crashes >= max_attempts:
    return dataclasses.replace(record, state="failed", reason=f"crashed {record.crashes} times; the last: {cause}")
  return record


def interrupted(record: TrialRecord, cause: str) -> TrialRecord:
  """The record of a trial whose process was taken away: it goes on later, and nothing counts against it."""
  return ended(record, "stopped", cause, f"interrupted: {cause}")


def started(record: TrialRecord, worker: str) -> TrialRecord:
  """The record of a trial that is handed to a worker."""
  attempt = {"worker": worker, "started": time.time(), "finished": None, "end": None, "checkpoint": None}
  return dataclasses.replace(record, state="running", reason=None, attempts=(*record.attempts, attempt))


def refused(record: TrialRecord, reason: str) -> TrialRecord:
  """The record of a trial that needs not be started: its values can be in no run."""
  return dataclasses.replace(record, state="infeasible", reason=f"refused: {reason}")


def ended(
  record: TrialRecord, state: State, reason: str | None, end: str | None = None, checkpoint: int | None = None
) -> TrialRecord:
  """Return the record after an attempt that ended as `end` says (None: as the state), at the step of a checkpoint."""
  attempts = list(record.attempts)
  if attempts:
    attempts[-1] = {**attempts[-1], "finished": time.time(), "end": end or state, "checkpoint": checkpoint}
  return dataclasses.replace(record, state=state, reason=reason, attempts=tuple(attempts))
