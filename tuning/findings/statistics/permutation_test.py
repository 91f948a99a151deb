"""Whether a difference between two settings is more than chance, without any assumption on how their points spread.

The points of both are dealt out again at random, and the difference that is seen must be rare among these deals. Where
other hyperparameters are compared in the same study, a setting that happened to have more of their better values would
look better by these alone. Points are therefore dealt only among those that have the same values of the others: a
stratified permutation test (Good, "Permutation, Parametric, and Bootstrap Tests of Hypotheses", 2005).
"""

import collections
import dataclasses
import math
from collections.abc import Hashable, Sequence

import numpy as np

from trialbook.tuning.findings.statistics.best_of_k import cumulative

DEALS = 1000
"""Of the points: a share of 0.04 is then sure to 0.006."""


@dataclasses.dataclass(frozen=True)
class Dealt:
  """What deals of the points say about a difference.

  Attributes:
    luck: the share of deals that differ as much as is seen. Exact, whatever the distribution, where both settings have
      the same at each value of the others.
    seen: how much the second costs more than the first, by the mean best of half the budget.
    expected: the mean difference of the deals: what unequal values of the others make up.
  """

  luck: float
  seen: float
  expected: float


def possible(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
  """How many different deals there are of two settings' points, each of which is in such a stratum."""
  counts = collections.Counter(first), collections.Counter(second)
  return math.prod(math.comb(counts[0][one] + counts[1][one], counts[1][one]) for one in counts[0])


def deal(
  costs: tuple[Sequence[float], Sequence[float]],
  strata: tuple[Sequence[Hashable], Sequence[Hashable]],
  budget: int,
  rng: np.random.Generator,
) -> Dealt:
  """Deals the points of two settings within their strata.

  By the mean best of half the budget: less is decided by single points than in the best of all, and more tells than in
  the mean.

  Args:
    costs: of the points of each, in any order; points without a value are as bad as the worst one.
    strata: where each point is.
    budget: points that both are compared at.
    rng: of the deals.
  """
  count = len(costs[0])
  whole = np.concatenate([np.asarray(side, float) for side in costs])
  # Probabilities that the best of the draws is the first, the second, ... of a side.
  weights = [np.diff(cumulative(len(side), max(1, budget // 2)), prepend=0) for side in costs]

  def difference(points: np.ndarray) -> np.ndarray:
    first, second = (np.sort(side, axis=-1) for side in (points[..., :count], points[..., count:]))
    return second @ weights[1] - first @ weights[0]

  places: dict[Hashable, list[int]] = {}
  for position, stratum in enumerate((*strata[0], *strata[1])):
    places.setdefault(stratum, []).append(position)
  dealt = np.tile(whole, (DEALS, 1))
  for inside in places.values():
    dealt[:, inside] = rng.permuted(dealt[:, inside], axis=1)
  seen, differences = float(difference(whole)), difference(dealt)
  # As it is dealt counts too, so that no share is 0; equal ones count in spite of rounding.
  large = np.sum(np.abs(differences) >= seen - 1e-12 * np.max(np.abs(whole)))
  return Dealt(luck=float(1 + large) / (1 + DEALS), seen=seen, expected=float(differences.mean()))
