"""A dataset has any keys, nested or not: what comes of each, from every kind of source."""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from every_source import KINDS, READ_ONE_BY_ONE, Batches, Items, at, good, loaded, mapped, targets
from tiny import mlp

from trialbook.errors import DataError
from trialbook.input_pipeline import Augmentation, Data, Dataset, PluginDataset, load, write_array_record
from trialbook.input_pipeline.checked_source import checked
from trialbook.input_pipeline.source import Info, flat, nested, paths_below
from trialbook.trainer import checks
from trialbook.trainer.bound_task import bind
from trialbook.trainer.tasks import Classification

Plugin = Callable[[Any], PluginDataset]


def rich(count: int) -> dict[str, Any]:
  """A split with labels and targets, and arrays of all kinds."""
  draw = np.random.default_rng(count)
  return {
    "inputs": {
      "image": draw.integers(0, 256, (count, 4, 4, 3)).astype(np.uint8),
      "text": {"tokens": draw.integers(0, 9, (count, 5)), "mask": draw.random((count, 5)) < 0.5},
      "age": draw.random(count),
    },
    "labels": draw.integers(0, 4, (count, 2)).astype(np.uint8),
    "targets": draw.random((count, 2, 2)),
    "weights": draw.integers(0, 3, count),
    "mask": draw.random((count, 3)) < 0.5,
    "segmentation": draw.integers(0, 256, (count, 4, 4)).astype(np.uint8),
    "id": np.arange(count) + 2**30,
    "time": {"seconds": draw.random(count).astype(np.float16)},
  }


RICH = {
  "inputs/image": ((4, 4, 3), "uint8"),
  "inputs/text/tokens": ((5,), "int32"),
  "inputs/text/mask": ((5,), "bool"),
  "inputs/age": ((), "float32"),
  "labels": ((2,), "int32"),
  "targets": ((2, 2), "float32"),
  "weights": ((), "float32"),
  "mask": ((3,), "bool"),
  "segmentation": ((4, 4), "uint8"),
  "id": ((), "int32"),
  "time/seconds": ((), "float32"),
}


def by_path(split: Mapping[str, Any], above: str = "") -> dict[str, np.ndarray]:
  found: dict[str, np.ndarray] = {}
  for key, value in split.items():
    found |= by_path(value, f"{above}{key}/") if isinstance(value, dict) else {above + key: np.asarray(value)}
  return found


@pytest.mark.parametrize("kind", KINDS)
def test_each_source_gives_arrays_of_any_key_by_path_and_converted(tmp_path: pathlib.Path, plugin: Plugin, kind: str):
  splits = {"train": rich(8), "validation": rich(12)}
  dataset = loaded(kind, splits, tmp_path, plugin)
  assert dict(dataset.info.spec) == RICH
  assert list(dataset.info.spec) == list(RICH)
  assert not dataset.info.left_out
  facts = (dataset.info.input_shape, dataset.info.input_dtype, dataset.info.num_classes, dataset.info.num_targets)
  assert facts == (None, None, 4, 2)
  batch = dataset.eval_batch(0, "validation", 12)
  assert batch.keys() == {*RICH, "example", "is_example"}
  for path, given in by_path(splits["validation"]).items():
    assert (batch[path].shape[1:], str(batch[path].dtype)) == RICH[path]
    assert np.array_equal(batch[path], given.astype(RICH[path][1]))
  drawn = dataset.train_batch(0)
  assert {path: (array.shape[1:], str(array.dtype)) for path, array in drawn.items()} == RICH
  train = by_path(splits["train"])
  places = [np.flatnonzero(train["id"] == number)[0] for number in drawn["id"]]
  assert all(np.array_equal(drawn[path], train[path].astype(RICH[path][1])[places]) for path in RICH)


