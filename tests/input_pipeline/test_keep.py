"""What a task does not need is neither gathered nor converted; the batches are otherwise the same."""

import os
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from every_source import KINDS, Items, at, good, loaded, own_records
from tiny import mlp

from trialbook.errors import DataError
from trialbook.input_pipeline import (
  ArrayRecord,
  Augmentation,
  Data,
  Digits,
  PluginDataset,
  Text,
  load,
  write_array_record,
)
from trialbook.input_pipeline.datasets.array_record import Raw
from trialbook.input_pipeline.source import Arrays
from trialbook.trainer import Programs, checks, run

Plugin = Callable[[Any], PluginDataset]


def several(count: int) -> dict[str, Any]:
  draw = np.random.default_rng(count)
  return good(
    count,
    inputs=draw.integers(0, 256, (count, 4, 4, 1)).astype(np.uint8),
    boxes={"corners": draw.random((count, 3, 4)), "valid": draw.random((count, 3)) < 0.5},
    weights=draw.random(count),
  )


def same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
  return one.keys() == other.keys() and all(
    np.array_equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in one
  )


def part(batch: dict[str, np.ndarray], keys: set[str]) -> dict[str, np.ndarray]:
  return {key: batch[key] for key in keys}


@pytest.mark.parametrize("kind", KINDS)
def test_the_batches_are_the_same_without_what_is_dropped(tmp_path: pathlib.Path, plugin: Plugin, kind: str):
  splits = {"train": several(12), "validation": several(10)}
  dataset = loaded(kind, splits, tmp_path, plugin)
  steps = (0, 1, 2, 10**9)
  whole = [dataset.train_batch(step) for step in steps]
  evaluated = [dataset.eval_batch(index, "validation", 4, count) for count in (None, 5) for index in range(2)]
  before = dataset.fingerprints(["train", "validation"])
  for keys, paths in (
    (["inputs", "labels"], {"inputs", "labels"}),
    (["boxes"], {"boxes/corners", "boxes/valid"}),
    (["boxes/valid", "weights", "mixing", "is_example"], {"boxes/valid", "weights"}),
    (["inputs", "labels", "boxes", "weights"], set(dataset.info.spec)),
  ):
    dataset.keep(keys)
    for step, batch in zip(steps, whole, strict=True):
      assert same(dataset.train_batch(step), part(batch, paths))
      assert same(dataset.timed_batch(step)[0], part(batch, paths))
    found = [dataset.eval_batch(index, "validation", 4, count) for count in (None, 5) for index in range(2)]
    for one, other in zip(found, evaluated, strict=True):
      assert same(one, part(other, paths | {"example", "is_example"}))
    assert dataset.fixed_examples("validation", 5)[1].keys() == dataset.info.spec.keys()
    assert dict(dataset.info.spec).keys() == {"inputs", "labels", "boxes/corners", "boxes/valid", "weights"}
  (tmp_path / "again").mkdir()
  fresh = loaded(kind, splits, tmp_path / "again", plugin)
  fresh.keep(["labels"])
  if kind not in ("records", "written records"):  # Their names are part of it.
    assert fresh.fingerprints(["train", "validation"]) == before


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_dropped_is_not_even_looked_at(
  tmp_path: pathlib.Path, plugin: Plugin, kind: str, monkeypatch: pytest.MonkeyPatch
):
  dataset = loaded(kind, {"train": several(12), "validation": several(10)}, tmp_path, plugin)
  dataset.keep(["inputs", "labels"])
  touched = []

  def noting(name: str) -> None:
    import trialbook.input_pipeline.conversion as conversion

    original = getattr(conversion, name)

    def function(path: str, *arguments: Any) -> Any:
      touched.append(path)
      return original(path, *arguments)

    monkeypatch.setattr(conversion, name, function)

  noting("as_array")
  noting("_stacked_rows")
  dataset.train_batch(0)
  dataset.eval_batch(0, "validation", 4)
  assert set(touched) <= {"inputs", "labels"}
  assert bool(touched) is (kind != "arrays")
  for split in dataset._read.values():
    held = split if isinstance(split, Arrays) else split.split  # type: ignore[attr-defined]
    if isinstance(held, Arrays):
      assert held.arrays.keys() == {"inputs", "labels"}
    if isinstance(held, Raw):
      assert held.read(np.arange(2)).keys() == {"inputs", "labels"}


