"""Data that cannot be trained on: the command says so in words and leaves with 2, before the first step if it can."""

import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest
from absl import flags
from flax import nnx
from tiny import mlp, numbers

from trialbook import errors
from trialbook.errors import UserError
from trialbook.input_pipeline import ArrayRecord, PluginDataset, write_array_record
from trialbook.trainer import Config, checks, run
from trialbook.trainer import flags as command
from trialbook.trainer.schedules import Constant


class Net(nnx.Module):
  """A linear model that returns what it is told to."""

  def __init__(self, *, num_classes: int, input_shape: tuple[int, ...], wrong: str, rngs: nnx.Rngs):
    self.output, self.wrong = nnx.Linear(int(np.prod(input_shape)), num_classes, rngs=rngs), wrong

  def __call__(self, x: jax.Array, *, train: bool) -> Any:
    del train
    outputs = self.output(x.reshape(len(x), -1))
    wrong = {"classes": outputs[:, :-1], "batch": outputs[:-1], "positions": outputs[:, None], "dict": {"y": outputs}}
    return wrong[self.wrong]


def images(split: str, count: int = 64, **changes: Any) -> dict[str, np.ndarray]:
  draw = np.random.default_rng(len(split))
  arrays = {
    "inputs": draw.integers(0, 256, size=(count, 6, 6, 1)).astype(np.uint8),
    "labels": (np.arange(count) % 4).astype(np.int32),
  }
  return {name: array for name, array in (arrays | changes).items() if array is not None}