@pytest.mark.parametrize("kind", ["arrays", *READ_ONE_BY_ONE])
@pytest.mark.parametrize(
  ("column", "why"),
  [
    (["cat", "dog"] * 6, "other/key are text, but must be numbers or booleans; encode them as numbers"),
    (["2020-01-01"] * 12, "other/key are datetime64"),
    ([None, {1}] * 6, "other/key are object"),
    ([1j] * 12, "other/key are complex128"),
    ([[[1.0], [1.0, 2.0]]] * 12, "other/key are ragged: row 0 is itself ragged; pad or crop them to one shape"),
    ([np.nan] * 12, "other/key are not all finite, first in example 0: nan|other/key are not all finite: nan"),
    ([10**12] * 12, "other/key are int64 with values such as 1000000000000, but must be 32-bit integers"),
  ],
)
def test_what_is_no_number_under_a_key_that_nobody_may_need_is_left_out_with_the_reason(
  tmp_path: pathlib.Path, plugin: Plugin, kind: str, column: list[Any], why: str
):
  if "datetime64" in why:
    column = list(np.array(column, "datetime64[D]"))
  split = good(12, other={"key": column, "number": np.arange(12)})
  dataset = loaded(kind, {"train": split, "validation": split}, tmp_path, plugin)
  assert list(dataset.info.spec) == ["inputs", "labels", "other/number"]
  ((path, told),) = dataset.info.left_out.items()
  assert path == "other/key"
  assert re.match(f"train: ({why})", told), told
  assert dataset.train_batch(0).keys() == {"inputs", "labels", "other/number"}
  assert dataset.eval_batch(0, "validation", 12).keys() == {*dataset.info.spec, "example", "is_example"}
  assert dataset.fingerprints(["train", "validation"]).keys() == {"train", "validation"}


def test_what_cannot_be_written_into_records_is_refused_under_any_key(tmp_path: pathlib.Path):
  split = good(12, caption=["cat"] * 12)
  with pytest.raises(DataError, match="train, example 0: caption are text, but must be numbers or booleans; encode"):
    write_array_record(tmp_path / "data", {"train": split, "validation": split}, num_classes=4)
  assert not list(tmp_path.iterdir())


def test_a_key_that_some_splits_lack_or_have_otherwise_is_left_out_with_the_reason(plugin: Plugin):
  train = good(12, a=np.ones(12), b=np.ones(12), c=np.ones((12, 2)), e=np.ones(12))
  validation = good(8, a=np.ones(8), c=np.ones((8, 3)), d=np.ones(8), e=np.ones(8, int))
  test = good(8, a=np.ones(8), b=np.ones(8), c=np.ones((8, 2)), e=np.ones(8))
  for kind in (dict, Items, Batches):
    splits = {name: kind(one) for name, one in {"train": train, "validation": validation, "test": test}.items()}
    info = load(plugin(Data(splits=splits, num_classes=4)), seed=0, batch_size=4).info
    assert list(info.spec) == ["inputs", "labels", "a"]
    assert info.left_out == {
      "b": "validation has none",
      "c": "c of validation are float32[3], those of train float32[2]; bring all to one shape and dtype",
      "d": "train has none",
      "e": "e of validation are int32[], those of train float32[]; bring all to one shape and dtype",
    }


@pytest.mark.parametrize("key", ["labels", "targets", "weights"])
def test_keys_that_our_tasks_read_may_not_be_missing_from_a_split(key: str):
  train = good(12, targets=np.ones(12), weights=np.ones(12))
  with pytest.raises(DataError, match=f"here: test has no '{key}', but train has"):
    checked("here", "x", {"train": train, "validation": train, "test": {k: v for k, v in train.items() if k != key}})


def test_labels_of_validation_alone_are_left_out_also_where_mixup_would_mix_them(plugin: Plugin):
  train = good(12, labels=None, targets=np.ones(12))
  config = plugin({"train": train, "validation": good(12, targets=np.ones(12))})
  config = config.model_copy(update={"augmentation": Augmentation(mixup_alpha=0.5)})
  dataset = load(config, seed=0, batch_size=4)
  assert dataset.info.left_out == {"labels": "train has none"}
  assert not dataset.info.mixes_labels
  assert dataset.train_batch(0).keys() == {"inputs", "targets"}


def test_splits_without_an_array_in_common_are_refused():
  for kind in (dict, Items):
    with pytest.raises(DataError, match=r"here: the splits have no array in common: 'x' \(validation has none\), 'y'"):
      checked("here", "x", {"train": kind({"x": np.ones(3)}), "validation": kind({"y": np.ones(3)})})


@pytest.mark.parametrize("split", [{}, {"inputs": {}}])
def test_a_split_without_arrays_is_refused(split: dict[str, Any]):
  with pytest.raises(DataError, match="here: validation: is empty: it must have arrays, such as 'inputs'"):
    checked("here", "x", {"train": good(3), "validation": split})


def test_a_split_of_text_alone_is_refused():
  split = {"caption": ["cat"] * 3, "name": ["tom"] * 3}
  for kind in (dict, Items):
    with pytest.raises(DataError, match=r"here: train: .*caption are text(.|\n)*name are text"):
      checked("here", "x", {"train": kind(split), "validation": kind(split)})


def test_arrays_of_any_key_must_be_as_long_as_the_others():
  with pytest.raises(DataError, match="here: train: has 12 inputs and 12 labels and 4 names/first"):
    checked("here", "x", {"train": good(12, names={"first": np.arange(4)}), "validation": good(12)})


