"""The settings that a study compares: one for each combination of scientific values (PB-13, PB-30)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from trialbook.tuning.results import StudyResults, Trial
from trialbook.tuning.space.scales import Discrete, Hyperparameter, OneOf, Quantity

BUCKETS = 5
"""Slices of a continuous axis: as many as leave each a few of the tens of trials that studies have."""
_FEWEST_DIGITS, _MOST_DIGITS = 3, 17


@dataclasses.dataclass(frozen=True)
class ComparedSetting:
  """An arm of a comparison: the trials that have the same scientific values.

  Attributes:
    label: for people: its value, or `name=value` for each of several hyperparameters; `low to high` for a slice. A
      hyperparameter that does not exist in its trials is left out; `without name` where none does.
    values: of the scientific hyperparameters that exist, or their slices' bounds; {} if there is none.
    trials: that had them, in order.
  """

  label: str
  values: Mapping[str, Any]
  trials: Sequence[Trial]

  @property
  def named(self) -> str:
    """Return the label for a sentence, after the hyperparameter's name if a bare number or truth value needs one."""
    if len(self.values) == 1:
      ((name, value),) = self.values.items()
      return self.label if isinstance(value, str) or "=" in self.label else f"{name}={self.label}"
    return self.label


def compared_settings(results: StudyResults) -> list[ComparedSetting]:
  """Return the compared settings of a study in the order of their values; one, "all trials", if nothing is scientific.

  Each trial is in one of them: those in which a hyperparameter does not exist, as it belongs to another choice, are a
  setting of their own.
  """
  axes = [one for one in results.varied if one.role == "scientific"]
  if not axes:
    return [ComparedSetting("all trials", {}, results.trials)]
  slices = [buckets(one, results.trials) for one in axes]
  groups: dict[tuple[int | None, ...], list[Trial]] = {}
  for trial, key in zip(results.trials, places(axes, results.trials), strict=True):
    groups.setdefault(key, []).append(trial)
  found = []
  # Where a hyperparameter does not exist comes after all of its values.
  for key, trials in sorted(groups.items(), key=lambda group: [(place is None, place or 0) for place in group[0]]):
    parts = [(one, of[place]) for one, of, place in zip(axes, slices, key, strict=True) if place is not None]
    labels = [part.label if len(axes) == 1 else f"{one.name}={part.label}" for one, part in parts]
    values = {name: value for _, part in parts for name, value in part.values.items()}
    label = ", ".join(labels) or f"without {', '.join(one.name for one in axes)}"
    found.append(ComparedSetting(label, values, trials))
  return found


def places(axes: Sequence[Hyperparameter], trials: Sequence[Trial]) -> list[tuple[int | None, ...]]:
  """Return for each trial the index of its bucket of each hyperparameter; None if that does not exist there."""
  found = []
  for one in axes:
    of = {trial.trial: place for place, part in enumerate(buckets(one, trials)) for trial in part.trials}
    found.append([of.get(trial.trial) for trial in trials])
  return [tuple(each[row] for each in found) for row in range(len(trials))]


def buckets(one: Hyperparameter, trials: Sequence[Trial]) -> list[ComparedSetting]:
  """Return the trials by the values of one hyperparameter.

  A continuous one has `BUCKETS` slices, equally wide on its scale. Trials in which it does not exist are in none.
  """
  groups: dict[Any, list[Trial]] = {}
  for trial in trials:
    if one.name in trial.values:
      groups.setdefault(trial.values[one.name], []).append(trial)
  values = list(groups)
  if not isinstance(one.scale, Quantity) or len(values) <= BUCKETS:
    if isinstance(one.scale, Discrete | OneOf):
      order = list(one.scale.values)
      values.sort(key=lambda value: order.index(value) if value in order else len(order))
    else:
      values.sort()
    texts = _texts(values, _FEWEST_DIGITS)
    return [
      ComparedSetting(label, {one.name: value}, groups[value]) for label, value in zip(texts, values, strict=True)
    ]
  edges = [one.scale.at(number / BUCKETS) for number in range(BUCKETS + 1)]
  texts = _texts(edges, _FEWEST_DIGITS - 1)
  inside: list[list[Trial]] = [[] for _ in range(BUCKETS)]
  for trial in trials:
    if one.name in trial.values:
      # Values beyond the bounds, as of another tool, are in the outer slices.
      inside[min(max(int(one.scale.unit(trial.values[one.name]) * BUCKETS), 0), BUCKETS - 1)].append(trial)
  return [
    ComparedSetting(f"{texts[number]} to {texts[number + 1]}", {one.name: (edges[number], edges[number + 1])}, those)
    for number, those in enumerate(inside)
    if those
  ]


def _texts(values: Sequence[Any], digits: int) -> list[str]:
  """Return each value as text; numbers with enough digits to distinguish them: 0.9999 is not 1."""
  for count in range(digits, _MOST_DIGITS):
    texts = [f"{value:.{count}g}" if isinstance(value, float) else str(value) for value in values]
    if len(set(texts)) == len(set(values)) and ("1" not in texts or 1 in values):
      return texts
  return list(map(repr, values))
