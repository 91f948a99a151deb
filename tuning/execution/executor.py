"""The interface of whatever runs a study's trials: workers on this machine, or jobs of a cluster."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from trialbook.tuning.execution.trial_states import Cost
from trialbook.tuning.plan import PlannedTrial


class InterruptedStudyError(Exception):
  """The coordinator received Ctrl-C or SIGTERM."""


class Ended(NamedTuple):
  """A trial is no longer being run.

  Attributes:
    trial: its number.
    lost: what happened to its process; None: its record says how it ended.
    stopped: whether it was asked to exit.
    problems: of the study: no other trial can be run either.
  """

  trial: int
  lost: str | None = None
  stopped: bool = False
  problems: tuple[str, ...] = ()


class Executor(Protocol):
  """An object that starts trials and reports when they end.

  Attributes:
    name: for records.
    count: how many trials it runs at a time.
    programs: how many programs were compiled where, as far as that is known.
  """

  name: str
  count: int
  programs: dict[str, int]

  def __enter__(self) -> "Executor": ...

  def __exit__(self, *_: object) -> None: ...

  def adopt(self, unfinished: Sequence[int]) -> set[int]:
    """Return which of the trials that an earlier coordinator started are still running; `wait` will report their
    ends."""
    ...

  def prepare(self, wanted: int) -> None:
    """Start what takes time to start, given the number of trials to come."""
    ...

  def measure(self, planned: PlannedTrial) -> Cost | None:
    """Return how long a few steps of a trial take; None if that is not known."""
    ...

  def choose(self, pending: Sequence[PlannedTrial]) -> list[tuple[PlannedTrial, str]]:
    """Return which of the trials, in order of their numbers, to start now, each with the name of the place."""
    ...

  def start(self, chosen: Sequence[tuple[PlannedTrial, str]]) -> None:
    """Start the trials; their records say that they run."""
    ...

  def wait(self, seconds: float) -> list[Ended]:
    """Return what ended, soon after something does; [] if `seconds` are over. Raise InterruptedStudyError."""
    ...

  def stop(self) -> list[Ended]:
    """Have all trials save and exit; return when they have."""
    ...
