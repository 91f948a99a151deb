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

from trialbook.errors import ConfigError, UserError
from trialbook.input_pipeline import (
  SPLITS,
  ArrayRecord,
  Data,
  Dataset,
  Fingerprint,
  PluginDataset,
  Text,
  load,
  write_array_record,
)
from trialbook.input_pipeline.fingerprint import fingerprint
from trialbook.input_pipeline.fingerprint import same as same_fingerprint
from trialbook.input_pipeline.registry import AnyDataset
from trialbook.input_pipeline.source import Arrays
from trialbook.trainer import Config, Programs, checks, run
from trialbook.trainer.bound_task import bind
from trialbook.trainer.checkpoint_evaluation import evaluate_checkpoint
from trialbook.trainer.schedules import Constant
from trialbook.trainer.tasks import LanguageModel
from trialbook.trainer.workdir import existing_run


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
    told = {
      "format": 1,
      "status": "running",
      "step": 2,
      "started": 0.0,
      "dataset": facts,
      "fingerprints": existing_run.fingerprints(of, dataset),
    } | others
  (workdir / "checkpoints" / "2").mkdir(parents=True)
  (workdir / "run.json").write_text(json.dumps({name: value for name, value in told.items() if value is not None}))


def dataclass_fields(dataset: Dataset) -> dict[str, Any]:
  return {**vars(dataset.info), "examples": dict(dataset.info.examples)}


def problems(of: Config, workdir: pathlib.Path) -> str:
  return "\n".join(checks.problems(of, workdir))


@pytest.mark.parametrize("source", SOURCES)
def test_the_same_data_may_lie_elsewhere_and_other_data_is_named(
  tmp_path: pathlib.Path, plugin: Callable[..., AnyDataset], source: str
):
  if source == "files":
    pytest.importorskip("array_record", reason="an extra that the newest versions are tested without")

  def made(folder: str, count: int = 40, seed: int = 0) -> Config:
    return config(SOURCES[source](tmp_path / folder, plugin, count, seed))

  record(tmp_path / "run", made("first"))
  assert problems(made("elsewhere"), tmp_path / "run") == ""
  told = problems(made("shorter", count=36), tmp_path / "run")
  assert f"workdir {tmp_path / 'run'} holds a run on other data; restore its data, choose another" in told
  before, now = (40, 36) if source != "text" else (39, 35)
  assert f"train: the run has {before} examples, the data {now}" in told
  assert "different content" not in told
  told = problems(made("other", seed=1), tmp_path / "run")
  assert "train: same number of examples, different content" in told
  assert ("validation" in told) == (source == "text")


def test_runs_that_were_recorded_without_fingerprints_still_resume(
  tmp_path: pathlib.Path, plugin: Callable[..., AnyDataset]
):
  record(tmp_path / "run", config(in_memory(tmp_path, plugin, 40, 0)), fingerprints=None)
  assert problems(config(in_memory(tmp_path, plugin, 40, 1)), tmp_path / "run") == ""
  assert "the run has 40 examples" in problems(config(in_memory(tmp_path, plugin, 36, 0)), tmp_path / "run")
  hashes = {"train": "0123456789abcdef", "validation": "0123456789abcdef"}
  record(tmp_path / "hashes", config(in_memory(tmp_path, plugin, 40, 0)), fingerprints=hashes)
  assert problems(config(in_memory(tmp_path, plugin, 40, 1)), tmp_path / "hashes") == ""
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


