"""One trial, from its record to its record: the same in a worker of a study, in a job of a cluster, or by hand."""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from trialbook import files
from trialbook.errors import BrokenDataError, ConfigError, InfeasibleError, OtherDataError, TryAgainError, UserError
from trialbook.import_attribute import import_attribute
from trialbook.naming import nearest
from trialbook.trainer import Guard, Programs, RunResult
from trialbook.trainer import run as train
from trialbook.trainer.workdir import existing_run
from trialbook.tuning.curves import read_log
from trialbook.tuning.execution.trial_states import Cost, StudyError, crashed, ended, interrupted, refused
from trialbook.tuning.objective import uncharacteristic, value_of
from trialbook.tuning.records import (
  FINAL,
  StudyRecord,
  TrialRecord,
  read_study,
  read_trial,
  read_trials,
  trial_folder,
  write_trial,
)
from trialbook.tuning.study import Objective

_MEASURED_STEPS = 10
_TAKE_OVER_SECONDS = 30.0
_OTHER_DATA = "bring back the data that it began with, or begin a new study in another folder (--dir)"


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
    The record, as it is written: complete, infeasible, stopped; or pending or failed, after a crash.

  Raises:
    StudyError: if no trial of this study could be run because of its config or its function; if its data are not those
      of its other trials; or if the disk is full.
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
    assert of.config is not None
    data_of = _first_on_the_same_data(study, record)
    train(of.config.override(record.changes), folder, programs=programs, guard=guard, data_of=data_of)
    return record
  with contextlib.ExitStack() as stack, _full_disk_ends_the_study(folder):
    _take_over(folder, stack)
    # Another process may have ended it while this one waited.
    record = read_trial(folder) or record
    if record.state in FINAL:
      return record
    try:
      with _full_disk_ends_the_study(folder):
        if of.function is None:
          record = _train(of, record, folder, programs, guard, _first_on_the_same_data(study, record))
        else:
          record = _call(of, record, folder)
    except StudyError as error:
      _write_if_possible(folder, interrupted(record, str(error)))
      raise
    except (KeyboardInterrupt, SystemExit):
      raise
    except Exception as error:
      if _is_out_of_device_memory(error):
        record = ended(record, "infeasible", f"out of device memory: {str(error).splitlines()[0]}")
      else:
        (folder / "traceback.txt").write_text(traceback.format_exc())
        record = crashed(folder, record, _first_line(error), of.max_attempts)
    write_trial(folder, record)
  return record


def guard_for(study: pathlib.Path) -> Guard:
  """Return a guard with the limits that the study's config sets for a run."""
  config = read_study(study).config
  return Guard(None if config is None else config.job)


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


def measure(study: pathlib.Path, changes: Mapping[str, Any], programs: Programs) -> Cost | None:
  """Measure a few steps of a trial in a folder that is then removed; the program stays for the trial itself.

  The result is None if these values cannot be run, which the trial will report.

  Raises:
    StudyError: if no trial of this study could be run.
  """
  of = read_study(study)
  if of.config is None:
    return None
  try:
    record = _few_steps(of, changes, programs)
  except ConfigError as error:
    _raise_if_the_studys(of, error)
    return None
  except UserError as error:
    raise StudyError(error.problems) from None
  except Exception:
    return None  # The trial will run into it, where it is recorded.
  times, steps = record["times"], max(record["step"], 1)
  in_steps = sum(times.get(name, 0.0) for name in ("dispatch", "wait_for_device", "wait_for_data"))
  return Cost(in_steps / steps, times.get("evaluation", 0.0) / 2, record["compilation_seconds"])


