"""The wall time of a run by what it goes into: seconds by name, and a trace of a few steps."""

import pathlib
import threading
import time
from typing import Any

import jax

from trialbook.errors import UserError
from trialbook.spool import Spool
from trialbook.trainer.hosts.host_log import log

NAMES = {
  "start_up": "start-up",
  "compilation": "compilation",
  "wait_for_data": "waiting for data",
  "dispatch": "dispatch",
  "wait_for_device": "waiting for devices",
  "evaluation": "evaluation",
  "checkpoint": "checkpointing",
}
"""Names of the parts of a run's time, and how a person reads them; `total` is all of it."""


class Times:
  """Sums of seconds by name, added from any thread; a use takes about a microsecond."""

  def __init__(self):
    self._seconds: dict[str, float] = {}
    self._lock = threading.Lock()
    self._started = self._since = time.perf_counter()
    self._phase: str | None = None

  def of(self, name: str) -> "Span":
    """Return a context manager: the time inside counts as `name`."""
    return Span(self, name)

  def add(self, name: str, seconds: float) -> None:
    """Count seconds that were measured elsewhere."""
    with self._lock:
      self._seconds[name] = self._seconds.get(name, 0.0) + seconds

  def enter(self, name: str | None) -> None:
    """Count the time from now on, until the next call, as `name`; None: as nothing."""
    now = time.perf_counter()
    if self._phase is not None:
      self.add(self._phase, now - self._since)
    self._phase, self._since = name, now

  def as_dict(self) -> dict[str, float]:
    """Return seconds by name so far, and `total`, those since this was made."""
    self.enter(self._phase)
    with self._lock:
      seconds = {**self._seconds, "total": time.perf_counter() - self._started}
    return {name: round(value, 6) for name, value in seconds.items()}


class Span:
  """One use of `Times.of`."""

  __slots__ = ("_name", "_started", "_times")

  def __init__(self, times: Times, name: str):
    self._times, self._name = times, name

  def __enter__(self) -> None:
    self._started = time.perf_counter()

  def __exit__(self, *_: object) -> None:
    self._times.add(self._name, time.perf_counter() - self._started)


class Tracer:
  """A trace of some steps by jax's profiler, for https://ui.perfetto.dev and for TensorBoard.

  The file for Perfetto is FOLDER/plugins/profile/TIME/perfetto_trace.json.gz.

  Args:
    folder: made if there is something to trace.
    steps: the updates step → step + 1 to trace; an empty range: none.
  """

  def __init__(self, folder: pathlib.Path = pathlib.Path("profile"), steps: range = range(0)):
    self._folder, self._steps = folder, steps
    self._tracing: Spool | None = None

  def at(self, step: int, state: Any) -> None:
    """Report that `step` updates were dispatched, which lead to `state`. Waits for it where a trace begins or ends."""
    inside = step in self._steps
    if inside == (self._tracing is not None):
      return
    jax.block_until_ready(state)
    if inside:
      self._tracing = Spool(self._folder)
      jax.profiler.start_trace(self._tracing.folder, create_perfetto_trace=True)
    else:
      self.close()

  def close(self) -> None:
    """End a trace that has not reached its end; may be repeated."""
    if self._tracing is None:
      return
    spool, self._tracing = self._tracing, None
    jax.profiler.stop_trace()
    spool.close()
    log.info("wrote a trace to %s", self._folder)

  def __enter__(self) -> "Tracer":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()


def parse_range(text: str, last: int | None = None) -> range:
  """Return the steps of "START:STOP".

  Raises UserError if there are none, or they begin after the run, which ends at `last`.
  """
  start, colon, stop = text.partition(":")
  if not (colon and start.isdecimal() and stop.isdecimal() and int(start) < int(stop)):
    raise UserError(
      f"--profile={text}: must be START:STOP, steps with 0 <= START < STOP; 10:20 traces the 10 updates after step 10"
    )
  if last is not None and int(start) >= last:
    raise UserError(f"--profile={text}: the run ends at step {last}, so START must be below it")
  return range(int(start), int(stop))
