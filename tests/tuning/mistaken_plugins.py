"""Metrics of the user's that are malformed in some trials of a study, or in all."""

from collections.abc import Mapping
from typing import Any

import numpy as np

LARGE = 20.0
"""Outputs of a network that learned with a rate that is too large."""


def in_some(outputs: np.ndarray, batch: Mapping[str, np.ndarray]) -> Any:
  """A number, or nothing where outputs are large."""
  return None if np.abs(outputs).max() > LARGE else 0.5


def raises_in_some(outputs: np.ndarray, batch: Mapping[str, np.ndarray]) -> float:
  """A number, or a bug where outputs are large."""
  return [0.5][int(np.abs(outputs).max() > LARGE)]


def in_all(outputs: np.ndarray, batch: Mapping[str, np.ndarray]) -> Any:
  """An array, whatever the outputs."""
  return outputs.mean(axis=0)
