"""Rates of what happened in some of the studies, with intervals."""

import dataclasses
import functools

import scipy.stats

LEVEL = 0.95
"""Level of the intervals."""


@dataclasses.dataclass(frozen=True)
class Rate:
  """How many of some studies.

  Attributes:
    count: studies in which it happened.
    studies: all.
  """

  count: int
  studies: int

  @property
  def share(self) -> float:
    """Return the share of the studies."""
    return self.count / self.studies

  @functools.cached_property
  def interval(self) -> tuple[float, float]:
    """Return the ends of the share's interval: that of Clopper and Pearson, which holds at any number of studies."""
    found = scipy.stats.binomtest(self.count, self.studies).proportion_ci(LEVEL, method="exact")
    return float(found.low), float(found.high)

  def as_json(self) -> dict[str, float]:
    """Return count, studies, share and both ends of the interval."""
    low, high = self.interval
    return {"count": self.count, "studies": self.studies, "share": self.share, "low": low, "high": high}

  def __str__(self) -> str:
    low, high = (f"{100 * end:.1f}".removesuffix(".0") for end in self.interval)
    return f"{100 * self.share:.1f}".removesuffix(".0") + f"% ({low}% to {high}%)"
