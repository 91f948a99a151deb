"""A trial that is a training: its run, a few steps of it that tell the cost, and what it comes to."""

import functools
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any, NamedTuple

from trialbook import files
from trialbook.errors import BrokenDataError, ConfigError, GoneError, OtherDataError, UserError
from trialbook.naming import nearest
from trialbook.trainer import Guard, Programs, RunResult
from trialbook.trainer import run as train
from trialbook.trainer.records import Process, Run, read_run
from trialbook.trainer.train import Judge
from trialbook.trainer.workdir import existing_run
from trialbook.tuning.curves import read_log
from trialbook.tuning.execution.mistakes import kind_of
from trialbook.tuning.execution.trial_states import Cost, MistakeError, StudyError
from trialbook.tuning.objective import uncharacteristic, value_of
from trialbook.tuning.records import State, StudyRecord, TrialRecord, read_study, read_trials, trial_folder
from trialbook.tuning.study import Objective

_MEASURED_STEPS = 10
_OTHER_DATA = "bring back the data that it began with, or begin a new study in another folder (--dir)"
_EVALUATED = ("validation/", "validation_", "train_subset/")


_STATES: dict[str, State] = {"infeasible": "infeasible", "pruned": "pruned", "preempted": "stopped"}
"""State of a trial whose run has a status; of others it is complete."""


class RefusedError(Exception):
  """No run can have a trial's values. `mistake`: its kind, if the study's own config is refused for the same reason."""

  def __init__(self, reason: str, mistake: str | None):
    self.mistake = mistake
    super().__init__(reason)


class Outcome(NamedTuple):
  """The end of a training: the state of its trial ("stopped" if it was preempted), the reason and the summary."""

  state: State
  reason: str | None
  summary: Mapping[str, Any]


def run_training(
  study: pathlib.Path,
  of: StudyRecord,
  record: TrialRecord,
  programs: Programs | None,
  guard: Guard,
  judge: Judge,
) -> Outcome:
  """Train, or resume, the run of a trial.

  Args:
    study: the study's folder.
    of: the study's record.
    record: the trial's.
    programs: compiled programs of earlier trials.
    guard: see `run_trial`.
    judge: see `trialbook.trainer.run`.

  Raises:
    StudyError: if the data are not those of the study's other trials, or the disk is full.
    RefusedError: if no run can have these values.
    MistakeError: if a plug-in or a checkpoint is at fault, or the objective's metric is not evaluated.
  """
  assert of.config is not None
  folder = trial_folder(study, record.trial)
  checked = functools.partial(_with_the_objective, of.objective, judge)
  config = of.config.override(record.changes)
  try:
    data_of = _first_on_the_same_data(study, record)
  except UserError as error:
    raise StudyError(error.problems) from None  # The record of another trial.
  try:
    result = train(config, folder, programs=programs, guard=guard, data_of=data_of, judge=checked)
  except OtherDataError as error:
    told = f"trial {record.trial}: the data have changed since the study began; {_OTHER_DATA}"
    raise StudyError([told, *error.differences]) from None
  except ConfigError as error:
    is_of_the_study = guard.hosts.is_lead and _problems_of_the_study(of, error)
    reason = "; ".join(_in_words_of_the_study(of, error))
    raise RefusedError(reason, kind_of(reason) if is_of_the_study else None) from None
  except BrokenDataError as error:
    # The hints of a run with a checkpoint are for a single run: a study cannot be forked.
    others = data_of is not None or len(error.problems) > len(error.causes)
    hint = (
      ["all trials of a study must have the same data; with repaired data, begin a new one (--dir)"] if others else []
    )
    raise StudyError([*(f"trial {record.trial}: {cause}" for cause in error.causes), *hint]) from None
  except UserError as error:
    if isinstance(error, GoneError) or _is_of_the_disk(error):
      raise StudyError([f"trial {record.trial}: {problem}" for problem in error.problems]) from None
    raise MistakeError("; ".join(error.problems), kind_of(str(error))) from None
  summary = _summary(of.objective, result, folder)
  state = _STATES.get(result.status, "complete")
  if state == "complete" and of.objective.metric not in (known := read_log(folder).curves):
    raise _not_evaluated(of.objective, known)
  return Outcome(state, result.reason, summary)


def follow_training(
  study: pathlib.Path, of: StudyRecord, record: TrialRecord, programs: Programs | None, guard: Guard
) -> State:
  """Take part in the run of a trial on a host that is not the lead; return the state that the trial comes to.

  Nothing is written, and files that the lead has just written are not read.
  """
  assert of.config is not None
  folder, data_of = trial_folder(study, record.trial), _first_on_the_same_data(study, record)
  config = of.config.override(record.changes)
  result = train(config, folder, programs=programs, guard=guard, data_of=data_of, judge=_is_not_asked)
  return _STATES.get(result.status, "complete")


