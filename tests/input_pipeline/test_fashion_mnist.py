"""Files are verified before they are used, and every problem with them is named at once with what to do."""

import gzip
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from trialbook.errors import DataError
from trialbook.input_pipeline import FashionMnist, load
from trialbook.input_pipeline.datasets import fashion_mnist, idx

TINY_FILES = {
  "train-images-idx3-ubyte.gz": (200, 28, 28),
  "train-labels-idx1-ubyte.gz": (200,),
  "t10k-images-idx3-ubyte.gz": (30, 28, 28),
  "t10k-labels-idx1-ubyte.gz": (30,),
}


def _encode(array: np.ndarray) -> bytes:
  sizes = b"".join(int(n).to_bytes(4, "big") for n in array.shape)
  return b"\0\0\x08" + bytes([array.ndim]) + sizes + array.tobytes()


def _write(folder: pathlib.Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  folder.mkdir(parents=True, exist_ok=True)
  generator = np.random.default_rng(0)
  arrays = {}
  for name, shape in shapes.items():
    if len(shape) == 1:
      arrays[name] = (np.arange(shape[0]) % 10).astype(np.uint8)
    elif shape[0] > 1000:
      arrays[name] = np.zeros(shape, np.uint8)
    else:
      arrays[name] = generator.integers(0, 256, shape, dtype=np.uint8)
    (folder / name).write_bytes(gzip.compress(_encode(arrays[name]), 1, mtime=0))
  return arrays


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
  """A Fashion-MNIST of 200 + 30 images."""
  monkeypatch.setattr(fashion_mnist, "FILES", TINY_FILES)
  monkeypatch.setattr(fashion_mnist, "VALIDATION_EXAMPLES", 20)


def _files(folder: pathlib.Path) -> dict[str, bytes]:
  return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_idx_file_is_read_byte_for_byte(tmp_path):
  path = tmp_path / "a.gz"
  path.write_bytes(gzip.compress(b"\0\0\x08\x02" + b"\0\0\0\x02" + b"\0\0\0\x03" + bytes([1, 2, 3, 4, 5, 255])))
  assert idx.read(path, (2, 3)).tolist() == [[1, 2, 3], [4, 5, 255]]


GOOD = gzip.compress(_encode(np.arange(100, dtype=np.uint8).reshape(10, 10)), mtime=0)
FLIPPED = GOOD[:-8] + bytes([GOOD[-8] ^ 1]) + GOOD[-7:]


@pytest.mark.parametrize(
  ("content", "problem"),
  [
    (None, "missing"),
    (b"", "truncated: 0 of 112 bytes"),
    (GOOD[:-30], r"truncated: \d+ of 112 bytes"),
    (GOOD[:-3], "truncated: the checksum at the end is missing"),
    (FLIPPED, "corrupt .*incorrect data check"),
    (b"<html>not found</html>", "not a gzip file"),
    (gzip.compress(b"\0\0\x0d\x02" + bytes(8)), "wrong magic number 0x00000d02, expected 0x00000802"),
    (
      gzip.compress(_encode(np.zeros((9, 10), np.uint8))),
      r"holds an array of shape \(9, 10\), expected \(10, 10\)",
    ),
    (gzip.compress(gzip.decompress(GOOD)[:-5]), "truncated: 107 of 112 bytes"),
    (gzip.compress(gzip.decompress(GOOD) + b"more"), "4 bytes too many"),
    (GOOD + b"more", "4 bytes too many"),
  ],
  ids=lambda value: "" if isinstance(value, bytes) else None,
)
def test_a_broken_idx_file_is_named_with_what_was_found_and_expected(tmp_path, content, problem):
  path = tmp_path / "broken.gz"
  if content is not None:
    path.write_bytes(content)
  with pytest.raises(DataError, match=f"broken.gz: {problem}"):
    idx.read(path, (10, 10))


@pytest.mark.usefixtures("tiny")
def test_splits_are_the_original_files_with_validation_out_of_train(tmp_path):
  files = _write(tmp_path / "fashion_mnist", TINY_FILES)
  source = FashionMnist(data_dir=str(tmp_path)).read()
  arrays = source.arrays
  assert dict(source.info.examples) == {"train": 180, "validation": 20, "test": 30}
  assert source.info.input_shape == (28, 28, 1)
  assert np.bincount(arrays["validation"]["labels"]).tolist() == [2] * 10
  assert np.array_equal(arrays["test"]["inputs"][..., 0], files["t10k-images-idx3-ubyte.gz"])
  label_of = {
    image.tobytes(): label
    for image, label in zip(files["train-images-idx3-ubyte.gz"], files["train-labels-idx1-ubyte.gz"], strict=True)
  }
  both = [(i.tobytes(), n) for s in ("train", "validation") for i, n in zip(*arrays[s].values(), strict=True)]
  assert len(both) == 200
  assert dict(both) == label_of


@pytest.mark.usefixtures("tiny")
def test_absent_data_is_an_error_with_the_commands_that_help(tmp_path):
  with pytest.raises(DataError) as caught:
    load(FashionMnist(data_dir=str(tmp_path)), seed=0, batch_size=8)
  message = str(caught.value)
  assert f"{tmp_path}/fashion_mnist" in message
  assert "not prepared" in message
  assert "apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb DIR" in message
  assert "trialbook data prepare fashion_mnist --from=DIR" in message


@pytest.mark.usefixtures("tiny")
def test_all_broken_files_are_listed_together(tmp_path):
  folder = tmp_path / "fashion_mnist"
  _write(folder, TINY_FILES)
  images = folder / "train-images-idx3-ubyte.gz"
  images.write_bytes(images.read_bytes()[:-1000])
  (folder / "t10k-labels-idx1-ubyte.gz").unlink()
  with pytest.raises(DataError, match=r"(?s)train-images.*truncated: \S+ of 156,816 bytes.*t10k-labels\S+: missing"):
    FashionMnist(data_dir=str(tmp_path)).read()


@pytest.mark.usefixtures("tiny")
def test_labels_beyond_the_classes_are_an_error(tmp_path):
  _write(tmp_path / "fashion_mnist", TINY_FILES)
  labels = np.full(30, 10, np.uint8)
  (tmp_path / "fashion_mnist" / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(_encode(labels)))
  with pytest.raises(DataError, match="has the label 10, expected 0 to 9"):
    FashionMnist(data_dir=str(tmp_path)).read()


@pytest.mark.usefixtures("tiny")
def test_the_data_directory_comes_from_the_environment(tmp_path, monkeypatch):
  _write(tmp_path / "fashion_mnist", TINY_FILES)
  monkeypatch.setenv("TRIALBOOK_DATA_DIR", str(tmp_path))
  assert FashionMnist().read().info.examples["train"] == 180


@pytest.mark.usefixtures("tiny")
def test_prepare_copies_nothing_if_one_file_is_wrong(tmp_path):
  _write(tmp_path / "from" / "deep" / "down", TINY_FILES)
  (tmp_path / "from" / "deep" / "down" / "t10k-labels-idx1-ubyte.gz").write_bytes(b"")
  with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: truncated"):
    fashion_mnist.prepare(tmp_path / "from", str(tmp_path / "data"))
  assert not (tmp_path / "data").exists()


@pytest.mark.usefixtures("tiny")
def test_prepare_does_not_choose_between_different_files_of_one_name(tmp_path):
  _write(tmp_path / "from" / "a", TINY_FILES)
  _write(tmp_path / "from" / "b", TINY_FILES)
  fashion_mnist.prepare(tmp_path / "from", str(tmp_path / "data"))
  labels = np.zeros(30, np.uint8)
  (tmp_path / "from" / "b" / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(_encode(labels)))
  with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz: several files with this name differ"):
    fashion_mnist.prepare(tmp_path / "from", str(tmp_path / "data"))


@pytest.mark.usefixtures("tiny")
def test_a_disk_that_fills_up_leaves_nothing_behind(tmp_path, monkeypatch):
  _write(tmp_path / "from", TINY_FILES)
  copy = fashion_mnist.cache.shutil.copyfile

  def full_at_the_third(source, destination):
    if "t10k-images" in str(source):
      destination.write_bytes(b"half")
      raise OSError(28, "No space left on device")
    copy(source, destination)

  monkeypatch.setattr(fashion_mnist.cache.shutil, "copyfile", full_at_the_third)
  with pytest.raises(DataError, match="No space left on device"):
    fashion_mnist.prepare(tmp_path / "from", str(tmp_path / "data"))
  assert list((tmp_path / "data").iterdir()) == []


def _command(*arguments: str, data_dir: pathlib.Path) -> subprocess.CompletedProcess[str]:
  environment = {**os.environ, "TRIALBOOK_DATA_DIR": str(data_dir)}
  command = [sys.executable, "-m", "trialbook", "data", *arguments]
  return subprocess.run(command, capture_output=True, text=True, env=environment)


@pytest.mark.slow
def test_the_prepare_command_verifies_copies_and_can_be_repeated(tmp_path):
  _write(tmp_path / "from" / "usr" / "share", fashion_mnist.FILES)
  for _ in range(2):
    done = _command("prepare", "fashion_mnist", f"--from={tmp_path}/from", data_dir=tmp_path / "data")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{tmp_path}/data/fashion_mnist" in done.stdout
    expected = {f"fashion_mnist/{p}": c for p, c in _files(tmp_path / "from" / "usr" / "share").items()}
    assert _files(tmp_path / "data") == expected
  dataset = load(FashionMnist(data_dir=str(tmp_path / "data")), seed=0, batch_size=8)
  assert dict(dataset.info.examples) == {"train": 55_000, "validation": 5_000, "test": 10_000}


def test_the_prepare_command_lists_all_problems_and_ends_with_2(tmp_path):
  _write(tmp_path / "from", TINY_FILES)
  (tmp_path / "from" / "t10k-labels-idx1-ubyte.gz").unlink()
  done = _command("prepare", "fashion_mnist", f"--from={tmp_path}/from", data_dir=tmp_path / "data")
  assert done.returncode == 2
  assert "Traceback" not in done.stderr
  assert "t10k-labels-idx1-ubyte.gz: missing" in done.stderr
  assert "shape (200, 28, 28), expected (60000, 28, 28)" in done.stderr
  assert "shape (30, 28, 28), expected (10000, 28, 28)" in done.stderr
  assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
  ("arguments", "problem"),
  [
    (
      ["prepare", "fashion_mnst", "--from=."],
      "unknown dataset 'fashion_mnst'; did you mean 'fashion_mnist'?",
    ),
    (["prepare", "digits", "--from=."], "dataset digits needs no preparation"),
    (["prepare", "fashion_mnist", "--from=/nowhere"], "--from=/nowhere is not a directory"),
    (["prepare", "fashion_mnist"], "give --from=DIR"),
    ([], "COMMAND"),
  ],
)
def test_mistakes_on_the_command_line_end_with_2_and_one_message(arguments, problem, capsys):
  from trialbook.input_pipeline.flags import main

  try:
    code = main(arguments)
  except SystemExit as left:
    code = left.code
  assert code == 2
  assert problem in capsys.readouterr().err


def test_help_explains_itself(capsys):
  from trialbook.input_pipeline.flags import main

  with pytest.raises(SystemExit, match="0"):
    main(["prepare", "--help"])
  shown = capsys.readouterr().out
  assert "dpkg -x" in shown
  assert "TRIALBOOK_DATA_DIR" in shown
