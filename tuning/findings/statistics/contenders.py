"""The points of each compared setting, and the statistics of the best of them (PB-13, PB-30)."""

import dataclasses
import functools
from collections.abc import Sequence

from trialbook.tuning.compared_settings import ComparedSetting
from trialbook.tuning.findings.statistics.best_of_k import BestOfK, of_k
from trialbook.tuning.findings.statistics.extreme_value import ExtremeValueFit, fit_extreme_value
from trialbook.tuning.findings.statistics.points import TriedPoint, feasible, points_of
from trialbook.tuning.results import StudyResults, Trial


@dataclasses.dataclass(frozen=True)
class Contender:
  """A compared setting with its points, and what is known of the best of them.

  Attributes:
    setting: the compared setting.
    points: its points, the best first, those without a value last. The cost of a point is the mean of its retrains.
    best: the best retrain of its best point; None if no point has a value.
  """

  setting: ComparedSetting
  points: tuple[TriedPoint, ...]
  best: Trial | None

  @functools.cached_property
  def costs(self) -> tuple[float, ...]:
    """Return the costs of the points that have a value, in order; smaller is better."""
    return tuple(point.cost for point in self.points if point.retrains)

  @property
  def total(self) -> int:
    """Return the number of points, with or without a value."""
    return len(self.points)

  @property
  def named(self) -> str:
    """Return the label of the setting for a sentence."""
    return self.setting.named

  @property
  def infeasible(self) -> int:
    """Return the number of points without a value."""
    return self.total - len(self.costs)

  def best_of(self, k: int, sign: float) -> BestOfK:
    """Return the distribution of the best of k of its points, drawn with replacement; one must have a value."""
    return of_k([sign * cost for cost in self.costs], sign, k, self.infeasible)

  @functools.cached_property
  def extreme_value(self) -> ExtremeValueFit | None:
    """Return the extreme-value fit of its costs; None if there are too few, or the best are equal."""
    return fit_extreme_value(self.costs, self.infeasible)


def contenders(results: StudyResults, settings: Sequence[ComparedSetting]) -> list[Contender]:
  """Return each setting with its points."""
  points, sign = points_of(results), results.objective.sign
  found = []
  for setting in settings:
    trials = {trial.trial: trial for trial in setting.trials}
    own = [point for point in points if point.trials[0] in trials]
    ordered = feasible(own)
    valued = [trials[n] for n in ordered[0].trials if trials[n].objective is not None] if ordered else []
    best = min(valued, key=lambda trial: sign * (trial.objective or 0.0), default=None)
    ordered += [point for point in own if not point.retrains]
    found.append(Contender(setting, tuple(ordered), best))
  return found


def budget_of(field: Sequence[Contender]) -> int:
  """Return the number of points at which settings are compared: that of the smallest one; 0 if no point has a value."""
  return min((one.total for one in field if one.costs), default=0)


def first_of(results: StudyResults, field: Sequence[Contender]) -> list[Contender]:
  """Return those that have a value, ordered by their best points; of equals, that with the best trial is first."""
  best = results.best
  return sorted(
    (one for one in field if one.costs),
    key=lambda one: (one.costs[0], best is None or all(best.trial != trial.trial for trial in one.setting.trials)),
  )
