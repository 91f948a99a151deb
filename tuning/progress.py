"""What a person sees while a study runs: a line for each trial that ends, and one with what is left."""

import pathlib
import sys
import time
from collections.abc import Sequence

from trialbook.tuning import tables
from trialbook.tuning.records import FINAL, TrialRecord


class Progress:
  """Prints to standard error: on a terminal with a last line that is redrawn.

  Args:
    total: trials of the study.
    enabled: whether anything is printed.
  """

  def __init__(self, total: int, *, enabled: bool):
    self._total, self._enabled = total, enabled
    self._terminal = sys.stderr.isatty()
    self._done, self._ended, self._started = 0, 0, time.monotonic()
    self._best: tuple[float, int] | None = None
    self._sign = 1

  def begin(self, folder: pathlib.Path, trials: Sequence[TrialRecord], sign: int = 1) -> None:
    """The study starts, or goes on with these trials."""
    self._sign, self._started = sign, time.monotonic()
    for record in trials:
      self._count(record)
    if trials:
      self.note(f"{folder}: goes on, {self._done} of {self._total} trials have ended")

  def start(self, estimate: str) -> None:
    """The first trial starts now; `estimate` says how long all of them will take."""
    self.note(estimate)
    self._started = time.monotonic()

  def ended(self, record: TrialRecord) -> None:
    """A trial ended, for good or not."""
    self._ended += record.state in FINAL
    self._count(record)
    value = record.summary.get("objective")
    unusual = record.summary.get("uncharacteristic")
    state = "infeasible" if unusual else record.state
    what = f"{tables.number(value)} at step {record.summary.get('best_step')}" if value is not None else ""
    reason = record.reason or unusual or ""
    if record.state == "pending" and record.attempts:
      reason = f"will be tried again: {record.attempts[-1].get('end')}"
    self.note(f"trial {record.trial}: {state}  {what}  {reason}".rstrip())
    self.tick(0, at_once=not self._terminal)

  def tick(self, running: int, *, at_once: bool = False) -> None:
    """Redraws the last line."""
    if not self._enabled or not (self._terminal or at_once):
      return
    best = "" if self._best is None else f"  best {tables.number(self._best[0] * self._sign)} (trial {self._best[1]})"
    left = ""
    if self._ended and self._done < self._total:
      each = max(time.monotonic() - self._started, 1e-9) / self._ended
      left = f"  {60 / each:.3g} trials/min  {tables.duration(each * (self._total - self._done))} left"
    now = f"  {running} running" if running else ""
    line = f"{self._done}/{self._total} trials{now}{best}{left}"
    sys.stderr.write(f"\r\033[K{line}" if self._terminal else f"{line}\n")
    sys.stderr.flush()

  def note(self, line: str) -> None:
    """Prints a line that stays."""
    if self._enabled:
      sys.stderr.write(f"\r\033[K{line}\n" if self._terminal else f"{line}\n")
      sys.stderr.flush()

  def _count(self, record: TrialRecord) -> None:
    self._done += record.state in FINAL
    value = record.summary.get("objective")
    if record.state == "complete" and value is not None and not record.summary.get("uncharacteristic"):
      mine = (self._sign * value, record.trial)
      self._best = mine if self._best is None else min(self._best, mine)
