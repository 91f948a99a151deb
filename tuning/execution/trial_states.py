"""The records of a trial that was started, interrupted or refused, or that has crashed.

The coordinator of a study writes these without running a trial, so nothing here imports jax.
"""

import dataclasses
import pathlib
import time

from trialbook.errors import UserError
from trialbook.launch.supervisor import newest_step
from trialbook.tuning.records import CRASHED, State, TrialRecord


class StudyError(UserError):
  """A problem of the study and not of a trial: no trial of it can be run."""


class MistakeError(Exception):
  """A mistake in the user's function, plug-in or config that one trial shows, and perhaps no other.

  Attributes:
    kind: the same for the same mistake in other trials, whatever their values.
  """

  def __init__(self, reason: str, kind: str):
    self.kind = kind
    super().__init__(reason)


MISTAKE = "mistake"
"""Entry of a trial record's summary: the kind of the mistake by which the trial ended."""


@dataclasses.dataclass(frozen=True)
class Cost:
  """The time that a few steps took.

  Attributes:
    step_seconds: one training step, its data included.
    evaluation_seconds: one evaluation of all splits.
    compilation_seconds: to trace and compile, or to read from the cache.
  """

  step_seconds: float
  evaluation_seconds: float
  compilation_seconds: float


def crashed(folder: pathlib.Path, record: TrialRecord, cause: str, max_attempts: int) -> TrialRecord:
  """Return the record after an attempt that ended for no known reason: to be tried again, or failed."""
  record = ended(record, "pending", None, f"{CRASHED}: {cause}", newest_step(folder))
  if record.crashes >= max_attempts:
    return dataclasses.replace(record, state="failed", reason=f"crashed {record.crashes} times; the last: {cause}")
  return record


def mistaken(record: TrialRecord, state: State, reason: str, kind: str) -> TrialRecord:
  """Return the record after an attempt that ended by a mistake, which another attempt would repeat."""
  record = ended(record, state, reason)
  return dataclasses.replace(record, summary={**record.summary, MISTAKE: kind})


def interrupted(record: TrialRecord, cause: str) -> TrialRecord:
  """Return the record of a trial whose process was taken away: it resumes later, and nothing counts against it."""
  return ended(record, "stopped", cause, f"interrupted: {cause}")


def started(record: TrialRecord, worker: str) -> TrialRecord:
  """Return the record of a trial that is handed to a worker."""
  attempt = {"worker": worker, "started": time.time(), "finished": None, "end": None, "checkpoint": None}
  summary = {name: value for name, value in record.summary.items() if name != MISTAKE}
  return dataclasses.replace(
    record, state="running", reason=None, attempts=(*record.attempts, attempt), summary=summary
  )


def refused(record: TrialRecord, reason: str) -> TrialRecord:
  """Return the record of a trial that is not started because no run can have its values."""
  return dataclasses.replace(record, state="infeasible", reason=f"refused: {reason}")


def ended(
  record: TrialRecord, state: State, reason: str | None, end: str | None = None, checkpoint: int | None = None
) -> TrialRecord:
  """Return the record after an attempt that ended as `end` says (None: as the state), at the step of a checkpoint."""
  attempts = list(record.attempts)
  if attempts:
    attempts[-1] = {**attempts[-1], "finished": time.time(), "end": end or state, "checkpoint": checkpoint}
  return dataclasses.replace(record, state=state, reason=reason, attempts=tuple(attempts))
