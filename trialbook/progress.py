"""Progress of long work on standard error: a line that is redrawn, notes that stay, and durations in words."""

import sys
import time

from trialbook.escaping import visible

TERMINAL_SECONDS = 0.25
"""Seconds between two drawings on a terminal: more often cannot be read."""
LOG_SECONDS = 10.0
"""Seconds between two lines elsewhere, as in a file: each of them stays."""


class ProgressLine:
  """A writer to standard error: one line that is redrawn on a terminal, a new line now and then elsewhere.

  Args:
    enabled: whether anything is printed.
  """

  def __init__(self, *, enabled: bool):
    self._enabled = enabled
    self.is_terminal = sys.stderr.isatty()
    self._interval = TERMINAL_SECONDS if self.is_terminal else LOG_SECONDS
    self._due = time.perf_counter() + self._interval

  def is_due(self, now: float) -> bool:
    """Return whether it is time to draw again, at a `time.perf_counter()`; the next time is then an interval later."""
    if not self._enabled or now < self._due:
      return False
    self._due = now + self._interval
    return True

  def draw(self, text: str) -> None:
    """Replace the line on a terminal; print the text elsewhere."""
    self._write(f"\r\033[K{visible(text)}" if self.is_terminal else f"{visible(text)}\n")

  def note(self, text: str) -> None:
    """Print a line that stays."""
    self._write(f"\r\033[K{visible(text)}\n" if self.is_terminal else f"{visible(text)}\n")

  def _write(self, text: str) -> None:
    if self._enabled:
      sys.stderr.write(text)
      sys.stderr.flush()


def duration(seconds: float) -> str:
  """Return a duration in words, by its two largest units: "5.7 s", "12 min", "1 h 20 min", "2 d 3 h"."""
  if seconds < 10:
    return f"{max(seconds, 0.0):.2g} s"
  if round(seconds) < 60:
    return f"{round(seconds)} s"
  minutes = round(seconds / 60)
  if minutes < 60:
    return f"{minutes} min"
  if minutes < 24 * 60:
    return _two(minutes // 60, "h", minutes % 60, "min")
  hours = round(seconds / 3600)
  return _two(hours // 24, "d", hours % 24, "h")


def _two(whole: int, unit: str, rest: int, smaller: str) -> str:
  return f"{whole} {unit} {rest} {smaller}" if rest else f"{whole} {unit}"