def test_a_source_of_ones_own_may_leave_out_what_is_dropped(plugin: Plugin):
  asked = []

  class Columns:
    """Reads only the columns that are wanted."""

    def __init__(self, arrays: dict[str, np.ndarray]):
      self._arrays = arrays

    def __len__(self) -> int:
      return len(self._arrays["labels"])

    def only(self, paths: Any) -> "Columns":
      return Columns({path: self._arrays[path] for path in paths})

    def read(self, indices: np.ndarray) -> dict[str, np.ndarray]:
      asked.append(list(self._arrays))
      return {path: array[indices] for path, array in self._arrays.items()}

  split = Columns(good(12, id=np.arange(12)))
  dataset = load(plugin(Data(splits={"train": split, "validation": split}, num_classes=4)), seed=0, batch_size=4)
  dataset.keep(["labels"])
  asked.clear()
  assert dataset.train_batch(0).keys() == {"labels"}
  assert asked == [["labels"]]


def crowds(count: int) -> dict[str, Any]:
  """As many boxes in each image as there are people: 1 in the first, 2 in the next and so on."""
  return good(count, boxes=[np.ones((1 + index, 4)) for index in range(count)], time=at(5, np.nan, np.ones(count)))


@pytest.mark.parametrize("kind", [Items, "records"])
def test_what_is_ragged_or_not_finite_does_no_harm_unless_it_is_needed(
  tmp_path: pathlib.Path, plugin: Plugin, kind: Any
):
  splits = {"train": crowds(12), "validation": crowds(10)}
  if kind == "records":
    config: Any = own_records(tmp_path / "data", splits)
  else:
    config = plugin(Data(splits={name: kind(split) for name, split in splits.items()}, num_classes=4))
  dataset = load(config, seed=0, batch_size=12, keep=["inputs", "labels"])
  assert list(dataset.info.spec) == ["inputs", "labels", "boxes", "time"]
  assert dataset.train_batch(0).keys() == {"inputs", "labels"}
  assert dataset.eval_batch(0, "validation", 10)["is_example"].all()
  assert dataset.fingerprints(["train", "validation"]).keys() == {"train", "validation"}
  assert dataset.fixed_examples("validation", 10)[1].keys() == {"inputs", "labels"}
  dataset.keep(["inputs", "boxes"])
  with pytest.raises(DataError, match=r"validation, example 1: boxes are float32\[2, 4\]; those of the first train"):
    dataset.eval_batch(0, "validation", 10)
  dataset.keep(["inputs", "time"])
  with pytest.raises(DataError, match=r"train, example 5: time are not all finite: nan; leave out such examples"):
    dataset.train_batch(0)


def test_a_run_does_not_mind_what_it_does_not_need(tmp_path: pathlib.Path, plugin: Plugin, programs: Programs):
  splits = {name: Items(crowds(16)) for name in ("train", "validation")}
  config = mlp(batch_size=8, evaluation__batch_size=16, evaluation__train_examples=0, max_train_steps=2)
  config = config.model_copy(update={"dataset": plugin(Data(splits=splits, num_classes=4))})
  assert checks.problems(config, tmp_path / "run") == []
  assert run(config, tmp_path / "run", programs=programs).status == "complete"


