"""Replay of a rule that ends trials early, on a study whose trials were not: what it would have saved and lost.

The points of a quasi-random search may come in any order. So the study is replayed in many random orders, and their
spread is the uncertainty of what the rule does. Retrains of a point are not independent, so each order has one of them.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from trialbook.tuning.early_stopping import QuantileStopping
from trialbook.tuning.findings.statistics.curve_trends import complete
from trialbook.tuning.results import StudyResults, Trial
from trialbook.tuning.standings import reached_by, standing

ORDERS = 200
"""Random orders: a share of 5% of them is known to 1.5%."""
TOP_SHARE, TOP_LEAST, TOP_MOST = 0.2, 3, 10
"""Share of the points that are the best ones, and their least and largest number. The one best point of a study may be
kept by chance, and what a rule does to several says more of the next study."""
LATE = 0.15
"""Share of the steps by which the evaluation at which a trial is compared may be later than the rule says."""
WHOLE = 0.95
"""Share of the usual length that a complete trial must have: one that ended before was ended for a reason."""
BLOCK = 32
"""Trials that are compared with each other at once."""
INTERVAL = (2.5, 97.5)
"""Percentiles of the orders."""


@dataclasses.dataclass(frozen=True)
class Curve:
  """What the replay needs of a trial.

  Attributes:
    trial: its number.
    costs: at each of the shares, as `Standing` has them.
    ends: the steps of the evaluations there; a trial that did not come there has its last step.
    steps: the last one that it logged.
    cost: its value; infinite if it is infeasible.
  """

  trial: int
  costs: tuple[float, ...]
  ends: tuple[int, ...]
  steps: int
  cost: float


@dataclasses.dataclass(frozen=True)
class Replay:
  """What a rule would have done to a study.

  Attributes:
    rule: that was replayed.
    saved: mean share of the steps that it saves.
    low, high: 95% interval of that share, over the orders.
    lost: share of the orders in which it ends the best trial.
    worse: share of the orders in which what is left is worse than the best trial by more than is relevant.
    loss: mean difference of the best value, over the orders in which the best trial is ended; 0 if it never is.
    top: probability that one of the best few points is ended, their mean.
  """

  rule: QuantileStopping
  saved: float
  low: float
  high: float
  lost: float
  worse: float
  loss: float
  top: float

  @property
  def risk(self) -> float:
    """Return the largest probability that it does harm."""
    return max(self.lost, self.worse, self.top)


def curves(results: StudyResults, shares: Sequence[float]) -> list[list[Curve]]:
  """Return what can be replayed, by point: of each its retrains that ran to their end, or are infeasible.

  Args:
    results: the study.
    shares: of the steps, at which rules compare.
  """
  whole = {trial.trial for trial in complete(results) if trial.last_step >= WHOLE * (results.length(trial) or 0)}
  found = []
  for trials in results.points:
    kept = [trial for trial in trials if trial.trial in whole or trial.state == "infeasible"]
    some = [curve for trial in kept if (curve := _curve(results, trial, shares)) is not None]
    if some:
      found.append(some)
  return found


def _curve(results: StudyResults, trial: Trial, shares: Sequence[float]) -> Curve | None:
  """Return a trial's curve; None if it has too few evaluations."""
  objective, length = results.objective, results.length(trial)
  if length is None:
    return None
  steps = [max(round(share * length), 1) for share in shares]
  had = reached_by(steps, objective, *trial.evaluations(objective.metric))
  late = [at for (at, _), step in zip(had, steps, strict=False) if at > step + LATE * length]
  if late or (trial.state != "infeasible" and len(had) < len(steps)):
    return None
  seen = standing(trial.state, had, trial.objective, len(steps), objective.sign)
  ends = (*(at for at, _ in had), *[trial.last_step] * (len(steps) - len(had)))
  cost = math.inf if trial.objective is None else objective.sign * trial.objective
  return Curve(trial.trial, tuple(map(_known, seen.costs)), ends, trial.last_step, cost)


def _known(cost: float | None) -> float:
  assert cost is not None, "the trial has ended"
  return cost


def best_few(points: Sequence[Sequence[Curve]]) -> int:
  """Return the number of the best points that a rule should keep."""
  return min(max(math.ceil(TOP_SHARE * len(points)), TOP_LEAST), TOP_MOST)


