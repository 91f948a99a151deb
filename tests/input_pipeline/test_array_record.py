"""ArrayRecord files give the batches that the same examples in memory give; what is broken is named."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from trialbook.errors import DataError
from trialbook.input_pipeline import SPLITS, ArrayRecord, Augmentation, Digits, load, write_array_record
from trialbook.input_pipeline.checked_source import checked
from trialbook.input_pipeline.datasets.record_files import array_record_module, count_records
from trialbook.input_pipeline.order import Order
from trialbook.input_pipeline.source import flat, nested

AUGMENTATION = Augmentation(crop_padding=1, flip_probability=0.5, mixup_alpha=0.4)


def _numbered(n: int, start: int = 0) -> dict[str, np.ndarray]:
  return {"inputs": np.arange(start, start + n, dtype=np.float32)[:, None], "labels": np.arange(n) % 5}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> str:
  """The digits in several files."""
  path = tmp_path_factory.mktemp("data") / "digits"
  write_array_record(path, Digits().read().arrays, num_classes=10, records_per_file=400)
  return str(path)


@pytest.fixture
def numbers(tmp_path: pathlib.Path) -> str:
  """37 train examples in files of 10, of which the input is the example's number."""
  splits = {"train": _numbered(37), "validation": _numbered(6, 100)}
  return str(write_array_record(tmp_path / "numbers", splits, num_classes=5, records_per_file=10))


def test_its_batches_are_those_of_the_same_examples_in_memory(digits):
  memory = load(Digits(augmentation=AUGMENTATION), seed=5, batch_size=64)
  files = load(ArrayRecord(path=digits, augmentation=AUGMENTATION), seed=5, batch_size=64)
  assert files.info.normalization == memory.info.normalization
  assert dict(files.info.examples) == dict(memory.info.examples)
  for step in (0, 1, 20, 21, 10**9):
    one, other = memory.train_batch(step), files.train_batch(step)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in one)
  for split in SPLITS:
    one, other = memory.eval_batch(1, split, 128), files.eval_batch(1, split, 128)
    assert all(np.array_equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in one)


def test_arrays_read_from_files_can_be_written_to(digits):
  batch = load(ArrayRecord(path=digits), seed=0, batch_size=8).train_batch(0)
  for array in batch.values():
    array[...] = 0


def test_examples_may_be_written_one_by_one(tmp_path):
  examples = ({"inputs": np.full((2, 3), i, np.float64), "targets": [i, -i]} for i in range(7))
  path = write_array_record(
    tmp_path / "x", {"train": examples, "validation": [{"inputs": np.ones((2, 3)), "targets": [0, 1]}]}
  )
  dataset = load(ArrayRecord(path=str(path)), seed=0, batch_size=1)
  assert (dataset.info.input_dtype, dataset.info.num_targets, dataset.info.normalization) == ("float32", 2, None)
  assert dataset.eval_batch(0, "train", 7)["targets"].tolist() == [[i, -i] for i in range(7)]


@pytest.mark.parametrize(
  ("splits", "options", "problem"),
  [
    ({"train": _numbered(3), "validation": []}, {}, "validation: is empty"),
    ({"train": _numbered(3)}, {"num_classes": 2}, "train, example 2: labels must be 0 to 1"),
    ({"train": _numbered(3)}, {"num_classes": None}, "num_classes is required"),
    ({"tarin": _numbered(3)}, {}, "unknown split 'tarin'; did you mean 'train'"),
    ({"train": _numbered(3), "validaton_hard": _numbered(3)}, {}, "'validaton_hard'.*validation_NAME or test_NAME"),
    ({"train": [{}]}, {}, "train, example 0: is empty: it must have arrays"),
    ({"train": {}}, {}, "train: is empty"),
    ({"train": [{"inputs": [1.0]}]}, {}, "split 'validation' is missing"),
    ({"train": [{"inputs": [1.0], "is_example": 1}]}, {}, "train, example 0: has 'is_example', which is a key of"),
    ({"train": [{"inputs": [1.0], "caption": "cat"}]}, {}, "train, example 0: caption are text"),
    ({"train": [{"inputs": [1.0], "labels": -1}]}, {}, "train, example 0: labels must be 0 to 4 .*ignore_label=-1"),
    ({"train": [{"inputs": [1.0], "labels": -2}]}, {"ignore_label": -1}, "train, example 0: labels must be 0 to 4"),
    (
      {"train": [{"inputs": [1.0], "labels": 0}, {"inputs": [1.0, 2.0], "labels": 0}]},
      {},
      r"example 1: is inputs float32\[2\], labels int32\[\]; the first example is inputs float32\[1\]",
    ),
    (
      {"train": [{"inputs": {"x": [1.0]}, "a": 1}, {"inputs": {"y": [1.0]}, "a": 1}]},
      {},
      r"example 1: is inputs/y float32\[1\], a int32\[\]; the first example is inputs/x float32\[1\]",
    ),
  ],
)
def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path, splits, options, problem):
  with pytest.raises(DataError, match=problem):
    write_array_record(tmp_path / "x", splits, **{"num_classes": 5, **options})
  assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(numbers):
  with pytest.raises(DataError, match="already exists"):
    write_array_record(numbers, {"train": _numbered(3)}, num_classes=5)