def _is_not_asked(step: int, values: Mapping[str, Any]) -> None:
  """Take the place of the judge, which only the lead asks."""


def measure(study: pathlib.Path, changes: Mapping[str, Any], programs: Programs) -> Cost | None:
  """Measure a few steps of a trial in a folder that is then removed; the program stays for the trial itself.

  The result is None if these values cannot be run, which the trial will report.

  Raises:
    StudyError: if the study's own config cannot be run, for the same reason, or the disk is full.
  """
  of = read_study(study)
  if of.config is None:
    return None
  try:
    record = _few_steps(of, changes, programs)
  except (ConfigError, BrokenDataError) as error:
    if isinstance(error, BrokenDataError) or _problems_of_the_study(of, error):
      raise StudyError(_in_words_of_the_study(of, error)) from None
    return None
  except UserError as error:
    if _is_of_the_disk(error):
      raise StudyError(error.problems) from None
    return None  # It may be of these values only.
  except Exception:
    return None  # The trial will run into it, where it is recorded.
  times, steps = record.get("times", {}), max(record["step"] or 0, 1)
  in_steps = sum(times.get(name, 0.0) for name in ("dispatch", "wait_for_device", "wait_for_data"))
  return Cost(in_steps / steps, times.get("evaluation", 0.0) / 2, record.get("compilation_seconds", 0.0))


def _few_steps(of: StudyRecord, trial: Mapping[str, Any], programs: Programs) -> Run:
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
    record = read_run(pathlib.Path(folder))
    assert record is not None, "the run has written it"
    return record


def _with_the_objective(objective: Objective, judge: Judge, step: int, values: Mapping[str, Any]) -> str | None:
  """Ask the judge about an evaluation. Raise MistakeError at once if the first one has not the objective's metric."""
  if step == 0 and objective.metric not in values:
    raise _not_evaluated(objective, values)
  return judge(step, values)


def _not_evaluated(objective: Objective, known: Mapping[str, Any]) -> MistakeError:
  metric = objective.metric
  evaluated = [name for name in known if name.startswith(_EVALUATED)]
  return MistakeError(f"objective: {metric!r} was logged by no evaluation{nearest(metric, evaluated)}", f"no {metric}")


def _first_on_the_same_data(study: pathlib.Path, record: TrialRecord) -> pathlib.Path | None:
  """Return the folder of the first other trial that keeps what it learned, and whose values do not choose other
  data."""

  def data(trial: TrialRecord) -> dict[str, Any]:
    return {
      path: value
      for path, value in trial.changes.items()
      if path.startswith("dataset") and not path.startswith("dataset.augmentation")
    }

  for other in read_trials(study).values():
    folder = trial_folder(study, other.trial)
    is_begun = other.state == "pruned" or existing_run.is_begun(folder)
    if other.trial != record.trial and data(other) == data(record) and is_begun:
      return folder
  return None


def _problems_of_the_study(of: StudyRecord, error: UserError) -> set[str]:
  """Return which of a trial's problems the study's own config has too, without the trial's values."""
  try:
    _few_steps(of, {}, Programs())
  except UserError as own:
    return set(own.problems) & set(error.problems)
  except Exception:
    return set()
  return set()


def _in_words_of_the_study(of: StudyRecord, error: UserError) -> list[str]:
  """Return problems, those of the selection as problems of the objective."""
  asked = f"selection.metric = {of.objective.metric!r}"
  return [
    f"objective: {of.objective.metric!r}{problem.removeprefix(asked)}" if problem.startswith(asked) else problem
    for problem in error.problems
  ]


def _is_of_the_disk(error: BaseException | None) -> bool:
  """Return whether an error stems from a disk that is full or cannot be written: other trials would meet it too."""
  return error is not None and files.limit_problem(error) is not None


def _summary(objective: Objective, result: RunResult, folder: pathlib.Path) -> dict[str, Any]:
  """Return numbers of all processes that worked on a run."""
  run = read_run(folder)
  processes: list[Process] = [] if run is None else [*run.get("earlier", []), run]
  times = [process.get("times", {}) for process in processes]
  training = ("dispatch", "wait_for_device", "wait_for_data", "evaluation")
  log = read_log(folder)
  unusual = uncharacteristic(objective, log.curves, log.class_examples) if result.status == "complete" else None
  return {
    "step": result.step,
    **best(value_of(objective, log.curves.get(objective.metric, []))),
    "uncharacteristic": unusual,
    "seconds": round(sum(each.get("total", 0.0) for each in times), 3),
    "training_seconds": round(sum(each.get(name, 0.0) for each in times for name in training), 3),
    "compilations": sum(sum(process.get("compilations", {}).values()) for process in processes),
  }


def best(found: tuple[int, float] | None) -> dict[str, Any]:
  """Return the step and the value of a trial as its summary has them."""
  return {"best_step": found and found[0], "objective": found and found[1]}
