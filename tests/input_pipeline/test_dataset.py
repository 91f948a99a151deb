"""A batch is a pure function of (seed, step): of no iterator, host, worker or history."""

import statistics
import time
import zlib
from typing import Any

import numpy as np
import pytest

from trialbook.errors import DataError
from trialbook.input_pipeline import SPLITS, Augmentation, Dataset, Digits, Synthetic, load

AUGMENTED = Digits(augmentation=Augmentation(crop_padding=1, flip_probability=0.5))
TINY = Synthetic(input_shape=(4,), train_examples=37, validation_examples=20, test_examples=10, num_outputs=3)


def _numbered(seed: int = 0, batch_size: int = 8, train_examples: int = 37, **hosts: Any) -> Dataset:
  """A dataset whose train labels are the examples' own numbers."""
  config = TINY.model_copy(update={"train_examples": train_examples})
  dataset = load(config, seed=seed, batch_size=batch_size, **hosts)
  dataset._splits["train"].arrays["labels"][:] = np.arange(train_examples)  # type: ignore[attr-defined]
  return dataset


def _same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
  return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) and a[key].dtype == b[key].dtype for key in a)


def test_a_resumed_run_gets_the_batches_that_it_would_have_got():
  went_through = load(AUGMENTED, seed=5, batch_size=96)
  batches = [went_through.train_batch(step) for step in range(120)]
  resumed = load(AUGMENTED, seed=5, batch_size=96)
  assert all(_same(resumed.train_batch(step), batches[step]) for step in range(70, 120))


def test_batches_may_be_asked_for_in_any_order_and_again():
  dataset = load(AUGMENTED, seed=5, batch_size=96)
  steps = np.random.default_rng(0).integers(0, 10_000, 40)
  first = {step: dataset.train_batch(step) for step in steps}
  assert all(_same(first[step], dataset.train_batch(step)) for step in steps[::-1])


def test_each_epoch_holds_each_example_exactly_once():
  dataset = _numbered(batch_size=8)
  order = np.concatenate([dataset.train_batch(step)["labels"] for step in range(37 * 5)]).reshape(-1, 37)
  assert all(np.array_equal(np.sort(epoch), np.arange(37)) for epoch in order)
  assert len({tuple(epoch) for epoch in order}) == len(order)


def test_a_batch_may_span_several_epochs():
  order = np.concatenate([_numbered(batch_size=100).train_batch(step)["labels"] for step in range(37)])
  assert np.array_equal(order, np.concatenate([_numbered(batch_size=37).train_batch(e)["labels"] for e in range(100)]))


def test_the_seed_changes_the_order_and_nothing_else():
  orders = [np.concatenate([_numbered(seed=s).train_batch(t)["labels"] for t in range(37)]) for s in (0, 1, 2**32 - 1)]
  assert not np.array_equal(orders[0], orders[1])
  assert not np.array_equal(orders[0], orders[2])
  one, other = load(TINY, seed=0, batch_size=8), load(TINY, seed=1, batch_size=8)
  assert one.info == other.info
  for split in ("train", "validation", "test"):
    assert _same(one.eval_batch(0, split, 20), other.eval_batch(0, split, 20))


def test_inputs_and_labels_stay_together():
  dataset = load(Digits(), seed=0, batch_size=64)
  train = dataset.eval_batch(0, "train", 1297)
  known = {image.tobytes(): label for image, label in zip(train["inputs"], train["labels"], strict=True)}
  batch = dataset.train_batch(3)
  assert [known[image.tobytes()] for image in batch["inputs"]] == batch["labels"].tolist()


@pytest.mark.parametrize("host_count", [1, 2, 4, 8])
def test_the_slices_of_the_hosts_are_the_batch_of_a_single_host(host_count):
  single = load(AUGMENTED, seed=5, batch_size=64)
  hosts = [load(AUGMENTED, seed=5, batch_size=64, host_index=i, host_count=host_count) for i in range(host_count)]
  for step in (0, 1, 19, 20, 21, 64, 10**9):
    slices = [host.train_batch(step) for host in hosts]
    together = {key: np.concatenate([s[key] for s in slices]) for key in slices[0]}
    assert _same(together, single.train_batch(step))


def test_a_late_batch_costs_as_much_as_the_first():
  dataset = load(AUGMENTED, seed=0, batch_size=128)

  def cost(start: int) -> float:
    # Steps that are far apart, so that none is in the block of another.
    begin = time.thread_time()
    for step in range(start, start + 20_000, 1000):
      dataset.train_batch(step)
    return time.thread_time() - begin

  costs = [(cost(0), cost(10**12)) for _ in range(7)]
  assert statistics.median(late / early for early, late in costs) < 2


def test_steps_out_of_range_are_errors():
  dataset = load(TINY, seed=0, batch_size=8)
  for step in (-1, 2**62):
    with pytest.raises(ValueError, match="out of range"):
      dataset.train_batch(step)
  assert dataset.train_batch(10**17)["labels"].shape == (8,)


def test_a_batch_shares_no_memory_with_the_dataset_or_another_batch():
  dataset = load(Digits(), seed=0, batch_size=64)
  expected = dataset.train_batch(3)
  for batch in (dataset.train_batch(3), dataset.eval_batch(0, "train", 64)):
    for array in batch.values():
      array[...] = 0
  assert _same(dataset.train_batch(3), expected)


def test_batches_have_the_promised_shapes_and_dtypes():
  batch = load(AUGMENTED, seed=0, batch_size=6).train_batch(0)
  assert {key: (value.shape, str(value.dtype)) for key, value in batch.items()} == {
    "inputs": ((6, 8, 8, 1), "uint8"),
    "labels": ((6,), "int32"),
  }
  regression = TINY.model_copy(update={"kind": "regression"})
  batch = load(regression, seed=0, batch_size=6).train_batch(0)
  assert {key: (value.shape, str(value.dtype)) for key, value in batch.items()} == {
    "inputs": ((6, 4), "float32"),
    "targets": ((6, 3), "float32"),
  }


def test_a_batch_that_hosts_cannot_share_names_one_that_they_can():
  with pytest.raises(
    DataError, match=r"batch size 30 cannot be cut into 8 equal slices .*; use a multiple, such as 32"
  ):
    load(TINY, seed=0, batch_size=30, host_count=8)
  dataset = load(TINY, seed=0, batch_size=32, host_count=8)
  with pytest.raises(DataError, match="evaluation batch size 4 cannot be cut into 8 equal slices"):
    dataset.num_eval_batches("test", 4)


def test_only_images_can_be_augmented():
  with pytest.raises(DataError, match=r"dataset.augmentation: .* only images"):
    load(TINY.model_copy(update={"augmentation": Augmentation(crop_padding=1)}), seed=0, batch_size=8)


def test_splits_order_and_augmentation_never_change_between_versions():
  # A run that is resumed, or compared, with a newer version must see the same examples.
  splits = [zlib.crc32(Digits().read().arrays[split]["inputs"].tobytes()) for split in SPLITS]
  assert splits == [1748963822, 703645014, 1004654818]
  dataset = load(AUGMENTED, seed=0, batch_size=8)
  assert dataset.train_batch(0)["labels"].tolist() == [8, 3, 0, 5, 5, 8, 8, 5]
  assert dataset.train_batch(10**9)["labels"].tolist() == [9, 4, 9, 6, 3, 5, 8, 0]
  assert dataset.eval_batch(0, "train", 8, 8)["labels"].tolist() == [1, 3, 4, 5, 6, 9, 0, 2]
  assert zlib.crc32(dataset.train_batch(10**9)["inputs"].tobytes()) == 1031089933
