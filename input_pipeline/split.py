"""Fixed splits of the examples of a dataset that comes without a validation set."""

import heapq
import itertools

import numpy as np

from trialbook.input_pipeline import hashing
from trialbook.input_pipeline.permutation import permute


def stratified(
  labels: np.ndarray, name: str, *, validation: int, test: int = 0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Return indices of the train, validation and test examples, each ascending, int64; the same on every call.

  The examples are put in order of class, shuffled within a class by a permutation that depends on `name`
  only, and held out at even distances, so that each split has each class in proportion, to within one or two
  examples.

  Args:
    labels: integers [n].
    name: the dataset's name.
    validation: number of validation examples.
    test: number of test examples.
    seed: another one draws other validation examples from those that are not test examples, which stay the same.
  """
  n = len(labels)
  rank = permute(np.arange(n), n, hashing.stream_key(0, f"split/{name}"))
  by_class = np.lexsort((rank, labels))
  held_out = evenly(n, validation + test)
  is_test = np.zeros(len(held_out), bool)
  is_test[evenly(len(held_out), test)] = True
  is_train = np.ones(n, bool)
  is_train[held_out] = False
  train, chosen, tested = by_class[is_train], by_class[held_out[~is_test]], by_class[held_out[is_test]]
  if seed:
    left = np.sort(np.concatenate([train, chosen]))
    rank = permute(np.arange(len(left)), len(left), hashing.stream_key(seed, f"split/{name}"))
    left = left[np.lexsort((rank, labels[left]))]
    is_chosen = np.zeros(len(left), bool)
    is_chosen[evenly(len(left), validation)] = True
    train, chosen = left[~is_chosen], left[is_chosen]
  return np.sort(train), np.sort(chosen), np.sort(tested)


def evenly(n: int, count: int) -> np.ndarray:
  """Return `count` distinct numbers at even distances in [0, n), int64 [count], for count <= n."""
  return (2 * np.arange(count) + 1) * n // (2 * max(count, 1))


def stratified_order(labels: np.ndarray, name: str, count: int) -> np.ndarray:
  """Return indices int64 [count] of examples in a fixed random order of which every beginning is stratified.

  Among the first k, a class with share p of all examples has more than p*k - 1 and fewer than p*k + 1. The order
  depends on `name` only. Each next example of a class has a first and a last place that keep this, and the one with
  the earliest last place comes first, which always succeeds (Baruah, Cohen, Plaxton and Varvel, "Proportionate
  progress: a notion of fairness in resource allocation", 1996).

  Args:
    labels: integers [n].
    name: what the order is for.
    count: at most n.
  """
  n = len(labels)
  rank = permute(np.arange(n), n, hashing.stream_key(0, name))
  by_class = np.lexsort((rank, labels))
  starts = np.concatenate([[0], np.flatnonzero(np.diff(labels[by_class])) + 1, [n]]).tolist()
  sizes = [stop - start for start, stop in itertools.pairwise(starts)]
  # (first place, class, number taken) of what must wait, and (last place, class, number taken) of what may come.
  waiting = [(0, number, 0) for number in range(len(sizes))]
  ready: list[tuple[int, int, int]] = []
  chosen = []
  for place in range(count):
    while waiting and waiting[0][0] <= place:
      _, number, taken = heapq.heappop(waiting)
      heapq.heappush(ready, (-(-(taken + 1) * n // sizes[number]), number, taken))
    _, number, taken = heapq.heappop(ready)
    chosen.append(starts[number] + taken)
    if taken + 1 < sizes[number]:
      heapq.heappush(waiting, ((taken + 1) * n // sizes[number], number, taken + 1))
  return by_class[chosen]
