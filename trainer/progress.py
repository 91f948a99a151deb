"""The progress of a run: one line with rate and time left, and a line for each evaluation."""

import time
from collections.abc import Callable

from trialbook.progress import ProgressLine, duration


class RunProgress:
  """The progress of a run, printed to standard error.

  Args:
    total: steps of the run.
    enabled: whether anything is printed.
  """

  def __init__(self, total: int, *, enabled: bool):
    self._total, self._line = total, ProgressLine(enabled=enabled)
    self._seconds, self._steps, self._resumed = 0.0, 0, time.perf_counter()

  def step(self, step: int, describe: Callable[[], str]) -> None:
    """Report that `step` was reached; draws only when it is due, and calls `describe` only then."""
    self._steps += 1
    now = time.perf_counter()
    if not self._line.is_due(now):
      return
    rate = self._steps / (self._seconds + now - self._resumed)
    left = duration((self._total - step) / rate)
    self._line.draw(f"step {step:,}/{self._total:,}  {rate:.1f} steps/s  {left} left  {describe()}")

  def pause(self) -> None:
    """Stop the clock of the rate: what follows is not training."""
    self._seconds += time.perf_counter() - self._resumed

  def resume(self) -> None:
    """Start the clock of the rate again."""
    self._resumed = time.perf_counter()

  def note(self, line: str) -> None:
    """Print a line that stays."""
    self._line.note(line)
