"""The lead of the best compared setting over each other one, tested against chance (PB-30)."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from trialbook.tuning.findings.statistics.best_of_k import cumulative
from trialbook.tuning.findings.statistics.contenders import Contender
from trialbook.tuning.findings.statistics.permutation_test import PermutationTest, permutation_count, permutation_test

LEVEL = 0.1
"""Share of intervals that miss the difference, over all settings that are compared with the best. Half of these are on
the other side, so that an equal setting is called worse in at most one comparison of twenty."""
SIGNIFICANCE = 0.04
"""Level of the permutation test, over all scientific hyperparameters of a study. The test is exact for any distribution
of equal settings, so that at most one study of twenty has a winner by chance, with the error that
`permutation_test.PERMUTATIONS` leave."""
DRAWS = 4000
"""Draws of each median: the error of the quantiles of a difference is then a few hundredths of its spread."""


@dataclasses.dataclass(frozen=True)
class Axis:
  """A scientific hyperparameter and those that were compared beside it.

  Attributes:
    name: of it.
    others: names of the others.
    places: of each trial, by its number, which value of each of the others it has, or which slice; None: it has none.
    count: of the hyperparameters that have such a verdict in the study.
    sliced: whether it is continuous. A slice is not a setting that a user would choose, and its neighbours are alike by
      nature.
  """

  name: str
  others: tuple[str, ...]
  places: Mapping[int, tuple[int | None, ...]]
  count: int
  sliced: bool

  @property
  def level(self) -> float:
    """Return the level of the permutation test of this hyperparameter."""
    return SIGNIFICANCE / self.count


@dataclasses.dataclass(frozen=True)
class Difference:
  """The difference between the best setting and another one.

  Attributes:
    lead, low, high: the median of how much better it is, and the wider one of both intervals; None if no point of the
      other setting has a value, since all were pruned.
    bootstrap: the ends of the bootstrap interval of the difference of the bests; None likewise.
    test: by permutations; None if too few points of both have the same values of the others.
    aliased: then, the names of the others that were varied together with it.
  """

  lead: float | None
  low: float | None
  high: float | None
  bootstrap: tuple[float, float] | None
  test: PermutationTest | None
  aliased: tuple[str, ...]

  @property
  def confounded(self) -> bool:
    """Return whether the intervals show a difference, but the other hyperparameters make up most of it."""
    return self.test is not None and self._is_lead and 2 * self.test.expected > self.test.observed

  @property
  def _is_lead(self) -> bool:
    return self.low is None or self.low > 0

  @property
  def numbers(self) -> dict[str, Any]:
    """Return the numbers for people and programs."""
    return {
      "lead": self.lead,
      "low": self.low,
      "high": self.high,
      "bootstrap": self.bootstrap and {"low": self.bootstrap[0], "high": self.bootstrap[1]},
      "p": None if self.test is None else self.test.p_value,
      "by_others": None if self.test is None else self.test.expected,
    }

  def is_significant(self, level: float) -> bool:
    """Return whether the interval excludes 0 and the permutation test rejects chance at this level."""
    return self._is_lead and self.test is not None and self.test.p_value <= level

  def times_to_settle(self, level: float) -> float:
    """Return how many times as many trials would make it significant, if it is as large as it looks.

    Intervals, and the differences that chance makes, shrink with the root of the number of trials.
    """
    if self.lead is None or self.low is None:
      shrink = 1.0
    else:
      shrink = (self.lead - self.low) / self.lead if self.lead > 0 else math.inf
    p_value = 1.0 if self.test is None else self.test.p_value
    chance = scipy.stats.norm.isf(level / 2) / scipy.stats.norm.isf(p_value / 2) if p_value < 1 else math.inf
    return max(shrink, float(chance), 1.0) ** 2


def differences(
  winner: Contender, others: Sequence[Contender], axis: Axis, budget: int, rng: np.random.Generator
) -> tuple[float, list[Difference]]:
  """Return the median cost of the best of `budget` points of the best setting, and the differences between it and each
  of the others, [others].

  Args:
    winner: with the best point.
    others: of each, and of the winner, a fit or the observed distribution is compared
      (`Contender.is_known_by_pruning`).
    axis: the hyperparameter that they differ in.
    budget: points at which the best are compared: as many as the smallest has.
    rng: of all draws and permutations.
  """
  field = (winner, *others)
  medians = {id(one): one.extreme_value.medians(budget, DRAWS, rng) for one in field if one.extreme_value is not None}
  bests = {id(one): _bests(one, budget, rng) for one in field if one.costs}
  level = LEVEL / len(others)
  ends = [level / 2, 1 - level / 2]
  found = []
  for one in others:
    lead = low = high = bootstrap = None
    if one.costs:
      observed = bests[id(one)] - bests[id(winner)]
      low, high = bootstrap = (float(np.quantile(observed, ends[0])), float(np.quantile(observed, ends[1])))
      lead = float(np.median(observed))
      if id(one) in medians and id(winner) in medians:
        fitted = medians[id(one)] - medians[id(winner)]
        lead = float(np.median(fitted))
        low = min(low, float(np.quantile(fitted, ends[0])))
        high = max(high, float(np.quantile(fitted, ends[1])))
    test, aliased = permuted(winner, one, axis, budget, rng)
    found.append(Difference(lead=lead, low=low, high=high, bootstrap=bootstrap, test=test, aliased=aliased))
  return float(np.median(medians.get(id(winner), bests[id(winner)]))), found


def permuted(
  winner: Contender, other: Contender, axis: Axis, budget: int, rng: np.random.Generator
) -> tuple[PermutationTest | None, tuple[str, ...]]:
  """Return the permutation test; if it is not possible, None and the names of the others that prevent it."""
  worst = max(one.costs[-1] for one in (winner, other) if one.costs)
  places = [[axis.places[point.trials[0]] for point in one.points] for one in (winner, other)]
  # What no point of one of them has belongs to the other setting alone, such as a momentum to its optimizer.
  both = [
    place for place in range(len(axis.others)) if all(any(each[place] is not None for each in side) for side in places)
  ]

  def strata(chosen: Sequence[int]) -> tuple[list[tuple], list[tuple]]:
    first, second = ([tuple(each[place] for place in chosen) for each in side] for side in places)
    return first, second

  # Each permutation and its mirror image differ as much: of fewer than these, none would be rare.
  least = 2 / axis.level
  if permutation_count(*strata(both)) < least:
    alone = [place for place in both if permutation_count(*strata([place])) < least]
    return None, tuple(axis.others[place] for place in alone or both)
  first, second = ([*one.costs, *[worst] * one.without_value] for one in (winner, other))
  return permutation_test((first, second), strata(both), budget, rng), ()


def _bests(one: Contender, budget: int, rng: np.random.Generator) -> np.ndarray:
  """Return the best of `budget` points of a setting, drawn with replacement: [DRAWS].

  Points without a value count as the worst one.
  """
  reached = cumulative(len(one.costs), budget, one.without_value)
  places = np.searchsorted(reached, rng.random(DRAWS))
  return np.asarray(one.costs)[np.minimum(places, len(one.costs) - 1)]
