"""The order of the training examples: which one stands at which place.

*Places* are what shuffling counts. Globally, they are the global positions: one order over all examples, the same
on any number of hosts. By files, each host counts its own: place q of a host is entry q % (B/H) of what it reads of
batch q // (B/H), and the examples come from its own share of the records.
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from trialbook.input_pipeline import hashing
from trialbook.input_pipeline.permutation import permute


class Slices(NamedTuple):
  """The slices of each batch that one host reads. Its devices need not hold neighbouring ones.

  Attributes:
    mine: their numbers, in order.
    count: into how many slices of equal size a batch is cut.
  """

  mine: tuple[int, ...] = (0,)
  count: int = 1

  def rows(self, batch_size: int) -> np.ndarray:
    """Return the indices int64 [n] of the examples of a batch that the host reads, ascending."""
    size = batch_size // self.count
    return (np.asarray(self.mine)[:, None] * size + np.arange(size)).ravel()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Order:
  """The order of training for one host.

  Attributes:
    size: number of train examples.
    seed: the run's.
    batch_size: global, a multiple of the count of `slices`.
    host_index: of this host.
    host_count: how many hosts there are.
    slices: what the host reads of each batch; None: slice `host_index` of `host_count`.
    by_files: whether the host takes its examples from its own contiguous share of the records, shuffled with a key
      of its own. The shares of H hosts differ by at most one example, and over all hosts hold each example once, so
      an epoch (each host having gone through its share) gives each example exactly once. What is given up: an
      example never leaves its host, and the order depends on the number of hosts, so a run cannot be continued on
      another number with the order that it would have had. It is still a function of (seed, step, host, hosts).
  """

  size: int
  seed: int
  batch_size: int
  host_index: int
  host_count: int
  slices: Slices | None = None
  by_files: bool = False

  @functools.cached_property
  def share(self) -> tuple[int, int]:
    """Return the first example, and one past the last, that this host ever draws."""
    if not self.by_files:
      return 0, self.size
    return self.host_index * self.size // self.host_count, (self.host_index + 1) * self.size // self.host_count

  @functools.cached_property
  def rows(self) -> np.ndarray:
    """Return the indices int64 [B/H] of the examples of a batch that this host reads."""
    return (self.slices or Slices((self.host_index,), self.host_count)).rows(self.batch_size)

  def places(self, first_step: int, steps: int) -> np.ndarray:
    """Return the places int64 [steps, B/H] of what this host reads of `steps` batches."""
    steps_S = first_step + np.arange(steps)
    if self.by_files:
      return steps_S[:, None] * len(self.rows) + np.arange(len(self.rows))
    return steps_S[:, None] * self.batch_size + self.rows

  def examples(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the example's index and the global position, int64 [n] each, at each place int64 [n]."""
    first, stop = self.share
    epochs, rest = np.divmod(places, stop - first)
    key = hashing.stream_key(self.seed, f"order/{self.host_index}/{self.host_count}" if self.by_files else "order")
    indices = first + permute(rest, stop - first, hashing.bits(key, epochs.astype(np.uint64)))
    if not self.by_files:
      return indices, places
    steps, entries = np.divmod(places, len(self.rows))
    return indices, steps * self.batch_size + self.rows[entries]
