"""What runs a study's trials: workers on this machine, or jobs of a cluster."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from trialbook.tuning.execution.trial_states import Cost
from trialbook.tuning.plan import PlannedTrial


class InterruptedStudyError(Exception):
  """Ctrl-C or SIGTERM came to the coordinator."""


class Ended(NamedTuple):
  """A trial is no longer being run.

  Attributes:
    trial: its number.
    lost: what happened to its process; None: its record says how it ended.
    stopped: whether it was asked to leave.
    problems: of the study: no other trial can be run either.
  """

  trial: int
  lost: str | None = None
  stopped: bool = False
  problems: tuple[str, ...] = ()


class Executor(Protocol):
  """Starts trials and tells when they end.

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
    """Which of the trials that an earlier coordinator started are still being run; `wait` will tell of them."""
    ...

  def prepare(self, wanted: int) -> None:
    """There will be so many trials: what takes time to start may start."""
    ...

  def measure(self, planned: PlannedTrial) -> Cost | None:
    """What a few steps of a trial take; None where that is not known."""
    ...

  def choose(self, pending: Sequence[PlannedTrial]) -> list[tuple[PlannedTrial, str]]:
    """Which of the trials, in order of their numbers, to start now, and the name of where."""
    ...

  def start(self, chosen: Sequence[tuple[PlannedTrial, str]]) -> None:
    """Starts them; their records say that they run."""
    ...

  def wait(self, seconds: float) -> list[Ended]:
    """What ended, soon after something does, or [] when `seconds` are over. Raises InterruptedStudyError."""
    ...

  def stop(self) -> list[Ended]:
    """Has all trials save and leave; returns when they have."""
    ...
