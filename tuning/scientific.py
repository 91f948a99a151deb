"""The settings that a study compares: one for each combination of scientific values (PB-13, PB-30)."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from tuning.results import StudyResults, Trial
from tuning.space import Discrete, Hyperparameter, Integer, Linear, Log, OneOf, ReverseLog

BUCKETS = 5
"""Slices of a continuous axis: as many as leave each a few of the tens of trials that studies have."""
_FEWEST_DIGITS, _MOST_DIGITS = 3, 17


@dataclasses.dataclass(frozen=True)
class Setting:
  """What is held against others.

  Attributes:
    label: for people: its value, or `name=value` for each of several hyperparameters; `low to high` for a slice.
    values: of the scientific hyperparameters, or their slices' bounds; {} where a study has none.
    trials: that had them, in order.
  """

  label: str
  values: Mapping[str, Any]
  trials: Sequence[Trial]


def settings(results: StudyResults) -> list[Setting]:
  """The settings of a study in the order of their values; a single one, "all trials", where nothing is scientific."""
  axes = [one for one in results.varied if one.role == "scientific"]
  if not axes:
    return [Setting("all trials", {}, results.trials)]
  slices = [buckets(one, results.trials) for one in axes]
  numbers = {id(part): {trial.trial for trial in part.trials} for parts in slices for part in parts}
  found = []
  for combination in itertools.product(*slices):
    both = set.intersection(*(numbers[id(part)] for part in combination))
    trials = [trial for trial in results.trials if trial.trial in both]
    if trials:
      labels = [part.label for part in combination]
      if len(axes) > 1:
        labels = [f"{one.name}={label}" for one, label in zip(axes, labels, strict=True)]
      values = {name: value for part in combination for name, value in part.values.items()}
      found.append(Setting(", ".join(labels), values, trials))
  return found


def buckets(one: Hyperparameter, trials: Sequence[Trial]) -> list[Setting]:
  """The trials by the values of one hyperparameter; those of a continuous one in `BUCKETS` slices, equally wide on its
  scale. Trials in which it does not exist are in none."""
  having = [trial for trial in trials if one.name in trial.values]
  values = list(dict.fromkeys(trial.values[one.name] for trial in having))
  if not isinstance(one.scale, Linear | Log | ReverseLog | Integer) or len(values) <= BUCKETS:
    if isinstance(one.scale, Discrete | OneOf):
      order = list(one.scale.values)
      values.sort(key=lambda value: order.index(value) if value in order else len(order))
    else:
      values.sort()
    return [
      Setting(label, {one.name: value}, [trial for trial in having if trial.values[one.name] == value])
      for label, value in zip(_texts(values, _FEWEST_DIGITS), values, strict=True)
    ]
  edges = [one.scale.at(number / BUCKETS) for number in range(BUCKETS + 1)]
  texts = _texts(edges, _FEWEST_DIGITS - 1)
  found = []
  for number in range(BUCKETS):
    inside = [
      trial for trial in having if min(int(one.scale.unit(trial.values[one.name]) * BUCKETS), BUCKETS - 1) == number
    ]
    if inside:
      low, high = edges[number : number + 2]
      found.append(Setting(f"{texts[number]} to {texts[number + 1]}", {one.name: (low, high)}, inside))
  return found


def _texts(values: Sequence[Any], digits: int) -> list[str]:
  """Each value for people; of numbers as many digits as tell them apart: 0.9999 is not 1."""
  for count in range(digits, _MOST_DIGITS):
    texts = [f"{value:.{count}g}" if isinstance(value, float) else str(value) for value in values]
    if len(set(texts)) == len(set(values)) and ("1" not in texts or 1 in values):
      return texts
  return list(map(repr, values))
