"""The states of jobs as Slurm knows them, and the cancellation of jobs.

Only programs that every cluster has are asked. Accounting (slurmdbd) is not needed: it adds why jobs ended that the
controller has forgotten.
"""

import os
import shlex
import shutil
import subprocess
from collections.abc import Collection, Sequence
from typing import Literal, NamedTuple

from trialbook.errors import UserError

_ANSWER_SECONDS = 120.0
# Words for the state of a job (squeue(1)); what is in neither list is running, or on its way in or out of that.
_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT"}
_ENDED = {
  *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
  *("PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
}


class SlurmUnavailableError(Exception):
  """Slurm's controller did not answer: nothing is known of the jobs, and the same call may succeed later."""


class JobState(NamedTuple):
  """The state of a job.

  Attributes:
    phase: a job that is to be started again is waiting; only what Slurm is through with has ended.
    code: of a job that has ended, as `subprocess` gives it: the highest exit code of its hosts, where 128 plus a signal
      is that of one that was killed; or minus the signal by which Slurm ended the job. None: not ended, or not known.
    word: Slurm's for the state: "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", ...;
      empty if Slurm has forgotten the job.
    reason: Slurm's, for a person: why it waits ("Resources", "BeginTime", "JobHeldUser") or failed; may be empty.
  """

  phase: Literal["waiting", "running", "ended"]
  code: int | None
  word: str
  reason: str


def states(job_ids: Collection[str]) -> dict[str, JobState]:
  """Return the states of jobs now, by a single question to the controller.

  It remembers what has ended for the cluster's MinJobAge, 300 s by default, but not a job of an array that was
  cancelled before it began. Of those that it has forgotten the accounting is asked, where there is one.

  Raises:
    UserError: if there is no Slurm here.
    SlurmUnavailableError: if the controller does not answer: nothing is known, of no job.
  """
  if not job_ids:
    return {}
  fields = "ArrayJobID:|,ArrayTaskID:|,State:|,exit_code:|,Reason:|"
  # With the id of a job that is forgotten, squeue would fail as if there were no controller.
  lines = _ask(["squeue", f"--user={os.getuid()}", "--all", "--states=all", "--array", "--noheader", f"-O{fields}"])
  known = {}
  for line in lines.splitlines():
    if line.count("|") < 5:
      # A job that is not understood must not pass for one that is forgotten.
      raise SlurmUnavailableError(f"squeue printed a line that is not a job: {line!r}")
    array, index, word, status, reason = line.strip().removesuffix("|").split("|", 4)
    known[f"{array}_{index}" if index.isdecimal() else array] = _state(word, _exit_code(status), reason)
  if forgotten := sorted(set(job_ids) - known.keys()):
    known |= _accounted(forgotten)
  return {job: known.get(job, JobState("ended", None, "", "")) for job in job_ids}


def cancel(job_ids: Collection[str]) -> None:
  """End jobs, with SIGTERM and, after the cluster's KillWait, SIGKILL; those that have ended are left as they are.

  Raises:
    UserError: if there is no Slurm here.
    SlurmUnavailableError: if the controller does not answer.
  """
  if job_ids:
    _ask(["scancel", "--quiet", *job_ids])


def _accounted(job_ids: Sequence[str]) -> dict[str, JobState]:
  """Return what the accounting knows of the ends of jobs; nothing if there is no accounting."""
  command = ["sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,State"]
  try:
    lines = _ask([*command, f"--jobs={','.join(job_ids)}"])
  except (SlurmUnavailableError, UserError):
    return {}
  found = {}
  for line in lines.splitlines():
    job, _, state = line.partition("|")
    # "CANCELLED by 1000" says who.
    word, _, who = state.partition(" ")
    # Its exit codes are not ours: it takes 128 away from larger ones, so 130 (Ctrl-C) becomes 2.
    found[job] = _state(word, 0 if word == "COMPLETED" else None, who)
  return {job: state for job, state in found.items() if state.phase == "ended"}


def _state(word: str, code: int | None, reason: str) -> JobState:
  if word in _ENDED:
    return JobState("ended", code, word, reason)
  return JobState("waiting" if word in _WAITING else "running", None, word, reason)


def _exit_code(status: str) -> int | None:
  """Return the exit code of a wait status, which is what squeue calls the exit code; None if it is not one."""
  try:
    return os.waitstatus_to_exitcode(int(status))
  except ValueError:
    return None


def _ask(command: Sequence[str]) -> str:
  """Return the output of one of Slurm's programs."""
  require(command[0])
  try:
    # A variable of the user's may make squeue print other jobs, or otherwise.
    answer = subprocess.run(command, capture_output=True, text=True, timeout=_ANSWER_SECONDS, env=_without_habits())
  except subprocess.TimeoutExpired as error:
    raise SlurmUnavailableError(f"{shlex.join(command[:2])} ...: no answer in {_ANSWER_SECONDS:g} s") from error
  if answer.returncode:
    raise SlurmUnavailableError(f"{command[0]}: {answer.stderr.strip() or f'exit code {answer.returncode}'}")
  return answer.stdout


def _without_habits() -> dict[str, str]:
  habits = ("SQUEUE_", "SACCT_", "SCANCEL_")
  return {name: value for name, value in os.environ.items() if not name.startswith(habits)}


def require(*programs: str) -> None:
  """Check that Slurm's programs are here.

  Raises:
    UserError: if one is not.
  """
  if missing := [program for program in programs if shutil.which(program) is None]:
    raise UserError(
      f"there is no {' and no '.join(missing)} on the PATH; submit jobs from a machine of a Slurm cluster, such"
      " as its login node"
    )
