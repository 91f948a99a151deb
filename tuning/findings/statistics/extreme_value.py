"""An extreme-value fit: how good further trials would be, by the distribution of the best ones that were run.

Near the best value c that a space holds, the share of trials that cost less than x is about p ((x - c) / w)^a: in a
smooth valley of d dimensions that matter, a = d / 2; it is the generalised Pareto distribution of extreme-value theory,
with an end point. The best m trials cannot fix c and a, so that all pairs are weighed by their likelihood.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

LEAST = 8
"""Trials with a value that a fit takes: four lie under the threshold, and four over it."""
SHARE = 1 / 3
"""Share of the trials under the threshold: enough to fit on, and few enough for the power law, which holds near the
optimum."""
MOST = 40
"""Most trials under the threshold, in large studies, for the same reason."""
SHAPES = np.geomspace(0.4, 12, 14)
"""The a that are weighed: from less than one dimension to more than twenty."""
SHAPE_CENTRE, SHAPE_SPREAD = 1.4, 0.65
"""The prior of a, log-normal: around three dimensions that matter, as studies have, between one and eleven mostly."""
BEYOND = np.geomspace(3e-3, 10, 24)
"""The distances from the best trial to c that are weighed, in units of that to the threshold. Their prior is the one
without preference for a scale: with it, and a known a, the probability that a new trial is the best is exact."""
QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Quantiles of the uncertain share p over which results are averaged."""


@dataclasses.dataclass(frozen=True)
class ExtremeValueFit:
  """A fit of the good end of the distribution of costs.

  Attributes:
    best: the cost of the best trial.
    threshold: cost under which the distribution is fitted.
    count: number of trials under the threshold.
    total: number of trials, infeasible ones too.
    ordered: the costs of the feasible trials.
    weights: of `SHAPES` x `BEYOND`, sum 1.
  """

  best: float
  threshold: float
  count: int
  total: int
  ordered: np.ndarray
  weights: np.ndarray

  @property
  def excess(self) -> float:
    """Return the distance of the best trial from the threshold: the largest excess."""
    return self.threshold - self.best

  @functools.cached_property
  def _share(self):
    # The threshold is a trial: the share under it has the distribution of an order statistic of uniform numbers.
    return scipy.stats.beta(self.count + 1, self.total - self.count)

  def exceeds(self, gains: np.ndarray, more: int) -> np.ndarray:
    """Return the probability that `more` new trials beat the best by more than each of `gains`: [gains]."""
    width = self.excess * (1 + BEYOND)
    left = np.clip(1 - (self.excess + gains[:, None]) / width, 0, 1)
    inside = left[:, None, :] ** SHAPES[:, None]
    found = np.zeros(len(gains))
    for share in self._share.ppf(QUANTILES):
      found += np.sum(self.weights * (1 - (1 - share * inside) ** more), axis=(1, 2))
    return found / len(QUANTILES)

  def gain(self, more: int, lead: float = 0.0) -> tuple[float, float, float]:
    """Return by how much `more` new trials are expected to beat the best, and its 5% and 95% quantiles.

    `lead`: by how much a trial that was not fitted is better than the best of those that were.
    """
    gains = np.concatenate([[0.0], self.excess * np.geomspace(1e-3, 10, 60)])
    exceeded = self.exceeds(gains + max(lead, 0.0), more)
    mean = float(np.trapezoid(exceeded, gains))
    low, high = (
      float(np.interp(-chance, -exceeded, gains)) if chance < exceeded[0] else 0.0 for chance in (0.95, 0.05)
    )
    return mean, low, high

  def medians(self, k: int, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Return draws of the median cost of the best of k trials, by how well it is known: [draws]."""
    chosen = rng.choice(self.weights.size, draws, p=self.weights.ravel())
    shape, beyond = SHAPES[chosen // len(BEYOND)], BEYOND[chosen % len(BEYOND)]
    share = rng.beta(self.count + 1, self.total - self.count, draws)
    wanted = 1 - 0.5 ** (1 / k)
    ratio = wanted / share
    inside = self.threshold - self.excess * (1 + beyond) * (1 - np.minimum(ratio, 1) ** (1 / shape))
    # The best of few trials is above the threshold, where the trials themselves show the distribution.
    position = np.clip(np.ceil(wanted * self.total).astype(int) - 1, 0, len(self.ordered) - 1)
    return np.where(ratio < 1, inside, self.ordered[position])


def fit_extreme_value(costs: Sequence[float], infeasible: int = 0) -> ExtremeValueFit | None:
  """Return the fit of the costs of trials; None for fewer than `LEAST`, or where the best of them are all equal."""
  ordered = np.sort(np.asarray(costs, float))
  if len(ordered) < LEAST:
    return None
  count = min(max(LEAST // 2, round(SHARE * len(ordered))), MOST)
  threshold = float(ordered[count])
  excesses = threshold - ordered[:count]
  excess = float(excesses[0])
  if not excess > 1e-12 * max(abs(threshold), 1e-300):
    return None
  # Equal values, as of a share of few examples, would have no density at the threshold: not nearer than a thousandth.
  relative = np.clip(excesses / excess, 1e-3, 1)
  inside = np.log(1 - relative[:, None] / (1 + BEYOND))
  likelihood = (
    count * np.log(SHAPES)[:, None] - count * np.log(1 + BEYOND) + (SHAPES[:, None] - 1) * np.sum(inside, axis=0)
  )
  prior = -(((np.log(SHAPES) - math.log(SHAPE_CENTRE)) / SHAPE_SPREAD) ** 2) / 2
  logs = likelihood + prior[:, None] + np.log(BEYOND / (1 + BEYOND))
  weights = np.exp(logs - logs.max())
  weights /= weights.sum()
  return ExtremeValueFit(float(ordered[0]), threshold, count, len(ordered) + infeasible, ordered, weights)
