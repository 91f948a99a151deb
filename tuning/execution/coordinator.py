"""The coordinator of a study: plans its trials, has them run, and keeps its records; after a kill it resumes."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import queue
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from trialbook import files, folders
from trialbook.errors import GoneError, UserError
from trialbook.launch.watch import signals_to
from trialbook.paths import as_path
from trialbook.store_client import StoreLostError
from trialbook.trainer.evaluation_schedule import evaluation_steps
from trialbook.tuning import records, role_advice, tables, tracking
from trialbook.tuning.execution import mistakes
from trialbook.tuning.execution.executor import Ended, Executor, InterruptedStudyError
from trialbook.tuning.execution.local_workers import LocalWorkers
from trialbook.tuning.execution.observations import observations
from trialbook.tuning.execution.planned_study import PlannedStudy, prepare
from trialbook.tuning.execution.pruning import RuleAtWork, settle
from trialbook.tuning.execution.study_folder import check_folder, since
from trialbook.tuning.execution.trial_states import Cost, StudyError, crashed, interrupted, refused, started
from trialbook.tuning.plan import PlannedTrial
from trialbook.tuning.progress import StudyProgress
from trialbook.tuning.records import FINAL, StudyRecord, TrialRecord, trial_folder
from trialbook.tuning.results import StudyResults, read_results
from trialbook.tuning.search.bayesian import BayesianOptimization
from trialbook.tuning.study import Study

_TABLES_EVERY_SECONDS = 2.0
MakeExecutor = Callable[[Study, pathlib.Path, "queue.SimpleQueue[Any]"], Executor]


def run_study(
  study: Study,
  folder: str | pathlib.Path,
  *,
  workers: int = 1,
  trials: int | None = None,
  retry_failed: bool = False,
  progress: bool = False,
  executor: MakeExecutor | None = None,
) -> StudyResults:
  """Run a study's trials, or those that are left; everything is recorded in `folder`.

  If a study was stopped or killed, the same call resumes it. Trials that have ended are not run again.

  Args:
    study: the study.
    folder: holds no study yet, or this one.
    workers: processes on this machine, each with the study's cores and devices.
    trials: how many there are to be, instead of the study's own number; more extend a study.
    retry_failed: if true, trials that failed are tried again.
    progress: whether it is printed to standard error.
    executor: makes what runs the trials, instead of workers on this machine.

  Raises:
    UserError: if the study or the folder is wrong; nothing was written. Or if no trial can be run, or the disk is full;
      what was recorded stays.
    KeyboardInterrupt: after Ctrl-C or SIGTERM, when the trials have saved.
  """
  folder = as_path(folder)
  planned = prepare(study, trials)
  if workers < 1:
    raise UserError(f"workers = {workers}: should be at least 1")
  events: queue.SimpleQueue[Any] = queue.SimpleQueue()
  if executor is None:
    made: Executor = LocalWorkers(
      folder, workers, study.cores_per_trial, study.devices_per_trial, events, in_order=study.stopping is not None
    )
  else:
    made = executor(study, folder, events)
  new = planned.record()
  files.check_reachable(folder)
  check_folder(folder, new)
  lock = files.locked(records.study_lock(folder), str(folder))
  with lock as held, files.disk_errors(str(folder)), signals_to(events), made:
    # Another coordinator may have worked here until a moment ago.
    existing = check_folder(folder, new)
    place = files.Place.of(folder, held)
    with place.errors():
      coordinator = Coordinator(
        place, planned, made, StudyProgress(planned.trials, enabled=progress), existing, retry_failed
      )
      coordinator.run()
  # One that came when no trial was left to save ends the caller nevertheless, which may have more studies to run.
  if _has_signal(events):
    raise KeyboardInterrupt
  return read_results(folder)


def _has_signal(events: queue.SimpleQueue[Any]) -> bool:
  """Return whether a signal is among the events that nothing has looked at."""
  while not events.empty():
    if isinstance(events.get(), signal.Signals):
      return True
  return False


class Coordinator:
  """The run of the trials of one study; see `run_study`."""

  def __init__(
    self,
    place: files.Place,
    planned: PlannedStudy,
    executor: Executor,
    progress: StudyProgress,
    existing: StudyRecord | None,
    retry_failed: bool,
  ):
    self._place, self._folder, folder = place, place.path, place.path
    self._planned, self._executor, self._progress = planned, executor, progress
    if existing is None:
      # Of another study perhaps, of which no trial came to anything.
      folders.remove(folder / "trials")
    (folder / "trials").mkdir(exist_ok=True)
    self._trials = records.read_trials(folder)
    if (last := max(self._trials, default=-1)) >= planned.trials:
      raise UserError(f"trials = {planned.trials}: {folder} has trial {last} already, counted from 0")
    new = planned.record()
    session = {
      "started": time.time(),
      "finished": None,
      "executor": executor.name,
      "workers": executor.count,
      "command": new.command,
      "commit": new.commit,
    }
    if existing is not None and (existing.commit, existing.diff) != (new.commit, new.diff):
      same = existing.commit == new.commit
      how = "its uncommitted changes differ" if same else f"it was {existing.commit}, and is {new.commit}"
      progress.note(f"the code has changed since the trials before: {how}")
    failed = [trial for trial, record in self._trials.items() if record.state == "failed"]
    if retry_failed and failed and new.stopping is not None:
      later = [
        trial
        for trial, record in self._trials.items()
        if record.state in FINAL and record.state != "failed" and trial > failed[0]
      ]
      if later:
        raise UserError(
          f"{folder}: trial {failed[0]} failed and cannot be tried again: early stopping has judged {len(later)} later"
          " trials without it, and would judge them otherwise; run the study in another folder, or without stopping"
        )
    self._record = dataclasses.replace(
      new,
      created=new.created if existing is None else existing.created,
      warnings=tuple(role_advice.warnings(planned.study, planned.hyperparameters)),
      stopping=None if new.stopping is None else {**new.stopping, "since": since(existing, self._trials)},
      sessions=(*(() if existing is None else existing.sessions), session),
    )
    self._rule = RuleAtWork.of(self._record)
    if self._rule is not None and existing is not None and existing.stopping is None:
      for record in [one for one in self._trials.values() if one.state in FINAL]:
        self._write(self._rule.with_reached(record, trial_folder(folder, record.trial)))
    records.write_study(folder, self._record)
    if retry_failed:
      for record in list(self._trials.values()):
        if record.state == "failed":
          self._write(dataclasses.replace(record, state="pending", reason=None, attempts=(), summary={}))
    self._running = executor.adopt([trial for trial, record in self._trials.items() if record.state not in FINAL])
    for trial, record in self._trials.items():
      if record.state == "running" and trial not in self._running:
        self._write(interrupted(record, "the coordinator was lost"))
    self._tables_due = 0.0
    self._told: set[str] = set()
    self._session: list[TrialRecord] = []
    # Of a search that looks at results, those that were asked for and not ended; else all that are left.
    self._pending = [
      planned.plan(trial, record.values)
      for trial, record in self._trials.items()
      if record.state not in FINAL and trial not in self._running
    ]
    if not self._is_adaptive:
      missing = [trial for trial in range(planned.trials) if trial not in self._trials]
      if missing:
        points = planned.points(missing[0], planned.trials)
        self._pending += [one for one in points if one.trial not in self._trials]
      self._pending.sort(key=lambda one: one.trial)

  @property
  def _is_adaptive(self) -> bool:
    return isinstance(self._planned.study.search, BayesianOptimization)

  def run(self) -> None:
    """Run until no trial is left. Raise StudyError, and KeyboardInterrupt."""
    self._progress.begin(self._folder, list(self._trials.values()), self._planned.study.objective.sign)
    self._settle()
    self._tables(at_once=True)
    try:
      self._refuse()
      self._ask()
      if self._pending:
        self._executor.prepare(self._left())
        cost = self._measure()
        if cost is not None and self._planned.config is not None:
          steps = self._planned.config.max_train_steps
          evaluations = len(list(evaluation_steps(self._planned.config)))
          left, programs = self._left(), len({one.group for one in self._pending})
          self._progress.start(tables.estimate(cost, steps, evaluations, left, programs, self._executor.count))
      while True:
        self._start()
        if not self._running:
          break
        for ended in self._executor.wait(1.0):
          self._take(ended)
        self._progress.tick(len(self._running))
        self._tables()
    except InterruptedStudyError:
      self._progress.note("Stopping: running trials save their state first.")
      self._stop()
      raise KeyboardInterrupt from None
    except (StudyError, GoneError):
      self._stop()
      raise
    finally:
      session = {**self._record.sessions[-1], "finished": time.time(), "programs": dict(self._executor.programs)}
      self._record = dataclasses.replace(self._record, sessions=(*self._record.sessions[:-1], session))
      with contextlib.suppress(OSError, GoneError, StoreLostError) if sys.exc_info()[0] else contextlib.nullcontext():
        self._place.check()
        if not self._trials:
          (self._folder / "trials").rmdir()
        records.write_study(self._folder, self._record)
        self._tables(at_once=True)

  def _measure(self) -> Cost | None:
    """Return the cost of a trial. Raise StudyError if the first ones cannot be run, each because of the study."""
    first, *others = self._pending[: mistakes.FIRST]
    try:
      return self._executor.measure(first)
    except StudyError as error:
      for other in others:
        with contextlib.suppress(StudyError):
          return self._executor.measure(other)
      raise error

  def _left(self) -> int:
    return self._planned.trials - sum(record.state in FINAL for record in self._trials.values())

  def _start(self) -> None:
    while True:
      self._ask()
      chosen = self._executor.choose(self._pending)
      for planned, where in chosen:
        self._pending.remove(planned)
        self._write(started(self._of(planned), where))
        self._running.add(planned.trial)
      try:
        self._executor.start(chosen)
      except UserError as error:
        for planned, _ in chosen:
          self._running.discard(planned.trial)
          self._write(interrupted(self._trials[planned.trial], f"it could not be started: {error}"))
        raise
      if not chosen or not self._is_adaptive:
        return

  def _of(self, planned: PlannedTrial) -> TrialRecord:
    new = TrialRecord(trial=planned.trial, values=planned.values, changes=planned.changes)
    return self._trials.get(planned.trial, new)

  def _refuse(self) -> None:
    for planned in [one for one in self._pending if one.refusal is not None]:
      self._pending.remove(planned)
      self._write(refused(self._of(planned), planned.refusal or ""))
      self._progress.ended(self._trials[planned.trial])

  def _ask(self) -> None:
    """Ask a search that looks at results for one more trial, while workers are free for it."""
    if not self._is_adaptive:
      return
    while not self._pending and len(self._running) < self._executor.count:
      index = len(self._trials)
      if index >= self._planned.trials:
        return
      known = observations(self._trials.values(), self._planned.study)
      self._pending = [self._planned.ask(known, index)]
      # What was asked for is recorded before it is run: a study that goes on asks for nothing twice.
      self._write(self._of(self._pending[0]))
      self._refuse()

  def _take(self, ended: Ended) -> None:
    trial = ended.trial
    self._running.discard(trial)
    record = records.read_trial(trial_folder(self._folder, trial)) or self._trials[trial]
    self._trials[trial] = record
    if ended.problems and not ended.stopped:
      if record.state == "running":
        self._write(interrupted(record, "the study cannot go on"))
      raise StudyError(list(ended.problems))
    if record.state == "running":
      cause = ended.lost or "its process exited without reporting a result"
      if ended.stopped:
        self._write(interrupted(record, cause))
      else:
        self._write(crashed(trial_folder(self._folder, trial), record, cause, self._planned.study.max_attempts))
    record = self._trials[trial]
    # What ends the study is told once, by its end.
    self._progress.ended(dataclasses.replace(record, reason=None) if ended.problems else record)
    self._settle()
    if ended.stopped:
      return
    if record.state not in FINAL:
      self._pending = sorted([*self._pending, self._planned.plan(trial, record.values)], key=lambda one: one.trial)
    elif not ended.problems:
      self._session.append(self._trials[trial])
      function = self._planned.study.function
      if found := mistakes.shared(self._session, self._trials.values(), self._left(), self._folder, function):
        raise StudyError(found)

  def _settle(self) -> None:
    """End trials early that had ended before the rule could decide on them."""
    if self._rule is not None:
      for record in settle(self._folder, self._rule, self._trials):
        self._trials[record.trial] = record
        self._progress.changed(record)

  def _stop(self) -> None:
    for ended in self._executor.stop():
      # Where the folder is gone, that is what ended the study, and there is nothing to record the trials in.
      with contextlib.suppress(GoneError):
        self._take(ended._replace(stopped=True))

  def _write(self, record: TrialRecord) -> None:
    self._place.check()
    records.write_trial(trial_folder(self._folder, record.trial), record)
    self._trials[record.trial] = record

  def _tables(self, *, at_once: bool = False) -> None:
    """Rewrite the tables that people read, now and then."""
    if not at_once and time.monotonic() < self._tables_due:
      return
    self._tables_due = time.monotonic() + _TABLES_EVERY_SECONDS
    self._place.check()
    tracking.write_trials(self._folder, StudyResults.of(self._folder, self._record, self._trials.values()))
    if at_once:
      # It reads all studies there, which may be many.
      for problem in tracking.update(self._folder.resolve().parent):
        if problem not in self._told:
          self._told.add(problem)
          self._progress.note(f"table of studies: {problem}")
