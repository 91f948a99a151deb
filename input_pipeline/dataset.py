"""The one function that gives batch t, and fixed-order batches for evaluation.

Words: a *global position* counts training examples over all epochs and hosts; batch t of B examples holds
positions t*B to (t+1)*B - 1. *Epoch* e of N train examples is the positions e*N to (e+1)*N - 1, so a batch
may span epochs. The example at a position is given by a permutation keyed by (seed, epoch), its augmentation
by (seed, position). Nothing else enters: no iterator, no host, no history.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from input_pipeline import hashing
from input_pipeline.augmentation import augment
from input_pipeline.errors import DataError
from input_pipeline.permutation import permute
from input_pipeline.registry import AnyDataset
from input_pipeline.source import Info, Source

# So many positions are computed together, since a NumPy call on 128 numbers costs about as much as on 1,000.
_BLOCK_POSITIONS = 4096
_MAX_POSITION = 2**62

Batch = dict[str, np.ndarray]


class _Block(NamedTuple):
  number: int
  positions_KxB: np.ndarray
  indices_KxB: np.ndarray


class Dataset:
  """Batches of one dataset for one host. Made by `load`; safe to use from several threads.

  Attributes:
    info: the facts of the dataset.
  """

  def __init__(
    self, source: Source, config: AnyDataset, *, seed: int, batch_size: int, host_index: int, host_count: int
  ):
    self.info: Info = source.info
    self._arrays = source.arrays
    self._augmentation = config.augmentation
    self._seed = seed
    self._batch_size = batch_size
    self._host_index = host_index
    self._host_count = host_count
    self._order_key = hashing.stream_key(seed, "order")
    self._steps_per_block = max(1, _BLOCK_POSITIONS // (batch_size // host_count))
    # A memory of the last block, no state: replaced in one assignment, and recomputed the same at any time.
    self._block = self._make_block(0)

  def train_batch(self, step: int) -> Batch:
    """This host's contiguous slice of global batch `step`, in O(batch) from anywhere.

    Returns:
      "inputs" [batch_size / host_count, *input_shape], and "labels" int32 [batch_size / host_count] or
      "targets" float32 [batch_size / host_count, num_targets]. The arrays are new at each call and never
      written to later.

    Raises:
      ValueError: the step is negative, or so large that positions would not fit 63 bits.
    """
    number, row = divmod(int(step), self._steps_per_block)
    block = self._block
    if block.number != number:
      block = self._block = self._make_block(number)
    batch = _gather(self._arrays["train"], block.indices_KxB[row])
    if self._augmentation is not None:
      batch["inputs"] = augment(batch["inputs"], self._augmentation, self._seed, block.positions_KxB[row])
    return batch

  def num_eval_batches(self, split: str, batch_size: int, examples: int | None = None) -> int:
    """How many evaluation batches the split has, the same on every host; see `eval_batch`."""
    _check_divisible(batch_size, self._host_count, "evaluation batch size")
    return -(-self._num_eval_examples(split, examples) // batch_size)

  def eval_batch(self, index: int, split: str, batch_size: int, examples: int | None = None) -> Batch:
    """This host's contiguous slice of global evaluation batch `index` of a split, never augmented.

    The examples come in stored order (a part of them in a fixed random order), each exactly once; the last
    batch is filled up with zeros of weight 0.

    Args:
      index: 0 <= index < num_eval_batches(split, batch_size, examples).
      split: "train", "validation" or "test".
      batch_size: global, a multiple of the number of hosts; may be larger than the split.
      examples: evaluate this many examples of the split only, a random choice that is always the same,
        whatever the seed, and of which a smaller one is a part. All of them, if the split has no more.

    Returns:
      As `train_batch`, and "weights" float32: 1 for an example, 0 for padding.

    Raises:
      IndexError: there is no such batch.
      DataError: the split is unknown, `examples` is below 1, or the batch size no multiple of the number of
        hosts.
    """
    count = self._num_eval_examples(split, examples)
    batches = self.num_eval_batches(split, batch_size, examples)
    if not 0 <= index < batches:
      raise IndexError(f"evaluation batch {index} of {split}: there are batches 0 to {batches - 1}")
    local = batch_size // self._host_count
    start = index * batch_size + self._host_index * local
    order = np.arange(min(start, count), min(start + local, count))
    size = self.info.examples[split]
    if count < size:
      order = permute(order, size, hashing.stream_key(0, f"subset/{split}"))
    batch = _gather(self._arrays[split], order)
    batch["weights"] = np.ones(len(order), np.float32)
    missing = local - len(order)
    return {key: _fill_up(value, missing) for key, value in batch.items()} if missing else batch

  def _make_block(self, number: int) -> _Block:
    first_step = number * self._steps_per_block
    if first_step < 0 or (first_step + self._steps_per_block) * self._batch_size > _MAX_POSITION:
      last = _MAX_POSITION // self._batch_size - self._steps_per_block
      raise ValueError(f"step {first_step} is out of range: there are training batches 0 to about {last}")
    local = self._batch_size // self._host_count
    batch_start_K = (first_step + np.arange(self._steps_per_block)) * self._batch_size
    positions_KxB = batch_start_K[:, None] + (self._host_index * local + np.arange(local))
    epochs, places = np.divmod(positions_KxB.ravel(), self.info.examples["train"])
    keys = hashing.bits(self._order_key, epochs.astype(np.uint64))
    indices = permute(places, self.info.examples["train"], keys)
    return _Block(number, positions_KxB, indices.reshape(positions_KxB.shape))

  def _num_eval_examples(self, split: str, examples: int | None) -> int:
    if split not in self.info.examples:
      raise DataError(f"dataset {self.info.name} has no split {split!r}; it has {', '.join(self.info.examples)}")
    if examples is not None and examples < 1:
      raise DataError(f"evaluation on {examples} examples of {split}: there must be at least 1")
    size = self.info.examples[split]
    return size if examples is None else min(examples, size)


def load(config: AnyDataset, *, seed: int, batch_size: int, host_index: int = 0, host_count: int = 1) -> Dataset:
  """Reads a dataset into memory.

  Args:
    config: which one.
    seed: the run's seed, 0 <= seed < 2**64: order and augmentation of the training examples.
    batch_size: examples in a global training batch, a multiple of `host_count`.
    host_index: which slice of each batch this host gets.
    host_count: how many hosts share a batch.

  Raises:
    DataError: the data is absent or broken (with every problem and the command that helps), or the batch
      cannot be shared among the hosts.
  """
  _check_divisible(batch_size, host_count, "batch size")
  if not 0 <= host_index < host_count:
    raise ValueError(f"host index {host_index} of {host_count} hosts")
  source = config.read()
  if config.augmentation is not None and len(source.info.input_shape) != 3:
    raise DataError(
      f"dataset.augmentation: inputs of {source.info.name} have shape {source.info.input_shape}; only images "
      "(height, width, channels) can be augmented; set it to None"
    )
  return Dataset(source, config, seed=seed, batch_size=batch_size, host_index=host_index, host_count=host_count)


def _gather(arrays: Mapping[str, np.ndarray], indices: np.ndarray) -> Batch:
  return {key: array.take(indices, axis=0) for key, array in arrays.items()}


def _fill_up(array: np.ndarray, missing: int) -> np.ndarray:
  return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])


def _check_divisible(batch_size: int, host_count: int, what: str) -> None:
  if batch_size < 1 or batch_size % host_count:
    near = max(1, round(batch_size / host_count)) * host_count
    raise DataError(f"{what} {batch_size} cannot be shared among {host_count} hosts; take a multiple, such as {near}")
