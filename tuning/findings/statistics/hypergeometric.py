"""Tails of the hypergeometric distribution, as Fisher's exact test of many cuts of the same points needs them."""

import functools

import numpy as np
import scipy.stats
from scipy import special

MOST_CELLS = 5_000_000
"""Largest table that is kept, 40 MB: that of 3,000 points half of which are bad."""


def tail(inside: np.ndarray, total: int, bad: int, sizes: np.ndarray) -> np.ndarray:
  """Return the probability that at least `inside` of the bad points are among `sizes` of all, by chance: [cuts].

  Args:
    inside: numbers of bad points, 0 to `bad`: [cuts].
    total: number of points.
    bad: number of bad ones.
    sizes: numbers of points, 0 to `total`: [cuts].
  """
  if (total + 1) * (bad + 1) > MOST_CELLS:
    return scipy.stats.hypergeom.sf(inside - 1, total, bad, sizes)
  return _tails(total, bad)[sizes, inside]


@functools.lru_cache(maxsize=4)
def _tails(total: int, bad: int) -> np.ndarray:
  """Return the tails for all sizes and numbers: [sizes, inside]."""
  logs = special.gammaln(np.arange(total + 2) + 1.0)  # The last one is of what cannot be chosen.
  sizes, inside = np.arange(total + 1)[:, None], np.arange(bad + 1)
  others = sizes - inside
  can = (others >= 0) & (others <= total - bad)
  others = np.where(can, others, 0)
  chosen = logs[total - bad] - logs[others] - logs[total - bad - others]
  chances = np.exp(
    chosen + (logs[bad] - logs[inside] - logs[bad - inside]) - (logs[total] - logs[sizes] - logs[total - sizes])
  )
  sums = np.cumsum(np.where(can, chances, 0.0)[:, ::-1], axis=1)[:, ::-1]
  return np.minimum(sums, 1.0)