@pytest.fixture(name="dataset")
def user_dataset(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
  """Makes `user_data:build` return what the test says."""
  module = types.ModuleType("user_data")
  module.__file__ = "user_data.py"
  monkeypatch.setitem(sys.modules, "user_data", module)

  def returns(built: Any) -> None:
    vars(module)["build"] = lambda: built

  returns({split: images(split) for split in ("train", "validation")})
  return returns


def plugin(**changes: Any) -> Config:
  config = mlp(batch_size=8, evaluation__batch_size=32, evaluation__train_examples=0, max_train_steps=6)
  config = config.model_copy(update={"dataset": PluginDataset(name="user_data:build"), "schedule": Constant()})
  return config.override({path.replace("__", "."): value for path, value in changes.items()})


def refused(config: Config, workdir: pathlib.Path, *problems: str, knowable: bool = True) -> None:
  """The run refuses, with these problems, having written nothing; so does the check, where it can know."""
  with pytest.raises(UserError) as caught:
    run(config, workdir)
  for problem in problems:
    caught.match(problem)
  assert not workdir.exists()
  assert ("\n".join(checks.problems(config, workdir)) == str(caught.value)) is knowable


@pytest.mark.slow
def test_the_same_data_without_a_fault_trains(tmp_path: pathlib.Path, dataset: Callable[[Any], None]):
  result = run(plugin(), tmp_path / "run")
  assert result.status == "complete"


def test_data_that_is_not_prepared_is_told_with_the_command_that_helps(tmp_path: pathlib.Path):
  for name, field, help in (
    ("fashion_mnist", "data_dir", "prepare fashion_mnist"),
    ("shakespeare", "data_dir", "prepare shakespeare"),
    ("array_record", "path", "is not a directory"),
  ):
    config = mlp().override({"dataset.name": name, f"dataset.{field}": str(tmp_path / "nothing")})
    refused(config, tmp_path / "run", rf"dataset {name}", help)
  refused(mlp().override({"dataset.name": "text"}), tmp_path / "run", "dataset.path is not set")
  refused(mlp().override({"dataset.name": "tfds:mnist", "dataset.data_dir": str(tmp_path)}), tmp_path / "run", "mnist")


@pytest.mark.parametrize(
  ("train", "validation", "problem"),
  [
    (images("train"), images("validation", labels=None), r"validation has no 'labels', but train has"),
    (images("train"), images("validation", inputs=None), r"validation has no 'inputs', but train has"),
    (images("train", weights=-np.ones(64)), images("validation", weights=np.ones(64)), "weights must not be negative"),
    (images("train", is_example=np.ones(64)), images("validation"), "train: has 'is_example', which is a key of"),
    (
      images("train", labels=-np.ones(64, int)),
      images("validation"),
      r"labels must be 0 to 3 .*64 are not, such as -1",
    ),
    (images("train", 0), images("validation"), r"train: is empty"),
    (images("train"), images("validation", 0), r"validation: is empty"),
    (
      images("train"),
      images("validation", inputs=np.zeros((64, 7, 6, 1), np.uint8)),
      r"inputs of validation are uint8\[7, 6, 1\], those of train uint8\[6, 6, 1\]",
    ),
    (images("train", labels=np.arange(63)), images("validation"), r"train: has 64 inputs and 63 labels"),
    (
      images("train", inputs=np.full((64, 6), "x")),
      images("validation"),
      r"train: inputs are <U1, but must be numbers",
    ),
    (images("train", labels=np.ones(64)), images("validation"), r"labels are float64, but must be 32-bit integers"),
    (images("train"), None, r"split 'validation' is missing"),
  ],
)
def test_splits_that_cannot_be_trained_on_are_told(
  tmp_path: pathlib.Path, dataset: Callable[[Any], None], train: Any, validation: Any, problem: str
):
  splits = {"train": train, "validation": validation}
  dataset({name: split for name, split in splits.items() if split is not None})
  refused(plugin(), tmp_path / "run", r"^dataset\.name 'user_data:build': ", problem)


@pytest.mark.parametrize(
  ("train", "validation", "problem"),
  [
    (images("train", labels=None), images("validation"), r"needs 'labels', which no batch has, because train has none"),
    (
      images("train", inputs=None, image=images("train")["inputs"]),
      images("validation", inputs=None, image=images("validation")["inputs"]),
      r"the classification task needs 'inputs'; dataset 'user_data:build' gives 'labels', 'image'",
    ),
    (
      images("train", inputs=None, input=images("train")["inputs"]),
      images("validation", inputs=None, input=images("validation")["inputs"]),
      r"the classification task needs 'inputs'; .*did you mean 'input'",
    ),
    (
      images("train", weights=np.ones((64, 2))),
      images("validation", weights=np.ones((64, 2))),
      r"weights of dataset 'user_data:build' are \[B, 2\], but must be \[B\]",
    ),
  ],
)
def test_splits_that_the_task_cannot_use_are_told(
  tmp_path: pathlib.Path, dataset: Callable[[Any], None], train: Any, validation: Any, problem: str
):
  dataset({"train": train, "validation": validation})
  refused(plugin(), tmp_path / "run", problem)


def test_a_run_may_have_keys_that_it_does_not_use_and_several_validation_splits(
  tmp_path: pathlib.Path, dataset: Callable[[Any], None]
):
  others = {"id": np.arange(64), "caption": ["a picture"] * 64, "meta": {"mask": np.ones((64, 6, 6), bool)}}
  dataset({split: images(split, **others) for split in ("train", "validation", "validation_dark")})
  assert run(plugin(), tmp_path / "run").status == "complete"
  named = {name for line in numbers(tmp_path / "run") for name in line}
  assert {"validation/error", "validation_dark/error"} <= named


@pytest.mark.parametrize(
  ("built", "problem"),
  [
    (None, "got a NoneType; it must be a dict of splits"),
    ([images("train"), images("validation")], "got a list; it must be a dict of splits"),
    ({"train": images("train"), "valid": images("validation")}, "unknown split 'valid'; did you mean 'validation'"),
  ],
)
def test_a_function_that_does_not_give_splits_is_told(
  tmp_path: pathlib.Path, dataset: Callable[[Any], None], built: Any, problem: str
):
  dataset(built)
  refused(plugin(), tmp_path / "run", problem)


@pytest.mark.usefixtures("dataset")
def test_images_that_do_not_fit_the_model_are_told_with_what_would(tmp_path: pathlib.Path):
  vit = plugin(model__name="vit", model__patch_size=4)
  fitting = r"model\.patch_size: 4 does not divide images of 6 × 6; these do: 1, 2, 3, 6"
  refused(vit, tmp_path / "run", fitting, knowable=False)
  transformer = plugin(model__name="transformer")
  refused(transformer, tmp_path / "run", r"a transformer needs rows of tokens.*\(6, 6, 1\)", knowable=False)
  refused(plugin(batch_size=96), tmp_path / "run", r"batch_size = 96 is larger than the training set .* 64 examples")


@pytest.mark.parametrize(
  ("wrong", "problem"),
  [
    ("classes", r"returns \[8, 3\] for 8 examples; the task needs \[8, \.\.\., 4\]"),
    ("batch", r"returns \[7, 4\] for 8 examples"),
    ("positions", r"outputs are \[8, 1, 4\]; labels \[8\] need \[8, 'classes'\]"),
    ("dict", r"returns a dict, but the task has num_outputs and needs one array \[B, \.\.\., 4\]"),
  ],
)
@pytest.mark.usefixtures("dataset")
def test_a_model_that_returns_the_wrong_shape_is_told(tmp_path: pathlib.Path, wrong: str, problem: str):
  config = plugin(model__name="test_bad_data_in_a_run:Net", model__kwargs={"wrong": wrong})
  refused(config, tmp_path / "run", problem, knowable=False)


def records(folder: pathlib.Path, damaged: dict[str, int]) -> ArrayRecord:
  """A dataset of 64 and 32 records; those whose numbers are given are damaged."""
  path = write_array_record(
    folder, {"train": images("train"), "validation": images("validation", 32)}, num_classes=4, records_per_file=16
  )
  for split, number in damaged.items():
    file = sorted(folder.glob(f"{split}-*"))[number // 16]
    content = file.read_bytes()
    record = images(split, 64 if split == "train" else 32)["inputs"][number].tobytes()
    place = content.index(record)
    file.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
  return ArrayRecord(path=str(path))


@pytest.mark.slow
@pytest.mark.parametrize(("split", "number", "steps"), [("train", 37, 8), ("validation", 21, 0)])
def test_a_damaged_record_is_named_when_it_is_read_and_nothing_committed_is_lost(
  tmp_path: pathlib.Path, split: str, number: int, steps: int
):
  dataset = records(tmp_path / "data", {split: number})
  config = plugin(max_train_steps=16).model_copy(update={"dataset": dataset})
  file = sorted((tmp_path / "data").glob(f"{split}-*"))[number // 16]
  named = rf"{split}, example {number}: {file}, record {number % 16}: cannot be read"
  with pytest.raises(UserError, match=named):
    run(config, tmp_path / "run")
  # Its place among the eight steps of the first epoch is the seed's.
  assert len([line for line in numbers(tmp_path / "run") if "train/loss" in line]) < max(steps, 1)


@pytest.mark.slow
@pytest.mark.usefixtures("clean_flags")
def test_the_command_leaves_with_2_and_one_message(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]):
  dataset = records(tmp_path / "data", {"validation": 5})

  def call(*assignments: str) -> tuple[int, str]:
    flags.FLAGS.unparse_flags()
    flags.FLAGS["set"].value = []
    code = command.train([f"--workdir={tmp_path / 'run'}", *(f"--set={assignment}" for assignment in assignments)])
    return code, capfd.readouterr().err

  small = [
    "model.name=mlp",
    "compilation_cache=None",
    "batch_size=8",
    "schedule.name=constant",
    "max_train_steps=2",
    "export=False",
  ]
  code, told = call(*small, "dataset.name=text", f"dataset.path={tmp_path / 'nothing'}")
  assert code == errors.USER_MISTAKE
  assert "trialbook train: a problem:\n  - dataset text: " in told
  assert "Traceback" not in told
  assert not (tmp_path / "run").exists()
  code, told = call(*small, "dataset.name=array_record", f"dataset.path={dataset.path}")
  assert code == errors.USER_MISTAKE
  assert "validation, example 5: " in told
  assert "Traceback" not in told
