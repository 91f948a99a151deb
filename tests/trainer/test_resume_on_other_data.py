"""A run resumes on the data that it began with, wherever they lie, and says what differs where they are others."""

import json
import pathlib
import shutil
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from tiny import mlp

from input_pipeline import ArrayRecord, Data, Dataset, PluginDataset, Text, load, write_array_record
from input_pipeline.registry import AnyDataset
from trainer import Config, ConfigError, Programs, preparation, run
from trainer.evaluate import evaluate_checkpoint
from trainer.schedules import Constant
from trainer.tasks import LanguageModel


def arrays(count: int, seed: int = 0) -> dict[str, np.ndarray]:
  draw = np.random.default_rng(seed)
  return {"inputs": draw.standard_normal((count, 3)).astype(np.float32), "labels": np.arange(count) % 4}


class Items:
  """Examples one at a time; with `noise`, others at each reading."""

  def __init__(self, split: Mapping[str, np.ndarray], noise: float = 0.0):
    self._split, self._noise, self._draw = split, noise, np.random.default_rng(1)

  def __len__(self) -> int:
    return len(self._split["inputs"])

  def __getitem__(self, index: int) -> dict[str, Any]:
    noise = self._noise * self._draw.standard_normal(3)
    return {"inputs": self._split["inputs"][index] + noise, "labels": self._split["labels"][index]}


@pytest.fixture(name="plugin")
def user_module(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AnyDataset]:
  """Gives a dataset config whose function returns what the test says."""
  module = types.ModuleType("data_of_a_resumed_run")
  monkeypatch.setitem(sys.modules, "data_of_a_resumed_run", module)

  def dataset(built: Any) -> AnyDataset:
    vars(module)["build"] = lambda: built
    return PluginDataset(name="data_of_a_resumed_run:build")

  return dataset


Made = Callable[[pathlib.Path, Callable[..., AnyDataset], int, int], AnyDataset]


def in_memory(_: pathlib.Path, plugin: Callable[..., AnyDataset], count: int, seed: int) -> AnyDataset:
  return plugin({"train": arrays(count, seed), "validation": arrays(12)})


def lazily(_: pathlib.Path, plugin: Callable[..., AnyDataset], count: int, seed: int) -> AnyDataset:
  return plugin(Data(splits={"train": Items(arrays(count, seed)), "validation": Items(arrays(12))}, num_classes=4))


def files(folder: pathlib.Path, _: Callable[..., AnyDataset], count: int, seed: int) -> AnyDataset:
  splits = {"train": arrays(count, seed), "validation": arrays(12)}
  return ArrayRecord(path=str(write_array_record(folder, splits, num_classes=4, records_per_file=7)))


def text(folder: pathlib.Path, _: Callable[..., AnyDataset], count: int, seed: int) -> AnyDataset:
  folder.mkdir()
  letters = np.random.default_rng(seed).integers(97, 123, count * 10)
  (folder / "text").write_bytes(letters.astype(np.uint8).tobytes())
  return Text(path=str(folder / "text"), length=9)


SOURCES: dict[str, Made] = {"arrays": in_memory, "items": lazily, "files": files, "text": text}


def config(dataset: AnyDataset, **changes: Any) -> Config:
  made = mlp(batch_size=8, evaluation__batch_size=16, evaluation__train_examples=0, evaluation__every_steps=2)
  made = made.model_copy(update={"dataset": dataset, "schedule": Constant()})
  if isinstance(dataset, Text):
    made = made.model_copy(update={"task": LanguageModel()}).override({"model.name": "transformer"})
  return made.override({"max_train_steps": 2} | {path.replace("__", "."): value for path, value in changes.items()})


