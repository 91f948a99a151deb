"""Watching the hosts of a job from their start until none is left, whatever ends them."""

import contextlib
import dataclasses
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from trialbook.launch.job_exit import describe
from trialbook.launch.processes import HostEnd, HostProcess

Events = queue.SimpleQueue[HostEnd | signal.Signals]
"""The events that a job waits for: the end of a host, or a signal to the launcher."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Patience:
  """The time that hosts get to exit.

  Attributes:
    grace: seconds to exit on their own, after another host failed or after a signal was passed on.
    kill_after: seconds from the SIGTERM that follows to SIGKILL.
  """

  grace: float = 30.0
  kill_after: float = 5.0


@contextlib.contextmanager
def signals_to(events: Events) -> Iterator[None]:
  """Make events of SIGTERM and SIGINT while this is open; outside the main thread that is impossible, and they stay as
  they are."""
  if threading.current_thread() is not threading.main_thread():
    yield
    return

  def note(number: int, frame: FrameType | None) -> None:
    events.put(signal.Signals(number))

  before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def watch(
  hosts: Sequence[HostProcess], events: Events, patience: Patience, say: Callable[[str], None]
) -> tuple[list[HostEnd], signal.Signals | None]:
  """Return when all hosts have ended; end them once one has failed or a signal has come.

  Returns:
    The hosts' ends, in the order of the hosts, and the signal that was passed on to them, if there was one.
  """
  ends: dict[int, HostEnd] = {}
  passed: signal.Signals | None = None
  failed = False
  # What is sent next to those that are still there, and when (monotonic seconds).
  plan: list[tuple[float, signal.Signals]] = []

  def send(number: signal.Signals) -> None:
    for host in hosts:
      if host.index not in ends:
        host.send(number)

  def insist(*numbers: signal.Signals) -> list[tuple[float, signal.Signals]]:
    first = time.monotonic() + patience.grace
    return [(first + index * patience.kill_after, number) for index, number in enumerate(numbers)]

  while len(ends) < len(hosts):
    try:
      event = events.get(timeout=max(0.0, plan[0][0] - time.monotonic()) if plan else None)
    except queue.Empty:
      _, number = plan.pop(0)
      say(f"{_names(hosts, ends)} did not exit; sending {number.name}")
      send(number)
      continue
    if isinstance(event, HostEnd):
      ends[event.host] = event
      if event.returncode and not failed and not passed and len(ends) < len(hosts):
        failed = True
        plan = insist(signal.SIGTERM, signal.SIGKILL)
        say(f"host {event.host}: {describe(event.returncode)}; the others have {patience.grace:g} s to exit")
    elif passed is None:
      passed = event
      say(f"passing {event.name} on to {_names(hosts, ends)}")
      send(event)
      plan = insist(signal.SIGKILL) if event == signal.SIGTERM else insist(signal.SIGTERM, signal.SIGKILL)
    elif event == signal.SIGINT:
      passed, plan = event, []
      say(f"another signal; killing {_names(hosts, ends)}")
      send(signal.SIGKILL)
  return [ends[host.index] for host in hosts], passed


def _names(hosts: Sequence[HostProcess], ends: dict[int, HostEnd]) -> str:
  left = [str(host.index) for host in hosts if host.index not in ends]
  return f"host {left[0]}" if len(left) == 1 else f"hosts {', '.join(left)}"
