"""Values as strict JSON for people: no number that JSON lacks, and no more digits than a plot can show."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

_DIGITS = 5


def plain(value: Any) -> Any:
  """Return JSON without NumPy's numbers, and with None for what is not finite; floats as `short` gives them."""
  if isinstance(value, Mapping):
    return {str(name): plain(item) for name, item in value.items()}
  if isinstance(value, list | tuple):
    return [plain(item) for item in value]
  if isinstance(value, np.generic):
    value = value.item()
  return short(value) if isinstance(value, float) else value


def short(value: float | None) -> float | None:
  """Return a number with as many digits as a plot can show; None if it is not finite."""
  if value is None or not math.isfinite(value):
    return None
  return float(f"{value:.{_DIGITS}g}")