def test_examples_of_other_keys_are_told_only_where_the_key_is_in_a_batch():
  class Changing(Items):
    def __getitem__(self, index: int) -> dict[str, Any]:
      example = super().__getitem__(index)
      return {**example, "more": 1} if index == 2 else {k: v for k, v in example.items() if k != "id" or index != 4}

  split = Changing(good(6, id=np.arange(6)))
  source = checked("here", "x", {"train": split, "validation": good(6, id=np.arange(6))}, num_classes=4)
  train = source.splits["train"]
  assert train.read(np.array([0, 1, 2])).keys() == {"inputs", "labels", "id"}
  with pytest.raises(DataError, match="here, train, example 4: has no 'id'; the first example has inputs, labels, id"):
    train.read(np.array([3, 4]))


def test_a_warning_says_what_is_not_used_and_why(plugin: Plugin):
  split = good(12, caption=["cat"] * 12, id=np.arange(12))
  dataset = plugin({"train": split, "validation": split})
  config = mlp(batch_size=8).model_copy(update={"dataset": dataset})
  read = load(dataset, seed=0, batch_size=4)
  task = bind(Classification().build(), read.info, "classification")
  told = [warning for warning in checks.warnings(config, read, task) if "does not use" in warning]
  reason = "train: caption are text, but must be numbers or booleans; encode them as numbers"
  assert told == [
    f"dataset {dataset.name}: the classification task does not use 'id', 'caption' ({reason}): left out of the batches"
  ]


# Labels that do not count.


@pytest.mark.parametrize("ignored", [-1, 255])
@pytest.mark.parametrize("kind", KINDS)
def test_labels_that_do_not_count_may_be_out_of_range_and_stay_as_they_are(
  tmp_path: pathlib.Path, plugin: Plugin, kind: str, ignored: int
):
  split = good(12, labels=at(5, ignored, np.arange(12) % 4))
  dataset = loaded(kind, {"train": split, "validation": split}, tmp_path, plugin, ignore_label=ignored)
  assert (dataset.info.ignore_label, dataset.info.num_classes) == (ignored, 4)
  assert dataset.eval_batch(0, "validation", 12)["labels"].tolist() == split["labels"].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_other_labels_out_of_range_are_refused_as_ever(tmp_path: pathlib.Path, plugin: Plugin, kind: str):
  split = good(12, labels=at(5, -2, at(4, -1, np.arange(12) % 4)))
  with pytest.raises(DataError, match=r"labels must be 0 to 3 for 4 classes; 1 are not, such as -2") as caught:
    loaded(kind, {"train": good(12), "validation": split}, tmp_path, plugin, ignore_label=-1).eval_batch(
      0, "validation", 12
    )
  assert "example 5" in str(caught.value)


def test_labels_that_do_not_count_are_not_counted_as_classes(plugin: Plugin):
  pixels = np.random.default_rng(0).integers(0, 5, (12, 4, 4))
  split = good(12, labels=np.where(pixels == 4, 255, pixels))
  info = load(plugin(Data(splits={"train": split, "validation": split}, ignore_label=255)), seed=0, batch_size=4).info
  assert info.num_classes == 4
  none = good(12, labels=np.full(12, -1))
  read = checked("here", "x", {"train": none, "validation": good(12)}, ignore_label=-1)
  assert read.info.num_classes == 4
  assert read.warnings == ("here: train: 4 of 4 classes (first: 0) have no training example",)


def test_a_class_that_does_not_count_is_not_missed():
  split = good(12, labels=1 + np.arange(12) % 3)
  assert checked("here", "x", {"train": split, "validation": good(12)}, ignore_label=0).warnings == ()
  (told,) = checked("here", "x", {"train": split, "validation": good(12)}).warnings
  assert "labels start at 1" in told


@pytest.mark.parametrize("wrong", ["255", 1.5, True, [255]])
def test_a_label_to_ignore_that_is_no_integer_is_refused(tmp_path: pathlib.Path, wrong: Any):
  splits = {"train": good(12), "validation": good(12)}
  with pytest.raises(DataError, match=re.escape(f"ignore_label is {wrong!r}; it must be an integer, such as -1 or")):
    checked("here", "x", splits, ignore_label=wrong)
  with pytest.raises(DataError, match="ignore_label is"):
    write_array_record(tmp_path / "data", splits, num_classes=4, ignore_label=wrong)


# Normalization of inputs that are several arrays.


