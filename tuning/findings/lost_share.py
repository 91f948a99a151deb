"""How grave it is that a share of the trials, or of the points, of a study is lost or doubtful."""

from typing import Literal

import scipy.stats

WARNING_SHARE = 0.2
"""Share of the trials or points from which it is a warning: a fifth of the budget bought little."""
CERTAIN_SHARE = 0.08
"""Share that the interval must exceed for a warning: 2 of 8 may be chance."""


def wilson_interval(count: int, total: int) -> tuple[float, float]:
  """Return Wilson's 95% interval of a share, count of total > 0."""
  low, high = scipy.stats.binomtest(count, total).proportion_ci(0.95, method="wilson")
  return float(low), float(high)


def severity_of_share(count: int, total: int) -> Literal["warning", "note"]:
  """Return the severity of a finding that count of total > 0 trials or points are lost."""
  is_certain = wilson_interval(count, total)[0] > CERTAIN_SHARE
  return "warning" if count / total >= WARNING_SHARE and is_certain else "note"
