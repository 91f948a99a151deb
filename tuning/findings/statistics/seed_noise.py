"""The noise of an objective where nothing was changed: from seed to seed, and by the draw of validation examples."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

from trialbook.tuning.findings.statistics.relevance import whole_of
from trialbook.tuning.once import once
from trialbook.tuning.results import StudyResults, Trial

LEVEL = 0.95
"""Level of the interval of a standard deviation."""


@dataclasses.dataclass(frozen=True)
class TrialNoise:
  """The standard deviation from seed to seed (PB-40).

  Attributes:
    deviation: pooled over groups of retrains.
    low, high: its 95% interval, by the chi-squared distribution.
    degrees_of_freedom: number of retrains less that of groups.
    trials: that were retrained.
    good: whether they are among the better half of the study; of bad points alone, the noise is that of bad points.
  """

  deviation: float
  low: float
  high: float
  degrees_of_freedom: int
  trials: tuple[int, ...]
  good: bool = True

  @property
  def is_usable(self) -> bool:
    """Return whether leads among the best points can be compared with it."""
    return self.good and self.deviation > 0


@once
def trial_noise(results: StudyResults) -> TrialNoise | None:
  """Return the noise of retrains in the study and of reruns; None if there are none.

  Bad points vary more and decide nothing, so that only the better half of the groups counts, and of these only what is
  among the better half of all points, if there is such. A rerun trial itself does not count: it was chosen because it
  was good, but its seeds were not. A seed that died while others of its point trained does not count either: that is
  another finding (`outcomes`), and in the deviation it would hide all differences.
  """
  groups = [(_trained(results, trials), trials[0].trial) for trials in results.points]
  costs = {number: results.objective.sign * float(np.mean(values)) for values, number in groups if values}
  median = float(np.median(list(costs.values()))) if costs else math.inf
  groups += [(_trained(study, study.trials), number) for number, study in results.reruns.items()]
  groups = [group for group in groups if len(group[0]) > 1]
  if not groups:
    return None
  groups.sort(key=lambda group: (results.objective.sign * float(np.mean(group[0])), group[1]))
  groups = groups[: (len(groups) + 1) // 2]

  def is_good(group: tuple[list[float], int]) -> bool:
    # What was chosen to be rerun was good, even if its seeds do not confirm that.
    own = results.objective.sign * float(np.mean(group[0]))
    return min(own, costs.get(group[1], own)) <= median

  good = [group for group in groups if is_good(group)]
  groups = good or groups
  degrees_of_freedom = sum(len(values) - 1 for values, _ in groups)
  squares = sum(float(np.sum((np.array(values) - np.mean(values)) ** 2)) for values, _ in groups)
  low, high = scipy.stats.chi2.ppf([(1 + LEVEL) / 2, (1 - LEVEL) / 2], degrees_of_freedom)
  return TrialNoise(
    math.sqrt(squares / degrees_of_freedom),
    math.sqrt(squares / low),
    math.sqrt(squares / high),
    degrees_of_freedom,
    tuple(sorted(number for _, number in groups)),
    bool(good),
  )


def _trained(results: StudyResults, trials: Sequence[Trial]) -> list[float]:
  """Return the objectives of the trials that trained to their end."""
  return [t.objective for t in trials if t.objective is not None and results.endings[t.trial].kind == "finished"]


def sampling_noise(results: StudyResults) -> tuple[float, int] | None:
  """Return the standard error of the best trial's objective by the draw of validation examples, and their number.

  That of a share, sqrt(p (1 - p) / n), where the metric is an error or an accuracy; None for others, or where the
  number of examples is not known. Trials of a study share their validation set: between two of them the difference
  varies less.
  """
  best = results.best
  split, _, name = results.objective.metric.rpartition("/")
  if best is None or best.objective is None or name not in ("error", "accuracy"):
    return None
  examples = best.log.examples.get(split, 0)
  whole = whole_of(results)
  if examples < 1 or not 0 <= best.objective <= whole:
    return None
  # A share of 0 of n examples is no proof of 0: as if there had been one success and one failure more (Laplace).
  share = (best.objective / whole * examples + 1) / (examples + 2)
  return whole * math.sqrt(share * (1 - share) / examples), examples


@dataclasses.dataclass(frozen=True)
class Noise:
  """The standard deviation that a difference is compared with, and its kind in words."""

  deviation: float
  source: str


def noise_of(results: StudyResults) -> Noise | None:
  """Return the noise from seed to seed if good points have retrains, else that of the draw of validation examples."""
  if (seeds := trial_noise(results)) is not None and seeds.is_usable:
    return Noise(seeds.deviation, "seed-to-seed standard deviation")
  if (sampling := sampling_noise(results)) is not None:
    return Noise(sampling[0], f"standard error of {sampling[1]:,} {split_of(results)} examples")
  return None


def split_of(results: StudyResults) -> str:
  """Return the word for the examples that the objective is measured on: "validation", "training"."""
  split = results.objective.metric.rpartition("/")[0]
  return "training" if split.startswith("train") else split or "evaluated"