def _few_steps(of: StudyRecord, trial: Mapping[str, Any], programs: Programs) -> dict[str, Any]:
  """Return the `run.json` of a few steps with a trial's changes, which share its program and need the study's
  objective."""
  assert of.config is not None
  config = of.config.override(trial)
  steps = min(_MEASURED_STEPS, config.max_train_steps)
  changes: dict[str, Any] = {
    "max_train_steps": steps,
    "schedule.warmup_steps": 0,
    "checkpointing.every_evaluations": 0,
    "logging.tensorboard": False,
    "logging.writers": (),
    "selection.metric": of.objective.metric,
    "selection.mode": of.objective.mode,
  }
  if hasattr(config.schedule, "constant_steps"):
    changes["schedule.constant_steps"] = 0
  # Derived numbers are made explicit first, so that presence, which is static, stays what it is.
  config = config.resolved().override(changes)
  with tempfile.TemporaryDirectory(prefix="trialbook-measure-") as folder:
    train(config, folder, programs=programs)
    return files.read_json(pathlib.Path(folder) / "run.json") or {}


def _train(
  of: StudyRecord,
  record: TrialRecord,
  folder: pathlib.Path,
  programs: Programs | None,
  guard: Guard,
  data_of: pathlib.Path | None,
) -> TrialRecord:
  assert of.config is not None
  try:
    result = train(of.config.override(record.changes), folder, programs=programs, guard=guard, data_of=data_of)
  except OtherDataError as error:
    told = f"trial {record.trial}: the data have changed since the study began; {_OTHER_DATA}"
    raise StudyError([told, *error.differences]) from None
  except ConfigError as error:
    _raise_if_the_studys(of, error)
    return refused(ended(record, "infeasible", None), "; ".join(error.problems))
  except BrokenDataError as error:
    # The hints of a run with a checkpoint are for a single run: a study cannot be forked.
    others = data_of is not None or len(error.problems) > len(error.causes)
    hint = (
      ["all trials of a study must have the same data; with repaired data, begin a new one (--dir)"] if others else []
    )
    raise StudyError([*(f"trial {record.trial}: {cause}" for cause in error.causes), *hint]) from None
  except UserError as error:
    # A disk that is full, checkpoints that cannot be read: nothing that other values would change.
    raise StudyError([f"trial {record.trial}: {problem}" for problem in error.problems]) from None
  summary = _summary(of.objective, result, folder)
  if result.status == "preempted":
    return dataclasses.replace(interrupted(record, result.reason or "SIGTERM"), summary=summary)
  state = "complete" if result.status == "complete" else "infeasible"
  if state == "complete" and of.objective.metric not in (known := read_log(folder).curves):
    evaluated = [name for name in known if name.startswith(("validation/", "train_subset/"))]
    metric = of.objective.metric
    raise StudyError(f"objective: {metric!r} was logged by no evaluation{nearest(metric, evaluated)}")
  return dataclasses.replace(ended(record, state, result.reason), summary=summary)


def _first_on_the_same_data(study: pathlib.Path, record: TrialRecord) -> pathlib.Path | None:
  """Return the folder of the first other trial that keeps what it learned, and whose values do not choose other
  data."""

  def data(trial: TrialRecord) -> dict[str, Any]:
    return {
      path: value
      for path, value in trial.changes.items()
      if path.startswith("dataset") and not path.startswith("dataset.augmentation")
    }

  folders = [
    trial_folder(study, other.trial)
    for other in read_trials(study).values()
    if other.trial != record.trial and data(other) == data(record)
  ]
  return next((folder for folder in folders if existing_run.is_begun(folder)), None)


def _write_if_possible(folder: pathlib.Path, record: TrialRecord) -> None:
  """Write the record as `write_trial` does; on a full disk it stays as it was, which also leads to another attempt."""
  try:
    write_trial(folder, record)
  except OSError:
    return


def _raise_if_the_studys(of: StudyRecord, error: ConfigError) -> None:
  """Raise StudyError if the study's own config, without a trial's values, has one of the same problems."""
  try:
    _few_steps(of, {}, Programs())
  except UserError as own:
    if set(own.problems) & set(error.problems):
      asked = f"selection.metric = {of.objective.metric!r}"
      raise StudyError(
        f"objective: {of.objective.metric!r}{problem.removeprefix(asked)}" if problem.startswith(asked) else problem
        for problem in error.problems
      ) from None


