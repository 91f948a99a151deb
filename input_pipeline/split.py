"""Fixed splits of the examples of a dataset that comes without a validation set."""

import numpy as np

from input_pipeline import hashing
from input_pipeline.permutation import permute


def stratified(
  labels: np.ndarray, name: str, *, validation: int, test: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Indices of the train, validation and test examples, each ascending, int64; the same on every call.

  The examples are put in order of class, shuffled within a class by a permutation that depends on `name`
  only, and held out at even distances, so that each split has each class in proportion, to within one or two
  examples.

  Args:
    labels: integers [n].
    name: the dataset's name.
    validation: number of validation examples.
    test: number of test examples.
  """
  n = len(labels)
  rank = permute(np.arange(n), n, hashing.stream_key(0, f"split/{name}"))
  by_class = np.lexsort((rank, labels))
  held_out = _evenly(n, validation + test)
  is_test = np.zeros(len(held_out), bool)
  is_test[_evenly(len(held_out), test)] = True
  is_train = np.ones(n, bool)
  is_train[held_out] = False
  return (
    np.sort(by_class[is_train]),
    np.sort(by_class[held_out[~is_test]]),
    np.sort(by_class[held_out[is_test]]),
  )


def _evenly(n: int, count: int) -> np.ndarray:
  """`count` distinct numbers at even distances in [0, n)."""
  return (2 * np.arange(count) + 1) * n // (2 * max(count, 1))
