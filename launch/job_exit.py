"""The end of a job: one exit code, one culprit and one reason, derived from the ends of all its hosts.

When one host goes, the others go too: aborted by the coordination service, ended by the supervisor, or because
they were told. What the job did is what its first host did, unless that was only a consequence.
"""

import contextlib
import math
import pathlib
import signal
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from trialbook import errors

ALL_ENDED = "all hosts ended with exit code 0"
_VERDICTS = (errors.USER_MISTAKE, errors.INFEASIBLE)
_TRY_AGAIN_SIGNALS = {
  signal.SIGKILL: "the host was lost",
  signal.SIGTERM: "it was asked to exit",
  signal.SIGABRT: "another host was lost or never joined",
}


class JobExit(NamedTuple):
  """The end of a job.

  Attributes:
    code: one of `trialbook.errors`, or the code of a bug.
    culprit: index of the host that the job ended for; None if all went well.
    reason: what happened to it, for a person.
    preempted: whether its machine was taken away: it received SIGTERM before anything else happened.
  """

  code: int
  culprit: int | None
  reason: str
  preempted: bool = False


class Cause(NamedTuple):
  """The cause that a host wrote about its end before it exited, in `host_i.exit.json`.

  Attributes:
    code: with which it meant to leave.
    text: for a person.
    time: seconds since the epoch.
    host: index of the host that it is about: another one, if this one was made to exit.
    preempted: whether that one received SIGTERM.
  """

  code: int
  text: str
  time: float
  host: int
  preempted: bool = False


def job_exit(ends: Sequence[tuple[int, float]], told: Collection[int] = ()) -> JobExit:
  """Return the exit code, culprit and reason of a job.

  The host that ended abnormally first is the culprit, but for two things: exit codes 2 and 3 are a host's own
  verdict, which no consequence outruns; and an abort (SIGABRT) is what the coordination service does to hosts that lost
  a peer, so it is the cause only if there is no other, as is the end of a host that was made to exit.

  Args:
    ends: of each host, its return code as `subprocess` gives it (-9 or 137: killed by signal 9), and when it ended.
    told: the hosts that exited because of another one.

  Returns:
    Code 0 if all are; 2, 3, 75, 130 as they are; 75 for SIGKILL, SIGTERM and SIGABRT; anything else is a bug: its
    exit code, or 1 for a signal.
  """
  abnormal = [(2 if index in told else _rank(code), time, index) for index, (code, time) in enumerate(ends) if code]
  if not abnormal:
    return JobExit(errors.DONE, None, ALL_ENDED)
  culprit = min(abnormal)[-1]
  code = ends[culprit][0]
  # Before a host can handle SIGTERM, it dies of it.
  return JobExit(_job_code(code), culprit, describe(code), preempted=signal_of(code) == signal.SIGTERM)


def with_causes(ends: Sequence[tuple[int, float]], causes: Mapping[int, Cause]) -> JobExit:
  """Return `job_exit`, made more precise by what the hosts wrote before they exited.

  Closing down takes time, in which the peers may exit first: a host that wrote its cause ended, for this purpose,
  when it wrote it; and one that was aborted or killed on its way out ended with the code that it meant.
  """
  sharpened = list(ends)
  for index, cause in causes.items():
    code, time = ends[index]
    if code:
      sharpened[index] = (cause.code if signal_of(code) else code, min(time, cause.time))
  verdict = job_exit(sharpened, [index for index, cause in causes.items() if cause.host != index])
  if verdict.culprit is None or not causes:
    return verdict
  if verdict.culprit in causes:
    cause = causes[verdict.culprit]
    return verdict._replace(reason=cause.text, preempted=cause.preempted)
  witness = min(causes, key=lambda index: causes[index].time)
  reason = f"{verdict.reason}; host {witness} reported: {causes[witness].text}"
  return verdict._replace(reason=reason, preempted=verdict.preempted or causes[witness].preempted)


Stamps = Mapping[str, tuple[int, int]]
"""Name of a file -> what differs between its versions, whatever the clock does."""


def exit_stamps(folder: pathlib.Path) -> Stamps:
  """Return the stamps of what hosts wrote in a folder about their ends."""
  found = {}
  with contextlib.suppress(OSError, errors.TryAgainError):
    for path in folder.glob("host_*.exit.json"):
      status = path.stat()
      found[path.name] = status.st_ino, status.st_mtime_ns
  return found


def read_causes(folder: pathlib.Path, hosts: int, before: Stamps) -> dict[int, Cause]:
  """Return what the hosts wrote about abnormal ends, by index; only what is not from `before`.

  A file that cannot be read is ignored: a host may have been killed for a full disk.
  """
  from trialbook.trainer.records import read_exit  # It imports pydantic, which starting a job does without.

  causes, now = {}, exit_stamps(folder)
  for index in range(hosts):
    name = f"host_{index}.exit.json"
    if now.get(name) == before.get(name):
      continue  # It is not there, or of an earlier attempt.
    try:
      record = read_exit(folder, index)
    except (errors.UserError, errors.TryAgainError):
      continue
    if record is None:
      continue
    cause = Cause(record["code"], record["cause"], record["time"], record["host"], record.get("preempted", False))
    if cause.code and math.isfinite(cause.time):
      causes[index] = cause
  return causes


def describe(code: int) -> str:
  """Return a return code in words."""
  number = signal_of(code)
  if number is None:
    return f"exit code {code}: {errors.meaning(code)}"
  if number == signal.SIGINT:
    return f"ended by SIGINT: {errors.meaning(errors.INTERRUPTED)}"
  return f"ended by {number.name}: {_TRY_AGAIN_SIGNALS.get(number, 'a bug')}"


def signal_of(code: int) -> signal.Signals | None:
  """Return the signal that a return code stands for, -9 and a shell's 137 alike; None if it stands for none."""
  number = -code if code < 0 else code - 128
  return signal.Signals(number) if number in signal.valid_signals() else None


def _rank(code: int) -> int:
  if code in _VERDICTS:
    return 0
  return 2 if signal_of(code) == signal.SIGABRT else 1


def _job_code(code: int) -> int:
  number = signal_of(code)
  if number is None:
    return code
  if number == signal.SIGINT:
    return errors.INTERRUPTED
  return errors.TRY_AGAIN if number in _TRY_AGAIN_SIGNALS else errors.BUG
