"""A table that comes inside statsmodels: whether married women had an affair (R. Fair, "A theory of extramarital
affairs", 1978)."""

import importlib.util
import pathlib

import numpy as np

from trialbook import Data
from trialbook.errors import DataError

TRAIN, VALIDATION = 2_000, 500
"""Examples; of the 6,366 rows, the others are for testing."""
TEST = 6_366 - TRAIN - VALIDATION


def build(split_seed: int = 0) -> Data:
  """Return 8 numbers about each woman, and whether she had an affair, which 32% had.

  Args:
    split_seed: another one draws other validation examples; the test examples stay.
  """
  package = importlib.util.find_spec("statsmodels")
  if package is None or not package.submodule_search_locations:
    raise DataError("dataset affairs comes with statsmodels, which is not installed; run pip install statsmodels")
  path = pathlib.Path(package.submodule_search_locations[0], "datasets", "fair", "fair.csv")
  rows = np.loadtxt(path, delimiter=",", skiprows=1)
  order = np.random.default_rng(0).permutation(len(rows))
  test, others = order[:TEST], order[TEST:]
  others = np.random.default_rng(split_seed + 1).permutation(others)
  inputs, labels = rows[:, :-1].astype(np.float32), (rows[:, -1] > 0).astype(np.int64)
  places = {"train": others[:TRAIN], "validation": others[TRAIN:], "test": test}
  train = inputs[places["train"]]
  return Data(
    splits={name: {"inputs": inputs[at], "labels": labels[at]} for name, at in places.items()},
    normalization=(train.mean(axis=0).tolist(), train.std(axis=0).tolist()),
  )
