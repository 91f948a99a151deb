"""Each dataset: its splits are fixed and disjoint, its facts true, and its config an ordinary subtree."""

import dataclasses
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from trialbook.errors import DataError
from trialbook.input_pipeline import SPLITS, DatasetConfig, Digits, Synthetic, Text, load
from trialbook.input_pipeline.registry import PREPARE, datasets
from trialbook.input_pipeline.split import stratified, stratified_order
from trialbook.settings import Settings, leaves


class Run(Settings):
  dataset: DatasetConfig


def test_another_split_draws_other_validation_examples_and_keeps_the_test_examples():
  labels = np.random.default_rng(0).integers(0, 5, 1000)
  own = stratified(labels, "anything", validation=100, test=50)
  other = stratified(labels, "anything", validation=100, test=50, seed=1)
  assert np.array_equal(own[2], other[2])
  assert np.array_equal(np.sort(np.concatenate(other)), np.arange(1000))
  assert [len(part) for part in other] == [850, 100, 50]
  assert len(np.intersect1d(own[1], other[1])) < 30
  shares = np.bincount(labels[other[1]], minlength=5)
  assert np.abs(shares - np.bincount(labels[np.concatenate(other[:2])], minlength=5) * 100 / 950).max() <= 2


@pytest.mark.parametrize("name", datasets())
def test_every_dataset_is_chosen_by_its_name_with_defaults(name):
  run = Run.model_validate({"dataset": {"name": name}})
  assert type(run.dataset) is datasets()[name]
  assert type(run.dataset).__doc__
  assert run.dataset.augmentation is None
  assert all(field.alias is None for _, _, field, _ in leaves(run))
  assert Run.model_validate_json(run.model_dump_json()) == run


def test_what_can_be_prepared_is_a_dataset():
  assert set(PREPARE) <= set(datasets())


def test_a_setting_of_another_dataset_is_an_error():
  with pytest.raises(ValidationError, match="data_dir"):
    Run.model_validate({"dataset": {"name": "digits", "data_dir": "x"}})


def test_digits_are_those_of_scikit_learn_split_without_overlap():
  from sklearn.datasets import load_digits

  images, labels = load_digits(return_X_y=True)
  expected = sorted(zip(map(tuple, images.astype(int)), labels.tolist(), strict=True))
  arrays = Digits().read().arrays
  got = [
    (tuple(image.ravel().tolist()), int(label))
    for split in SPLITS
    for image, label in zip(arrays[split]["inputs"], arrays[split]["labels"], strict=True)
  ]
  assert sorted(got) == expected
  assert {split: len(arrays[split]["labels"]) for split in SPLITS} == {
    "train": 1297,
    "validation": 250,
    "test": 250,
  }
  for split in SPLITS:
    share = np.bincount(arrays[split]["labels"], minlength=10) / len(arrays[split]["labels"])
    assert abs(share - np.bincount(labels) / 1797).max() < 0.006


def test_normalization_comes_from_the_train_split_per_channel():
  for config in (Digits(), Synthetic(input_shape=(5, 5, 3), input_dtype="uint8", train_examples=300)):
    source = config.read()
    train = source.arrays["train"]["inputs"].astype(np.float64)
    axes = tuple(range(train.ndim - 1))
    mean, deviation = source.info.normalizations["inputs"]
    np.testing.assert_allclose(mean, train.mean(axis=axes), rtol=1e-12)
    np.testing.assert_allclose(deviation, train.std(axis=axes), rtol=1e-12)


def test_a_constant_channel_does_not_divide_by_zero():
  from trialbook.input_pipeline.source import byte_statistics

  assert byte_statistics(np.full((3, 2, 2, 1), 7, np.uint8)) == ((7.0,), (1.0,))


def test_info_says_what_the_arrays_are():
  info = load(Digits(), seed=0, batch_size=8).info
  assert (info.name, info.input_shape, info.input_dtype) == ("digits", (8, 8, 1), "uint8")
  assert (info.num_classes, info.num_targets, info.notice) == (10, None, "")
  assert dict(info.examples) == {"train": 1297, "validation": 250, "test": 250}
  assert hash(info) == hash(load(Digits(), seed=1, batch_size=16).info)


def test_stratified_splits_have_each_class_in_proportion_and_no_overlap():
  labels = np.repeat(np.arange(5), [10, 100, 200, 300, 390])
  parts = stratified(labels, "anything", validation=100, test=50)
  assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1000))
  for part, count in zip(parts, (850, 100, 50), strict=True):
    assert len(part) == count
    assert abs(np.bincount(labels[part], minlength=5) - np.bincount(labels) * count / 1000).max() <= 2
  again = stratified(labels, "anything", validation=100, test=50)
  assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


