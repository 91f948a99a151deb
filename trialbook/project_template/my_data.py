"""The dataset: arrays by split and by key."""

from typing import Any

import numpy as np
from sklearn.datasets import load_digits


def data():
  """Return 1,797 images of handwritten digits, 8 x 8, in three splits."""
  digits: Any = load_digits()
  order = np.random.default_rng(0).permutation(len(digits.target))
  images = digits.images[order, :, :, None].astype(np.float32) / 16
  labels = digits.target[order].astype(np.int32)

  def split(begin, end):
    return {"inputs": images[begin:end], "labels": labels[begin:end]}

  return {"train": split(0, 1200), "validation": split(1200, 1500), "test": split(1500, 1797)}
