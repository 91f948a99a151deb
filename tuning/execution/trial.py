"""One trial, from its record to its record: the same in a worker of a study, in a job of a cluster, or by hand."""

import contextlib
import dataclasses
import json
import pathlib
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from trialbook import files, folders
from trialbook.errors import ConfigError, InfeasibleError, OutOfMemoryError, TryAgainError, UserError, said
from trialbook.import_attribute import import_attribute
from trialbook.spool import LOG_SECONDS, Spool
from trialbook.store_client import StoreLostError
from trialbook.trainer import Guard, Programs
from trialbook.trainer.program_memory import is_out_of_device_memory
from trialbook.trainer.train import Judge
from trialbook.trainer.workdir import existing_run
from trialbook.tuning.curves import read_log
from trialbook.tuning.execution.function_results import close, metrics_of, without
from trialbook.tuning.execution.pruning import RuleAtWork, Watch
from trialbook.tuning.execution.training import Outcome, RefusedError, best, follow_training, run_training
from trialbook.tuning.execution.trial_states import (
  MISTAKE,
  MistakeError,
  StudyError,
  crashed,
  ended,
  interrupted,
  mistaken,
  refused,
)
from trialbook.tuning.objective import value_of
from trialbook.tuning.records import (
  FINAL,
  StudyRecord,
  TrialRecord,
  read_study,
  read_trial,
  trial_folder,
  write_trial,
)
from trialbook.tuning.standings import REACHED

_TAKE_OVER_SECONDS = 30.0


def run_trial(
  study: pathlib.Path, folder: pathlib.Path, programs: Programs | None = None, guard: Guard | None = None
) -> TrialRecord:
  """Run the trial of a folder to its end, or resume it; a trial that has ended is left as it is.

  Args:
    study: the study's folder.
    folder: the trial's, with the record of a trial that was handed out.
    programs: compiled programs of earlier trials.
    guard: receives SIGTERM, upon which the trial is stopped where it can resume, and signals of other hosts; None:
      there is no guard.

  Returns:
    The record, as it is written: complete, infeasible, pruned, failed, stopped; or pending or failed, after a crash.

  Raises:
    StudyError: if its data are not those of the study's other trials, or the disk is full.
  """
  guard = Guard() if guard is None else guard
  of = read_study(study)
  record = read_trial(folder)
  if record is None:
    raise UserError(f"{folder} holds no trial: there is no trial.json")
  if of.source is not None:
    raise UserError(f"{study} was imported from {of.source}: its trials are run where they were made")
  if record.state in FINAL:
    return record
  if not guard.hosts.is_lead:
    return dataclasses.replace(record, state=follow_training(study, of, record, programs, guard))
  with contextlib.ExitStack() as stack, _full_disk_ends_the_study(folder):
    _take_over(folder, stack)
    # Another process may have ended it while this one waited.
    record = read_trial(folder) or record
    if record.state in FINAL:
      return record
    at_work = RuleAtWork.of(of)
    watch = None if at_work is None else Watch(study, at_work, record)
    try:
      with _full_disk_ends_the_study(folder):
        record = _run(study, of, record, programs, guard, watch)
    except StudyError as error:
      _write_if_possible(folder, interrupted(_now(watch, record), str(error)))
      raise
    except (KeyboardInterrupt, StoreLostError):
      raise
    except SystemExit as error:
      reason = f"the trial's code called sys.exit({error.code!r}); it should return its metrics, or raise an exception"
      record = mistaken(_now(watch, record), "failed", reason, "sys.exit")
    except Exception as error:
      record = _after(error, _now(watch, record), folder, of.max_attempts)
    # The earlier trials may have come to where this one is compared after it did.
    if watch is not None and record.state in FINAL and (verdict := watch.verdict(at_once=True)) is not None:
      record = watch.at_work.ended(record, verdict, folder)
    write_trial(folder, record)
  return record


def guard_for(study: pathlib.Path) -> Guard:
  """Return a guard with the limits that the study's config sets for a run."""
  config = read_study(study).config
  return Guard(None if config is None else config.job)


def _now(watch: Watch | None, record: TrialRecord) -> TrialRecord:
  """Return the record with what the trial has reached meanwhile."""
  return record if watch is None else watch.record


