"""One training on a Slurm cluster: submitted, and followed until it has ended."""

import time
from collections.abc import Callable, Sequence

from trialbook import errors
from trialbook.errors import TryAgainError
from trialbook.launch import slurm
from trialbook.launch.job_exit import describe
from trialbook.launch.slurm import JobState, SlurmOptions, SlurmUnavailableError

POLL_SECONDS = 5.0


def run_slurm(
  command: Sequence[str],
  logs: str,
  options: SlurmOptions,
  *,
  name: str,
  wait: bool,
  say: Callable[[str], None],
  sleep: Callable[[float], None] = time.sleep,
) -> int:
  """Submit a command as a job of several hosts, and return its exit code, or 0 once it is submitted.

  Slurm is the owner of its restarts: a job that exits with 75 queues itself again. Ctrl-C ends the waiting and leaves
  the job alone.

  Args:
    command: arguments for this Python's interpreter.
    logs: folder for what the hosts print, on a file system that the nodes share.
    options: what the job asks for.
    name: of the job, in Slurm's lists.
    wait: whether to return when the job has ended.
    say: reports to a person.
    sleep: waits between two questions to the controller.

  Raises:
    UserError: as `slurm.submit`.
    TryAgainError: if the controller does not answer. It may yet have taken the job.
  """
  try:
    (job,) = slurm.submit([command], logs, options, name)
  except SlurmUnavailableError as error:
    raise TryAgainError(f"Slurm does not answer: {error}; see with squeue whether it took the job") from error
  say(f"job {job} is submitted; it needs this terminal no more. Its output: {logs}; to end it: scancel {job}")
  last = None
  try:
    while wait:
      state = _state(job, say)
      if state is not None and state != last:
        last = state
        say(f"job {job}: {' '.join(part for part in (state.word or 'forgotten', state.reason) if part != 'None')}")
      if state is not None and state.phase == "ended":
        return _code(job, state, say)
      sleep(POLL_SECONDS)
  except KeyboardInterrupt:
    say(f"job {job} goes on; to end it: scancel {job}")
    return errors.INTERRUPTED
  return errors.DONE


def _state(job: str, say: Callable[[str], None]) -> JobState | None:
  """Return the state of the job; None if the controller does not answer now."""
  try:
    return slurm.states([job])[job]
  except SlurmUnavailableError as error:
    say(f"Slurm does not answer, and is asked again: {error}")
    return None


def _code(job: str, state: JobState, say: Callable[[str], None]) -> int:
  if state.word == "COMPLETED":
    return errors.DONE
  code = state.code
  say(f"job {job} ended: {state.word or 'Slurm has forgotten how'}{'' if code is None else f', {describe(code)}'}")
  # What Slurm ended before it ran has no code, or 0.
  return errors.TRY_AGAIN if not code or code < 0 else code
