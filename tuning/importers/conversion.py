"""Conversion of a study of a source to our records: names of metrics, objective, scales, states, values of trials."""

import dataclasses
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trialbook.errors import UserError
from trialbook.metric_names import better
from trialbook.naming import nearest
from trialbook.tuning.importers import inferred, metric_names, optional_scales, trial_endings
from trialbook.tuning.importers.source import Options, SourceStudy, SourceTrial
from trialbook.tuning.objective import uncharacteristic, value_of
from trialbook.tuning.records import State, StudyRecord, TrialRecord
from trialbook.tuning.space.scales import Hyperparameter
from trialbook.tuning.study import TRIAL_COLUMNS, Objective

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
    notes.append(f"Metrics left out, because their names stand for something else here: {', '.join(unusable)}.")
  curves = [
    {names[name]: kept for name, points in trial.curves.items() if (kept := _kept(names[name], points))}
    for trial in trials
  ]
  states, more = trial_endings.states(objective, trials, curves)
  converted = [
    (_trial(number, trial, own, objective, *states[number]), own)
    for number, (trial, own) in enumerate(zip(trials, curves, strict=True))
  ]
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
    warnings=tuple(dict.fromkeys([*notes, *more])),
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

  def ours(name: str) -> str:
    found = names.get(name, name)
    return metric_names.ours(name) if found not in logged and metric_names.ours(name) in logged else found

  own = study.objective and dataclasses.replace(study.objective, metric=ours(study.objective.metric))
  asked = None if study.chosen else options.objective
  if asked is not None:
    metric = ours(asked)
  elif own is not None:
    metric = own.metric
  elif (metric := next((metric for metric in metric_names.DEFAULTS if metric in logged), None)) is None:
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
  splits: dict[str, optional_scales.Split] = {}
  notes = []
  for name in dict.fromkeys([*own, *study.hyperparameters]):
    known = study.hyperparameters.get(name)
    as_two = optional_scales.split(name, values.get(name, []), known, f"{name}.present" in values)
    if as_two is not None:
      splits[name] = as_two
      found |= {one.name: one for one in as_two.hyperparameters}
      notes.append(as_two.note)
      continue
    one = known or inferred.hyperparameter(name, values[name])
    if one is None:
      notes.append(f"Columns left out: {name} (more than {inferred.MOST_CATEGORIES} different texts).")
    else:
      found[name] = one
  changed = []
  for trial in study.trials:
    own_values: dict[str, Any] = {}
    for name, value in trial.values.items():
      if name in splits:
        own_values |= splits[name].values(value)
      elif name in found:
        own_values[name] = value
    changed.append(dataclasses.replace(trial, values={own.get(name, name): v for name, v in own_values.items()}))
  hyperparameters = [
    dataclasses.replace(
      one, name=own.get(name, name), parent=one.parent and (own.get(one.parent[0], one.parent[0]), one.parent[1])
    )
    for name, one in found.items()
  ]
  return changed, _under_presence(hyperparameters, changed), notes


def _under_presence(hyperparameters: Sequence[Hyperparameter], trials: Sequence[SourceTrial]) -> list[Hyperparameter]:
  """Return hyperparameters, those that exist exactly where `NAME.present` is true below it, as in our own tables."""
  found = []
  for one in hyperparameters:
    name = f"{one.name}.present"
    exists = [one.name in trial.values for trial in trials]
    if one.parent is None and not all(exists) and exists == [trial.values.get(name) is True for trial in trials]:
      one = dataclasses.replace(one, parent=(name, True))
    found.append(one)
  known = {one.name: one for one in found}
  # Parents stand before what is under them.
  ordered = dict.fromkeys(
    name
    for one in found
    for name in ([one.parent[0], one.name] if one.parent is not None and one.parent[0] in known else [one.name])
  )
  return [known[name] for name in ordered]


def _trial(
  number: int, trial: SourceTrial, curves: Curves, objective: Objective, state: State, reason: str | None
) -> TrialRecord:
  """Return a trial's record, with the numbers in the summary that a trial of ours would have."""
  points = curves.get(objective.metric, [])
  worth = value_of(objective, points)
  unusual = uncharacteristic(objective, {objective.metric: points}, {}) if state == "complete" else None
  times = {"seconds": trial.seconds, "training_seconds": trial.training_seconds}
  summary = {
    "step": max((steps[-1][0] for steps in curves.values()), default=0),
    "lines": len({step for points in curves.values() for step, _ in points}),
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