def _run(
  study: pathlib.Path,
  of: StudyRecord,
  record: TrialRecord,
  programs: Programs | None,
  guard: Guard,
  watch: Watch | None,
) -> TrialRecord:
  """Return the record after a training or a call that came to an end, or that the study's rule ended."""

  def judge(step: int, values: Mapping[str, Any]) -> str | None:
    if watch is None:
      return None
    verdict = watch.verdict(at_once=watch.evaluated(step, values.get(of.objective.metric)))
    return None if verdict is None else watch.at_work.reason(watch.record, verdict)

  if watch is not None and watch.verdict(at_once=True) is not None:
    outcome = Outcome("pruned", None, {})  # By what became of earlier trials since this one was interrupted.
  elif of.function is None:
    outcome = run_training(study, of, record, programs, guard, judge)
  else:
    if watch is not None:
      watch.restart()
    outcome = _call(of, record, trial_folder(study, record.trial), judge)
  record = _now(watch, record)
  reached = {REACHED: record.summary[REACHED]} if REACHED in record.summary else {}
  if outcome.state == "stopped":
    record = interrupted(record, outcome.reason or "SIGTERM")
  else:
    record = ended(record, outcome.state, outcome.reason)
  return dataclasses.replace(record, summary={**outcome.summary, **reached})


def _after(error: Exception, record: TrialRecord, folder: pathlib.Path, max_attempts: int) -> TrialRecord:
  """Return the record after an attempt that raised an error."""
  if isinstance(error, RefusedError):
    record = refused(ended(record, "infeasible", None), str(error))
    kind = error.mistake
    return record if kind is None else dataclasses.replace(record, summary={**record.summary, MISTAKE: kind})
  if isinstance(error, MistakeError):
    return mistaken(record, "failed", str(error), error.kind)
  if is_out_of_device_memory(error):
    error = OutOfMemoryError(error)
  if isinstance(error, OutOfMemoryError):
    return ended(record, "infeasible", str(error))
  files.write_text(folder / "traceback.txt", "".join(traceback.format_exception(error)))
  record = crashed(folder, record, _first_line(error), max_attempts)
  return dataclasses.replace(record, summary={**record.summary, MISTAKE: f"raised {type(error).__qualname__}"})


def _take_over(folder: pathlib.Path, stack: contextlib.ExitStack) -> None:
  """Lock a trial; wait until a process that is being killed, or that a cluster's requeue has left behind, is gone.

  Raises:
    TryAgainError: if it stays.
  """
  deadline = time.monotonic() + _TAKE_OVER_SECONDS
  while True:
    try:
      with contextlib.ExitStack() as trying:
        trying.enter_context(files.locked(folder / ".trial.lock", str(folder)))
        with files.locked(existing_run.lock(folder), f"workdir {folder}"):
          pass  # The run's own lock goes with the process too, and perhaps a moment later.
        stack.push(trying.pop_all())
        return
    except ConfigError as error:
      if time.monotonic() > deadline:
        raise TryAgainError(str(error)) from None
      time.sleep(0.1)


@contextlib.contextmanager
def _full_disk_ends_the_study(folder: pathlib.Path) -> Iterator[None]:
  """Raise StudyError in place of any error for a disk that is full or gone: another trial would meet it too."""
  try:
    yield
  except OSError:
    try:
      with files.disk_errors(f"workdir {folder}"):
        raise
    except UserError as error:
      raise StudyError(error.problems) from None


def _write_if_possible(folder: pathlib.Path, record: TrialRecord) -> None:
  """Write the record as `write_trial` does; on a full disk it stays as it was, which also leads to another attempt."""
  try:
    write_trial(folder, record)
  except OSError:
    return


def _call(of: StudyRecord, record: TrialRecord, folder: pathlib.Path, judge: Judge) -> Outcome:
  """Call the study's function, and write what it returns, or yields one after the other, as a run's metrics."""
  assert of.function is not None
  metric = of.objective.metric
  function = import_attribute("function", of.function)
  folders.remove(folder / "checkpoints")
  (folder / "metrics.jsonl").unlink(missing_ok=True)
  spool = Spool(folder, every_seconds=LOG_SECONDS)
  begun = time.perf_counter()
  state, reason, names, step = "complete", None, set(), 0
  with contextlib.closing(spool), (spool.folder / "metrics.jsonl").open("a") as file:
    returned = None
    try:
      returned = function(**record.changes)
      for step, values in enumerate(metrics_of(of.function, metric, returned), start=1):
        line = files.jsonable({"step": step, **values})
        file.write(f"{json.dumps(line, allow_nan=False)}\n")
        names |= values.keys()
        if of.stopping is not None:
          # What others compare themselves with must not be lost with this process.
          file.flush()
          if judge(step, values) is not None:
            state = "pruned"
            break
    except InfeasibleError as error:
      state, reason = "infeasible", str(error)
    finally:
      close(returned)
  seconds = round(time.perf_counter() - begun, 6)
  found = best(value_of(of.objective, read_log(folder).curves.get(metric, [])))
  if state == "complete" and metric not in names:
    raise without(of.function, metric, names)
  if state == "complete" and found["objective"] is None:
    state, reason = "infeasible", f"{metric} was never finite"
  return Outcome(state, reason, {"step": step, "seconds": seconds, "training_seconds": seconds, **found})


def _first_line(error: Exception) -> str:
  return said(error).splitlines()[0]