def images(count: int) -> dict[str, Any]:
  draw = np.random.default_rng(count)
  bytes_of = {
    "left": draw.integers(0, 200, (count, 3, 3, 2)).astype(np.uint8),
    "right": draw.integers(100, 256, (count, 3, 3, 1)).astype(np.uint8),
  }
  others = {"flag": np.ones(count, np.uint8), "depth": draw.random((count, 3, 2)), "age": draw.random(count)}
  return {"inputs": bytes_of | others, "labels": np.arange(count) % 4, "picture": np.ones((count, 2, 2), np.uint8)}


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_below_the_inputs_are_normalized_each_by_its_own_channels(
  tmp_path: pathlib.Path, plugin: Plugin, kind: str
):
  split = images(12)
  info = loaded(kind, {"train": split, "validation": images(8)}, tmp_path, plugin).info
  assert info.normalization == info.normalizations
  assert list(info.normalizations) == ["inputs/left", "inputs/right"]
  for path, (mean, deviation) in info.normalizations.items():
    array = by_path(split)[path].astype(np.float64)
    np.testing.assert_allclose(mean, array.mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(deviation, array.std(axis=(0, 1, 2)))


def test_what_is_given_by_path_comes_first_and_bytes_have_theirs_beside_it():
  given = {"inputs/left": (1, [2, 3]), "inputs/depth": ([0.5, 0.25], [1, 2]), "inputs/age": (4, 5)}
  split = images(12)
  info = checked("here", "x", {"train": split, "validation": split}, normalization=given).info
  assert {path: pair for path, pair in info.normalizations.items() if path != "inputs/right"} == {
    "inputs/left": ((1.0,), (2.0, 3.0)),
    "inputs/depth": ((0.5, 0.25), (1.0, 2.0)),
    "inputs/age": ((4.0,), (5.0,)),
  }
  right = split["inputs"]["right"].astype(np.float64)
  np.testing.assert_allclose(info.normalizations["inputs/right"], ([right.mean()], [right.std()]))


def test_one_array_of_inputs_has_one_normalization_by_path_or_not():
  split = good(12)
  for given in ((1, 2), {"inputs": (1, 2)}):
    info = checked("here", "x", {"train": split, "validation": split}, normalization=given).info
    assert info.normalization == ((1.0,), (2.0,))
    assert info.normalizations == {"inputs": ((1.0,), (2.0,))}


@pytest.mark.parametrize(
  ("given", "problem"),
  [
    ((1, 2), "normalization is for 'inputs', but the inputs are 'inputs/left', .*; give {path: "),
    ({"inputs/lefft": (1, 2)}, "'inputs/lefft' is not an array of the inputs, which are 'inputs/left', 'inputs/right'"),
    ({"picture": (1, 2)}, "'picture' is not an array of the inputs"),
    ({"inputs/left": ([1, 2, 3], 1)}, r"normalization of inputs/left must be \(means, deviations\), each of 2 numbers"),
    ({"inputs/left": (1, 0)}, "normalization of inputs/left has a deviation that is not positive"),
    ({"inputs/left": 3}, "normalization of inputs/left must be"),
  ],
)
def test_a_normalization_that_fits_nothing_is_refused(given: Any, problem: str):
  with pytest.raises(DataError, match=problem):
    checked("here", "x", {"train": images(4), "validation": images(4)}, normalization=given)


def test_a_normalization_without_inputs_is_refused():
  split = {"pixels": np.ones((4, 2))}
  with pytest.raises(DataError, match="normalization is for 'inputs', but there are no inputs"):
    checked("here", "x", {"train": split, "validation": split}, normalization=(1, 2))


def test_inputs_that_are_several_arrays_are_not_augmented(plugin: Plugin):
  config = plugin({"train": images(4), "validation": images(4)})
  for augmentation in (Augmentation(crop_padding=1), Augmentation(mixup_alpha=0.5)):
    with pytest.raises(DataError, match=r"are 'inputs/left', .*; only inputs that are one array can be augmented"):
      load(config.model_copy(update={"augmentation": augmentation}), seed=0, batch_size=2)


def test_mixup_needs_answers_to_mix_and_leaves_other_keys_alone(plugin: Plugin):
  split = good(12, id=np.arange(12))
  mixing = {"augmentation": Augmentation(mixup_alpha=0.5)}
  config = plugin({"train": split, "validation": split})
  plain, mixed = (load(one, seed=0, batch_size=4) for one in (config, config.model_copy(update=mixing)))
  assert mixed.train_batch(0).keys() == {"inputs", "labels", "id", "mixed_labels", "mixing"}
  assert np.array_equal(mixed.train_batch(0)["id"], plain.train_batch(0)["id"])
  bare = {"inputs": split["inputs"], "id": split["id"]}
  with pytest.raises(DataError, match=r"mixup_alpha: .* has neither labels nor targets; set it to None"):
    load(plugin({"train": bare, "validation": bare}).model_copy(update=mixing), seed=0, batch_size=4)


# Splits.


@pytest.mark.parametrize("kind", KINDS)
def test_each_source_may_have_further_splits(tmp_path: pathlib.Path, plugin: Plugin, kind: str):
  counts = {"test_b": 6, "validation_hard": 5, "train": 8, "test": 4, "validation_easy": 7, "validation": 9}
  dataset = loaded(kind, {split: good(count) for split, count in counts.items()}, tmp_path, plugin)
  order = ["train", "validation", "test", "validation_easy", "validation_hard", "test_b"]
  assert list(dataset.info.examples.items()) == [(split, counts[split]) for split in order]
  assert dataset.info.splits("validation") == ["validation", "validation_easy", "validation_hard"]
  assert dataset.info.splits("test") == ["test", "test_b"]
  for split, count in counts.items():
    assert np.array_equal(dataset.eval_batch(0, split, 16)["inputs"][:count], good(count)["inputs"])
  assert dataset.fingerprints(counts).keys() == counts.keys()


@pytest.mark.parametrize("kind", ["arrays", "items", "records", "written records"])
@pytest.mark.parametrize(
  ("split", "told"),
  [
    ("validaton_hard", "unknown split 'validaton_hard'; did you mean 'validation'"),
    ("valid", "unknown split 'valid'; did you mean 'validation'"),
    ("train_2", "unknown split 'train_2'; did you mean 'train'"),
    ("test_", "unknown split 'test_'; did you mean 'test'"),
    ("validation_too hard", "unknown split 'validation_too hard'; did you mean 'validation'"),
    ("extra", "unknown split 'extra'.*available: test, train, validation"),
  ],
)
def test_split_names_that_mean_nothing_are_refused_by_each_source(
  tmp_path: pathlib.Path, plugin: Plugin, kind: str, split: str, told: str
):
  with pytest.raises(DataError, match=rf"{told}.*; further ones are named validation_NAME or test_NAME"):
    loaded(kind, {"train": good(4), "validation": good(4), split: good(4)}, tmp_path, plugin)


def test_what_is_wrong_in_a_further_split_is_told_with_its_name():
  with pytest.raises(DataError, match="here: validation_hard: inputs are not all finite, first in example 2"):
    checked(
      "here",
      "x",
      {"train": good(4), "validation": good(4), "validation_hard": good(4, inputs=at(2, np.nan, np.ones((4, 3))))},
    )


# What the facts say of datasets that were described before there were any keys.


def test_facts_without_a_list_of_arrays_have_those_that_follow_from_them():
  def facts(**changes: Any) -> Info:
    made: dict[str, Any] = {"name": "x", "input_shape": (4, 4, 1), "input_dtype": "uint8", "num_classes": 3}
    made |= {"num_targets": None, "examples": {"train": 2}, "normalization": None}
    return Info(**{**made, **changes})

  assert facts().spec == {"inputs": ((4, 4, 1), "uint8"), "labels": ((), "int32")}
  assert facts(label_shape=(7,)).spec["labels"] == ((7,), "int32")
  assert facts(num_classes=None, num_targets=2).spec["targets"] == ((2,), "float32")


def test_a_nested_mapping_has_paths_and_comes_back_from_them():
  tree = mapped(rich(3), np.asarray)
  assert list(flat(tree)) == list(RICH)
  assert by_path(nested(flat(tree))).keys() == RICH.keys()
  assert list(nested(flat(tree))["inputs"]["text"]) == ["tokens", "mask"]
  assert paths_below(["inputs/text", "id"], RICH) == ["inputs/text/tokens", "inputs/text/mask", "id"]
  assert paths_below(["input", "inputs/tex"], RICH) == []


def read_dataset(plugin: Plugin, split: dict[str, Any]) -> Dataset:
  return load(plugin({"train": split, "validation": split}), seed=0, batch_size=4)


def test_targets_may_have_any_shape_and_stand_beside_labels(plugin: Plugin):
  for shape, num_targets in (((12,), 1), ((12, 2), 2), ((12, 3, 3, 5), 5)):
    dataset = read_dataset(plugin, good(12, targets=np.ones(shape)))
    assert (dataset.info.num_targets, dataset.info.num_classes) == (num_targets, 4)
    assert dataset.train_batch(0)["targets"].shape == (4, *shape[1:])
  assert read_dataset(plugin, targets(12)).info.num_classes is None
