"""Errors that end a command early, and the exit code of each outcome. Scripts and launchers rely on the codes."""

from collections.abc import Collection, Iterable
from typing import Any

_LONGEST = 1000
"""Characters of the text of an exception that are kept."""

DONE = 0
BUG = 1
USER_MISTAKE = 2
"""Config, data or arguments; trying again does not help."""
INFEASIBLE = 3
"""The hyperparameters do not work (PB-21): the loss or the parameters stopped being finite, or a device has no room."""
TRY_AGAIN = 75
"""Preempted, a host was lost or did not come, no progress."""
INTERRUPTED = 130
"""Ctrl-C."""


class UserError(Exception):
  """A mistake of the user's: the command prints the problems and exits with 2.

  Attributes:
    problems: in words, each with its place and remedy.
  """

  def __init__(self, problems: str | Iterable[str]):
    self.problems = [problems] if isinstance(problems, str) else list(problems)
    super().__init__("\n".join(self.problems))


class ConfigError(UserError):
  """A config that cannot be run.

  Attributes:
    rest: if single fields failed, the config with those as they were before, so that its other problems can be
      reported together with them; otherwise None.
  """

  def __init__(self, problems: str | Iterable[str], rest: Any = None):
    super().__init__(problems)
    self.rest = rest


class GoneError(UserError):
  """A folder that was moved or deleted while it was used."""


class DataError(ValueError):
  """A dataset cannot be given as asked; the message is for the user: place, problem, remedy."""


class BrokenDataError(UserError):
  """Data that cannot be read in the middle of a run.

  Attributes:
    causes: what cannot be read, without how the run continues.
  """

  def __init__(self, causes: Iterable[str], hints: Iterable[str]):
    self.causes = list(causes)
    super().__init__([*self.causes, *hints])


class OtherDataError(ConfigError):
  """The data are not those of an earlier run, which is to be resumed or compared with.

  Attributes:
    differences: what differs, without what to do about it.
  """

  def __init__(self, problems: Iterable[str], differences: Iterable[str]):
    super().__init__(problems)
    self.differences = list(differences)


class TryAgainError(Exception):
  """Something outside of this run failed, so that the same command may succeed later."""


class PreemptedError(Exception):
  """All hosts have reached the step at which they agreed to stop."""


class PrunedError(Exception):
  """A rule ended a run early; the message is its reason."""


class InfeasibleError(Exception):
  """The hyperparameters do not work (PB-21). The function of a study may raise it, with the reason.

  Attributes:
    reason: what was seen, in words.
    step: number of updates applied when it showed; None if there are no steps.
  """

  def __init__(self, reason: str = "", step: int | None = None):
    self.reason, self.step = reason, step
    super().__init__(reason if step is None else f"{reason} at step {step}")


class OutOfMemoryError(Exception):
  """A device has no room for the run.

  Args:
    cause: what the computation or the compilation raised.
  """

  def __init__(self, cause: BaseException):
    super().__init__(f"out of device memory: {said(cause).splitlines()[0]}")


_OF_ERRORS: tuple[tuple[type[BaseException], int], ...] = (
  (UserError, USER_MISTAKE),
  (DataError, USER_MISTAKE),
  (InfeasibleError, INFEASIBLE),
  (OutOfMemoryError, INFEASIBLE),
  (TryAgainError, TRY_AGAIN),
  (PreemptedError, TRY_AGAIN),
  (KeyboardInterrupt, INTERRUPTED),
)
_OF_STATES = {
  "complete": DONE,
  "infeasible": INFEASIBLE,
  "pruned": DONE,
  "running": TRY_AGAIN,
  "preempted": TRY_AGAIN,
  "stopped": TRY_AGAIN,
  "pending": BUG,
  "failed": BUG,
}
"""Exit codes of a run's status and of a trial's state, as in its record; `pending` is a trial whose process
crashed, `running` one whose process was killed."""
_MEANINGS = {
  DONE: "done",
  USER_MISTAKE: "a mistake in the config, the data or the arguments",
  INFEASIBLE: "infeasible",
  TRY_AGAIN: "try again",
  INTERRUPTED: "interrupted",
}


def said(error: BaseException) -> str:
  """Return kind and text of an exception of any code, in characters that every file can hold; a long text is cut."""
  try:
    text = str(error)
  except Exception as failure:
    text = f"its text is not known, since its __str__ raised {type(failure).__name__}"
  return storable(f"{type(error).__name__}: {shortened(text, _LONGEST)}".removesuffix(": "))


def storable(text: str) -> str:
  """Return text with the halves of characters (\\ud800 to \\udfff) that no file can hold written out."""
  return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def shortened(text: str, longest: int) -> str:
  """Return a text, without its middle if it is too long."""
  if len(text) <= longest:
    return text
  left_out = len(text) - longest
  return f"{text[: longest // 2]} [... {left_out:,} characters are left out ...] {text[-(longest // 2) :]}"


def exit_code(outcome: BaseException | str) -> int:
  """Return the exit code of a command that ended with an exception, or whose run or trial has this state."""
  if isinstance(outcome, str):
    return _OF_STATES[outcome]
  return next((code for kind, code in _OF_ERRORS if isinstance(outcome, kind)), BUG)


def exit_code_of_study(states: Collection[str], *, has_best: bool) -> int:
  """Return the exit code of a study: 1 if a trial failed, 3 if every trial was infeasible.

  Args:
    states: of its trials.
    has_best: whether any of them has a result.
  """
  if "failed" in states:
    return BUG
  return INFEASIBLE if states and not has_best else DONE


def meaning(code: int) -> str:
  """Return what an exit code means, in words."""
  return _MEANINGS.get(code, "a bug")
