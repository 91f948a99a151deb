"""Values as strict JSON for people: no number that JSON lacks, and no more digits than they can use."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

DIGITS = 5
"""Significant digits of a number that a plot shows."""
EXACT = 8
"""Significant digits of a number of a finding, from which programs may take differences."""


def plain(value: Any) -> Any:
  """Return JSON without NumPy's numbers, and with None for what is not finite; floats with `EXACT` digits."""
  if isinstance(value, Mapping):
    return {str(name): plain(item) for name, item in value.items()}
  if isinstance(value, list | tuple):
    return [plain(item) for item in value]
  if isinstance(value, np.generic):
    value = value.item()
  return short(value, EXACT) if isinstance(value, float) else value


def short(value: float | None, digits: int = DIGITS) -> float | None:
  """Return a number with as many digits as a plot can show, or as asked for; None if it is not finite."""
  if value is None or not math.isfinite(value):
    return None
  return float(f"{value:.{digits}g}")