def record(workdir: pathlib.Path, of: Config, **others: Any) -> None:
  """What a run of this config leaves, of what is looked at here."""
  workdir.mkdir()
  (workdir / "config.json").write_text(json.dumps({"format": 1, **of.resolved().model_dump(mode="json")}))
  with load(of.dataset, seed=0, batch_size=8) as dataset:
    facts = json.loads(json.dumps(dataclass_fields(dataset)))
    told = {"format": 1, "status": "running", "dataset": facts, "fingerprints": dict(dataset.fingerprints)} | others
  (workdir / "run.json").write_text(json.dumps({name: value for name, value in told.items() if value is not None}))


def dataclass_fields(dataset: Dataset) -> dict[str, Any]:
  return {**vars(dataset.info), "examples": dict(dataset.info.examples)}


def problems(of: Config, workdir: pathlib.Path) -> str:
  return "\n".join(preparation.problems(of, workdir))


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_data_may_lie_elsewhere_and_other_data_is_named(
  tmp_path: pathlib.Path, plugin: Callable[..., AnyDataset], source: str
):
  def made(folder: str, count: int = 40, seed: int = 0) -> Config:
    return config(SOURCES[source](tmp_path / folder, plugin, count, seed))

  record(tmp_path / "run", made("first"))
  assert problems(made("elsewhere"), tmp_path / "run") == ""
  told = problems(made("shorter", count=36), tmp_path / "run")
  assert f"workdir {tmp_path / 'run'} holds a run on other data; bring back the data it had, choose another" in told
  before, now = (40, 36) if source != "text" else (39, 35)
  assert f"train: the run has {before} examples, the data {now}" in told
  assert "train: the content" not in told
  told = problems(made("other", seed=1), tmp_path / "run")
  assert "train: the content is another one, with as many examples" in told
  assert ("validation" in told) == (source == "text")


def test_runs_that_were_recorded_without_fingerprints_still_resume(
  tmp_path: pathlib.Path, plugin: Callable[..., AnyDataset]
):
  record(tmp_path / "run", config(in_memory(tmp_path, plugin, 40, 0)), fingerprints=None)
  assert problems(config(in_memory(tmp_path, plugin, 40, 1)), tmp_path / "run") == ""
  assert "the run has 40 examples" in problems(config(in_memory(tmp_path, plugin, 36, 0)), tmp_path / "run")
  record(tmp_path / "older", config(in_memory(tmp_path, plugin, 40, 0)), fingerprints=None, dataset=None)
  assert problems(config(in_memory(tmp_path, plugin, 36, 0)), tmp_path / "older") == ""


def test_a_split_that_is_gone_or_facts_that_differ_are_named_and_one_that_came_is_not(
  tmp_path: pathlib.Path, plugin: Callable[..., AnyDataset]
):
  both = {"train": arrays(40), "validation": arrays(12)}
  record(tmp_path / "run", config(plugin(both | {"test": arrays(20)})))
  assert "test: the run has 20 examples, the data 0" in problems(config(plugin(both)), tmp_path / "run")
  record(tmp_path / "without", config(plugin(both)))
  assert problems(config(plugin(both | {"test": arrays(20)})), tmp_path / "without") == ""
  told = problems(config(plugin(Data(splits=both, num_classes=5))), tmp_path / "without")
  assert "num_classes: the run has 4, the data 5" in told


