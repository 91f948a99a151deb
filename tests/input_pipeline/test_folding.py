"""Validation examples folded into the training set come after the others, each once, and stay validation examples."""

import numpy as np
import pytest

from trialbook.errors import DataError
from trialbook.input_pipeline import Digits, load
from trialbook.input_pipeline.datasets.array_record import ArrayRecord
from trialbook.input_pipeline.folding import Joined, with_validation
from trialbook.input_pipeline.source import Arrays


def split(first: int, count: int) -> Arrays:
  """Return a split whose examples are numbered."""
  numbers = np.arange(first, first + count)
  return Arrays({"inputs": numbers[:, None], "labels": 10 * numbers})


def test_joined_splits_are_read_in_any_order():
  joined = Joined(split(0, 5), split(5, 3))
  wanted = np.array([7, 0, 5, 4, 7, 1])
  batch = joined.read(wanted)
  np.testing.assert_array_equal(batch["inputs"][:, 0], wanted)
  np.testing.assert_array_equal(batch["labels"], 10 * wanted)
  assert len(joined) == 8
  assert joined.only(["labels"]).read(wanted).keys() == {"labels"}
  assert len(joined.read(np.array([], np.int64))["inputs"]) == 0


def test_an_epoch_of_a_folded_dataset_has_each_training_and_validation_example_once():
  source = Digits().read()
  train, validation = source.info.examples["train"], source.info.examples["validation"]
  dataset = load(Digits(), seed=1, batch_size=7, fold_validation=True)
  assert dataset.info.examples == {**source.info.examples, "train": train + validation}
  assert dataset.info.normalization == source.info.normalization
  total = train + validation
  assert total % 7 == 0, "an epoch is whole batches"
  seen = np.concatenate([dataset.train_batch(step)["inputs"] for step in range(total // 7)])
  arrays = [source.arrays[name]["inputs"] for name in ("train", "validation")]
  expected = np.sort(np.concatenate(arrays).reshape(total, -1), axis=0)
  np.testing.assert_array_equal(np.sort(seen.reshape(total, -1), axis=0), expected)
  assert len(with_validation(source).splits["test"]) == source.info.examples["test"]


def test_a_dataset_that_is_sharded_by_files_is_not_folded(monkeypatch):
  config = ArrayRecord(path="records", sharding="files")
  monkeypatch.setattr(ArrayRecord, "read", lambda _: Digits().read())
  with pytest.raises(DataError, match=r"fold_validation: .* set dataset.sharding to global"):
    load(config, seed=0, batch_size=8, fold_validation=True)
