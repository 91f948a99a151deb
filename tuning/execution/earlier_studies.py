"""Results of earlier studies that a Bayesian search may use: trials that would be the same training in this study."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from trialbook.errors import ConfigError, UserError
from trialbook.paths import PathError, as_path
from trialbook.settings import leaves
from trialbook.tuning import first_trial, records
from trialbook.tuning.execution.observations import observations
from trialbook.tuning.records import FINAL, StudyRecord, TrialRecord
from trialbook.tuning.search.bayesian import Observation
from trialbook.tuning.search.listed import point_problems
from trialbook.tuning.search.protocol import Point, exists
from trialbook.tuning.space import binding
from trialbook.tuning.space.scales import Hyperparameter
from trialbook.tuning.study import Study

if TYPE_CHECKING:
  from trialbook.trainer import Config


def read(
  study: Study, config: Config | None, hyperparameters: Sequence[Hyperparameter], folders: Sequence[str]
) -> list[Observation]:
  """Return the results of those trials of earlier studies that are points of this study.

  The training of such a trial is the one that this study would make with the trial's values, whatever its seed is.

  Args:
    study: that the search is of.
    config: of its trials but for their hyperparameters; None for a function.
    hyperparameters: of the study.
    folders: of the earlier studies.

  Raises:
    UserError: if a folder has no study, or one with another objective, or none of its trials is a point of this study.
  """
  found: list[TrialRecord] = []
  problems = []
  for folder in folders:
    try:
      path = as_path(folder)
      record, trials = records.read_study(path), records.read_trials(path)
    except (UserError, PathError) as error:
      problems.append(f"search.earlier: {folder}: {error}")
      continue
    if record.objective != study.objective:
      problems.append(f"search.earlier: {folder}: its objective is {record.objective}, and not {study.objective}")
      continue
    ended = [trial for trial in trials.values() if trial.state in FINAL and trial.state != "failed"]
    points = [_point(study, config, hyperparameters, record, trial) for trial in ended]
    found += [
      dataclasses.replace(trial, values=point)
      for trial, point in zip(ended, points, strict=True)
      if not isinstance(point, str)
    ]
    if all(isinstance(point, str) for point in points):
      why = f", the first one because of {points[0]}" if points else ""
      problems.append(f"search.earlier: {folder}: none of its {len(ended)} trials is a point of this study{why}")
  if problems:
    raise UserError(problems)
  return observations(found, study)


def _point(
  study: Study,
  config: Config | None,
  hyperparameters: Sequence[Hyperparameter],
  record: StudyRecord,
  trial: TrialRecord,
) -> Point | str:
  """Return the values that a trial has in this study, or what makes it none of this study's."""
  if config is None or record.config is None:
    if (record.function, record.config) != (study.function, config):
      return f"its trials: {record.function or 'trainings'} there, {study.function or 'trainings'} here"
    unknown = [name for name in trial.values if name not in {one.name for one in hyperparameters}]
    wrong = [f"the hyperparameter {unknown[0]!r}"] if unknown else point_problems(hyperparameters, trial.values)
    return wrong[0] if wrong else dict(trial.values)
  try:
    there = record.config.override(trial.changes)
    values: Point = {}
    for one in hyperparameters:
      if exists(one, values):
        stored = record.hyperparameters.get(one.name, {})
        same = (stored.get("path"), stored.get("sets")) == (one.path, one.sets)
        values[one.name] = (
          trial.values[one.name] if same and one.name in trial.values else first_trial.value_in(there, one)
        )
    if wrong := point_problems(hyperparameters, values):
      return wrong[0]
    here = config.override(binding.changes(hyperparameters, values))
  except ConfigError as error:
    return error.problems[0]
  ours, theirs = _training(here), _training(there)
  differing = [path for path in {**ours, **theirs} if not _equal(ours.get(path), theirs.get(path))]
  return f"{differing[0]}: {theirs.get(differing[0])!r} there, {ours.get(differing[0])!r} here" if differing else values


def _training(config: Config) -> dict[str, Any]:
  """Return what makes a training another one, by path; not its seed, and not where it runs."""
  resolved = config.resolved()
  found = {path: value for path, kind, _, value in leaves(resolved) if kind != "host" and not path.startswith("mesh.")}
  del found["seed"]
  return found | {"max_train_steps": resolved.max_train_steps}


def _equal(one: Any, other: Any) -> bool:
  if isinstance(one, float) and isinstance(other, float):
    return math.isclose(one, other, rel_tol=1e-5)
  return one == other
