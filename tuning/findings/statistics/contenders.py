"""The points of each compared setting, and the statistics of the best of them (PB-13, PB-30).

Effort counts what was tried: points with a value, infeasible ones, and those that a rule ended early because they were
worse than others (pruned). The values of pruned points are not known, but they are not among the best, so that the
statistics of the best of k treat them as they treat infeasible ones. Trials that crashed, were cut short or have not
ended say nothing, and are left out.
"""

import collections
import dataclasses
import functools
import statistics
from collections.abc import Mapping, Sequence

from trialbook.tuning.compared_settings import ComparedSetting
from trialbook.tuning.findings.statistics.best_of_k import BestOfK, of_k
from trialbook.tuning.findings.statistics.extreme_value import LEAST, SHARE, ExtremeValueFit, fit_extreme_value
from trialbook.tuning.findings.statistics.points import TriedPoint, feasible, tried_points
from trialbook.tuning.results import StudyResults, Trial


@dataclasses.dataclass(frozen=True)
class Contender:
  """A compared setting with its points, and what is known of the best of them.

  Attributes:
    setting: the compared setting.
    points: its tried points, the best first, those without a value last. The cost of a point is the mean of its
      retrains.
    best: the best retrain of its best point; None if no point has a value.
    left_out: number of its trials in each state that are of no tried point, such as "failed" or "stopped".
    pruned_at: median last step of its pruned trials; None if there are none, or if they logged nothing.
    early: number of its trials with a value that ended before the others (`tuning.endings`): they would have become
      better.
    at_target: whether half of the best third of its points were ended at a target: their values do not order settings.
  """

  setting: ComparedSetting
  points: tuple[TriedPoint, ...]
  best: Trial | None
  left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
  pruned_at: float | None = None
  early: int = 0
  at_target: bool = False

  @functools.cached_property
  def costs(self) -> tuple[float, ...]:
    """Return the costs of the points that have a value, in order; smaller is better."""
    return tuple(point.cost for point in self.points if point.retrains)

  @property
  def total(self) -> int:
    """Return the number of tried points, with or without a value."""
    return len(self.points)

  @property
  def named(self) -> str:
    """Return the label of the setting for a sentence."""
    return self.setting.named

  @property
  def without_value(self) -> int:
    """Return the number of tried points without a value."""
    return self.total - len(self.costs)

  @functools.cached_property
  def pruned(self) -> int:
    """Return the number of points without a value that were ended early as worse than others."""
    return sum(not point.retrains and not point.infeasible for point in self.points)

  @property
  def infeasible(self) -> int:
    """Return the number of infeasible points."""
    return self.without_value - self.pruned

  @functools.cached_property
  def has_retrains(self) -> bool:
    """Return whether any of its points has several trials."""
    return any(len(point.trials) > 1 for point in self.points)

  def best_of(self, k: int, sign: float) -> BestOfK:
    """Return the distribution of the best of k of its points, drawn with replacement; one must have a value."""
    return of_k([sign * cost for cost in self.costs], sign, k, self.without_value)

  @functools.cached_property
  def extreme_value(self) -> ExtremeValueFit | None:
    """Return the extreme-value fit of its costs; None if there are too few, or the best are equal."""
    return fit_extreme_value(self.costs, self.without_value)

  @functools.cached_property
  def is_known_by_pruning(self) -> bool:
    """Return whether too few points have a value for a fit, but enough do or were pruned: then the observed
    distribution itself is compared."""
    return self.pruned > 0 and len(self.costs) < LEAST <= len(self.costs) + self.pruned


def contenders(results: StudyResults, settings: Sequence[ComparedSetting]) -> list[Contender]:
  """Return each setting with its points."""
  points, sign = tried_points(results), results.objective.sign
  found = []
  for setting in settings:
    trials = {trial.trial: trial for trial in setting.trials}
    own = [point for point in points if point.trials[0] in trials]
    ordered = feasible(own)
    valued = [trials[n] for n in ordered[0].trials if trials[n].objective is not None] if ordered else []
    best = min(valued, key=lambda trial: sign * (trial.objective or 0.0), default=None)
    ordered += [point for point in own if not point.retrains]
    counted = {number for point in own for number in point.trials}
    left_out = collections.Counter(trial.state for trial in setting.trials if trial.trial not in counted)
    pruned_at = [trial.last_step for trial in setting.trials if trial.state == "pruned" and trial.last_step]
    good = ordered[: max(1, round(SHARE * sum(bool(point.retrains) for point in own)))]
    ends = {trial.trial: results.endings[trial.trial].kind for trial in setting.trials if trial.objective is not None}
    found.append(
      Contender(
        setting,
        tuple(ordered),
        best,
        dict(left_out),
        statistics.median(pruned_at) if pruned_at else None,
        early=sum(kind in ("cut_short", "target") for kind in ends.values()),
        at_target=best is not None
        and 2 * sum(any(ends.get(number) == "target" for number in point.trials) for point in good) >= len(good),
      )
    )
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
