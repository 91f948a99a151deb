"""Datasets of TFDS are read without TensorFlow and without a network, in a fixed order; what is missing is told."""

import pathlib
import socket
import struct
import sys
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from trialbook.errors import DataError
from trialbook.input_pipeline import SPLITS, Augmentation, DatasetConfig, Digits, Tfds, load
from trialbook.input_pipeline.datasets import tfds
from trialbook.input_pipeline.datasets.record_files import array_record_module, count_records
from trialbook.input_pipeline.datasets.tfds_preparation import tfrecords
from trialbook.input_pipeline.flags import main

# TFDS opens files without closing them, and uses what Python deprecates.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
  """A directory of TFDS with the digits."""
  path = str(tmp_path_factory.mktemp("tfds"))
  assert main(["prepare", "tfds:digits", f"--data_dir={path}"]) == 0
  return path


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
  def refuse(*arguments: Any) -> None:
    raise AssertionError(f"the network was asked: {arguments}")

  monkeypatch.setattr(socket, "getaddrinfo", refuse)
  monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("in_memory", ["auto", True, False])
def test_its_batches_are_those_of_the_same_examples_in_memory(data_dir, in_memory):
  augmentation = Augmentation(crop_padding=1, flip_probability=0.5)
  config = TypeAdapter(DatasetConfig).validate_python(
    {"name": "tfds:digits", "data_dir": data_dir, "in_memory": in_memory, "augmentation": augmentation}
  )
  theirs, ours = load(config, seed=3, batch_size=32), load(Digits(augmentation=augmentation), seed=3, batch_size=32)
  assert dict(theirs.info.examples) == dict(ours.info.examples)
  if in_memory:
    assert theirs.info.normalization == ours.info.normalization
  for step in (0, 1, 40, 41, 10**9):
    one, other = theirs.train_batch(step), ours.train_batch(step)
    assert all(np.array_equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in other)
  for split in SPLITS:
    one, other = theirs.eval_batch(0, split, 100), ours.eval_batch(0, split, 100)
    assert all(np.array_equal(one[key], other[key]) for key in other)
  assert "tensorflow" not in sys.modules


def test_what_fits_no_budget_is_read_batch_by_batch(data_dir):
  def in_memory(budget: int) -> bool:
    return bool(Tfds(name="tfds:digits", data_dir=data_dir, memory_bytes=budget).read().arrays)

  size = 1797 * (64 + 8)
  assert in_memory(size)
  assert not in_memory(size - 1)


def test_split_strings_are_those_of_tfds(data_dir):
  config = Tfds(name="tfds:digits", data_dir=data_dir, train="train[:90%]", validation="train[90%:]", test=None)
  source, whole = config.read(), Digits().read()
  assert dict(source.info.examples) == {"train": 1167, "validation": 130}
  parts = [source.arrays[split]["inputs"] for split in ("train", "validation")]
  assert np.array_equal(np.concatenate(parts), whole.arrays["train"]["inputs"])


@pytest.mark.usefixtures("no_network")
def test_what_is_not_prepared_is_told_at_once_with_the_command(tmp_path):
  with pytest.raises(DataError, match=rf"not prepared; run\n.*prepare tfds:mnist --data_dir={tmp_path}"):
    Tfds(name="tfds:mnist", data_dir=str(tmp_path)).read()


@pytest.mark.parametrize(
  ("options", "problem"),
  [
    ({"train": "train[:x%]"}, r"dataset.train = 'train\[:x%\]': .*Unrecognized split"),
    ({"validation": "valid"}, r"dataset.validation = 'valid': Unknown split 'valid'"),
    ({"input_feature": "picture"}, "dataset.input_feature: there is no feature 'picture'; there are image, label"),
    ({"label_feature": "image"}, "'image' holds integers, but TFDS does not say how many classes"),
  ],
)
def test_wrong_splits_and_features_are_told(data_dir, options, problem):
  with pytest.raises(DataError, match=problem):
    Tfds(name="tfds:digits", data_dir=data_dir, **options).read()


def _write(root: pathlib.Path, name: str, **options: Any) -> pathlib.Path:
  """A small dataset with a feature that nobody wants, written by TFDS itself."""
  library = tfds.library()
  decoded = options.pop("decoded", None)

  features = {"x": library.features.Tensor(shape=(2,), dtype=np.float32), "y": library.features.Scalar(np.float32)}
  if decoded is not None:
    features["unwanted"] = library.features.Text()

  class Written(library.core.GeneratorBasedBuilder, skip_registration=True):  # pyright: ignore
    VERSION = library.core.Version("1.0.0")

    def _info(self) -> Any:
      return library.core.DatasetInfo(builder=self, features=library.features.FeaturesDict(features), **options)

    def _split_generators(self, dl_manager: Any) -> Any:
      return {"train": self._generate_examples(20)}

    def _generate_examples(self, count: int) -> Any:
      for i in range(count):
        yield i, {"x": [i, -i], "y": i / 2} | ({"unwanted": "text"} if decoded is not None else {})

  Written.name = name
  library.disable_progress_bar()
  Written(data_dir=str(root), file_format="array_record").download_and_prepare()
  return root / name / "1.0.0"