def test_a_fingerprint_still_tells_of_broken_examples_where_our_tasks_read_them(plugin: Plugin):
  split = Items(crowds(12) | {"inputs": np.full((12, 3), np.nan)})
  split._rows[0]["inputs"] = np.zeros(3)
  dataset = load(plugin(Data(splits={"train": split, "validation": split}, num_classes=4)), seed=0, batch_size=4)
  with pytest.raises(DataError, match=r"train, example \d+: inputs are not all finite"):
    dataset.fingerprints(["train"])


@pytest.mark.parametrize("alpha", [None, 0.4])
def test_what_augmentation_works_on_is_kept_in_any_case(plugin: Plugin, alpha: float | None):
  split = several(12)
  augmentation = Augmentation(crop_padding=1, flip_probability=0.5, mixup_alpha=alpha)
  config = plugin({"train": split, "validation": split}).model_copy(update={"augmentation": augmentation})
  whole = load(config, seed=3, batch_size=4).train_batch(1)
  dataset = load(config, seed=3, batch_size=4)
  mixed = {"labels", "mixed_labels", "mixing"} if alpha else set()
  for keys in (["weights"], ["weights", "mixed_labels", "mixing"]):
    dataset.keep(keys)
    assert same(dataset.train_batch(1), part(whole, {"inputs", "weights", *mixed}))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
  splits = {"train": several(24), "validation": several(10)}
  return str(write_array_record(tmp_path_factory.mktemp("data") / "records", splits, num_classes=4, records_per_file=9))


def test_workers_drop_it_too_also_those_that_have_begun(written: str):
  config = ArrayRecord(path=written, augmentation=Augmentation(flip_probability=0.5))
  alone = load(config, seed=5, batch_size=8)
  with load(config.model_copy(update={"workers": 2}), seed=5, batch_size=8, keep=["boxes/valid"]) as dataset:
    for step in (0, 1, 2, 700):
      assert same(dataset.train_batch(step), part(alone.train_batch(step), {"inputs", "boxes/valid"}))
    assert dataset._workers is not None
    first = [process.pid for process in dataset._workers._workers]
    dataset.keep(["labels", "weights"])
    for step in (1, 2, 3):
      assert same(dataset.train_batch(step), part(alone.train_batch(step), {"inputs", "labels", "weights"}))
    assert not any(os.path.exists(f"/proc/{pid}") for pid in first)


@pytest.mark.parametrize("sharding", ["global", "files"])
def test_hosts_that_drop_it_still_share_the_batch(written: str, sharding: Any):
  config = ArrayRecord(path=written, sharding=sharding)
  for index in range(2):
    whole = load(config, seed=5, batch_size=8, host_index=index, host_count=2)
    less = load(config, seed=5, batch_size=8, host_index=index, host_count=2, keep=["boxes"])
    for step in range(4):
      assert same(less.train_batch(step), part(whole.train_batch(step), {"boxes/corners", "boxes/valid"}))


def test_a_dataset_that_makes_its_arrays_itself_drops_them_as_well(tmp_path: pathlib.Path):
  (tmp_path / "text").write_bytes(bytes(range(250)) * 8)
  for config in (Digits(), Text(path=str(tmp_path / "text"), length=8)):
    whole, less = load(config, seed=0, batch_size=8), load(config, seed=0, batch_size=8, keep=["inputs"])
    assert same(less.train_batch(3), part(whole.train_batch(3), {"inputs"}))
    expected = part(whole.eval_batch(0, "test", 8), {"inputs", "example", "is_example"})
    assert same(less.eval_batch(0, "test", 8), expected)


def test_a_key_that_only_one_example_lacks_is_told_if_it_is_kept(plugin: Plugin):
  rows = Items(good(6, id=np.arange(6)))
  del rows._rows[4]["id"]
  dataset = load(plugin(Data(splits={"train": rows, "validation": rows}, num_classes=4)), seed=0, batch_size=6)
  with pytest.raises(DataError, match=re.escape("train, example 4: has no 'id'; the first example has inputs, lab")):
    dataset.train_batch(0)
  dataset.keep(["labels"])
  assert dataset.train_batch(0)["labels"].shape == (6,)
