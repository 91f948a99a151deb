"""The trials of a study as jobs of a Slurm cluster; `study.json` and all trials are on a file system that it shares."""

import ast
import contextlib
import dataclasses
import pathlib
import queue
import signal
import time
from collections.abc import Iterable, Sequence
from typing import Any

from trialbook import errors, files
from trialbook.errors import UserError
from trialbook.launch import slurm
from trialbook.naming import nearest
from trialbook.object_store import StorePath
from trialbook.tuning.execution.executor import Ended, InterruptedStudyError
from trialbook.tuning.execution.trial_states import Cost
from trialbook.tuning.plan import PlannedTrial
from trialbook.tuning.records import FINAL, read_jobs, read_study, read_trial, trial_folder
from trialbook.tuning.search.bayesian import BayesianOptimization
from trialbook.tuning.study import Study

_POLL_SECONDS = 3.0
_LEAVING_SECONDS = 120.0
_UNLIMITED = 10_000
_LONGEST_ARRAY = 1_000
"""Slurm's default MaxArraySize allows one more."""


def parse_options(assignments: Iterable[str], study: Study) -> slurm.SlurmOptions:
  """Return `["minutes=30", "hosts=2"]` as options of the jobs; their cores are the study's.

  Raises:
    UserError: if an option does not exist, or cannot have its value.
  """
  fields = {field.name: field.default for field in dataclasses.fields(slurm.SlurmOptions)}
  known = [name for name in fields if name != "cores"]  # Those are the study's, and the same bits hang on them.
  given: dict[str, Any] = {"cores": study.cores_per_trial}
  for assignment in assignments:
    name, equals, text = assignment.partition("=")
    if not equals:
      raise UserError(f"--slurm={assignment}: write it as NAME=VALUE, for example --slurm=minutes=60")
    if name not in known:
      raise UserError(f"--slurm={assignment}: unknown option {name!r}{nearest(name, known)}")
    try:
      given[name] = ast.literal_eval(text)
    except (ValueError, SyntaxError):
      given[name] = text
    is_number = isinstance(fields[name], int) or name == "max_parallel"
    if is_number and not (isinstance(given[name], int) and not isinstance(given[name], bool)):
      raise UserError(f"--slurm={assignment}: should be a whole number")
  options = slurm.SlurmOptions(**given)
  if study.function is not None and options.hosts > 1:
    raise UserError(f"--slurm=hosts={options.hosts}: a trial that calls a function is one process")
  if isinstance(study.search, BayesianOptimization) and options.max_parallel is None:
    raise UserError("BayesianOptimization on Slurm: say how many trials run at a time, --slurm=max_parallel=8")
  return options