def _rich(n: int) -> dict[str, Any]:
  draw = np.random.default_rng(n)
  return {
    "inputs": {
      "image": draw.integers(0, 256, (n, 3, 3, 2)).astype(np.uint8),
      "question": {"tokens": draw.integers(0, 9, (n, 4)), "mask": draw.random((n, 4)) < 0.5},
    },
    "labels": np.where(draw.random((n, 3, 3)) < 0.3, 255, draw.integers(0, 5, (n, 3, 3))),
    "mask": draw.random((n, 3, 3)) < 0.5,
    "weights": draw.random(n),
    "targets": draw.random((n, 2, 2)),
    "id": np.arange(n),
  }


def test_nested_keys_masks_and_what_does_not_count_come_back_as_they_were_in_memory(tmp_path):
  splits = {"train": _rich(23), "validation": _rich(7), "validation_hard": _rich(5), "test_easy": _rich(4)}
  memory = checked("here", "array_record", splits, num_classes=5, notice="made up", ignore_label=255)
  one_by_one = {
    name: [nested({path: array[index] for path, array in flat(split).items()}) for index in range(len(split["id"]))]
    for name, split in splits.items()
  }
  written: dict[str, Any] = {"whole": splits, "one_by_one": one_by_one}
  for name, given in written.items():
    about: dict[str, Any] = {
      "num_classes": np.int64(5),
      "ignore_label": np.uint8(255),
      "notice": "made up",
      "records_per_file": 4,
    }
    source = ArrayRecord(path=str(write_array_record(tmp_path / name, given, **about))).read()
    assert source.info == memory.info
    assert source.info.ignore_label == 255
    assert list(source.info.normalizations) == ["inputs/image"]
    assert list(source.info.spec) == list(memory.info.spec)
    for split, stored in memory.arrays.items():
      batch = source.splits[split].read(np.arange(len(stored["id"])))
      assert batch.keys() == stored.keys()
      for path, array in stored.items():
        assert batch[path].dtype == array.dtype
        assert np.array_equal(batch[path], array)


def test_the_keys_of_an_example_may_come_in_another_order_than_those_of_the_first(tmp_path):
  first, second = {"inputs": [1.5], "labels": 1, "a": {"b": 7}}, {"a": {"b": 8}, "labels": 2, "inputs": [2.5]}
  path = write_array_record(tmp_path / "x", {"train": [first, second], "validation": [second]}, num_classes=3)
  batch = load(ArrayRecord(path=str(path)), seed=0, batch_size=1).eval_batch(0, "train", 2)
  assert (batch["inputs"].ravel().tolist(), batch["labels"].tolist(), batch["a/b"].tolist()) == (
    [1.5, 2.5],
    [1, 2],
    [7, 8],
  )


def test_data_without_labels_need_no_number_of_classes(tmp_path):
  split = {"noise": np.ones((3, 2)), "mask": np.ones((3, 2), bool)}
  info = ArrayRecord(path=str(write_array_record(tmp_path / "x", {"train": split, "validation": split}))).read().info
  assert (info.num_classes, info.num_targets, info.input_shape) == (None, None, None)
  assert info.spec == {"noise": ((2,), "float32"), "mask": ((2,), "bool")}


def test_a_label_to_ignore_may_be_given_to_the_reader_and_records_of_earlier_versions_have_none(numbers):
  assert ArrayRecord(path=numbers).read().info.ignore_label is None
  assert ArrayRecord(path=numbers, ignore_label=0).read().info.ignore_label == 0
  about = pathlib.Path(numbers) / "dataset.json"
  facts = json.loads(about.read_text())
  about.write_text(json.dumps({**facts, "ignore_label": 3}))
  assert ArrayRecord(path=numbers).read().info.ignore_label == 3
  assert ArrayRecord(path=numbers, ignore_label=0).read().info.ignore_label == 0
  del facts["ignore_label"]
  about.write_text(json.dumps(facts))
  assert ArrayRecord(path=numbers).read().info.ignore_label is None