def test_numbers_that_another_machine_rounded_are_the_same_data(plugin: Callable[..., AnyDataset]):
  draw = np.random.default_rng(3)
  for size in (5, 100, 100_000):
    inputs = draw.standard_normal((size, 4)).astype(np.float32)
    up = np.nextafter(inputs, np.where(draw.random(inputs.shape) < 0.5, np.float32(9), np.float32(-9)))
    assert not np.array_equal(inputs, up)

    def told(inputs: np.ndarray) -> Mapping[str, str]:
      split = {"inputs": inputs, "labels": np.zeros(len(inputs), int)}
      return load(plugin({"train": split, "validation": split}), seed=0, batch_size=4).fingerprints

    assert told(inputs) == told(up.astype(np.float32))
    changed = inputs.copy()
    changed[: max(1, size // 100)] += 0.1
    assert told(inputs) != told(changed)
    assert told(inputs) != told(inputs[::-1])


def test_examples_that_differ_at_each_reading_are_warned_of_and_do_not_keep_a_run_from_going_on(
  tmp_path: pathlib.Path, plugin: Callable[..., AnyDataset]
):
  splits = {"train": Items(arrays(40), noise=0.1), "validation": Items(arrays(12))}
  made = config(plugin(Data(splits=splits, num_classes=4)))
  record(tmp_path / "run", made)
  assert problems(made, tmp_path / "run") == ""
  (warning,) = preparation.warnings(made, load(made.dataset, seed=0, batch_size=8))
  assert "train: an example differs each time it is read" in warning


def test_a_fingerprint_costs_no_more_for_more_files_or_larger_arrays(
  tmp_path: pathlib.Path, plugin: Callable[..., AnyDataset], monkeypatch: pytest.MonkeyPatch
):
  split = arrays(80)
  dataset = load(
    ArrayRecord(
      path=str(
        write_array_record(tmp_path / "x", {"train": split, "validation": split}, num_classes=4, records_per_file=1)
      )
    ),
    seed=0,
    batch_size=8,
  )
  opened = []
  original = pathlib.Path.open
  monkeypatch.setattr(pathlib.Path, "open", lambda path, *rest: opened.append(path) or original(path, *rest))
  assert len(dataset.fingerprints) == 2
  assert 32 <= len(opened) <= 64
  read = []

  class Counted(Items):
    def __getitem__(self, index: int) -> dict[str, Any]:
      read.append(index)
      return super().__getitem__(index)

  lazy = load(plugin(Data(splits={"train": Counted(split), "validation": split}, num_classes=4)), seed=0, batch_size=8)
  read.clear()
  assert lazy.fingerprints
  assert len(read) == 16
  hashed = []
  tobytes = np.ascontiguousarray
  monkeypatch.setattr(np, "ascontiguousarray", lambda array: hashed.append(array.nbytes) or tobytes(array))
  bytes_ = np.zeros((4096, 64, 64), np.uint8)
  big = {
    "train": {"inputs": bytes_, "labels": np.zeros(4096, int)},
    "validation": {"inputs": bytes_[:9], "labels": [0] * 9},
  }
  assert load(plugin(big), seed=0, batch_size=8).fingerprints
  assert sum(hashed) < 2**21


@pytest.fixture(scope="module")
def programs() -> Programs:
  return Programs()


@pytest.mark.slow
def test_a_run_is_not_resumed_on_other_data_but_may_be_forked_onto_it(
  tmp_path: pathlib.Path, plugin: Callable[..., AnyDataset], programs: Programs, caplog: pytest.LogCaptureFixture
):
  made = config(files(tmp_path / "data", plugin, 40, 0))
  run(made, tmp_path / "run", programs=programs)
  before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.json*")}
  shutil.rmtree(tmp_path / "data")
  files(tmp_path / "data", plugin, 36, 0)
  longer = made.override({"max_train_steps": 4})
  for again in (made, longer):
    with pytest.raises(ConfigError, match="train: the run has 40 examples, the data 36"):
      run(again, tmp_path / "run", programs=programs)
  assert {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.json*")} == before
  result = run(longer, tmp_path / "fork", programs=programs, fork=tmp_path / "run")
  assert (result.status, result.step) == ("complete", 4)
  evaluate_checkpoint(tmp_path / "run", "best", "validation")
  assert "the data are not those that the run was trained on: train: the run has 40 examples" in caplog.text
  shutil.rmtree(tmp_path / "data")
  files(tmp_path / "moved", plugin, 40, 0)
  moved = longer.override({"dataset.path": str(tmp_path / "moved")})
  assert run(moved, tmp_path / "run", programs=programs).step == 4