class SlurmJobs:
  """Trials as job arrays: submits them, and watches the cluster and the trials' records.

  A job whose node failed, or that was preempted, comes back under its number and resumes from its checkpoint.
  Jobs outlive the coordinator: which job has which trial is in `slurm.json`, and the next coordinator finds them there.

  Args:
    study: its folder.
    events: where signals to this process appear.
    options: of each job.
  """

  name = "slurm"

  def __init__(self, study: pathlib.Path, events: "queue.SimpleQueue[Any]", *, options: slurm.SlurmOptions):
    self.count = options.max_parallel or _UNLIMITED
    if isinstance(study, StorePath):
      raise UserError(
        f"{study}: jobs of Slurm write their output into a file system that all nodes mount; name a folder there"
      )
    self._study, self._events, self._options = study.absolute(), events, options
    self.programs: dict[str, int] = {}
    self._jobs: dict[int, str] = {}
    self._due = 0.0

  def __enter__(self) -> "SlurmJobs":
    return self

  def __exit__(self, *_: object) -> None:
    pass  # Jobs go on without a coordinator.

  def adopt(self, unfinished: Sequence[int]) -> set[int]:
    """Return the trials whose jobs wait or run."""
    stored = read_jobs(self._study)
    jobs = {trial: stored[str(trial)] for trial in unfinished if str(trial) in stored}
    states = self._states(jobs.values(), patiently=True)
    self._jobs = {trial: job for trial, job in jobs.items() if job in states and states[job].phase != "ended"}
    return set(self._jobs)

  def prepare(self, wanted: int) -> None:
    """Do nothing: nothing can be started before it has a trial."""

  def measure(self, planned: PlannedTrial) -> Cost | None:
    """Return None: the coordinator does not have the devices of a job."""
    return None

  def choose(self, pending: Sequence[PlannedTrial]) -> list[tuple[PlannedTrial, str]]:
    """Return all trials: Slurm knows when there is room."""
    return [(planned, "slurm") for planned in pending]

  def start(self, chosen: Sequence[tuple[PlannedTrial, str]]) -> None:
    """Submit the trials, as one array unless they are too many for one."""
    for batch in (chosen[first : first + _LONGEST_ARRAY] for first in range(0, len(chosen), _LONGEST_ARRAY)):
      self._submit([planned.trial for planned, _ in batch])

  def _submit(self, trials: Sequence[int]) -> None:
    commands = [["-m", "trialbook", "tune", "trial", str(self._study), str(trial)] for trial in trials]
    name = read_study(self._study).name
    while True:
      try:
        jobs = slurm.submit(commands, self._study / "logs" / "slurm", self._options, name)
        break
      except slurm.SlurmUnavailableError:
        self._pause(_POLL_SECONDS)
    self._jobs |= dict(zip(trials, jobs, strict=True))
    known = read_jobs(self._study) | {str(trial): job for trial, job in zip(trials, jobs, strict=True)}
    files.write_json(self._study / "slurm.json", {"format": files.FORMAT, "jobs": known})

  def wait(self, seconds: float) -> list[Ended]:
    """Ask the cluster now and then; return what ended. Raise InterruptedStudyError after a signal."""
    self._pause(max(0.0, min(seconds, self._due - time.monotonic())))
    if time.monotonic() < self._due:
      return []
    self._due = time.monotonic() + _POLL_SECONDS
    return self._ended(self._states(self._jobs.values()))

  def stop(self) -> list[Ended]:
    """Cancel all jobs, which save, and return when they are over."""
    deadline = time.monotonic() + _LEAVING_SECONDS
    ended: list[Ended] = []
    is_cancelled = False
    while self._jobs and time.monotonic() < deadline:
      if not is_cancelled:
        with contextlib.suppress(slurm.SlurmUnavailableError):
          slurm.cancel(list(self._jobs.values()))
          is_cancelled = True
      try:
        self._pause(1.0)
      except InterruptedStudyError:
        break  # Who asks a second time does not want to wait; the jobs end by themselves.
      ended += [one._replace(stopped=True) for one in self._ended(self._states(self._jobs.values()))]
    return ended

  def _pause(self, seconds: float) -> None:
    try:
      event = self._events.get(timeout=seconds) if seconds > 0 else self._events.get_nowait()
    except queue.Empty:
      return
    if isinstance(event, signal.Signals):
      raise InterruptedStudyError

  def _states(self, jobs: Iterable[str], *, patiently: bool = False) -> dict[str, slurm.JobState]:
    """Return what the cluster says; {} if it does not answer, unless there is the patience to wait until it does."""
    wanted = list(jobs)
    while wanted:
      try:
        return slurm.states(wanted)
      except slurm.SlurmUnavailableError:
        if not patiently:
          break
        self._pause(_POLL_SECONDS)
    return {}

  def _ended(self, states: dict[str, slurm.JobState]) -> list[Ended]:
    found = []
    for trial, job in list(self._jobs.items()):
      record = read_trial(trial_folder(self._study, trial))
      state = states.get(job)
      over = state is not None and state.phase == "ended"
      # A trial has its result a moment before its job is over.
      if not over and not (record is not None and record.state in FINAL):
        continue
      del self._jobs[trial]
      problems: tuple[str, ...] = ()
      if state is not None and over and state.code == errors.USER_MISTAKE and record is not None:
        problems = (record.reason or f"trial {trial} left with 2; see {self._study / 'logs' / 'slurm'}",)
      lost = None if state is None else f"job {job}: {state.word}" + (f", {state.reason}" if state.reason else "")
      found.append(Ended(trial, lost=lost, problems=problems))
    return found