def test_files_of_ones_own_may_be_further_splits_and_are_refused_for_others(tmp_path):
  for name in ("train", "held", "dark"):
    _write_csv(tmp_path / name, ["0,1,0", "2,3,1"])
  files = {"train": "train", "validation": "held", "validation_dark": "dark"}
  config = ArrayRecord(path=str(tmp_path), files=files, decode="test_array_record:decode_csv", num_classes=2)
  dataset = load(config, seed=0, batch_size=1)
  assert list(dataset.info.examples) == ["train", "validation", "validation_dark"]
  assert dataset.eval_batch(0, "validation_dark", 2)["labels"].tolist() == [0, 1]
  wrong = config.model_copy(update={"files": {**files, "valdation_dark": "dark"}})
  with pytest.raises(DataError, match=r"dataset\.files: unknown split 'valdation_dark'; did you mean 'validation'"):
    wrong.read()


def decode_csv(record: bytes) -> dict[str, object]:
  *inputs, label = record.decode().split(",")
  return {"inputs": np.array(inputs, np.float32), "labels": int(label)}


def _write_csv(path: pathlib.Path, rows: list[str]) -> None:
  writer = array_record_module().ArrayRecordWriter(str(path), "group_size:4")
  for row in rows:
    writer.write(row.encode())
  writer.close()


def test_ones_own_files_are_read_with_ones_own_decoder(tmp_path):
  _write_csv(tmp_path / "b", ["6,7,1", "8,9,0"])
  _write_csv(tmp_path / "a", ["0,1,0", "2,3,1", "4,5,0"])
  _write_csv(tmp_path / "held", ["1,1,1"])
  config = ArrayRecord(
    path=str(tmp_path),
    files={"train": "[ab]", "validation": "held"},
    decode="test_array_record:decode_csv",
    num_classes=2,
    normalization=((1.0,), (2.0,)),
  )
  dataset = load(config, seed=0, batch_size=2)
  batch = dataset.eval_batch(0, "train", 5)
  assert batch["inputs"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9]]
  assert batch["labels"].tolist() == [0, 1, 0, 1, 0]
  assert dataset.info.normalization == ((1.0,), (2.0,))


def test_a_record_that_cannot_be_decoded_is_named_with_its_file(tmp_path):
  _write_csv(tmp_path / "a", ["0,1,0"] * 3)
  _write_csv(tmp_path / "b", ["0,1,0", "0,broken,0"])
  _write_csv(tmp_path / "held", ["1,1,1"])
  config = ArrayRecord(
    path=str(tmp_path),
    files={"train": "[ab]", "validation": "held"},
    decode="test_array_record:decode_csv",
    num_classes=2,
  )
  with pytest.raises(DataError, match=r"train, example 4: .*/b, record 1: cannot be decoded: ValueError: .*broken"):
    load(config, seed=0, batch_size=2).eval_batch(0, "train", 5)


def test_a_damaged_record_is_named_with_its_file(numbers):
  path = next(pathlib.Path(numbers).glob("train-00002*"))
  content = path.read_bytes()
  # Of input 27.0 and its label, in the record with the number 7.
  place = content.index(np.float32(27).tobytes() + np.int32(27 % 5).tobytes())
  path.write_bytes(content[:place] + b"\xff" + content[place + 1 :])
  dataset = load(ArrayRecord(path=numbers), seed=0, batch_size=1)
  with pytest.raises(DataError, match=rf"train, example 27: {path}, record 7: cannot be read"):
    dataset.eval_batch(0, "train", 37)


def test_files_that_are_missing_or_none_of_ours_are_named(numbers, tmp_path):
  folder = pathlib.Path(numbers)
  path = next(folder.glob("train-00001*"))
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])
  dataset = load(ArrayRecord(path=numbers), seed=0, batch_size=1)
  with pytest.raises(DataError, match=r"train-00001\S+: is not an ArrayRecord file, or is incomplete"):
    dataset.eval_batch(0, "train", 37)
  path.unlink()
  with pytest.raises(DataError, match="missing train-00001-of-00004"):
    ArrayRecord(path=numbers).read()
  with pytest.raises(DataError, match="cannot be read: No such file"):
    count_records(path)
  about = json.loads((folder / "dataset.json").read_text())
  (folder / "dataset.json").write_text(json.dumps({**about, "format": 2}))
  with pytest.raises(DataError, match="has format 2, made by a newer version of trialbook; this one reads up to 1"):
    ArrayRecord(path=numbers).read()
  (folder / "dataset.json").unlink()
  with pytest.raises(DataError, match=r"has no dataset\.json, which says how to decode; set dataset\.decode"):
    ArrayRecord(path=numbers).read()
  for config, problem in (
    (ArrayRecord(), r"dataset\.path is not set"),
    (ArrayRecord(path=f"{tmp_path}/no"), "is not a directory"),
    (ArrayRecord(path=numbers, decode="a:b"), r"dataset\.files is not set"),
    (ArrayRecord(path=numbers, decode="a:b", files={"train": "z*"}), "no file in .* matches"),
  ):
    with pytest.raises(DataError, match=problem):
      config.read()


