"""Datasets that torch and Hugging Face's `datasets` themselves make: the same batches as from arrays."""

import pathlib
from collections.abc import Callable
from typing import Any

import forms
import numpy as np
import pytest
from forms import CLASSES, SIZES
from test_data_forms import equal

from trialbook.errors import DataError
from trialbook.input_pipeline import Data, Parquet, PluginDataset, load

pytestmark = pytest.mark.evidence
Plugin = Callable[[Any], PluginDataset]


def assert_same(config: Any, like: Any) -> None:
  whole, expected = load(config, seed=3, batch_size=4), load(like, seed=3, batch_size=4)
  for step in (0, 7, 13):
    assert equal(whole.train_batch(step), expected.train_batch(step))
    hosts = [load(config, seed=3, batch_size=4, host_index=index, host_count=2).train_batch(step) for index in (0, 1)]
    joined = {key: np.concatenate([host[key] for host in hosts]) for key in hosts[0]}
    assert equal(joined, expected.train_batch(step))


def test_a_tensor_dataset_of_torch(plugin: Plugin):
  torch = pytest.importorskip("torch")

  def split(name: str) -> Any:
    return torch.utils.data.TensorDataset(*map(torch.from_numpy, forms.arrays(name)))

  assert_same(
    plugin(Data(splits={name: split(name) for name in SIZES}, num_classes=CLASSES)),
    PluginDataset(name="forms:in_memory"),
  )


def test_an_iterable_dataset_of_torch_is_refused_as_a_stream(plugin: Plugin):
  torch = pytest.importorskip("torch")

  class Stream(torch.utils.data.IterableDataset):
    def __iter__(self) -> Any:
      return iter([])

  with pytest.raises(DataError, match="is a Stream, a stream without a length"):
    load(plugin({"train": Stream(), "validation": Stream()}), seed=0, batch_size=4)


def table(name: str) -> Any:
  datasets = pytest.importorskip("datasets")
  inputs, labels = forms.arrays(name)
  features = datasets.Features(
    {
      "x": datasets.Sequence(datasets.Value("float32")),
      "label": datasets.ClassLabel(names=[str(number) for number in range(CLASSES)]),
    }
  )
  return datasets.Dataset.from_dict({"x": inputs.tolist(), "label": labels.tolist()}, features=features)


KEYS = {"x": "inputs", "label": "labels"}


def test_a_table_of_hugging_face(plugin: Plugin):
  datasets = pytest.importorskip("datasets")
  splits = datasets.DatasetDict({name: table(name) for name in SIZES})
  assert_same(plugin(Data(splits=splits, keys=KEYS)), PluginDataset(name="forms:in_memory"))


def test_a_stream_of_hugging_face_is_refused(plugin: Plugin):
  stream = table("train").to_iterable_dataset()
  with pytest.raises(DataError, match="is a IterableDataset, a stream without a length"):
    load(plugin({"train": stream, "validation": stream}), seed=0, batch_size=4)


def test_parquet_as_hugging_face_writes_it(tmp_path: pathlib.Path):
  for name in SIZES:
    table(name).to_parquet(tmp_path / f"{name}.parquet")
  parquet = Parquet(path=str(tmp_path), columns=KEYS)
  assert_same(parquet, PluginDataset(name="forms:in_memory"))
  assert load(parquet, seed=0, batch_size=4).info.num_classes == CLASSES


def test_images_of_hugging_face_are_those_of_parquet(plugin: Plugin, tmp_path: pathlib.Path):
  datasets = pytest.importorskip("datasets")
  made = forms.parquet_images(tmp_path / "images")
  features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("int64")})

  def split(name: str) -> Any:
    found = datasets.Dataset.from_parquet(str(tmp_path / "images" / f"{name}.parquet"), features=features)
    # Pictures of one brightness are the same in each size.
    return found.map(lambda row: {"image": row["image"].resize((8, 8))})

  data = Data(splits={name: split(name) for name in SIZES}, keys={"image": "inputs", "label": "labels"}, num_classes=4)
  assert_same(plugin(data), made)