def _call(of: StudyRecord, record: TrialRecord, folder: pathlib.Path) -> TrialRecord:
  """Call the study's function, and write what it returns, or yields one after the other, as a run's metrics."""
  assert of.function is not None
  function = import_attribute("function", of.function)
  shutil.rmtree(folder / "checkpoints", ignore_errors=True)
  path = folder / "metrics.jsonl"
  path.unlink(missing_ok=True)
  begun = time.perf_counter()
  state, reason = "complete", None
  with path.open("a") as file:
    try:
      for step, values in enumerate(_results(of.function, function(**record.changes)), start=1):
        line = files.jsonable({"step": step, **values})
        file.write(f"{json.dumps(line, allow_nan=False)}\n")
    except InfeasibleError as error:
      state, reason = "infeasible", str(error)
  seconds = time.perf_counter() - begun
  points = read_log(folder).curves.get(of.objective.metric, [])
  best = value_of(of.objective, points)
  if state == "complete" and not points:
    names = sorted({name for line in files.read_json_lines(path) for name in line if name != "step"})
    told = f"function {of.function}: returned no {of.objective.metric!r}; it returned {', '.join(names) or 'nothing'}"
    others = read_trials(folder.parent.parent).values()
    if all(other.summary.get("objective") is None for other in others):
      raise StudyError(told)
    state, reason = "failed", told  # Of these values only.
  if state == "complete" and best is None:
    state, reason = "infeasible", f"{of.objective.metric} was never finite"
  summary = {"seconds": round(seconds, 6), "training_seconds": round(seconds, 6), **_best(best)}
  return dataclasses.replace(ended(record, state, reason), summary=summary)


def _results(name: str, returned: Any) -> Iterator[dict[str, float]]:
  """Yield what a function returned, or yields one after the other, as numbers by metric. Raise StudyError."""
  wanted = "it should return a mapping from metrics to numbers, or yield such mappings"
  if isinstance(returned, Mapping):
    returned = iter([returned])
  elif not isinstance(returned, Iterator):
    raise StudyError(f"function {name}: returned {returned!r}; {wanted}")
  for values in returned:
    if not isinstance(values, Mapping):
      raise StudyError(f"function {name}: gave {values!r}; {wanted}")
    wrong = {key: value for key, value in values.items() if not hasattr(value, "__float__")}
    if wrong or "step" in values:
      raise StudyError(f"function {name}: gave {dict(wrong or values)!r}; {wanted}, none of them named 'step'")
    yield {key: float(value) for key, value in values.items()}


def _summary(objective: Objective, result: RunResult, folder: pathlib.Path) -> dict[str, Any]:
  """Return numbers of all processes that worked on a run."""
  run = files.read_json(folder / "run.json") or {}
  processes = [*run.get("earlier", []), run]
  times = [process.get("times", {}) for process in processes]
  training = ("dispatch", "wait_for_device", "wait_for_data", "evaluation")
  log = read_log(folder)
  unusual = uncharacteristic(objective, log.curves, log.class_examples) if result.status == "complete" else None
  return {
    "step": result.step,
    **_best(value_of(objective, log.curves.get(objective.metric, []))),
    "uncharacteristic": unusual,
    "seconds": round(sum(each.get("total", 0.0) for each in times), 3),
    "training_seconds": round(sum(each.get(name, 0.0) for each in times for name in training), 3),
    "compilations": sum(sum(process.get("compilations", {}).values()) for process in processes),
  }


def _best(best: tuple[int, float] | None) -> dict[str, Any]:
  return {"best_step": best and best[0], "objective": best and best[1]}


def _first_line(error: Exception) -> str:
  return f"{type(error).__name__}: {error}".splitlines()[0].removesuffix(": ")


def _is_out_of_device_memory(error: Exception) -> bool:
  # Where a computation's buffers are allocated when it is dispatched, the status is INTERNAL.
  words = ("RESOURCE_EXHAUSTED", "Out of memory")
  return isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error) for word in words)