def test_other_features_go_through_tfds_and_those_that_nobody_wants_are_not_decoded(tmp_path, monkeypatch):
  decoded: list[Any] = []
  _write(tmp_path, "small", decoded=decoded, supervised_keys=("x", "y"), disable_shuffling=True)
  text = tfds.library().features.Text
  monkeypatch.setattr(text, "decode_example_np", lambda self, example: decoded.append(example), raising=False)
  config = Tfds(
    name="tfds:small", data_dir=str(tmp_path), train="train[:15]", validation="train[15:]", test=None, in_memory=False
  )
  dataset = load(config, seed=0, batch_size=5)
  assert (dataset.info.num_targets, dataset.info.input_dtype) == (1, "float32")
  batch = dataset.eval_batch(0, "train", 15)
  assert batch["inputs"].tolist() == [[i, -i] for i in range(15)]
  assert batch["targets"].tolist() == [i / 2 for i in range(15)]
  assert decoded == []
  (warning,) = dataset.warnings
  assert "unused features: unwanted; choose with dataset.input_feature and dataset.label_feature" in warning


def test_a_missing_split_says_how_to_take_a_part_of_another(tmp_path):
  _write(tmp_path, "small")
  with pytest.raises(DataError) as caught:
    Tfds(name="tfds:small", data_dir=str(tmp_path), input_feature="x", label_feature="y").read()
  assert "no split 'validation', only train; set dataset.train=\"train[:90%]\"" in str(caught.value)
  assert "no split 'test', only train; set dataset.test to None" in str(caught.value)


def _as_tfrecord(folder: pathlib.Path) -> list[pathlib.Path]:
  """Turns an ArrayRecord dataset into what TFDS writes by default."""
  about = folder / "dataset_info.json"
  about.write_text(about.read_text().replace('"array_record"', '"tfrecord"'))
  written = []
  for path in folder.glob("*.array_record-*"):
    reader = array_record_module().ArrayRecordReader(str(path), "")
    records = reader.read_all()
    reader.close()
    path.unlink()
    written.append(path.with_name(path.name.replace("array_record", "tfrecord")))
    frames = [struct.pack("<QI", len(record), 7) + record + struct.pack("<I", 9) for record in records]
    written[-1].write_bytes(b"".join(frames))
  return written


def test_a_tfrecord_directory_is_rewritten_by_prepare(tmp_path, capsys):
  folder = _write(tmp_path, "small", supervised_keys=("x", "y"), disable_shuffling=True)
  parts = {"train": "train[:15]", "validation": "train[15:]", "test": None}
  config = Tfds(name="tfds:small", data_dir=str(tmp_path), **parts)
  expected = config.read().arrays["train"]["inputs"]
  (tfrecord,) = _as_tfrecord(folder)
  with pytest.raises(DataError, match=r"prepared as tfrecord files only; run\n  trialbook data prepare tfds:small"):
    config.read()
  whole = tfrecord.read_bytes()
  command = ["prepare", "tfds:small", f"--data_dir={tmp_path}"]
  tfrecord.write_bytes(whole[:-3])
  assert main(command) == 2
  assert "record 19 at byte" in capsys.readouterr().err
  tfrecord.write_bytes(whole[: len(whole) // 20 * 15])
  assert main(command) == 2
  assert "has 15 records, dataset_info.json says 20" in capsys.readouterr().err
  assert [path.name for path in folder.iterdir() if "array_record" in path.name] == []
  tfrecord.write_bytes(whole)
  for _ in range(2):
    assert main(command) == 0
  assert np.array_equal(config.read().arrays["train"]["inputs"], expected)
  assert tfrecord.read_bytes() == whole
  assert count_records(pathlib.Path(tfds.as_array_record(tfrecord))) == 20


@pytest.mark.parametrize(
  "content", [b"\x05", struct.pack("<QI", 5, 0) + b"12345" + b"\0", struct.pack("<QI", 2**60, 0)]
)
def test_a_broken_tfrecord_file_is_told(tmp_path, content):
  path = tmp_path / "x.tfrecord"
  path.write_bytes(struct.pack("<QI", 3, 0) + b"abc" + bytes(4) + content)
  records = tfrecords(path)
  assert next(records) == b"abc"
  with pytest.raises(DataError, match=r"x\.tfrecord, record 1 at byte 19: is broken or cut off"):
    next(records)


def test_the_newest_version_is_taken_and_a_config_must_be_clear(tmp_path):
  for place in ("one/1.0.0", "one/1.10.0", "one/1.9.0", "many/a/1.0.0", "many/b/1.0.0", "single/only/2.0.0"):
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "dataset_info.json").write_text("{}")
  (tmp_path / "one" / "2.0.0.incompleteXYZ").mkdir()

  def found(name: str) -> str | None:
    folder = tfds.find(name, str(tmp_path))
    return None if folder is None else str(folder.relative_to(tmp_path))

  assert found("one") == "one/1.10.0"
  assert found("one:1.0.0") == "one/1.0.0"
  assert found("one:3.0.0") is None
  assert found("many/b") == "many/b/1.0.0"
  assert found("single") == "single/only/2.0.0"
  with pytest.raises(DataError, match=r"several configs in .*; choose one, such as tfds:many/a"):
    found("many")


def test_encoded_images_are_decoded_without_tensorflow(tmp_path: pathlib.Path):
  from pictures import Pictures

  Pictures(data_dir=tmp_path, file_format="array_record").download_and_prepare()
  config = Tfds(
    name="tfds:pictures", data_dir=str(tmp_path), train="train[:80%]", validation="train[80%:]", test="test"
  )
  dataset = load(config, seed=0, batch_size=8)
  assert dict(dataset.info.examples) == {"train": 32, "validation": 8, "test": 10}
  batch = dataset.train_batch(0)
  assert (batch["inputs"].shape, batch["inputs"].dtype) == ((8, 8, 8, 3), np.uint8)
  np.testing.assert_array_equal(batch["labels"], batch["inputs"][:, 0, 0, 0] // 3 % 2)
  assert "tensorflow" not in sys.modules
