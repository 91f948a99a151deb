"""The progress of a study: a line for each trial that ends, and one with what is left."""

import pathlib
import time
from collections.abc import Sequence

from trialbook.progress import ProgressLine, duration
from trialbook.tuning import tables
from trialbook.tuning.records import CRASHED, FINAL, TrialRecord


class StudyProgress:
  """The progress of a study, printed to standard error.

  Args:
    total: trials of the study.
    enabled: whether anything is printed.
  """

  def __init__(self, total: int, *, enabled: bool):
    self._total, self._line = total, ProgressLine(enabled=enabled)
    self._done, self._ended, self._started = 0, 0, time.monotonic()
    self._values: dict[int, float] = {}
    self._sign = 1

  def begin(self, folder: pathlib.Path, trials: Sequence[TrialRecord], sign: int = 1) -> None:
    """Report that the study starts, or resumes with these trials."""
    self._sign, self._started = sign, time.monotonic()
    for record in trials:
      self._count(record)
    if trials:
      self.note(f"{folder}: resumes; {self._done} of {self._total} trials are done")

  def start(self, estimate: str) -> None:
    """Report that the first trial starts now; `estimate` says how long all of them will take."""
    self.note(estimate)
    self._started = time.monotonic()

  def ended(self, record: TrialRecord) -> None:
    """Report that a trial ended, for good or not."""
    self._ended += record.state in FINAL
    self._count(record)
    self.note(f"trial {record.trial}: {_end(record)}")
    self.tick(0, at_once=True)

  def changed(self, record: TrialRecord) -> None:
    """Report that a trial that had ended counts otherwise now."""
    self._values.pop(record.trial, None)
    self.note(f"trial {record.trial}: {_end(record)}")

  def tick(self, running: int, *, at_once: bool = False) -> None:
    """Redraw the last line on a terminal; elsewhere print it only `at_once`."""
    if not (self._line.is_terminal or at_once):
      return
    found = min(((cost, trial) for trial, cost in self._values.items()), default=None)
    best = "" if found is None else f"  best {tables.number(found[0] * self._sign)} (trial {found[1]})"
    left = ""
    if self._ended and self._done < self._total:
      each = max(time.monotonic() - self._started, 1e-9) / self._ended
      left = f"  {60 / each:.3g} trials/min  {duration(each * (self._total - self._done))} left"
    now = f"  {running} running" if running else ""
    self._line.draw(f"{self._done}/{self._total} trials{now}{best}{left}")

  def note(self, line: str) -> None:
    """Print a line that stays."""
    self._line.note(line)

  def _count(self, record: TrialRecord) -> None:
    self._done += record.state in FINAL
    value = record.summary.get("objective")
    if record.state == "complete" and value is not None and not record.summary.get("uncharacteristic"):
      self._values[record.trial] = self._sign * value


def _end(record: TrialRecord) -> str:
  """Return how a trial ended, in a clause."""
  summary = record.summary
  if record.state == "stopped" and summary.get("step") is not None:
    return f"paused at step {summary['step']} (saved)"
  if record.state == "pending" and record.attempts:
    cause = str(record.attempts[-1].get("end")).removeprefix(f"{CRASHED}: ")
    return f"crashed, and will be tried again: {cause}"
  if record.state == "pruned" and record.reason:
    return record.reason
  unusual = summary.get("uncharacteristic")
  reason = record.reason or unusual
  value = summary.get("objective")
  at = f", {tables.number(value)} at step {summary.get('best_step')}" if value is not None else ""
  return f"{'infeasible' if unusual else record.state}{at}{f': {reason}' if reason else ''}"
