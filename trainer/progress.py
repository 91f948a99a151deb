"""What a person sees while a run goes on: one line with rate and time left, and a line for each evaluation."""

import datetime
import sys
import time
from collections.abc import Callable


class Progress:
  """Prints to standard error: a line that is redrawn on a terminal, a new line now and then elsewhere.

  Args:
    total: steps of the run.
    enabled: whether anything is printed.
  """

  def __init__(self, total: int, *, enabled: bool):
    self._total, self._enabled = total, enabled
    self._terminal = sys.stderr.isatty()
    self._interval = 0.25 if self._terminal else 10.0
    self._seconds, self._steps, self._resumed = 0.0, 0, time.perf_counter()
    self._due = self._resumed + self._interval

  def step(self, step: int, describe: Callable[[], str]) -> None:
    """Tells that `step` was reached; draws only when it is time to, and only then calls `describe`."""
    self._steps += 1
    now = time.perf_counter()
    if not self._enabled or now < self._due:
      return
    self._due = now + self._interval
    rate = self._steps / (self._seconds + now - self._resumed)
    left = datetime.timedelta(seconds=round((self._total - step) / rate))
    line = f"step {step:,}/{self._total:,}  {rate:.1f} steps/s  {left} left  {describe()}"
    self._write(f"\r\033[K{line}" if self._terminal else f"{line}\n")

  def pause(self) -> None:
    """What follows is no training: it does not count in the rate."""
    self._seconds += time.perf_counter() - self._resumed

  def resume(self) -> None:
    """Training goes on."""
    self._resumed = time.perf_counter()

  def note(self, line: str) -> None:
    """Prints a line that stays."""
    if self._enabled:
      self._write(f"\r\033[K{line}\n" if self._terminal else f"{line}\n")

  @staticmethod
  def _write(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
