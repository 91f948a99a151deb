"""Where the machines of a job come from, and what may happen to them and to the launcher."""

import queue
import signal
from typing import NamedTuple, Protocol

from trialbook import errors
from trialbook.launch.job_exit import JobExit
from trialbook.launch.remote.ssh_hosts import SshHosts
from trialbook.launch.watch import Events


class Machines(NamedTuple):
  """What a platform says of the machines of a job.

  Attributes:
    known: whether it says anything now.
    lost: the verdict if they can be used no more; None if they can, or nothing is known.
  """

  known: bool
  lost: JobExit | None = None


class Platform(Protocol):
  """Where the machines of a job come from.

  Attributes:
    tells: whether `machines` alone says that some were taken away, and SIGTERM to a process does not.
  """

  tells: bool

  def acquire(self) -> SshHosts:
    """Return the hosts once they answer.

    Raises LostError, StoppedError, LeavingError, SignalError, GivenUpError and UserError.
    """
    ...

  def machines(self) -> Machines:
    """Return what is known of the machines now."""
    ...

  def discard(self) -> None:
    """Give back machines that can be used no more, so that `acquire` gets others."""
    ...


class LostError(Exception):
  """The machines of the job cannot be used.

  Attributes:
    verdict: of the attempt.
  """

  def __init__(self, reason: str, *, preempted: bool):
    self.verdict = JobExit(errors.TRY_AGAIN, None, reason, preempted)
    super().__init__(reason)


class LeavingError(Exception):
  """The launcher is to end, and the job goes on."""


class StoppedError(Exception):
  """Somebody stopped the job from elsewhere."""


class SignalError(Exception):
  """A signal came to the launcher. SIGINT ends the job; SIGTERM only the launcher, and the job goes on.

  Attributes:
    number: the signal.
  """

  def __init__(self, number: signal.Signals):
    self.number = number
    super().__init__(number.name)


def wait(events: Events, seconds: float) -> None:
  """Return after some seconds. Raises SignalError as soon as a signal comes."""
  try:
    number = events.get(timeout=seconds)
  except queue.Empty:
    return
  assert isinstance(number, signal.Signals)
  raise SignalError(number)
