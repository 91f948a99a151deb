"""A dataset of the user's is a function by name; whatever it gives that cannot be trained on is told."""

import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from trialbook.errors import DataError
from trialbook.input_pipeline import Augmentation, Data, DatasetConfig, PluginDataset, load
from trialbook.input_pipeline.checked_source import checked


def _arrays(n: int, start: int = 0) -> dict[str, np.ndarray]:
  index = np.arange(start, start + n)
  return {"inputs": np.stack([index, index**2], axis=1).astype(np.float64), "labels": index % 3}


class Items:
  """Random access, one example at a time."""

  def __init__(self, arrays: dict[str, np.ndarray]):
    self._arrays = arrays

  def __len__(self) -> int:
    return len(self._arrays["inputs"])

  def __getitem__(self, index: int) -> dict[str, np.ndarray]:
    return {key: array[index] for key, array in self._arrays.items()}


@pytest.fixture
def module(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
  monkeypatch.syspath_prepend(tmp_path)
  written = []

  def write(code: str) -> str:
    name = f"my_data_{tmp_path.name}_{len(written)}".replace("-", "_")
    written.append(name)
    (tmp_path / f"{name}.py").write_text("import numpy as np\nfrom trialbook import input_pipeline\n" + code)
    return name

  return write


def test_a_function_that_returns_arrays_is_a_dataset(module):
  name = module("""
def build(n, scale=1.0):
  x = np.arange(2.0 * n).reshape(n, 2) * scale
  return {"train": {"inputs": x, "labels": np.arange(n) % 3}, "validation": {"inputs": x[:4], "labels": [0, 1, 2, 0]}}
""")
  chosen = {"name": f"{name}:build", "kwargs": {"n": 12, "scale": 0.5}}
  config = TypeAdapter(DatasetConfig).validate_python(chosen)
  assert isinstance(config, PluginDataset)
  dataset = load(config, seed=0, batch_size=6)
  assert (dataset.info.name, dataset.info.num_classes, dataset.info.input_dtype) == (f"{name}:build", 3, "float32")
  assert dict(dataset.info.examples) == {"train": 12, "validation": 4}
  batch = dataset.eval_batch(0, "train", 12)
  assert np.array_equal(batch["inputs"], np.arange(24, dtype=np.float32).reshape(12, 2) / 2)
  assert batch["labels"].dtype == np.int32
  with pytest.raises(DataError, match="no split 'test'; it has train, validation"):
    dataset.eval_batch(0, "test", 4)


def test_a_random_access_source_gives_the_batches_of_the_same_arrays(module):
  in_memory = checked("here", "x", {"train": _arrays(50), "validation": _arrays(10, 50)})
  items = checked("here", "x", {"train": Items(_arrays(50)), "validation": Items(_arrays(10, 50))}, num_classes=3)
  assert in_memory.info == items.info
  indices = np.array([3, 0, 49, 3])
  for split in ("train", "validation"):
    one, other = in_memory.splits[split].read(indices % 10), items.splits[split].read(indices % 10)
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in one)
  assert {k: v.shape for k, v in items.splits["train"].read(np.zeros(0, np.int64)).items()} == {
    "inputs": (0, 2),
    "labels": (0,),
  }


def test_bytes_are_normalized_from_train_and_what_is_given_comes_first(module):
  images = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 2), dtype=np.uint8)
  split = {"inputs": images, "labels": np.zeros(30, int)}
  info = checked("here", "x", {"train": split, "validation": split}).info
  np.testing.assert_allclose(info.normalizations["inputs"][0], images.mean(axis=(0, 1, 2)))
  items = checked("here", "x", {"train": Items(split), "validation": Items(split)}, num_classes=1).info
  assert items.normalization == info.normalization
  given = checked("here", "x", {"train": split, "validation": split}, normalization=([1, 2], np.array([3.0, 4.0])))
  assert given.info.normalization == ((1.0, 2.0), (3.0, 4.0))
  for wrong in (([1], [0.0]), ([1, 2, 3], [1, 1, 1]), "mean", ([1, 2], [1, float("nan")])):
    with pytest.raises(DataError, match="normalization"):
      checked("here", "x", {"train": split, "validation": split}, normalization=wrong)


GOOD = _arrays(6)


@pytest.mark.parametrize(
  ("splits", "problem"),
  [
    ([1, 2], "got a list; it must be a dict of splits: train, validation, test"),
    ({"train": GOOD}, "split 'validation' is missing"),
    ({"train": GOOD, "validation": GOOD, "tset": GOOD}, "unknown split 'tset'; did you mean 'test'?"),
    ({"train": GOOD, "validation": {"inputs": GOOD["inputs"]}}, "validation has no 'labels', but train has"),
    ({"train": GOOD, "validation": {k: v[:0] for k, v in GOOD.items()}}, "validation: is empty"),
    ({"train": GOOD, "validation": Items({k: v[:0] for k, v in GOOD.items()})}, "validation: is empty"),
    ({"train": GOOD, "validation": 7}, "validation: is a int; it must be a dict of arrays, or have __len__"),
    ({"train": GOOD, "validation": {**GOOD, "labels": [0, 1]}}, "has 6 inputs and 2 labels"),
    ({"train": GOOD, "validation": {**GOOD, "labels": np.zeros(6)}}, "labels are float64, but must be 32-bit integers"),
    ({"train": GOOD, "validation": {**GOOD, "inputs": np.zeros((6, 3))}}, r"float32\[3\], those of train float32\[2\]"),
    ({"train": GOOD, "validation": {**GOOD, "inputs": np.zeros(6)}}, "an axis of features"),
    ({"train": GOOD, "validation": {**GOOD, "inputs": np.full((6, 2), "a")}}, "but must be numbers"),
    ({"train": GOOD, "validation": {**GOOD, "labels": np.arange(6) - 1}}, "labels must be 0 to 4 .* such as -1"),
    ({"train": GOOD, "validation": {**GOOD, "inputs": np.full((6, 2), np.nan)}}, "not all finite, first in example 0"),
    (
      {"train": GOOD, "validation": {"inputs": GOOD["inputs"], "targets": GOOD["labels"]}},
      "validation has no 'labels'",
    ),
    ({"train": Items(GOOD), "validation": GOOD}, "num_classes is required"),
  ],
)
def test_what_cannot_be_trained_on_is_told(splits, problem):
  with pytest.raises(DataError, match=rf"here: .*{problem}"):
    checked("here", "x", splits)


