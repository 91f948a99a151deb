"""The one function that gives batch t, and fixed-order batches for evaluation.

Words: a *global position* counts training examples over all epochs and hosts; batch t of B examples holds
positions t*B to (t+1)*B - 1. *Epoch* e of N train examples is the positions e*N to (e+1)*N - 1, so a batch
may span epochs. The example at a position is given by a permutation keyed by (seed, epoch), its augmentation
by (seed, position). Nothing else enters: no iterator, no host, no history. Where a dataset is sharded by
files, the host does enter, in place of the global position: see `trialbook.input_pipeline.order`.
"""

import dataclasses
import threading
import time
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from trialbook.errors import DataError
from trialbook.input_pipeline import hashing, own_augmentation
from trialbook.input_pipeline.augmentation import augment, mix
from trialbook.input_pipeline.augmentation import check as check_augmentation
from trialbook.input_pipeline.checked_source import Checked
from trialbook.input_pipeline.datasets.record_files import RecordFiles
from trialbook.input_pipeline.fingerprint import Fingerprint, fingerprint
from trialbook.input_pipeline.folding import with_validation
from trialbook.input_pipeline.order import Order, Slices
from trialbook.input_pipeline.permutation import permute
from trialbook.input_pipeline.registry import AnyDataset
from trialbook.input_pipeline.source import EXAMPLE, IS_EXAMPLE, Arrays, Batch, Info, Source, paths_below
from trialbook.input_pipeline.split import stratified_order
from trialbook.input_pipeline.workers import Workers
from trialbook.paths import PathError

# So many positions are computed together, since a NumPy call on 128 numbers costs about as much as on 1,000.
_BLOCK_POSITIONS = 4096
_MAX_POSITION = 2**62


class _Block(NamedTuple):
  number: int
  places_KxB: np.ndarray
  positions_KxB: np.ndarray
  indices_KxB: np.ndarray


