"""Tables are scikit-learn's, split without overlap; the normalization is that of the train split, per feature."""

from typing import Any

import numpy as np
import pytest

from trialbook.input_pipeline import SPLITS, Augmentation, Table, load


@pytest.mark.parametrize("table", ["breast_cancer", "diabetes"])
def test_the_rows_are_those_of_scikit_learn_each_in_one_split(table):
  from sklearn import datasets

  inputs: Any
  answers: Any
  if table == "diabetes":
    inputs, answers = datasets.load_diabetes(return_X_y=True, scaled=False)
  else:
    inputs, answers = datasets.load_breast_cancer(return_X_y=True)
  arrays = Table(table=table).read().arrays
  key = "targets" if table == "diabetes" else "labels"
  got = [np.column_stack([arrays[split]["inputs"], arrays[split][key]]) for split in SPLITS]
  expected = np.column_stack([np.float32(inputs), answers])
  assert sorted(map(tuple, np.concatenate(got))) == sorted(map(tuple, expected))
  assert [len(rows) for rows in got] == ([282, 80, 80] if table == "diabetes" else [369, 100, 100])


@pytest.mark.parametrize("table", ["breast_cancer", "diabetes"])
def test_the_normalization_comes_from_the_train_split_alone(table):
  source = Table(table=table).read()
  train = source.arrays["train"]["inputs"].astype(np.float64)
  assert source.info.normalization is not None
  mean, deviation = (np.array(part) for part in source.info.normalization)
  np.testing.assert_allclose(mean, train.mean(axis=0), rtol=1e-10)
  np.testing.assert_allclose(deviation, train.std(axis=0), rtol=1e-10)
  normalized = (train - mean) / deviation
  assert abs(normalized.mean(axis=0)).max() < 1e-9
  everything = np.concatenate([source.arrays[split]["inputs"] for split in SPLITS])
  assert not np.allclose(mean, everything.mean(axis=0), rtol=1e-4)


def test_facts_and_batches_say_what_is_to_be_predicted():
  classes, numbers = load(Table(), seed=0, batch_size=8), load(Table(table="diabetes"), seed=0, batch_size=8)
  assert (classes.info.input_shape, classes.info.num_classes, classes.info.num_targets) == ((30,), 2, None)
  assert (numbers.info.input_shape, numbers.info.num_classes, numbers.info.num_targets) == ((10,), None, 1)
  assert numbers.train_batch(0)["targets"].shape == (8, 1)
  assert 25 <= numbers.eval_batch(0, "train", 282)["targets"].min() < 100


def test_the_targets_of_a_table_are_mixed_by_mixup():
  mixed = load(Table(table="diabetes", augmentation=Augmentation(mixup_alpha=1.0)), seed=0, batch_size=8)
  plain = load(Table(table="diabetes"), seed=0, batch_size=8).train_batch(0)
  batch = mixed.train_batch(0)
  assert not mixed.info.mixes_labels
  assert batch.keys() == {"inputs", "targets"}
  # One weight for all that belongs to an example, solved for from its target.
  pair = np.arange(8) ^ 1
  weight = (batch["targets"] - plain["targets"][pair]) / (plain["targets"] - plain["targets"][pair])
  assert ((weight > -1e-3) & (weight < 1 + 1e-3)).all()
  expected = weight * plain["inputs"] + (1 - weight) * plain["inputs"][pair]
  np.testing.assert_allclose(batch["inputs"], expected, rtol=1e-3, atol=1e-2)
