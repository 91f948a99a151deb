"""The settings that a study compares, and what is known of the best of each (PB-13, PB-30)."""

import dataclasses
import functools
from collections.abc import Sequence

from trialbook.tuning import compared_settings
from trialbook.tuning.findings.statistics.best_of_k import BestOfK, of_k
from trialbook.tuning.findings.statistics.extreme_value import ExtremeValueFit, fit_extreme_value
from trialbook.tuning.findings.statistics.points import Point, feasible, points_of
from trialbook.tuning.results import StudyResults, Trial


@dataclasses.dataclass(frozen=True)
class Contender:
  """A setting and what is known of the best of it.

  Attributes:
    setting: as `scientific.settings` gives it.
    points: of it, the best first, those that gave nothing last. Retrains of a point are one try: their mean.
    best: of the retrains of its best point the best one; None where no point has a value.
  """

  setting: compared_settings.Setting
  points: tuple[Point, ...]
  best: Trial | None

  @functools.cached_property
  def costs(self) -> tuple[float, ...]:
    """Of its points with a value, in order: smaller is better."""
    return tuple(point.cost for point in self.points if point.retrains)

  @property
  def total(self) -> int:
    """Of its points, those that gave nothing too."""
    return len(self.points)

  @property
  def named(self) -> str:
    """The setting, in a sentence."""
    return self.setting.named

  @property
  def infeasible(self) -> int:
    """Points that gave nothing."""
    return self.total - len(self.costs)

  def best_of(self, k: int, sign: float) -> BestOfK:
    """What the best of k of its points would be, were they drawn again; there must be one with a value."""
    return of_k([sign * cost for cost in self.costs], sign, k, self.infeasible)

  @functools.cached_property
  def extreme_value(self) -> ExtremeValueFit | None:
    """The extreme-value fit of its costs; None if there are too few, or the best are equal."""
    return fit_extreme_value(self.costs, self.infeasible)


def contenders(results: StudyResults, settings: Sequence[compared_settings.Setting]) -> list[Contender]:
  """What is known of the best of each setting."""
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
  """Points at which settings are compared: as many as the smallest has of those with a value; 0 if none has one."""
  return min((one.total for one in field if one.costs), default=0)


def first_of(results: StudyResults, field: Sequence[Contender]) -> list[Contender]:
  """Those that have a value, the one with the best point first; among equals, that of the trial which ranks first."""
  best = results.best
  return sorted(
    (one for one in field if one.costs),
    key=lambda one: (one.costs[0], best is None or all(best.trial != trial.trial for trial in one.setting.trials)),
  )