def test_numbers_that_another_machine_rounded_are_the_same_data():
  draw = np.random.default_rng(3)

  def content(inputs: np.ndarray) -> Fingerprint:
    found = fingerprint(Arrays({"inputs": inputs, "labels": np.zeros(len(inputs), np.int32)}))
    assert found is not None
    return found

  # Many, since rounded sums would differ only where one lies at a border.
  for size in [5] * 100 + [100] * 100 + [100_000]:
    inputs = draw.standard_normal((size, 4)).astype(np.float32)
    up = np.nextafter(inputs, np.where(draw.random(inputs.shape) < 0.5, np.float32(9), np.float32(-9)))
    assert not np.array_equal(inputs, up)
    before = content(inputs)
    assert same_fingerprint(json.loads(json.dumps(before)), content(up.astype(np.float32)))
    changed = inputs.copy()
    changed[: max(1, size // 100)] += 0.1
    assert not same_fingerprint(before, content(changed))
    assert not same_fingerprint(before, content(inputs[::-1]))


def test_statistics_that_another_machine_rounded_are_the_same_data(
  tmp_path: pathlib.Path, plugin: Callable[..., AnyDataset]
):
  splits = {"train": arrays(40), "validation": arrays(12)}

  def made(*factors: float) -> Config:
    by = np.array(factors)
    return config(plugin(Data(splits=splits, normalization=(by * (1e-12, 1 / 3, 700), by * (1, 0.1, 30)))))

  record(tmp_path / "run", made(1, 1, 1))
  assert problems(made(1 + 1e-7, 1 - 1e-7, 1 + 1e-6), tmp_path / "run") == ""
  # A mean that is zero but for rounding.
  without = config(plugin(Data(splits=splits, normalization=((-1e-12, 1 / 3, 700), (1, 0.1, 30)))))
  assert problems(without, tmp_path / "run") == ""
  assert "normalization: the run has " in problems(made(1, 1, 1.001), tmp_path / "run")


def test_examples_that_differ_at_each_reading_are_warned_of_and_do_not_keep_a_run_from_going_on(
  tmp_path: pathlib.Path, plugin: Callable[..., AnyDataset]
):
  splits = {"train": Items(arrays(40), noise=0.1), "validation": Items(arrays(12))}
  made = config(plugin(Data(splits=splits, num_classes=4)))
  record(tmp_path / "run", made)
  assert problems(made, tmp_path / "run") == ""
  dataset = load(made.dataset, seed=0, batch_size=8)
  (warning,) = checks.warnings(made, dataset, bind(made.task.build(), dataset.info))
  assert "train: an example differs each time it is read" in warning


def test_a_fingerprint_costs_no_more_for_more_files_or_larger_arrays(
  tmp_path: pathlib.Path, plugin: Callable[..., AnyDataset], monkeypatch: pytest.MonkeyPatch
):
  pytest.importorskip("array_record", reason="an extra that the newest versions are tested without")
  split = arrays(80)
  written = write_array_record(tmp_path / "x", {"train": split, "validation": split}, num_classes=4, records_per_file=1)
  dataset = load(ArrayRecord(path=str(written)), seed=0, batch_size=8)
  opened = []
  original = pathlib.Path.open
  monkeypatch.setattr(pathlib.Path, "open", lambda path, *rest: opened.append(path) or original(path, *rest))
  assert len(dataset.fingerprints(SPLITS)) == 2
  assert 32 <= len(opened) <= 64
  hashed = []
  tobytes = np.ascontiguousarray
  monkeypatch.setattr(np, "ascontiguousarray", lambda array: hashed.append(array.nbytes) or tobytes(array))
  bytes_ = np.zeros((4096, 64, 64), np.uint8)
  big = {
    "train": {"inputs": bytes_, "labels": np.zeros(4096, int)},
    "validation": {"inputs": bytes_[:9], "labels": [0] * 9},
  }
  assert load(plugin(big), seed=0, batch_size=8).fingerprints(SPLITS)
  assert sum(hashed) < 2**21


class Counted(Items):
  """Examples one at a time, which counts them."""

  def __init__(self, split: Mapping[str, np.ndarray], broken: int | None = None):
    super().__init__(split)
    self.asked: list[int] = []
    self._broken = broken

  def __getitem__(self, index: int) -> dict[str, Any]:
    self.asked.append(index)
    if index == self._broken:
      raise OSError(f"{index}.png is cut off")
    return super().__getitem__(index)


@pytest.mark.parametrize("test", [False, True])
def test_few_examples_are_read_one_by_one_at_start_up(
  tmp_path: pathlib.Path, plugin: Callable[..., AnyDataset], test: bool
):
  splits = {split: Counted(arrays(80)) for split in SPLITS}
  made = config(plugin(Data(splits=splits, num_classes=4)), evaluation__test=test)
  assert checks.problems(made, tmp_path / "run") == []
  # The first example; of train also 16 of float64 for rounding and a batch of 8; then four for the fingerprint, twice.
  counts = {split: len(examples.asked) for split, examples in splits.items()}
  assert counts == {"train": 1 + 16 + 8 + 8, "validation": 1 + 8, "test": 1 + 8 * test}


def test_a_broken_example_that_start_up_reads_is_a_problem_like_others(
  tmp_path: pathlib.Path, plugin: Callable[..., AnyDataset]
):
  for split in ("train", "validation"):
    found = 0
    for broken in range(1, 32):
      splits = {"train": Items(arrays(32)), "validation": Items(arrays(32))} | {split: Counted(arrays(32), broken)}
      made = config(plugin(Data(splits=splits, num_classes=4)))
      told = checks.problems(made, tmp_path / "run")
      if told:
        assert [f"{split}, example {broken}: OSError: {broken}.png is cut off" in problem for problem in told] == [True]
        with pytest.raises(ConfigError, match=f"{split}, example {broken}: "):
          run(made, tmp_path / "run")
        assert not (tmp_path / "run").exists()
        found += 1
    assert found >= 4


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
  assert "the data differ from those that the run was trained on: train: the run has 40 examples" in caplog.text
  shutil.rmtree(tmp_path / "data")
  files(tmp_path / "moved", plugin, 40, 0)
  moved = longer.override({"dataset.path": str(tmp_path / "moved")})
  assert run(moved, tmp_path / "run", programs=programs).step == 4


@pytest.mark.slow
@pytest.mark.parametrize("saves", [False, True])
def test_a_run_that_stopped_on_a_broken_example_says_how_it_goes_on_with_repaired_data(
  tmp_path: pathlib.Path, plugin: Callable[..., AnyDataset], programs: Programs, saves: bool
):
  def made(count: int, broken: int | None = None) -> Config:
    splits = {"train": Counted(arrays(count), broken), "validation": Items(arrays(12))}
    dataset = plugin(Data(splits=splits, num_classes=4))
    return config(dataset, max_train_steps=4, checkpointing__every_evaluations=int(saves))

  with load(made(32).dataset, seed=0, batch_size=8) as dataset:
    last = {tuple(row) for row in dataset.train_batch(3)["inputs"]}
  # One of the last step's that no sample of the start has.
  rows = [tuple(row) for row in arrays(32)["inputs"]]
  broken = next(index for index, row in enumerate(rows) if row in last and index % 8 != 4)
  with pytest.raises(UserError, match=f"train, example {broken}: OSError: {broken}.png is cut off") as caught:
    run(made(32, broken), tmp_path / "run", programs=programs)
  # It was left out.
  if not saves:
    assert "--fork" not in str(caught.value)
    assert run(made(31), tmp_path / "run", programs=programs).step == 4
    return
  hint = (
    f"step 2 is saved; to continue from it with repaired data, fork it into a new workdir (--fork={tmp_path / 'run'}"
  )
  assert hint in str(caught.value)
  with pytest.raises(ConfigError, match="train: the run has 32 examples, the data 31") as refused:
    run(made(31), tmp_path / "run", programs=programs)
  assert f"fork it into a new workdir (--fork={tmp_path / 'run'} --workdir=NEW)" in str(refused.value)
  assert run(made(31), tmp_path / "fork", programs=programs, fork=tmp_path / "run").step == 4