@pytest.mark.parametrize("host_count", [1, 2, 4])
def test_by_files_each_example_comes_once_an_epoch_over_all_hosts(numbers, host_count):
  config = ArrayRecord(path=numbers, sharding="files")
  epochs: list[list[set[int]]] = []
  for index in range(host_count):
    dataset = load(config, seed=1, batch_size=4, host_index=index, host_count=host_count)
    first, stop = dataset._order.share
    drawn = [int(x) for step in range(100) for x in dataset.train_batch(step)["inputs"][:, 0]]
    size = stop - first
    assert abs(size - 37 / host_count) < 1
    rounds = [drawn[start : start + size] for start in range(0, 2 * size, size)]
    assert all(len(set(one)) == size for one in rounds)
    assert rounds[0] != rounds[1]
    resumed = load(config, seed=1, batch_size=4, host_index=index, host_count=host_count)
    assert resumed.train_batch(90)["inputs"][:, 0].tolist() == drawn[90 * (4 // host_count) :][: 4 // host_count]
    epochs.append([set(one) for one in rounds])
  for number in range(2):
    assert sorted(x for host in epochs for x in host[number]) == list(range(37))


def test_by_files_a_host_reads_its_own_files_only(numbers):
  opened = []
  for index in range(2):
    dataset = load(ArrayRecord(path=numbers, sharding="files"), seed=0, batch_size=4, host_index=index, host_count=2)
    files = dataset._splits["train"].split.files  # type: ignore[attr-defined]
    files._readers.clear()
    for step in range(30):
      dataset.train_batch(step)
    opened.append({path.name[:11] for path in files._readers})
  assert opened == [{"train-00000", "train-00001"}, {"train-00001", "train-00002", "train-00003"}]


def test_by_files_positions_are_still_shared_by_no_two_hosts():
  orders = [Order(size=40, seed=0, batch_size=8, host_index=i, host_count=4, by_files=True) for i in range(4)]
  positions = [order.examples(order.places(3, 2).ravel())[1] for order in orders]
  assert sorted(np.concatenate(positions)) == list(range(24, 40))
  assert np.array_equal(positions[1], [26, 27, 34, 35])


def test_by_files_hosts_shuffle_differently():
  orders = [Order(size=40, seed=0, batch_size=8, host_index=i, host_count=4, by_files=True) for i in range(4)]
  within = [tuple(order.examples(np.arange(10))[0] - order.share[0]) for order in orders]
  assert len(set(within)) == 4


def test_by_files_the_order_depends_on_the_number_of_hosts(numbers):
  config = ArrayRecord(path=numbers, sharding="files")

  def first_batch(host_count: int) -> list[float]:
    hosts = [load(config, seed=1, batch_size=4, host_index=i, host_count=host_count) for i in range(host_count)]
    return np.concatenate([host.train_batch(0)["inputs"][:, 0] for host in hosts]).tolist()

  assert first_batch(1) != first_batch(2)


def test_more_hosts_than_examples_is_an_error(tmp_path):
  path = write_array_record(tmp_path / "x", {"train": _numbered(3), "validation": _numbered(3)}, num_classes=5)
  with pytest.raises(DataError, match="3 train examples cannot be shared among 4 hosts"):
    load(ArrayRecord(path=str(path), sharding="files"), seed=0, batch_size=4, host_index=0, host_count=4)


def test_arrays_of_other_lengths_and_missing_splits_are_told_and_leave_nothing(tmp_path):
  inputs, labels = np.zeros((10, 2), np.float32), np.zeros(10, np.int32)
  whole = {"inputs": inputs, "labels": labels}
  for splits, problem in (
    ({"train": {"inputs": inputs, "labels": labels[:9]}, "validation": whole}, "must have the same length"),
    ({"train": whole}, "split 'validation' is missing"),
  ):
    with pytest.raises(DataError, match=problem):
      write_array_record(tmp_path / "records", splits, num_classes=1)
  assert not list(tmp_path.iterdir())
