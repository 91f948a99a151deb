"""Evaluation gives each example once, in a fixed order, in the same number of batches on every host."""

import zlib
from typing import Any

import numpy as np
import pytest

from trialbook.errors import DataError
from trialbook.input_pipeline import Augmentation, Dataset, Digits, load
from trialbook.input_pipeline.checked_source import checked

CONFIG = Digits(augmentation=Augmentation(crop_padding=2, flip_probability=1.0))


def _dataset(**hosts: Any) -> Dataset:
  return load(CONFIG, seed=0, batch_size=8, **hosts)


def _all(dataset: Dataset, split: str, batch_size: int, examples: int | None = None) -> dict[str, np.ndarray]:
  count = dataset.num_eval_batches(split, batch_size, examples)
  batches = [dataset.eval_batch(index, split, batch_size, examples) for index in range(count)]
  assert all(len(value) == len(dataset._slices.rows(batch_size)) for batch in batches for value in batch.values())
  return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
@pytest.mark.parametrize(("split", "size"), [("train", 1297), ("validation", 250), ("test", 250)])
def test_each_example_comes_once_and_the_rest_is_no_example(split, size, batch_size):
  dataset = _dataset()
  assert dataset.num_eval_batches(split, batch_size) == int(np.ceil(size / batch_size))
  got = _all(dataset, split, batch_size)
  assert got["is_example"].dtype == np.bool_
  assert np.array_equal(got["is_example"], np.arange(len(got["is_example"])) < size)
  assert got["example"].dtype == np.uint32
  assert len(np.unique(got["example"][:size])) == size
  stored = CONFIG.read().arrays[split]
  assert got.keys() == {*stored, "example", "is_example"}
  for key in ("inputs", "labels"):
    assert got[key].dtype == stored[key].dtype
    assert np.array_equal(got[key][:size], stored[key])
    assert not got[key][size:].any()


@pytest.mark.parametrize("host_count", [2, 4, 8])
@pytest.mark.parametrize("batch_size", [8, 64, 1000])
def test_hosts_get_equally_many_batches_and_together_what_one_host_gets(batch_size, host_count):
  single = _dataset()
  hosts = [_dataset(host_index=i, host_count=host_count) for i in range(host_count)]
  for examples in (None, 37):
    count = single.num_eval_batches("validation", batch_size, examples)
    assert {host.num_eval_batches("validation", batch_size, examples) for host in hosts} == {count}
    for index in range(count):
      slices = [host.eval_batch(index, "validation", batch_size, examples) for host in hosts]
      expected = single.eval_batch(index, "validation", batch_size, examples)
      for key, value in expected.items():
        assert np.array_equal(np.concatenate([s[key] for s in slices]), value)


def test_a_part_of_the_train_split_is_random_fixed_and_grows():
  small, large = (_all(_dataset(), "train", 10, examples)["inputs"] for examples in (100, 300))
  assert len(np.unique(large.reshape(300, -1), axis=0)) == 300
  assert np.array_equal(small, large[:100])
  other_seed = load(CONFIG, seed=9, batch_size=32)
  assert np.array_equal(_all(other_seed, "train", 10, 100)["inputs"], small)
  stored = CONFIG.read().arrays["train"]["inputs"]
  chosen = [int(np.flatnonzero((stored == image).all(axis=(1, 2, 3)))[0]) for image in large]
  thirds = np.bincount(np.array(chosen) * 3 // len(stored), minlength=3)
  assert thirds.min() > 70


def test_a_part_of_a_split_has_each_class_in_proportion():
  whole = np.bincount(CONFIG.read().arrays["validation"]["labels"], minlength=10)
  for examples in (10, 37, 100):
    part = _all(_dataset(), "validation", 10, examples)
    counts = np.bincount(part["labels"][part["is_example"]], minlength=10)
    assert abs(counts - whole * examples / 250).max() < 1


def test_more_examples_than_there_are_means_all_of_them():
  assert _dataset().num_eval_batches("test", 100, 10_000) == 3
  assert _all(_dataset(), "test", 100, 10_000)["is_example"].sum() == 250


def test_the_number_of_an_example_depends_on_neither_batch_size_nor_hosts_nor_which_part_is_evaluated():
  whole = _all(_dataset(), "validation", 250)
  known = {image.tobytes(): number for image, number in zip(whole["inputs"], whole["example"], strict=True)}
  assert len(known) == 250

  def check(batch: dict[str, np.ndarray]) -> int:
    own = batch["is_example"]
    for image, number in zip(batch["inputs"][own], batch["example"][own], strict=True):
      assert known[image.tobytes()] == number
    return int(own.sum())

  for batch_size in (1, 7, 64, 1000):
    for examples in (None, 37):
      assert check(_all(_dataset(), "validation", batch_size, examples)) == (examples or 250)
  for host_count in (2, 4):
    hosts = [_dataset(host_index=index, host_count=host_count) for index in range(host_count)]
    for batch_size in (8, 64):
      assert sum(check(_all(host, "validation", batch_size, 100)) for host in hosts) == 100
  assert check(_all(load(CONFIG, seed=9, batch_size=32), "validation", 100)) == 250


def test_the_numbers_of_an_example_never_change_between_versions_and_differ_between_splits():
  # What a task draws for an example at an evaluation is drawn from its number.
  firsts = {split: _all(_dataset(), split, 64)["example"][:3].tolist() for split in ("validation", "test")}
  assert firsts["validation"] == [zlib.crc32(b"validation") + index for index in range(3)]
  assert firsts["test"] == [zlib.crc32(b"test") + index for index in range(3)]


def test_the_numbers_of_the_examples_of_a_split_differ_also_where_they_begin_near_the_largest_one():
  name, size = "validation_4604647", 300
  assert zlib.crc32(name.encode()) == 2**32 - 213
  split = {"inputs": np.zeros((size, 1), np.uint8)}
  source = checked("here", "x", {"train": split, "validation": split, name: split})
  dataset = Dataset(source, Digits(), seed=0, batch_size=8, host_index=0, host_count=1)
  numbers = _all(dataset, name, size)["example"]
  assert numbers.dtype == np.uint32
  assert len(np.unique(numbers)) == size


def test_what_does_not_exist_is_an_error():
  dataset = _dataset()
  with pytest.raises(DataError, match="no split 'valid'; it has train, validation, test"):
    dataset.num_eval_batches("valid", 10)
  with pytest.raises(DataError, match="at least 1"):
    dataset.eval_batch(0, "train", 10, 0)
  for index in (-1, 25):
    with pytest.raises(IndexError, match="there are batches 0 to 24"):
      dataset.eval_batch(index, "test", 10)
