"""The points that a study has tried: what the findings about points look at. Smaller costs are better."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trialbook.tuning.once import once
from trialbook.tuning.results import StudyResults
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Linear, Log, Quantity, ReverseLog

MOST_DIGITS = 7
"""Most digits, less one, of a value that is rounded to be read: searches draw no more
(`trialbook.tuning.space.scales.DIGITS`)."""
DIED = ("collapsed", "outlier", "stuck")
"""Endings of trials that have a value and did not train."""


@dataclasses.dataclass(frozen=True)
class TriedPoint:
  """A point of the space with the results of its trials, which are retrains of one another.

  Trials that crashed, or have not ended, do not count. To a search, a point is its values only
  (`search.protocol.Point`).

  Attributes:
    values: of its hyperparameters, by name.
    trials: numbers of its trials that count.
    retrains: cost of each complete trial: the objective times its sign; without those that died.
    infeasible: number of trials without a value, other than those that a rule ended early.
    pruned: number of trials that a rule ended early, because they were worse than others: their values are not known,
      but it is known that they are not among the best.
    dead: number of trials that have a value and died (`tuning.endings`) while at least as many others trained: they
      are in no mean, since they would move it to where no trial is.
  """

  values: Mapping[str, Any]
  trials: tuple[int, ...]
  retrains: tuple[float, ...]
  infeasible: int
  pruned: int = 0
  dead: int = 0

  @functools.cached_property
  def cost(self) -> float:
    """Return the mean cost of its retrains; NaN if none is complete."""
    return math.fsum(self.retrains) / len(self.retrains) if self.retrains else math.nan


def points_of(results: StudyResults) -> list[TriedPoint]:
  """Return the points that have a complete or an infeasible trial, in order of their first trial."""
  return points_ended(results, ("infeasible",))


def tried_points(results: StudyResults) -> list[TriedPoint]:
  """Return the points of `points_of` and those whose trials were all pruned: all that the study spent effort on."""
  return points_ended(results, ("infeasible", "pruned"))


@once
def points_ended(results: StudyResults, without_value: Sequence[str]) -> list[TriedPoint]:
  """Return the points that have a trial with a value, or in one of some states, in order of their first trial."""
  found = []
  for trials in results.points:
    ended = [trial for trial in trials if trial.objective is not None or trial.state in without_value]
    if ended:
      valued = [trial for trial in ended if trial.objective is not None]
      trained = [trial for trial in valued if results.endings[trial.trial].kind not in DIED]
      if 2 * len(trained) < len(valued):
        trained = valued
      retrains = tuple(results.objective.sign * t.objective for t in trained if t.objective is not None)
      numbers = tuple(trial.trial for trial in ended)
      pruned = sum(trial.state == "pruned" for trial in ended)
      without = len(ended) - len(valued) - pruned
      found.append(TriedPoint(ended[0].values, numbers, retrains, without, pruned, len(valued) - len(trained)))
  return found


def feasible(points: Sequence[TriedPoint]) -> list[TriedPoint]:
  """Return the points with a value, the best first."""
  return sorted((point for point in points if point.retrains), key=lambda point: (point.cost, point.trials))


def is_numeric(one: Hyperparameter) -> bool:
  """Return whether the values of a hyperparameter have an order."""
  return isinstance(one.scale, Quantity | Discrete)


def is_learning_rate(one: Hyperparameter) -> bool:
  """Return whether a hyperparameter is a learning rate, by the name of its field."""
  last = one.path.rpartition(".")[2].lower()
  return "learning_rate" in last or last == "lr"


def unit_of(one: Hyperparameter, values: Mapping[str, Any]) -> float:
  """Return where a point is on the scale of a numeric hyperparameter, 0 to 1; NaN if it has no number there."""
  value = values.get(one.name)
  if isinstance(value, bool) or not isinstance(value, int | float):
    return math.nan
  try:
    unit = one.scale.unit(value)
  except (ValueError, ZeroDivisionError):
    return math.nan
  return unit if math.isfinite(unit) else math.nan


def units_of(one: Hyperparameter, points: Sequence[TriedPoint]) -> np.ndarray:
  """Return `unit_of` of each: [points]."""
  return np.array([unit_of(one, point.values) for point in points], float)


def value_at(one: Hyperparameter, unit: float) -> float:
  """Return the value at a place on a numeric scale, which may lie beyond its ends."""
  scale = one.scale
  match scale:
    case Log():
      return scale.min * (scale.max / scale.min) ** unit
    case ReverseLog():
      return 1 - (1 - scale.min) * ((1 - scale.max) / (1 - scale.min)) ** unit
    case Integer(log=True):
      return (scale.min - 0.5) * ((scale.max + 0.5) / (scale.min - 0.5)) ** unit
    case Linear():
      return scale.min + unit * (scale.max - scale.min)
    case Integer():
      return scale.min - 0.5 + unit * (scale.max - scale.min + 1)
    case _:
      return float(scale.at(min(max(unit, 0.0), 1.0 - 1e-9)))


def rounded(one: Hyperparameter, value: float, fits: Callable[[float], bool], digits: int = 1) -> float:
  """Return a value with the fewest digits, `digits` at least, that fit; those of 1 - value on a reverse-log scale."""
  for count in range(digits, MOST_DIGITS):
    new = 1 - float(f"{1 - value:.{count}g}") if isinstance(one.scale, ReverseLog) else float(f"{value:.{count}g}")
    if fits(new):
      return new
  return value


@once
def searched(results: StudyResults) -> list[Hyperparameter]:
  """Return the hyperparameters that the trials vary and that are not fixed."""
  return [one for one in results.varied if one.role != "fixed"]
