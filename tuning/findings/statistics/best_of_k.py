"""The best of k trials, had the study had only k: the bootstrap in closed form (PB-24, PB-40)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

MOST_BOXES = 60
"""Most boxes of a plot: more cannot be distinguished on a screen."""
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""The playbook's box plot shows the quartiles; its whiskers are here the 5% and the 95%."""


@dataclasses.dataclass(frozen=True)
class BestOfK:
  """The distribution of the best objective of k trials that are drawn from those of a study, with replacement.

  The quantiles are in the order of the values, so that `p5` is the best where smaller is better, and `p95` where
  larger is. One is None where draws that bad have no feasible trial among the k.

  Attributes:
    k: how many trials.
    p5, p25, median, p75, p95: quantiles, each one of the study's values.
    nothing: the probability that none of the k is feasible.
  """

  k: int
  p5: float | None
  p25: float | None
  median: float | None
  p75: float | None
  p95: float | None
  nothing: float


def best_of_k(values: Sequence[float], sign: float, infeasible: int = 0) -> list[BestOfK]:
  """Return the best of k for each k from 1 to the number of trials, in closed form from the order statistics.

  Of N trials, the best of k draws is among the best j with probability 1 - (1 - j/N)^k.

  Args:
    values: objectives of the complete trials, [trials], finite.
    sign: 1 where smaller is better, -1 where larger is (`Objective.sign`).
    infeasible: trials that gave no value: draws of them give nothing.

  Returns:
    One for each k, at most `MOST_BOXES`: where there are more trials, k grows by about equal factors, with 1 and the
    number of trials always among them. Empty if no trial is complete.
  """
  total = len(values) + infeasible
  if not len(values):
    return []
  return [of_k(values, sign, k, infeasible) for k in thinned(total)]


def of_k(values: Sequence[float], sign: float, k: int, infeasible: int = 0) -> BestOfK:
  """Return one k of `best_of_k`; k may exceed the number of trials. Raise ValueError if there are no values."""
  ordered = np.sort(sign * np.asarray(values, float)) * sign
  reached = cumulative(len(values), k, infeasible)
  found: list[float | None] = []
  for quantile in QUANTILES if sign > 0 else [1 - quantile for quantile in QUANTILES]:
    # A rounding error must not move the quantile to the next value.
    position = int(np.searchsorted(reached, quantile - 1e-12))
    found.append(float(ordered[position]) if position < len(ordered) else None)
  return BestOfK(k, *found, nothing=max(0.0, 1 - float(reached[-1])))


def cumulative(feasible: int, k: int, infeasible: int = 0) -> np.ndarray:
  """Return the probability that the best of k draws is among the best 1, 2, ... of the feasible trials."""
  ranks = np.arange(1, feasible + 1)
  # Of infeasible trials the last rank is not certain.
  return 1 - (1 - ranks / (feasible + infeasible)) ** k


def thinned(total: int) -> list[int]:
  """Return the values of k that a plot shows of a study of `total` trials."""
  if total <= MOST_BOXES:
    return list(range(1, total + 1))
  return sorted({round(k) for k in np.geomspace(1, total, MOST_BOXES).tolist()})
