"""The critical batch size: how the steps to a target fall with the batch size, and where that ends (PB-06).

Of a batch of B examples, a training takes S(B) = S_min (1 + B_critical / B) steps (McCandlish, Kaplan, Amodei et al.,
"An empirical model of large-batch training", 2018). Far below the critical size, a doubled batch halves the steps:
perfect scaling (Shallue, Lee, Antognini et al., "Measuring the effects of data parallelism", 2019). At the critical
size, twice as many steps as the least are needed, and twice as many examples as with small batches. Far above it, a
larger batch saves no step.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

LEAVES = 1.25
"""Least factor of examples, beyond those of perfect scaling, at which a size has left it: a quarter more is above what
the best of a search and a few seeds vary by chance."""
DRAWS = 500
"""Draws of noise for the interval: the error of its ends is a small part of its width."""
LEVEL = 0.9
"""Share of the draws inside of the interval."""
_DECADES = 3
"""Decades beyond the measured sizes in which the critical size is looked for: further out, steps differ by 0.1% from
those of perfect scaling, or from those of none."""
_PER_DECADE = 100


@dataclasses.dataclass(frozen=True)
class CriticalBatchSize:
  """The fit of S(B) to measured steps.

  Attributes:
    value: B_critical.
    low, high: its interval, of level `LEVEL`.
    least_steps: S_min.
    smallest, largest: measured sizes.
  """

  value: float
  low: float
  high: float
  least_steps: float
  smallest: int
  largest: int

  @property
  def is_inside(self) -> bool:
    """Return whether it lies among the measured sizes, so that it is not extrapolated."""
    return self.smallest <= self.value <= self.largest

  def steps(self, batch_size: float) -> float:
    """Return S(B)."""
    return self.least_steps * (1 + self.value / batch_size)


def fit(steps: Mapping[int, Sequence[float]], resolution: float, spread: float = 0.0) -> CriticalBatchSize:
  """Fit S(B) to the logarithms of steps, by least squares.

  Args:
    steps: of some seeds, by batch size; three sizes at least.
    resolution: distance of two evaluations relative to the steps: none are known better.
    spread: standard deviation of the logarithm of the steps at a size by the choice of what is trained there.

  Raises:
    ValueError: if there are fewer than three sizes.
  """
  if len(steps) < 3:
    raise ValueError(f"a curve of two parameters needs 3 batch sizes, and there are {len(steps)}")
  sizes = np.array(sorted(steps), float)
  logs = [np.log(steps[int(size)]) for size in sizes]
  means = np.array([one.mean() for one in logs])
  errors = np.sqrt(_variance(logs, resolution) / np.array([len(one) for one in logs]) + spread**2)
  grid = np.geomspace(
    sizes[0] / 10**_DECADES, sizes[-1] * 10**_DECADES, _PER_DECADE * (2 * _DECADES + 3), endpoint=True
  )
  # A deviation that few seeds gave is not known well, which Student's distribution takes into account.
  freedom = sum(len(one) - 1 for one in logs) or math.inf
  noise = np.random.default_rng(0).standard_t(min(freedom, 10**6), size=(DRAWS, len(sizes)))
  found = _fitted(np.vstack([means, means + noise * errors]), sizes, grid)
  low, high = np.quantile(found[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
  value = float(found[0])
  least = math.exp(float(np.mean(means - np.log1p(value / sizes))))
  return CriticalBatchSize(value, float(low), float(high), least, int(sizes[0]), int(sizes[-1]))


@dataclasses.dataclass(frozen=True)
class PerfectScaling:
  """The perfect scaling of the small batches.

  Attributes:
    examples: that it takes to the target, at any size.
    until: the largest size that keeps to it, up to `LEAVES`.
    worse: sizes that needed `LEAVES` times the examples of a larger one. A tuned optimizer does not, so that their
      search was less lucky.
  """

  examples: float
  until: int
  worse: tuple[int, ...]


def perfect_scaling(steps: Mapping[int, float]) -> PerfectScaling:
  """Return the perfect scaling of steps by batch size.

  The examples that a size needs do not fall with the size. So the line is drawn through the small sizes together:
  neighbours out of order are pooled (isotonic regression of the logarithm), and the first pool is the line.
  """
  sizes = sorted(steps)
  logs = [math.log(steps[size] * size) for size in sizes]
  pools: list[tuple[float, int]] = []
  for value in logs:
    pools.append((value, 1))
    while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
      (late, many), (early, few) = pools.pop(), pools.pop()
      pools.append(((late * many + early * few) / (many + few), many + few))
  pooled = [value for value, count in pools for _ in range(count)]
  limit = pooled[0] + math.log(LEAVES)
  worse = [size for at, size in enumerate(sizes) if logs[at] > min(logs[at:]) + math.log(LEAVES)]
  until = [size for size, value in zip(sizes, pooled, strict=True) if value <= limit][-1]
  return PerfectScaling(math.exp(pooled[0]), until, tuple(worse))


def _variance(logs: Sequence[np.ndarray], resolution: float) -> float:
  """Return the variance of the logarithm of steps of a training: by its seed, and by the distance of evaluations."""
  freedom = sum(len(one) - 1 for one in logs)
  squares = sum(float(np.sum((one - one.mean()) ** 2)) for one in logs)
  # Between two evaluations, the true step may be anywhere.
  return (squares / freedom if freedom else 0.0) + resolution**2 / 12


def _fitted(logs: np.ndarray, sizes: np.ndarray, grid: np.ndarray) -> np.ndarray:
  """Return the critical size [draws] of the best fit to each row of logarithms of steps [draws, sizes]."""
  shape = np.log1p(grid[:, None] / sizes)
  shape -= shape.mean(1, keepdims=True)
  centered = logs - logs.mean(1, keepdims=True)
  # The sum of squares of a row and a shape, without what is the same for all shapes.
  distance = np.sum(shape**2, 1) - 2 * centered @ shape.T
  return grid[np.argmin(distance, 1)]
