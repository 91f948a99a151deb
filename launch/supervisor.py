"""Restarts of a job while they help, and a record of how each attempt ended."""

import contextlib
import pathlib
import queue
import signal
from collections.abc import Callable, Sequence
from typing import NamedTuple

from trialbook import errors, files
from trialbook.launch.budgets import Budgets, Restarts
from trialbook.launch.job_exit import JobExit, exit_stamps, read_causes, with_causes
from trialbook.launch.processes import HostEnd
from trialbook.launch.watch import Events
from trialbook.trainer.checkpoints.places import saved_steps

_OF_THE_JOB = (errors.DONE, errors.USER_MISTAKE, errors.INFEASIBLE)
"""Ends that no machine can cause."""


class Attempt(NamedTuple):
  """How an attempt of a job ended.

  Attributes:
    ends: of its hosts; none if they were not started.
    passed: the signal that was passed on to them, if any.
    lost: what the platform says of their machines. Processes that end or fall silent with a machine say nothing about
      it, so this counts, unless they had ended with 0 or a verdict before.
    platform_tells: whether `lost` alone says that machines were taken away, and SIGTERM to a host does not.
  """

  ends: Sequence[HostEnd]
  passed: signal.Signals | None = None
  lost: JobExit | None = None
  platform_tells: bool = False


def supervise(
  attempt: Callable[[int], Attempt],
  workdir: pathlib.Path | None,
  exit_folder: pathlib.Path,
  restarts: Restarts,
  events: Events,
  say: Callable[[str], None],
  *,
  outlives: bool = False,
) -> int:
  """Run attempts of a job, numbered from 1, until one is final.

  Final is every exit code but 75; a signal to the launcher; and a spent budget of `Restarts`. Without a workdir a
  crash loop cannot be seen.

  Args:
    attempt: starts all hosts and returns how they ended.
    workdir: of the job.
    exit_folder: where hosts write why they exit while they have not opened the workdir.
    restarts: how often and when.
    events: where a signal appears while the supervisor waits.
    say: reports to a person.
    outlives: whether the job goes on when its launcher vanishes, so that this is no preemption.

  Returns:
    The job's exit code; 130 if it ended for SIGINT.
  """
  number, budgets = 1, Budgets(restarts, workdir, say, outlives=outlives)
  while True:
    step, stamp = newest_step(workdir), _run_stamp(workdir)
    logs = workdir / "logs" if workdir else None
    before = exit_stamps(exit_folder), exit_stamps(logs) if logs else {}
    budgets.write("running")
    ends, passed, lost, platform_tells = attempt(number)
    verdict = with_causes(
      [(end.returncode, end.time) for end in ends],
      # What a host wrote into the workdir is of a later time than the opening of that.
      read_causes(exit_folder, len(ends), before[0]) | (read_causes(logs, len(ends), before[1]) if logs else {}),
    )
    if lost is not None and (not ends or verdict.code not in _OF_THE_JOB):
      verdict = lost
    elif platform_tells:
      verdict = verdict._replace(preempted=False)
    # A mistake that was found before the run began says nothing about the run that the workdir holds already.
    if workdir and (verdict.code != errors.USER_MISTAKE or _run_stamp(workdir) != stamp):
      record_exit(workdir, verdict, number, say)
    if verdict.code:
      whose = "" if verdict.culprit is None else f" because of host {verdict.culprit}"
      say(f"attempt {number} ended with {verdict.code}{whose}: {verdict.reason}")
    again = verdict.code == errors.TRY_AGAIN and passed != signal.SIGINT
    given_up = budgets.count(verdict, progressed=newest_step(workdir) > step) if again else None
    # A launcher that SIGTERM ends may be started again on another machine, by no person.
    budgets.write("waiting" if again and given_up is None else "ended")
    if passed is not None:
      return errors.INTERRUPTED if passed == signal.SIGINT else verdict.code
    if not again:
      return verdict.code
    if given_up is not None:
      say(f"giving up after {given_up}")
      return verdict.code
    delay = budgets.delay()
    say(f"restart {number} in {delay:g} s ({budgets.describe()} so far)")
    with contextlib.suppress(queue.Empty):
      # Only a signal can come now: no host is there.
      if events.get(timeout=delay) == signal.SIGINT:
        budgets.write("ended")
        return errors.INTERRUPTED
      return verdict.code
    number += 1


def newest_step(workdir: pathlib.Path | None) -> int:
  """Return the step of the newest committed checkpoint of a run; -1 if there is none."""
  try:
    return max(saved_steps(workdir / "checkpoints") if workdir else [], default=-1)
  except (OSError, errors.TryAgainError):
    return -1


def record_exit(workdir: pathlib.Path, verdict: JobExit, attempt: int, say: Callable[[str], None]) -> None:
  """Write the end of an attempt into `run.json` under "exit", atomically; only while no host is running.

  A file that is absent stays so; one that cannot be read or written is reported and left as it is.
  """
  path = workdir / "run.json"
  try:
    # The rest is kept as it is, so it need not be of its type.
    if (record := files.read_json(path)) is not None:
      files.write_json(path, {**record, "exit": {**verdict._asdict(), "attempt": attempt}})
  except (OSError, errors.UserError, errors.TryAgainError) as error:
    say(f"could not record the exit in {path}: {error}")


def _run_stamp(workdir: pathlib.Path | None) -> tuple[int, int] | None:
  """Return a stamp that differs between versions of `run.json`; None if it is absent."""
  try:
    status = (workdir / "run.json").stat() if workdir else None
  except (OSError, errors.TryAgainError):
    return None
  return (status.st_ino, status.st_mtime_ns) if status else None
