"""Data that cannot be trained on is refused whatever it comes from: with the place, the problem and the remedy.

Each case goes through each kind of source. What is in memory is refused when it is loaded, what is read lazily when the
example is read, at the latest.
"""

import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from every_source import KINDS, Items, at, good, loaded, targets
from tiny import mlp

from trialbook import errors
from trialbook.errors import DataError, UserError
from trialbook.input_pipeline import Data, PluginDataset, load
from trialbook.input_pipeline.conversion import as_array
from trialbook.trainer import Config, Programs, checks, run
from trialbook.trainer import flags as command
from trialbook.trainer.bound_task import bind
from trialbook.trainer.schedules import Constant
from trialbook.trainer.tasks import Classification, LanguageModel, PluginTask, Regression


def refusal(kind: str, splits: Mapping[str, Any], folder: pathlib.Path, plugin: Callable[[Any], PluginDataset]) -> str:
  """What is told of these splits, come as they may, by the time each example was read."""
  try:
    dataset = loaded(kind, splits, folder, plugin)
    for split in splits:
      dataset.eval_batch(0, split, 16)
  except DataError as error:
    return str(error)
  return ""


ONE_HOT = np.eye(4)[np.arange(12) % 4]
DATES = np.array(["2020-01-01"] * 36, "datetime64[D]").reshape(12, 3)
REFUSED: dict[str, tuple[dict[str, Any], str, str]] = {
  # Broken examples: example 5 of the validation split.
  "an input that is NaN": (
    good(12, inputs=at(5, np.nan, np.ones((12, 3)))),
    "inputs are not all finite",
    "leave out such",
  ),
  "an infinite target": (targets(12, targets=at(5, np.inf, np.ones((12, 2)))), "targets are not all finite", "leave"),
  "a number too large": (good(12, inputs=at(5, 1e300, np.ones((12, 3)))), "1e+300, which float32 cannot hold", "leave"),
  "a label too high": (
    good(12, labels=at(5, 4, np.zeros(12, int))),
    "labels must be 0 to 3",
    "correct the labels or num_classes",
  ),
  "a label below zero": (good(12, labels=at(5, -1, np.zeros(12, int))), "such as -1", "leave out such examples"),
  "a negative weight": (good(12, weights=at(5, -1.0, np.ones(12))), "weights must not be negative", "give 0 for what"),
  "a weight that is NaN": (
    good(12, weights=at(5, np.nan, np.ones(12))),
    "weights are not all finite",
    "leave out such",
  ),
  "a nested input that is NaN": (
    good(12, inputs={"x": at(5, np.nan, np.ones((12, 3)))}),
    "inputs/x are not all finite",
    "leave out such",
  ),
  "a ragged input": (good(12, inputs=[[1.0, 2.0, 3.0]] * 5 + [[1.0, 2.0]] * 7), "float32[2]|ragged", "to one shape"),
  # Data of another kind than what can be trained on: all examples.
  "example": (good(12, example=np.arange(12)), "has 'example', which is a key of trialbook's own", "rename it"),
  "is_example": (good(12, is_example=np.ones(12)), "has 'is_example', which is a key of trialbook's own", "rename it"),
  "spaces": (good(12, **{"my box": np.ones(12)}), "has the key 'my box'", "a key is letters, digits and underscores"),
  "hyphens": (good(12, inputs={"my-x": np.ones((12, 3))}), "has the key 'inputs/my-x'", "letters, digits and under"),
  "nameless": (good(12, **{"": np.ones(12)}), "has the key ''", "a key is letters, digits and underscores"),
  "above others": (
    good(12, box=np.ones((12, 4)), **{"box/left": np.ones(12)}),
    "has both 'box' and 'box/left'",
    "cannot have others below it",
  ),
  "weights that are words": (good(12, weights=["a"] * 12), "weights are <U1", "at least one for each example"),
  "nested words": (
    good(12, inputs={"x": np.ones((12, 3)), "caption": ["cat"] * 12}),
    "inputs/caption are text",
    "encode them as numbers",
  ),
  "labels that are float": (good(12, labels=np.full(12, 0.5)), "labels are float64", "set task.name=regression"),
  "labels that are whole": (good(12, labels=np.full(12, 2.0)), "labels are float64", "labels.astype(np.int32)"),
  "labels that are one-hot": (good(12, labels=ONE_HOT), "labels are float64", "labels.argmax(axis=-1)"),
  "labels that are bool": (good(12, labels=np.ones(12, bool)), "labels are bool", "labels.astype(np.int32)"),
  "labels that are words": (good(12, labels=["cat"] * 12), "labels are <U3", "np.unique(labels, return_inverse=True)"),
  "labels that are large": (good(12, labels=np.full(12, 10**12)), "such as 1000000000000", "number the classes from 0"),
  "inputs that are words": (good(12, inputs=np.full((12, 3), "a")), "inputs are <U1", "encode what is not a number"),
  "inputs that are dates": (good(12, inputs=DATES), "inputs are datetime64[D]", "encode what is not a number"),
  "inputs that are bool": (good(12, inputs=np.ones((12, 3), bool)), "inputs are bool", "inputs.astype(np.float32)"),
  "inputs that are complex": (good(12, inputs=np.ones((12, 3), complex)), "inputs are complex128", "imaginary part"),
  "inputs that are large": (
    good(12, inputs=np.full((12, 3), 10**12)),
    "such as 1000000000000",
    "as np.uint32, others as floats",
  ),
  "inputs without features": (good(12, inputs=np.ones(12)), "an axis of features", "inputs[:, None]"),
  "targets that are words": (targets(12, targets=["a"] * 12), "targets are <U1", "classes as integer 'labels'"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_trained_on_is_refused_by_each_source(
  tmp_path: pathlib.Path, plugin: Callable[[Any], PluginDataset], case: str, kind: str
):
  split, problem, remedy = REFUSED[case]
  other = targets(8) if "targets" in split and "labels" not in split else good(8)
  if isinstance(split["inputs"], dict):
    other["inputs"] = {"x": np.ones((8, 3))}
  others = {path for path in split if path.isidentifier()} - {"inputs", "labels", "targets"}
  other |= {path: np.ones((8, *np.shape(split[path])[1:])) for path in others - {"example", "is_example"}}
  told = refusal(kind, {"train": other, "validation": split}, tmp_path, plugin)
  assert told
  place = tmp_path / "data" if kind == "records" else "" if kind == "written records" else "users_own_data:build"
  assert str(place) in told
  assert "validation" in told
  if case.startswith(("a ", "an ")):
    assert re.search(r"example 5|row 5", told), told
  assert any(part in told for part in problem.split("|")), told
  assert remedy in told, told


def test_a_row_that_is_ragged_is_named():
  with pytest.raises(DataError, match="inputs are ragged: row 1 is itself ragged; pad or crop them to one shape"):
    as_array("inputs", [[[1.0], [2.0]], [[1.0], [2.0, 3.0]]])


def test_good_data_passes_each_source(tmp_path: pathlib.Path, plugin: Callable[[Any], PluginDataset]):
  for kind in KINDS:
    (tmp_path / kind).mkdir()
    assert refusal(kind, {"train": good(8), "validation": good(12)}, tmp_path / kind, plugin) == ""
    (tmp_path / kind / "targets").mkdir()
    assert refusal(kind, {"train": targets(8), "validation": targets(12)}, tmp_path / kind / "targets", plugin) == ""


def config(dataset: Any, task: Any = None, **changes: Any) -> Config:
  made = mlp(batch_size=8, evaluation__batch_size=32, evaluation__train_examples=0, max_train_steps=4)
  task = Classification() if task is None else task
  made = made.model_copy(update={"dataset": dataset, "task": task, "schedule": Constant()})
  return made.override({path.replace("__", "."): value for path, value in changes.items()})


CLASSIFICATION, LANGUAGE, REGRESSION = Classification(), LanguageModel(), Regression()
IMAGES = np.ones((12, 6, 6, 1), np.float32)
PIXELS = np.arange(12 * 36).reshape(12, 6, 6) % 4
NO_TASK: dict[str, tuple[dict[str, Any], Any, str]] = {
  "pixels, classified": (good(12, inputs=IMAGES, labels=PIXELS), CLASSIFICATION, r"\[6, 6\] .*a task of your own"),
  "pixels, as text": (good(12, inputs=IMAGES, labels=PIXELS), LANGUAGE, r"\[6, 6\] .*a task of your own"),
  "pixels, regressed": (good(12, inputs=IMAGES, labels=PIXELS), REGRESSION, r"give numbers as 'targets'"),
  "a column, classified": (good(12, labels=np.arange(12)[:, None] % 4), CLASSIFICATION, r"give labels\[:, 0\]"),
  "a column, as text": (good(12, labels=np.arange(12)[:, None] % 4), LANGUAGE, r"give labels\[:, 0\]"),
  "one-hot, classified": (good(12, labels=ONE_HOT.astype(int)), CLASSIFICATION, r"one-hot, give labels\.argmax"),
  "one-hot for integers": (
    good(12, inputs=ONE_HOT.astype(int), labels=ONE_HOT.astype(int)),
    CLASSIFICATION,
    r"one-hot, give labels\.argmax",
  ),
  "many labels, classified": (
    good(12, labels=np.ones((12, 5), int)),
    CLASSIFICATION,
    r"yes or no, give them as 'targets'",
  ),
  "as many as inputs": (good(12, labels=np.arange(36).reshape(12, 3) % 4), CLASSIFICATION, r"language_model.*argmax"),
  "classes, as text": (good(12), LANGUAGE, r"set task\.name=classification"),
  "classes, regressed": (good(12), REGRESSION, r"set task\.name=classification"),
  "targets, classified": (targets(12), CLASSIFICATION, r"set task\.name=regression"),
  "targets, as text": (targets(12), LANGUAGE, r"set task\.name=regression"),
}


def named(inputs: str, answers: str) -> dict[str, Any]:
  split = good(12)
  return {inputs: split["inputs"], answers: split["labels"]}


class Boxes:
  """A task that reads a nested array, and says nothing of outputs."""

  def keys(self, info: Any) -> list[str]:
    return ["inputs/image", "boxes"]

  def model_inputs(self, batch: dict[str, Any]) -> Any:
    return batch["inputs"]["image"]

  def loss(self, outputs: Any, batch: dict[str, Any]) -> Any:
    return outputs.mean(axis=-1)


BOXES = PluginTask(name="test_every_source_is_checked:Boxes")
IMAGE = {"image": np.ones((12, 6, 6, 1), np.float32)}
MISSING: dict[str, tuple[dict[str, Any], Any, list[str]]] = {
  "other names": (
    named("x", "y"),
    CLASSIFICATION,
    [r"the classification task needs 'inputs'; .*gives 'x', 'y'; ", "needs 'labels'; .*gives 'x', 'y'; "],
  ),
  "names of one": (
    named("image", "label"),
    CLASSIFICATION,
    ["needs 'inputs'; .*gives 'image', 'label'; ", "needs 'labels'; .*gives 'image', 'label'; did you mean 'label'"],
  ),
  "another name of the inputs": (
    named("input", "labels"),
    CLASSIFICATION,
    ["needs 'inputs'; .*gives 'input', 'labels'; did you mean 'input'"],
  ),
  "another name of the labels": (
    named("inputs", "y"),
    CLASSIFICATION,
    ["needs 'labels'; .*gives 'inputs', 'y'; "],
  ),
  "other names and ids": (
    named("x", "y") | {"id": np.arange(12)},
    CLASSIFICATION,
    ["needs 'inputs'; .*gives 'x', 'y', 'id'; ", "needs 'labels'; "],
  ),
  "another name of the targets": (
    named("inputs", "target"),
    REGRESSION,
    ["the regression task needs 'targets'; .*gives 'inputs', 'target'; did you mean 'target'"],
  ),
  "no labels": (good(12, labels=None), CLASSIFICATION, ["needs 'labels'; .*gives 'inputs'; "]),
  "of a task of one's own": (
    good(12, box=np.ones((12, 4)), inputs=IMAGE),
    BOXES,
    [r"the test_\S+:Boxes task needs 'boxes'; .*gives 'inputs', 'labels', 'box'; did you mean 'box'"],
  ),
  "a nested one": (
    {"inputs": {"imgae": IMAGE["image"]}, "boxes": np.ones((12, 4))},
    BOXES,
    ["needs 'inputs/image'; .*gives 'inputs', 'boxes'; did you mean 'inputs/imgae'"],
  ),
}


@pytest.mark.parametrize("case", MISSING)
def test_what_a_task_needs_and_the_dataset_lacks_is_told_with_what_there_is(
  tmp_path: pathlib.Path, plugin: Callable[[Any], PluginDataset], case: str
):
  split, task, messages = MISSING[case]
  for splits in ({"train": split, "validation": split}, {"train": Items(split), "validation": Items(split)}):
    found = checks.problems(config(plugin(Data(splits=splits, num_classes=4)), task), tmp_path / "run")
    assert len(found) == len(messages), found
    for told, message in zip(found, messages, strict=True):
      assert re.search(message, told), told


def test_what_is_needed_and_in_no_batch_is_told_with_the_reason(
  tmp_path: pathlib.Path, plugin: Callable[[Any], PluginDataset]
):
  without, boxes = {"inputs": IMAGE}, np.ones((12, 4))
  ragged = [[[0.0] * 4], *[[[0.0] * 4, [1.0] * 4]] * 11]
  for train, validation, why in (
    (without | {"boxes": boxes}, without, "validation has none"),
    (without, without | {"boxes": boxes}, "train has none"),
    (without | {"boxes": boxes}, without | {"boxes": boxes[:, 1:]}, r"of validation are float32\[3\], those of train"),
    (without | {"boxes": boxes}, without | {"boxes": at(5, np.nan, boxes)}, "validation: boxes are not all finite"),
    (without | {"boxes": ragged}, without | {"boxes": ragged}, r"train: boxes are ragged: row 0 has shape \[1, 4\]"),
    (without | {"boxes": ["left"] * 12}, without | {"boxes": boxes}, "train: boxes are text, .*encode them as numbers"),
  ):
    dataset = plugin({"train": train, "validation": validation})
    (told,) = checks.problems(config(dataset, BOXES), tmp_path / "run")
    assert re.search(f"needs 'boxes', which no batch has, because .*{why}", told), told


@pytest.mark.parametrize("case", NO_TASK)
def test_data_of_another_task_is_told_what_takes_it_and_is_not_sent_in_circles(
  tmp_path: pathlib.Path, plugin: Callable[[Any], PluginDataset], case: str
):
  split, task, message = NO_TASK[case]
  dataset = plugin({"train": split, "validation": split})
  told = "\n".join(checks.problems(config(dataset, task), tmp_path / "run"))
  assert re.search(message, told), told
  # Each task that the message names takes the data.
  for name in re.findall(r"set task\.name=(\w+)", told.split("if each")[0]):
    named = {"classification": CLASSIFICATION, "language_model": LANGUAGE, "regression": REGRESSION}[name]
    assert checks.problems(config(dataset, named), tmp_path / "run") == []


def test_text_is_what_the_language_model_takes(tmp_path: pathlib.Path, plugin: Callable[[Any], PluginDataset]):
  text = np.arange(12 * 5).reshape(12, 5) % 4
  dataset = plugin({split: {"inputs": text, "labels": text} for split in ("train", "validation")})
  told = checks.problems(config(dataset), tmp_path / "run")
  assert "if they are a sequence, as in text, set task.name=language_model, which takes a label" in told[0]
  assert checks.problems(config(dataset, LANGUAGE), tmp_path / "run") == []


@pytest.mark.parametrize(
  ("inputs", "length"),
  [
    (np.ones((12, 6, 18, 1), np.uint8), 4),  # captchas: four characters
    (np.ones((12, 6, 18, 1), np.uint8), 6),
    (np.ones((12, 6, 18, 1), np.float32), 40),  # an image and its tokens
    (np.ones((12, 50, 3), np.float32), 13),  # speech, subsampled
    (np.ones((12, 3), np.int32), 7),
  ],
)
def test_sequences_of_labels_of_any_length_are_what_the_language_model_takes(
  tmp_path: pathlib.Path, plugin: Callable[[Any], PluginDataset], inputs: np.ndarray, length: int
):
  split = {"inputs": inputs, "labels": np.arange(12 * length).reshape(12, length) % 4}
  dataset = plugin({"train": split, "validation": split})
  assert checks.problems(config(dataset, LANGUAGE), tmp_path / "run") == []
  (told,) = checks.problems(config(dataset), tmp_path / "run")
  assert "if they are a sequence" in told


def test_more_classes_than_labels_are_refused_unless_they_are_meant(
  tmp_path: pathlib.Path, plugin: Callable[[Any], PluginDataset]
):
  split = good(12, labels=at(5, 1_000_003, np.zeros(12, int)))
  splits = {"train": split, "validation": good(12)}
  told = "\n".join(checks.problems(config(plugin(splits)), tmp_path / "run"))
  assert re.search(r"1,000,004 classes, but there are only 24 labels; number the classes from 0", told)
  assert load(plugin(Data(splits=splits, num_classes=1_000_004)), seed=0, batch_size=4).info.num_classes == 1_000_004
  # As many classes as labels may be honest: each example is one of its own.
  splits = {"train": good(12, labels=np.arange(12)), "validation": good(12)}
  assert load(plugin(splits), seed=0, batch_size=4).info.num_classes == 12


def test_all_problems_are_told_at_once(tmp_path: pathlib.Path, plugin: Callable[[Any], PluginDataset]):
  splits = {
    "train": good(12, labels=np.ones(12), inputs=np.full((12, 3), np.nan)),
    "validation": good(12, example=np.ones(12)),
    "test": good(12, labels=at(5, 9, np.zeros(12, int))),
    "extra": good(12),
  }
  found = checks.problems(config(plugin(Data(splits=splits, num_classes=4))), tmp_path / "run")
  assert len(found) == 5
  told = "\n".join(found)
  for part in ("labels are float64", "inputs are not all finite", "'example'", "such as 9", "unknown split 'extra'"):
    assert part in told
  splits = {"train": good(12), "validation": splits["test"]}
  found = checks.problems(
    config(plugin(Data(splits=splits, num_classes=4, normalization=("mean", 1)))), tmp_path / "run"
  )
  told = "\n".join(found)
  assert len(found) == 2
  assert "normalization must be (means, deviations), each of 3 numbers" in told
  assert "validation: labels must be 0 to 3" in told


def warned(dataset: PluginDataset, **changes: Any) -> list[str]:
  read = load(dataset, seed=0, batch_size=4)
  task = REGRESSION if read.info.num_targets else LANGUAGE if read.info.label_shape else CLASSIFICATION
  made = config(dataset, task, **changes)
  return checks.warnings(made, read, bind(task.build(dataset), read.info, task.name))


def timestamps(scale: float) -> np.ndarray:
  return np.stack([1.7e9 + scale * np.arange(12), np.arange(12), np.ones(12)], axis=1)


WARNED: dict[str, tuple[dict[str, Any], str]] = {
  "labels that start at 1": (good(12, labels=1 + np.arange(12) % 4), "labels start at 1, .*give labels - 1"),
  "classes that never occur": (
    good(12, labels=np.arange(12) % 4 * 2),
    r"3 of 7 classes \(first: 1\) have no training example",
  ),
  "timestamps": (good(12, inputs=timestamps(1.0)), "float32 rounds feature 0 by up to 11.*subtract the mean"),
  "large targets": (targets(12, targets=2**24 + np.arange(12)), "targets are int64, and float32 rounds"),
  "uint16 images": (good(12, inputs=np.ones((12, 4, 4, 1), np.uint16)), "inputs are integers.*normalization="),
  "integer rows": (good(12, inputs=np.ones((12, 4), np.int32)), "inputs are integers.*normalization="),
}


@pytest.mark.parametrize("case", WARNED)
def test_what_is_probably_a_mistake_is_warned_of(plugin: Callable[[Any], PluginDataset], case: str):
  split, message = WARNED[case]
  (told,) = warned(plugin({"train": split, "validation": split}))
  assert re.search(message, told), told
  if case not in ("labels that start at 1", "classes that never occur"):
    (told,) = warned(plugin(Data(splits={"train": Items(split), "validation": Items(split)}, num_classes=4)))
    assert re.search(message, told), told


def test_a_class_count_that_examples_cannot_fill_is_warned_of(plugin: Callable[[Any], PluginDataset]):
  items = Items(good(12))
  (told,) = warned(plugin(Data(splits={"train": items, "validation": items}, num_classes=2_000_000)))
  assert "num_classes = 2,000,000, but train has 12 examples. Check num_classes." in told


@pytest.mark.parametrize(
  "split",
  [
    good(12),
    good(12, inputs=np.random.default_rng(0).random((12, 3))),
    good(12, inputs=np.full((12, 3), 0.1)),
    good(12, inputs=0.1 + 1e-17 * np.arange(36).reshape(12, 3)),
    good(12, inputs=timestamps(3e6)),
    good(12, inputs=np.ones((12, 4, 4, 1), np.uint8)),
    targets(12, targets=np.arange(12)),
  ],
)
def test_honest_data_is_not_warned_of(plugin: Callable[[Any], PluginDataset], split: dict[str, Any]):
  assert warned(plugin({"train": split, "validation": split})) == []
  assert warned(plugin(Data(splits={"train": Items(split), "validation": Items(split)}, num_classes=4))) == []


def test_symbols_are_no_integers_that_want_normalization(plugin: Callable[[Any], PluginDataset]):
  text = np.arange(12 * 4).reshape(12, 4) % 4
  dataset = plugin({split: {"inputs": text, "labels": text} for split in ("train", "validation")})
  assert warned(dataset, model__name="transformer") == []
  assert warned(dataset, model__name="my_net:Net") == []


@pytest.mark.slow
@pytest.mark.parametrize(("split", "key"), [("train", "inputs"), ("validation", "inputs"), ("validation", "labels")])
def test_a_broken_example_that_is_read_while_training_is_the_datas_fault_and_not_the_hyperparameters(
  tmp_path: pathlib.Path, plugin: Callable[[Any], PluginDataset], programs: Programs, split: str, key: str
):
  broken = at(17, np.nan, np.ones((32, 3))) if key == "inputs" else at(17, 4, np.zeros(32, int))
  splits = {name: Items(good(32, **({key: broken} if name == split else {}))) for name in ("train", "validation")}
  made = config(plugin(Data(splits=splits, num_classes=4)), max_train_steps=8)
  with pytest.raises(UserError, match=rf"{split}, example 17: {key} (are not all finite: nan|must be 0 to 3)"):
    run(made, tmp_path / "run", programs=programs)


@pytest.mark.slow
@pytest.mark.usefixtures("clean_flags")
def test_the_command_leaves_with_2_and_the_places(
  tmp_path: pathlib.Path, plugin: Callable[[Any], PluginDataset], capfd: pytest.CaptureFixture[str]
):
  plugin({"train": good(12, example=np.ones(12)), "validation": good(12, inputs=[[1.0], [1.0, 2.0]])})
  arguments = ["--set=dataset.name=users_own_data:build", "--set=model.name=mlp", "--set=schedule.name=constant"]
  assert command.train([f"--workdir={tmp_path / 'run'}", *arguments]) == errors.USER_MISTAKE
  told = capfd.readouterr().err
  assert "trialbook train: 2 problems:" in told
  assert "train: has 'example'" in told
  assert "validation: inputs are ragged: row 0 has shape [1], row 1 has [2]" in told
  assert "Traceback" not in told
