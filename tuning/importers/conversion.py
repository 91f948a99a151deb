"""Conversion of a study of a source to our records: names of metrics, objective, scales, states, values of trials."""

import dataclasses
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trialbook.errors import UserError
from trialbook.metric_names import better
from trialbook.naming import nearest
from trialbook.tuning.importers import inferred, metric_names
from trialbook.tuning.importers.source import Options, SourceStudy, SourceTrial
from trialbook.tuning.objective import uncharacteristic, value_of
from trialbook.tuning.records import State, StudyRecord, TrialRecord
from trialbook.tuning.space.scales import Hyperparameter
from trialbook.tuning.study import TRIAL_COLUMNS, Objective

DEFAULTS = ("validation/error", "validation/loss", "validation/accuracy")
"""Metrics by which a study is ranked if nothing names one: the first of these that was logged."""

Curves = Mapping[str, Sequence[tuple[int, float]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Converted:
  """A study in our records.

  Attributes:
    place: its folder inside the import's.
    record: of the study.
    trials: and what each logged, by our names of metrics, in order of steps.
  """

  place: str
  record: StudyRecord
  trials: Sequence[tuple[TrialRecord, Curves]]


def convert(study: SourceStudy, options: Options, command: str) -> Converted:
  """Return a study of a source in our records.

  Raises:
    UserError: with all that is wrong with what the user chose.
  """
  logged = dict.fromkeys(name for trial in study.trials for name in trial.curves)
  names = metric_names.mapping(logged, study.names, options.rename)
  objective = _objective(study, names, options)
  trials, hyperparameters, notes = _hyperparameters(study, {*TRIAL_COLUMNS, objective.metric})
  notes = [*study.notes, *notes]
  if unusable := [name for name in names.values() if not _usable(name)]:
    notes.append(f"metrics that cannot be kept: {', '.join(map(repr, unusable))}")
  converted = []
  for number, trial in enumerate(trials):
    curves = {names[name]: kept for name, points in trial.curves.items() if (kept := _kept(names[name], points))}
    converted.append((_trial(number, trial, curves, objective), curves))
  steps = {step for _, curves in converted for step, _ in curves.get(objective.metric, ())}
  if steps == {0}:
    raise UserError(
      f"objective: {objective.metric!r} was logged at step 0 only, which is the state before training;"
      " its steps should be the number of updates before each evaluation"
    )
  renamed = {name: target for name, target in names.items() if name != target}
  record = StudyRecord(
    name=study.name,
    goal=study.goal,
    objective=objective,
    config=None,
    function=None,
    hyperparameters={one.name: one.as_json() for one in hyperparameters},
    search={"name": "imported", "renamed": renamed},
    trials=len(converted),
    cores_per_trial=1,
    devices_per_trial=1,
    max_attempts=1,
    command=command,
    commit=None,
    diff="",
    created=time.time(),
    warnings=tuple(notes),
    source=study.source,
  )
  return Converted(place=study.place, record=record, trials=converted)


def _kept(name: str, points: Mapping[int, float]) -> list[tuple[int, float]]:
  """Return the values of a curve that can be written, in order of steps."""
  if not _usable(name):
    return []
  if _counts_examples(name):
    return sorted((step, int(value)) for step, value in points.items() if math.isfinite(value))
  return sorted(points.items())


def _counts_examples(name: str) -> bool:
  return name.rpartition("/")[2] in ("examples", "num_examples")


def _usable(name: str) -> bool:
  # These stand for something else in a trial's lines.
  return name != "step" and name.rpartition("/")[2] != "class_examples"


def _objective(study: SourceStudy, names: Mapping[str, str], options: Options) -> Objective:
  logged = sorted({name for name in names.values() if _usable(name) and not _counts_examples(name)})
  own = study.objective and dataclasses.replace(
    study.objective, metric=names.get(study.objective.metric, study.objective.metric)
  )
  asked = None if study.chosen else options.objective
  if asked is not None:
    metric = names.get(asked, asked)
  elif own is not None:
    metric = own.metric
  elif (metric := next((metric for metric in DEFAULTS if metric in logged), None)) is None:
    raise UserError(
      "objective: say which metric trials are ranked by, --objective=METRIC --mode=min or --mode=max;"
      f" logged: {', '.join(logged) or 'none'}"
    )
  if metric not in logged and (logged or asked is not None):
    raise UserError(f"objective: {metric!r} was logged by no trial{nearest(metric, logged)}")
  same = own if own is not None and own.metric == metric else None
  mode = options.mode or (same and same.mode) or better(metric)
  if mode is None:
    raise UserError(f"objective: say which direction of {metric!r} is better, --mode=min or --mode=max")
  return Objective(metric, mode, same.value if same else "best")


def _hyperparameters(
  study: SourceStudy, taken: set[str]
) -> tuple[list[SourceTrial], list[Hyperparameter], Iterable[str]]:
  """Return the trials and the hyperparameters, none of which has the name of another column of our tables."""
  own = {name: f"hyperparameter.{name}" if name in taken else name for trial in study.trials for name in trial.values}
  values: dict[str, list[Any]] = {name: [] for name in own}
  for trial in study.trials:
    for name, value in trial.values.items():
      values[name].append(value)
  found: dict[str, Hyperparameter] = {}
  notes = []
  for name in dict.fromkeys([*own, *study.hyperparameters]):
    one = study.hyperparameters.get(name) or inferred.hyperparameter(name, values[name])
    if one is None:
      notes.append(f"{name} has more than {inferred.MOST_CATEGORIES} different texts, and is no hyperparameter")
    else:
      found[name] = one
  left_out = set(own) - set(found)
  trials = [
    dataclasses.replace(
      trial, values={own[name]: value for name, value in trial.values.items() if name not in left_out}
    )
    for trial in study.trials
  ]
  hyperparameters = [
    dataclasses.replace(
      one, name=own.get(name, name), parent=one.parent and (own.get(one.parent[0], one.parent[0]), one.parent[1])
    )
    for name, one in found.items()
  ]
  return trials, hyperparameters, notes


def _trial(number: int, trial: SourceTrial, curves: Curves, objective: Objective) -> TrialRecord:
  """Return a trial's record, with the numbers in the summary that a trial of ours would have."""
  points = curves.get(objective.metric, [])
  state, reason = (trial.state, trial.reason) if trial.state is not None else state_of(objective, curves)
  worth = value_of(objective, points)
  unusual = uncharacteristic(objective, {objective.metric: points}, {}) if state == "complete" else None
  times = {"seconds": trial.seconds, "training_seconds": trial.training_seconds}
  summary = {
    "step": max((steps[-1][0] for steps in curves.values()), default=0),
    "best_step": worth and worth[0],
    "objective": worth and worth[1],
    "uncharacteristic": unusual,
    **{name: value for name, value in times.items() if value is not None},
    "source": trial.source,
  }
  attempt = {"worker": None, "started": trial.started, "finished": trial.finished, "end": state, "checkpoint": None}
  return TrialRecord(
    trial=number,
    state=state,
    values=trial.values,
    changes=trial.values,
    reason=reason,
    attempts=() if state == "pending" else (attempt,),
    summary=summary,
  )


def state_of(objective: Objective, curves: Curves) -> tuple[State, str | None]:
  """Return the state of a trial of which only curves are known, and the reason.

  Failed if it logged nothing; infeasible if the objective's metric or the training loss is not finite at its end, as a
  training of ours would have ended there (PB-21); else complete.
  """
  if not curves:
    return "failed", "it logged nothing"
  for metric in (objective.metric, "train/loss", "train_subset/loss"):
    points = curves.get(metric, [])
    if points and not math.isfinite(points[-1][1]):
      step = next(step for step, value in points if not math.isfinite(value))
      return "infeasible", f"{metric} is not finite, for the first time at step {step}"
  return "complete", None