class Dataset:
  """Batches of one dataset for one host. Made by `load`; safe to use from several threads.

  Worker processes, where the config asks for them, start at the first training batch and end with `close`, or at
  the end of a `with` block.

  Attributes:
    info: the facts of the dataset.
    warnings: what is allowed and probably not meant.
    in_memory: whether the training set is.
  """

  def __init__(
    self,
    source: Source,
    config: AnyDataset,
    *,
    seed: int,
    batch_size: int,
    host_index: int,
    host_count: int,
    slices: Slices | None = None,
    fold_validation: bool = False,
  ):
    mixes = config.augmentation is not None and config.augmentation.mixes
    self.info: Info = dataclasses.replace(source.info, mixes_labels=mixes and "labels" in source.info.spec)
    self.warnings = source.warnings
    self._splits = source.splits
    # What batches are read from: the same, or parts of it, see `keep`.
    self._read = dict(source.splits)
    self._kept: list[str] | None = None
    self._augmentation = config.augmentation
    self._own_function = None
    if config.augmentation is not None and config.augmentation.function is not None:
      self._own_function = own_augmentation.load(config.augmentation.function, config.augmentation.kwargs)
    self._seed = seed
    self._batch_size = batch_size
    self._slices = Slices((host_index,), host_count) if slices is None else slices
    self._order = Order(
      size=source.info.examples["train"],
      seed=seed,
      batch_size=batch_size,
      host_index=host_index,
      host_count=host_count,
      slices=self._slices,
      by_files=getattr(config, "sharding", "global") == "files",
    )
    self._steps_per_block = max(1, _BLOCK_POSITIONS // len(self._order.rows))
    # A memory of the last block, no state: replaced in one assignment, and recomputed the same at any time.
    self._block = self._make_block(0)
    self._subsets: dict[tuple[str, int], np.ndarray] = {}
    self._fingerprints: dict[str, Fingerprint | None] = {}
    self._workers: Workers | None = None
    self._starting = threading.Lock()
    self._closed = False
    # Gathering from memory is faster than any process could hand it over.
    self.in_memory = isinstance(source.splits["train"], Arrays)
    self._num_workers: int = 0 if self.in_memory else getattr(config, "workers", 0)
    self._load_again = {
      "config": config.model_copy(update={"workers": 0}) if self._num_workers else config,
      "seed": seed,
      "batch_size": batch_size,
      "host_index": host_index,
      "host_count": host_count,
      "slices": slices,
      "fold_validation": fold_validation,
    }

  def keep(self, paths: Iterable[str]) -> None:
    """Leave everything else out of the batches from now on, so that it is neither gathered nor converted.

    `fixed_examples` and fingerprints have all there is.

    Args:
      paths: of arrays; "inputs" keeps all below it, too. What augmentation works on is kept in any case.
    """
    changed = ["inputs"] if self._augmentation is not None else []
    changed += ["labels"] if self.info.mixes_labels else []
    self._kept = paths_below([*paths, *changed], self.info.spec)
    self._read = {
      split: one.only(self._kept) if isinstance(one, Arrays | Checked) else one for split, one in self._splits.items()
    }
    with self._starting:
      self._load_again["keep"] = self._kept
      # Those that have started make batches with everything.
      if self._workers is not None:
        self._workers.close()
        self._workers = None

  def train_batch(self, step: int) -> Batch:
    """Return this host's slices of global batch `step`, one after the other, in O(batch) from anywhere.

    Returns:
      The arrays [n, ...] of `Info.spec` by path, or those that `keep` has left, n being batch_size / host_count or what
      `slices` says; with mixup of labels also "mixed_labels", like "labels", and "mixing" float32 [n]: see
      `Augmentation.mixup_alpha`. The arrays are new at each call and never written to later.

    Raises:
      ValueError: the step is negative, or so large that positions would not fit 63 bits.
      DataError: an example cannot be read.
      RuntimeError: a worker process died.
    """
    if self._num_workers:
      return self._started_workers().train_batch(int(step))
    indices, positions, own = self._drawn(int(step))
    return self._augmented(self._of("train", indices), positions, own)

  def timed_batch(self, step: int) -> tuple[Batch, dict[str, float]]:
    """Return the batch of `train_batch`, made in this process, and the seconds that each stage took: read, decode,
    augment.

    Stages that there are not are left out: only what comes out of record files is decoded apart from being read.
    """
    split = self._read["train"]
    files: RecordFiles | None = getattr(split.split if isinstance(split, Checked) else split, "files", None)
    indices, positions, own = self._drawn(step)
    in_files, started = files.read_seconds if files else 0.0, time.perf_counter()
    batch = self._of("train", indices)
    whole = time.perf_counter() - started
    seconds = {"read": whole}
    if files:
      seconds["read"] = files.read_seconds - in_files
      seconds["decode"] = whole - seconds["read"]
    if self._augmentation is not None:
      started = time.perf_counter()
      batch = self._augmented(batch, positions, own)
      seconds["augment"] = time.perf_counter() - started
    return batch, seconds

  def num_eval_batches(self, split: str, batch_size: int, examples: int | None = None) -> int:
    """Return how many evaluation batches the split has, the same on every host; see `eval_batch`."""
    _check_divisible(batch_size, self._slices, "evaluation batch size")
    return -(-self._num_eval_examples(split, examples) // batch_size)

  def eval_batch(self, index: int, split: str, batch_size: int, examples: int | None = None) -> Batch:
    """Return this host's slices of global evaluation batch `index` of a split, one after the other, never augmented.

    The examples come in stored order (a part of them in a fixed random order), each exactly once; the last
    batch is filled up with zeros.

    Args:
      index: 0 <= index < num_eval_batches(split, batch_size, examples).
      split: "train", "validation", "test" or another of `Info.examples`.
      batch_size: global, a multiple of the number of slices; may be larger than the split.
      examples: evaluate this many examples of the split only, a random choice that is always the same,
        whatever the seed, and of which a smaller one is a part; where a split in memory has classes, each class
        has its share to within one example. All of them, if the split has no more.

    Returns:
      As `train_batch`, without what augmentation adds, and with "is_example" bool, false for padding, and "example"
      uint32: a number that each example of a split has for itself, whatever the batch size.

    Raises:
      IndexError: there is no such batch.
      DataError: the split is unknown, `examples` is below 1, or the batch size no multiple of the number of
        slices.
    """
    count = self._num_eval_examples(split, examples)
    batches = self.num_eval_batches(split, batch_size, examples)
    if not 0 <= index < batches:
      raise IndexError(f"evaluation batch {index} of {split}: there are batches 0 to {batches - 1}")
    order = index * batch_size + self._slices.rows(batch_size)
    local = len(order)
    order = order[order < count]
    size = self.info.examples[split]
    if count < size:
      order = self._subset(split, count)[order]
    batch = self._of(split, order)
    batch[IS_EXAMPLE] = np.ones(len(order), bool)
    batch[EXAMPLE] = (order + zlib.crc32(split.encode())).astype(np.uint32)
    missing = local - len(order)
    return {key: _fill_up(value, missing) for key, value in batch.items()} if missing else batch

  def fixed_examples(self, split: str, count: int) -> tuple[np.ndarray, Batch]:
    """Return indices int64 [n] and examples [n, ...] of the fixed part of a split that `eval_batch` has for a count.

    An array that cannot be read is left out, if it is none that tasks of ours read.
    """
    count = self._num_eval_examples(split, count)
    whole = count == self.info.examples[split]
    indices = np.arange(count) if whole else self._subset(split, count)
    examples = self._splits[split]
    return indices, examples.read_leniently(indices) if isinstance(examples, Checked) else examples.read(indices)

  def fingerprints(self, splits: Iterable[str]) -> dict[str, Fingerprint]:
    """Return the fingerprints of those of these splits that exist, see `trialbook.input_pipeline.fingerprint`; made
    once for each.

    A split is left out if it reads otherwise each time. Raise DataError if one cannot be read.
    """
    for split in splits:
      if split in self._splits and split not in self._fingerprints:
        self._fingerprints[split] = fingerprint(self._splits[split])
    return {split: found for split in splits if (found := self._fingerprints.get(split)) is not None}

  def _of(self, split: str, indices: np.ndarray) -> Batch:
    batch = self._read[split].read(indices)
    return batch if self._kept is None else {path: batch[path] for path in self._kept}

  def _make_block(self, number: int) -> _Block:
    first_step = number * self._steps_per_block
    if first_step < 0 or (first_step + self._steps_per_block) * self._batch_size > _MAX_POSITION:
      last = _MAX_POSITION // self._batch_size - self._steps_per_block
      raise ValueError(f"step {first_step} is out of range: there are training batches 0 to about {last}")
    places_KxB = self._order.places(first_step, self._steps_per_block)
    indices, positions = self._order.examples(places_KxB.ravel())
    return _Block(number, places_KxB, positions.reshape(places_KxB.shape), indices.reshape(places_KxB.shape))

  def _drawn(self, step: int) -> tuple[np.ndarray, np.ndarray, slice | np.ndarray]:
    """Return indices and global positions of the examples that a batch needs, and which of them are its own."""
    number, row = divmod(step, self._steps_per_block)
    block = self._block
    if block.number != number:
      block = self._block = self._make_block(number)
    if self._augmentation is None or not self._augmentation.mixes:
      return block.indices_KxB[row], block.positions_KxB[row], slice(None)
    # Pairs are the places 2k and 2k + 1; a slice that begins or ends within one needs the other half, too.
    places = block.places_KxB[row]
    whole = np.union1d(places, places ^ 1)
    indices, positions = self._order.examples(whole)
    own = np.searchsorted(whole, places)
    # A view, where it can be one.
    return indices, positions, own if own[-1] - own[0] >= len(own) else slice(own[0], own[-1] + 1)

  def _augmented(self, batch: Batch, positions: np.ndarray, own: slice | np.ndarray) -> Batch:
    if self._augmentation is None:
      return batch
    if self._own_function is not None:
      batch = own_augmentation.apply(self._own_function, str(self._augmentation.function), batch, self._seed, positions)
    if "inputs" in batch:
      batch["inputs"] = augment(batch["inputs"], self._augmentation, self._seed, positions)
    if not self._augmentation.mixes:
      return batch
    mixed = mix(batch, self._augmentation, self._seed, positions)
    return {key: value[own] for key, value in mixed.items()}

  def _subset(self, split: str, count: int) -> np.ndarray:
    """Return indices int64 [count] of the fixed part of a split."""
    found = self._subsets.get((split, count))
    if found is None:
      examples, size = self._splits[split], self.info.examples[split]
      if isinstance(examples, Arrays) and "labels" in examples.arrays and self.info.label_shape == ():
        found = stratified_order(examples.arrays["labels"], f"subset/{split}", count)
      else:
        found = permute(np.arange(count), size, hashing.stream_key(0, f"subset/{split}"))
      self._subsets[split, count] = found
    return found

  def _started_workers(self) -> Workers:
    with self._starting:
      if self._closed:
        raise RuntimeError(f"a batch of dataset {self.info.name} was requested after the dataset was closed")
      if self._workers is None:
        self._workers = Workers(self._num_workers, **self._load_again)
      return self._workers

  def close(self) -> None:
    """End the worker processes, if there are any; may be repeated."""
    with self._starting:
      self._closed = True
      if self._workers is not None:
        self._workers.close()

  def __enter__(self) -> "Dataset":
    return self

  def __exit__(self, *_: object) -> None:
    self.close()

  def _num_eval_examples(self, split: str, examples: int | None) -> int:
    if split not in self.info.examples:
      raise DataError(f"dataset {self.info.name} has no split {split!r}; it has {', '.join(self.info.examples)}")
    if examples is not None and examples < 1:
      raise DataError(f"evaluation on {examples} examples of {split} is impossible; request at least 1")
    size = self.info.examples[split]
    return size if examples is None else min(examples, size)


def load(
  config: AnyDataset,
  *,
  seed: int,
  batch_size: int,
  host_index: int = 0,
  host_count: int = 1,
  slices: Slices | None = None,
  keep: Iterable[str] | None = None,
  fold_validation: bool = False,
) -> Dataset:
  """Read a dataset into memory, or open its files if it need not fit.

  Args:
    config: which one.
    seed: the run's seed, 0 <= seed < 2**64: order and augmentation of the training examples.
    batch_size: examples in a global training batch, a multiple of the number of slices.
    host_index: of this host; where a dataset is sharded by files, it says which share of the records it reads.
    host_count: how many hosts there are.
    slices: of each batch that this host gets; None: slice `host_index` of `host_count`.
    keep: as `Dataset.keep`; None: everything.
    fold_validation: whether the examples of "validation" are training examples too, after the others.

  Raises:
    DataError: the data is absent or broken (with every problem and the command that helps), or the batch
      cannot be shared among the hosts.
  """
  _check_divisible(batch_size, slices or Slices((host_index,), host_count), "batch size")
  if not 0 <= host_index < host_count:
    raise ValueError(f"host index is {host_index}; with {host_count} hosts it must be 0 to {host_count - 1}")
  try:
    source = config.read()
  except PathError as error:
    raise DataError(f"dataset {config.name}: {error}") from None
  if fold_validation:
    if getattr(config, "sharding", "global") == "files":
      raise DataError(f"fold_validation: dataset {config.name} is sharded by files; set dataset.sharding to global")
    source = with_validation(source)
  if config.augmentation is not None:
    check_augmentation(config.augmentation, source.info)
  if getattr(config, "sharding", "global") == "files" and source.info.examples["train"] < host_count:
    examples = source.info.examples["train"]
    raise DataError(f"dataset {source.info.name}: {examples} train examples cannot be shared among {host_count} hosts")
  dataset = Dataset(
    source,
    config,
    seed=seed,
    batch_size=batch_size,
    host_index=host_index,
    host_count=host_count,
    slices=slices,
    fold_validation=fold_validation,
  )
  if keep is not None:
    dataset.keep(keep)
  return dataset


def _fill_up(array: np.ndarray, missing: int) -> np.ndarray:
  return np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)])


def _check_divisible(batch_size: int, slices: Slices, what: str) -> None:
  if batch_size < 1 or batch_size % slices.count:
    near = max(1, round(batch_size / slices.count)) * slices.count
    raise DataError(
      f"{what} {batch_size} cannot be cut into {slices.count} equal slices of hosts; use a multiple, such as {near}"
    )
