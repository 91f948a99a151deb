"""The trials that follow from a study: what each one changes, and which of them share a compiled program (PB-16)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trialbook.errors import ConfigError
from trialbook.tuning.space import binding, counting
from trialbook.tuning.space.scales import Hyperparameter, OneOf
from trialbook.tuning.study import Objective, Study, point_count

if TYPE_CHECKING:
  from trialbook.trainer import Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedTrial:
  """A trial before it is run: its values, and what follows from them alone.

  It is never stored: the same study gives the same plan. What happens to the trial is in its `records.TrialRecord`.

  Attributes:
    trial: its number, from 0.
    values: of its hyperparameters, by name.
    changes: what they change in the study's config.
    refusal: why no run can have these values; None: one can.
    group: trials with the same group share a compiled program.
  """

  trial: int
  values: Mapping[str, Any]
  changes: Mapping[str, Any]
  refusal: str | None
  group: str


def trial_config(config: Config, objective: Objective) -> Config:
  """Return the config of a study's trials but for their hyperparameters.

  A trial selects its checkpoint by the study's objective, unless the config says by what; and it is not exported, which
  takes a second and can be done with the best trial later (`trialbook export`).
  """
  changes: dict[str, Any] = {"export": False}
  if config.selection.metric is None:
    changes |= {"selection.metric": objective.metric, "selection.mode": objective.mode}
  return config.override(changes)


def plan(
  study: Study, config: Config | None, hyperparameters: Sequence[Hyperparameter], trial: int, values: Mapping[str, Any]
) -> PlannedTrial:
  """Return the trial with these values.

  Args:
    study: that it belongs to.
    config: of the study's trials, by `trial_config`; None for a function.
    hyperparameters: of the study.
    trial: its number.
    values: by name.
  """
  changes = binding.changes(hyperparameters, values)
  refusal, group = None, ""
  if config is not None:
    try:
      from trialbook.trainer.program import static_key  # Of a function nothing is compiled, so nothing is imported.

      group = static_key(config.override(changes))
    except ConfigError as error:
      refusal = "; ".join(error.problems)
  return PlannedTrial(trial=trial, values=values, changes=changes, refusal=refusal, group=group)


def trial_count(study: Study, hyperparameters: Sequence[Hyperparameter]) -> int:
  """Return the number of trials of a study that has been checked."""
  if study.trials is not None:
    return study.trials
  return point_count(study, hyperparameters)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Balance:
  """The three desiderata of a study against each other (PB-16).

  Attributes:
    trials: of the study.
    combinations: of the values of its scientific hyperparameters; 1 where they are continuous or absent.
    dimensions: of the nuisance space that a trial has, on average over its conditions.
    points: for each combination, trials per dimension if they were a grid: trials ** (1 / dimensions).
    possible: number of points of the space; infinite if a scale is continuous.
    repeats: trials that have the values of an earlier one, and so its result.
  """

  trials: int
  combinations: int
  dimensions: float
  points: float
  possible: float = math.inf
  repeats: int = 0


def balance(hyperparameters: Sequence[Hyperparameter], trials: Sequence[Mapping[str, Any]]) -> Balance:
  """Return how wide and how dense a study's trials (their values) are."""
  listed = [one.name for one in hyperparameters if one.role == "scientific" and hasattr(one.scale, "values")]
  combinations = {tuple(repr(values.get(name)) for name in listed) for values in trials}
  nuisance = [one for one in hyperparameters if one.name not in listed and not isinstance(one.scale, OneOf)]
  dimensions = sum(one.name in values for one in nuisance for values in trials) / max(len(trials), 1)
  each = len(trials) / max(len(combinations), 1)
  points = each ** (1 / dimensions) if dimensions else math.inf
  distinct = {tuple((name, repr(value)) for name, value in sorted(values.items())) for values in trials}
  return Balance(
    trials=len(trials),
    combinations=max(len(combinations), 1),
    dimensions=dimensions,
    points=points,
    possible=counting.combinations(hyperparameters),
    repeats=len(trials) - len(distinct),
  )