def replays(
  points: Sequence[Sequence[Curve]],
  shares: Sequence[float],
  quantiles: Sequence[float],
  after: int,
  relevant: float,
) -> list[Replay]:
  """Return what rules do to a study, over random orders of its points: one for each share and each quantile.

  Args:
    points: by `curves`, with the same shares.
    shares: of the steps, at which rules compare.
    quantiles: of the rules.
    after: number of points that come before any is compared.
    relevant: difference of the objective that matters.
  """
  rng = np.random.default_rng(0)
  flat = [curve for retrains in points for curve in retrains]
  counts = np.array([len(retrains) for retrains in points])
  firsts = np.cumsum(counts) - counts
  costs, steps = np.array([one.cost for one in flat]), np.array([one.steps for one in flat], float)
  seen, ends = np.array([one.costs for one in flat]).T, np.array([one.ends for one in flat], float).T
  is_best = np.zeros(len(points), bool)
  is_best[np.argsort([np.mean([one.cost for one in each]) for each in points], kind="stable")[: best_few(points)]] = (
    True
  )
  tallies = {(share, quantile): _Tally(relevant) for share in shares for quantile in quantiles}
  drawn = [(firsts + rng.integers(counts), rng.permutation(len(points))) for _ in range(ORDERS)]
  orders = np.array([order for _, order in drawn])
  trials = np.array([chosen[order] for chosen, order in drawn])
  for at, share in enumerate(shares):
    there, left = seen[at, trials], steps[trials] - ends[at, trials]
    better = better_before(there)
    for place, chosen in enumerate(trials):
      for quantile in quantiles:
        ended = _ended(there[place], left[place], better[place], quantile, after)
        tallies[share, quantile].add(costs[chosen], steps[chosen], left[place], ended, is_best[orders[place]])
  return [
    tally.replay(QuantileStopping(quantile=quantile, at=(share,), after=after))
    for (share, quantile), tally in tallies.items()
  ]


def better_before(costs: np.ndarray) -> np.ndarray:
  """Return for each of the costs in several orders how many before it are smaller: [orders, trials] both."""
  orders, trials = costs.shape
  ranks = np.searchsorted(values := np.unique(costs), costs)
  rows, found = np.arange(orders)[:, None], np.zeros(costs.shape, int)
  # How many trials of the blocks before have each rank.
  counts = np.zeros((orders, len(values)), int)
  for first in range(0, trials, BLOCK):
    block = ranks[:, first : first + BLOCK]
    in_block = np.tril(block[:, None, :] < block[:, :, None], -1).sum(axis=2)
    found[:, first : first + BLOCK] = (np.cumsum(counts, axis=1) - counts)[rows, block] + in_block
    np.add.at(counts, (rows, block), 1)
  return found


def _ended(costs: np.ndarray, left: np.ndarray, better: np.ndarray, quantile: float, after: int) -> np.ndarray:
  """Return which trials a rule ends [trials]: what `early_stopping.verdicts` does for one step, quickly.

  Args:
    costs: at the step, in order: [trials].
    left: steps that each has left there: [trials].
    better: by `better_before`.
    quantile: of the rule.
    after: of the rule.
  """
  before = np.arange(len(costs))
  # A cost is larger than the k-th smallest one before it if at least k are smaller.
  needed = np.ceil(quantile * np.maximum(before - 1, 0)) + 1
  return (before >= after) & np.isfinite(costs) & (left > 0) & (better >= needed)


class _Tally:
  """What one rule does in each of the orders."""

  def __init__(self, relevant: float):
    self._relevant = relevant
    self._saved: list[float] = []
    self._losses: list[float] = []
    self._lost: list[bool] = []
    self._best_ended: list[float] = []

  def add(self, costs: np.ndarray, steps: np.ndarray, left: np.ndarray, ended: np.ndarray, is_best: np.ndarray) -> None:
    """Add an order; all are [trials]."""
    self._saved.append(float(left[ended].sum() / max(steps.sum(), 1.0)))
    best = float(costs.min())
    kept = float(costs[~ended].min()) if not ended.all() else math.inf
    # If only infeasible trials are left, the worst value is the least that was lost.
    finite = costs[np.isfinite(costs)]
    self._losses.append(min(kept, float(finite.max())) - best if len(finite) else 0.0)
    self._lost.append(kept > best)
    self._best_ended.append(float(ended[is_best].mean()))

  def replay(self, rule: QuantileStopping) -> Replay:
    """Return the means."""
    losses, lost = np.array(self._losses), np.array(self._lost)
    low, high = np.percentile(self._saved, INTERVAL).tolist()
    return Replay(
      rule=rule,
      saved=float(np.mean(self._saved)),
      low=low,
      high=high,
      lost=float(lost.mean()),
      worse=float((losses > self._relevant).mean()),
      loss=float(losses[lost].mean()) if lost.any() else 0.0,
      top=float(np.mean(self._best_ended)),
    )
