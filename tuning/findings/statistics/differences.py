"""How much better the best setting is than each other one, and whether that is more than chance (PB-30)."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.stats

from trialbook.tuning.findings.statistics.best_of_k import cumulative
from trialbook.tuning.findings.statistics.contenders import Contender
from trialbook.tuning.findings.statistics.permutation_test import Dealt, deal, possible

LEVEL = 0.1
"""Of an interval of a difference, over all settings that are held against the best: half of it lies on the other side,
so that an equal one is called worse in one comparison of twenty at most."""
LUCK = 0.04
"""The share of random deals with a difference as large as that which is seen, up to which it is not luck; over all
scientific hyperparameters of a study. It is exact for any distribution of equal settings, so that one study of twenty
at most has a winner by luck, with what `deals.DEALS` leave uncertain."""
DRAWS = 4000
"""Of the medians: the quantiles of the difference are then sure to a few hundredths of its spread."""


@dataclasses.dataclass(frozen=True)
class Axis:
  """A scientific hyperparameter and those that were compared beside it.

  Attributes:
    name: of it.
    others: names of the others.
    places: of each trial, by its number, which value of each of the others it has, or which slice; None: it has none.
    count: of the hyperparameters that have such a verdict in the study.
    sliced: whether it is continuous. A slice is no setting that somebody would choose, and its neighbours are alike by
      nature.
  """

  name: str
  others: tuple[str, ...]
  places: Mapping[int, tuple[int | None, ...]]
  count: int
  sliced: bool

  @property
  def plot(self) -> str:
    """That shows its settings."""
    return f"isolation:{self.name}" if self.others else "comparison"

  @property
  def level(self) -> float:
    """Up to which share of deals a difference is not luck."""
    return LUCK / self.count


@dataclasses.dataclass(frozen=True)
class Difference:
  """Between the best setting and another one.

  Attributes:
    lead, low, high: the median of how much better it is, and the wider one of both intervals.
    drawn: the ends of the interval of the best that are drawn again.
    dealt: what random deals say; None where too few points of both have the same values of the others.
    aliased: then, the names of the others that were varied together with it.
  """

  lead: float
  low: float
  high: float
  drawn: tuple[float, float]
  dealt: Dealt | None
  aliased: tuple[str, ...]

  @property
  def confounded(self) -> bool:
    """Whether it would be a difference, did the others not make up most of it."""
    return self.dealt is not None and self.low > 0 and 2 * self.dealt.expected > self.dealt.seen

  @property
  def numbers(self) -> dict[str, Any]:
    """For people and programs that read them."""
    return {
      "lead": self.lead,
      "low": self.low,
      "high": self.high,
      "bootstrap": {"low": self.drawn[0], "high": self.drawn[1]},
      "luck": None if self.dealt is None else self.dealt.luck,
      "by_others": None if self.dealt is None else self.dealt.expected,
    }

  def told(self, level: float) -> bool:
    """Whether it is more than chance."""
    return self.low > 0 and self.dealt is not None and self.dealt.luck <= level

  def times(self, level: float) -> float:
    """How many times as many trials would tell it: intervals shrink with their root, and so does what chance makes."""
    shrink = (self.lead - self.low) / self.lead if self.lead > 0 else math.inf
    luck = 1.0 if self.dealt is None else self.dealt.luck
    chance = scipy.stats.norm.isf(level / 2) / scipy.stats.norm.isf(luck / 2) if luck < 1 else math.inf
    return max(shrink, float(chance), 1.0) ** 2


def differences(
  winner: Contender, others: Sequence[Contender], axis: Axis, budget: int, rng: np.random.Generator
) -> list[Difference]:
  """Between the best setting and each of the others, [others].

  Args:
    winner: with the best point.
    others: all of which have a tail, as the winner has.
    axis: what tells them apart.
    budget: points at which the best are compared: as many as the smallest has.
    rng: of all draws and deals.
  """
  medians = {id(one): one.tail.medians(budget, DRAWS, rng) for one in (winner, *others) if one.tail is not None}
  bests = {id(one): _bests(one, budget, rng) for one in (winner, *others)}
  level = LEVEL / len(others)
  ends = [level / 2, 1 - level / 2]
  found = []
  for one in others:
    difference = medians[id(one)] - medians[id(winner)]
    drawn = tuple(float(x) for x in np.quantile(bests[id(one)] - bests[id(winner)], ends))
    low, high = (float(x) for x in np.quantile(difference, ends))
    dealt, aliased = _dealt(winner, one, axis, budget, rng)
    found.append(
      Difference(
        lead=float(np.median(difference)),
        low=min(low, drawn[0]),
        high=max(high, drawn[1]),
        drawn=(drawn[0], drawn[1]),
        dealt=dealt,
        aliased=aliased,
      )
    )
  return found


def _dealt(
  winner: Contender, other: Contender, axis: Axis, budget: int, rng: np.random.Generator
) -> tuple[Dealt | None, tuple[str, ...]]:
  """What deals say; where they can say nothing, because of which of the others."""
  worst = max(winner.costs[-1], other.costs[-1])
  places = [[axis.places[point.trials[0]] for point in one.points] for one in (winner, other)]
  # What no point of one of them has belongs to the other setting alone, such as a momentum to its optimizer.
  both = [
    place for place in range(len(axis.others)) if all(any(each[place] is not None for each in side) for side in places)
  ]

  def strata(chosen: Sequence[int]) -> tuple[list[tuple], list[tuple]]:
    first, second = ([tuple(each[place] for place in chosen) for each in side] for side in places)
    return first, second

  # Each deal and its mirror image differ as much: of fewer than these, none would be rare.
  least = 2 / axis.level
  if possible(*strata(both)) < least:
    alone = [place for place in both if possible(*strata([place])) < least]
    return None, tuple(axis.others[place] for place in alone or both)
  first, second = ([*one.costs, *[worst] * one.infeasible] for one in (winner, other))
  return deal((first, second), strata(both), budget, rng), ()


def _bests(one: Contender, budget: int, rng: np.random.Generator) -> np.ndarray:
  """The best of `budget` of its points, drawn with replacement: [DRAWS]. Points without a value are as bad as the
  worst one."""
  reached = cumulative(len(one.costs), budget, one.infeasible)
  places = np.searchsorted(reached, rng.random(DRAWS))
  return np.asarray(one.costs)[np.minimum(places, len(one.costs) - 1)]