@pytest.mark.parametrize("sizes", [[10, 100, 200, 300, 390], [1] * 40 + [960], [7, 7, 7], [5], [2, 999]])
def test_every_beginning_of_a_stratified_order_has_each_class_to_within_one_example(sizes):
  labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
  order = stratified_order(labels, "anything", len(labels))
  assert np.array_equal(np.sort(order), np.arange(len(labels)))
  counts = np.cumsum(np.eye(len(sizes))[labels[order]], axis=0)
  shares = np.arange(1, len(labels) + 1)[:, None] * np.array(sizes) / len(labels)
  assert abs(counts - shares).max() < 1
  assert np.array_equal(stratified_order(labels, "anything", 5), order[:5])


def test_within_a_class_a_stratified_order_is_random():
  labels = np.repeat(np.arange(2), 500)
  order = stratified_order(labels, "anything", 200)
  for number in range(2):
    chosen = order[labels[order] == number] - 500 * number
    assert abs(chosen.mean() - 249.5) < 5 * 500 / np.sqrt(12 * 100)
    assert (np.diff(chosen) < 0).any()


def test_synthetic_data_can_be_learned_and_says_what_it_is():
  config = Synthetic(input_shape=(8, 8, 3), input_dtype="uint8", train_examples=2000, num_outputs=4)
  source = config.read()
  assert "SYNTHETIC" in source.info.notice

  def features(split: str) -> np.ndarray:
    inputs = source.arrays[split]["inputs"].reshape(-1, 192) / 32.0 - 4.0
    return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1)

  # Least squares on one-hot labels is far from the best linear classifier, and far from chance (0.25).
  one_hot = np.eye(4)[source.arrays["train"]["labels"]]
  weights = np.linalg.lstsq(features("train"), one_hot, rcond=None)[0]
  predicted = (features("test") @ weights).argmax(axis=1)
  assert (predicted == source.arrays["test"]["labels"]).mean() > 0.75


def test_synthetic_targets_are_a_function_of_the_inputs():
  source = Synthetic(kind="regression", input_shape=(20,), train_examples=500, num_outputs=2).read()
  assert (source.info.num_classes, source.info.num_targets, source.info.normalization) == (None, 2, None)
  train, test = source.arrays["train"], source.arrays["test"]
  weights = np.linalg.lstsq(train["inputs"], train["targets"], rcond=None)[0]
  np.testing.assert_allclose(test["inputs"] @ weights, test["targets"], atol=1e-4)


def test_synthetic_data_depend_on_their_own_seed_only():
  one, same, other = (Synthetic(seed=seed, input_shape=(3,)).read().arrays["train"]["inputs"] for seed in (1, 1, 2))
  assert np.array_equal(one, same)
  assert not np.array_equal(one, other)


def test_in_synthetic_texts_the_same_token_follows_a_token_nine_times_of_ten():
  config = Synthetic(kind="language_model", input_shape=(40,), num_outputs=16, train_examples=200)
  train = config.read().arrays["train"]
  inputs, labels = train["inputs"], train["labels"]
  assert inputs.shape == labels.shape == (200, 40)
  assert np.array_equal(inputs[:, 1:], labels[:, :-1])
  counts = np.zeros((16, 16))
  np.add.at(counts, (inputs.ravel(), labels.ravel()), 1)
  # A token that is drawn is the usual one once in 16 times.
  assert abs((counts.max(axis=1) / counts.sum(axis=1)).mean() - (0.9 + 0.1 / 16)) < 0.02
  with pytest.raises(DataError, match=r"a language model needs dataset.input_shape = \(length,\), not \(32, 32, 3\)"):
    Synthetic(kind="language_model").read()


def test_what_a_dataset_declares_is_what_its_data_are(tmp_path: pathlib.Path):
  text = tmp_path / "text"
  text.write_bytes(bytes(range(256)) * 40)
  small: dict[str, Any] = {"train_examples": 30, "validation_examples": 10, "test_examples": 10, "num_outputs": 3}
  for config in (
    Text(path=str(text), length=16),
    Synthetic(input_shape=(4, 4, 3), input_dtype="uint8", **small),
    Synthetic(input_shape=(4,), **small),
    Synthetic(input_shape=(4,), kind="regression", **small),
    Synthetic(input_shape=(4,), kind="language_model", input_dtype="uint8", **small),
  ):
    read = config.read().info
    # Numbers of examples, and statistics of bytes, need the data.
    declared = dataclasses.replace(config.declared(), examples=read.examples)
    assert (declared.normalization is None) == (read.normalization is None)
    assert dataclasses.replace(declared, normalization=read.normalization) == read
    for path, (mean, deviation) in declared.normalizations.items():
      assert (len(mean), len(deviation)) == (len(read.normalizations[path][0]),) * 2


@pytest.mark.slow
def test_the_package_starts_neither_jax_nor_scikit_learn():
  code = """
import sys
from trialbook import input_pipeline
input_pipeline.load(input_pipeline.Digits(), seed=0, batch_size=8).train_batch(0)
print(sorted({'jax', 'sklearn', 'grain'} & set(sys.modules)))
"""
  done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
  assert done.stdout.strip() == "[]"