def test_all_problems_are_told_together():
  with pytest.raises(DataError, match=r"(?s)split 'validation' is missing.*unknown split 'valid'.*train: is empty"):
    checked("here", "x", {"train": {k: v[:0] for k, v in GOOD.items()}, "valid": GOOD})


def test_labels_out_of_range_are_told_where_they_are_read():
  with pytest.raises(DataError, match="here: train: labels must be 0 to 1 for 2 classes; 2 are not, such as 2"):
    checked("here", "x", {"train": GOOD, "validation": GOOD}, num_classes=2)
  late = checked("here", "x", {"train": Items(GOOD), "validation": Items(GOOD)}, num_classes=2)
  with pytest.raises(DataError, match="here, train, example 5: labels must be 0 to 1"):
    late.splits["train"].read(np.array([0, 1, 5]))


def test_an_example_that_fails_or_differs_is_named():
  class Broken(Items):
    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
      if index == 4:
        raise KeyError("no file 4.png")
      example = super().__getitem__(index)
      return {**example, "inputs": np.zeros(7)} if index == 2 else example

  split = checked("here", "x", {"train": Broken(GOOD), "validation": GOOD}, num_classes=3).splits["train"]
  with pytest.raises(DataError, match=r"here, train, example 4: KeyError: 'no file 4.png'"):
    split.read(np.array([0, 4, 1]))
  with pytest.raises(DataError, match=r"here, train, example 2: inputs are float32\[7\]; those of the first .*\[2\]"):
    split.read(np.array([0, 2]))


def test_targets_may_be_a_column_or_several(module):
  column = {"inputs": GOOD["inputs"], "targets": np.arange(6)}
  info = checked("here", "x", {"train": column, "validation": column}).info
  assert (info.num_targets, info.num_classes, info.label_shape) == (1, None, ())
  several = {"inputs": GOOD["inputs"], "targets": np.zeros((6, 4))}
  assert checked("here", "x", {"train": several, "validation": several}).info.num_targets == 4


def test_data_carries_the_facts_that_arrays_do_not(module):
  name = module("""
def build():
  split = {"inputs": np.zeros((4, 2)), "labels": np.zeros(4, int)}
  return input_pipeline.Data(splits={"train": split, "validation": split}, num_classes=7, notice="made up")
""")
  info = PluginDataset(name=f"{name}:build").read().info
  assert (info.num_classes, info.notice) == (7, "made up")
  assert Data(splits={}).num_classes is None


@pytest.mark.parametrize(
  ("code", "function", "problem"),
  [
    ("", "build", "has no 'build'"),
    ("def biuld(): return 1", "build", "did you mean 'biuld'"),
    ("build = 3", "build", "is a int; it must be a function"),
    ("def build(): raise OSError('disk gone')", "build", r"OSError: disk gone \(.*line 3\)"),
    ("def build(needed): return 1", "build", "missing 1 required positional argument: 'needed'"),
    ("def build(): return 5", "build", "got a int"),
    (
      "import not_there_at_all",
      "build",
      "importing .* failed: ModuleNotFoundError: No module named 'not_there_at_all'",
    ),
  ],
)
def test_a_function_that_cannot_be_used_is_told(module, code, function, problem):
  with pytest.raises(DataError, match=problem):
    load(PluginDataset(name=f"{module(code)}:{function}"), seed=0, batch_size=2)


def test_a_module_that_is_not_there_is_told():
  with pytest.raises(DataError, match=r"there is no module 'nowhere_at_all'; .*looked in"):
    PluginDataset(name="nowhere_at_all:build").read()


@pytest.mark.parametrize("name", ["a:b:c", "a b:c", ":c", "tfds:", "nothing"])
def test_names_that_mean_nothing_are_refused(name):
  with pytest.raises(ValidationError):
    TypeAdapter(DatasetConfig).validate_python({"name": name})


def test_inputs_that_are_not_images_may_be_mixed_but_not_cropped(module):
  name = module("""
def build():
  split = {"inputs": np.eye(6), "labels": np.arange(6)}
  return {"train": split, "validation": split}
""")
  config = PluginDataset(name=f"{name}:build", augmentation=Augmentation(mixup_alpha=0.5))
  assert load(config, seed=0, batch_size=2).train_batch(0)["mixing"].shape == (2,)
  cropped = config.model_copy(update={"augmentation": Augmentation(crop_padding=1)})
  with pytest.raises(DataError, match="only images"):
    load(cropped, seed=0, batch_size=2)
