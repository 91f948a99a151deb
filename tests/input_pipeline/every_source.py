"""Splits, and every kind of source that they can come from."""

import operator
import pathlib
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trialbook.input_pipeline import ArrayRecord, Data, Dataset, PluginDataset, load, write_array_record
from trialbook.input_pipeline.datasets.record_files import array_record_module

Rows = list[dict[str, Any]]


def good(count: int, **others: Any) -> dict[str, Any]:
  draw = np.random.default_rng(count)
  arrays = {"inputs": draw.standard_normal((count, 3)).astype(np.float32), "labels": np.arange(count) % 4}
  return {key: value for key, value in (arrays | others).items() if value is not None}


def targets(count: int, **others: Any) -> dict[str, Any]:
  return good(count, labels=None, **{"targets": np.linspace(0, 1, 2 * count).reshape(count, 2), **others})


def at(index: int, value: Any, array: Any) -> np.ndarray:
  array = np.array(array)
  array[index] = value
  return array


def mapped(split: Mapping[str, Any], function: Callable[[Any], Any]) -> dict[str, Any]:
  """The same keys, nested as they are, with what a function makes of each array."""
  return {key: mapped(value, function) if isinstance(value, dict) else function(value) for key, value in split.items()}


def size(split: Mapping[str, Any]) -> int:
  first = next(iter(split.values()))
  return size(first) if isinstance(first, dict) else len(first)


def rows(split: Mapping[str, Any]) -> Rows:
  return [mapped(split, operator.itemgetter(index)) for index in range(size(split))]


class Items:
  """Examples one at a time."""

  def __init__(self, split: Mapping[str, Any]):
    self._rows = rows(split)

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index: int) -> dict[str, Any]:
    return self._rows[index]


class ManyItems(Items):
  """Examples by the list."""

  def __getitems__(self, indices: list[int]) -> Rows:
    return [self._rows[index] for index in indices]


class Batches:
  """Examples by the batch."""

  def __init__(self, split: Mapping[str, Any]):
    self._split = split

  def __len__(self) -> int:
    return size(self._split)

  def read(self, indices: np.ndarray) -> dict[str, Any]:
    return mapped(self._split, lambda value: [value[index] for index in indices])


def decode(record: bytes) -> dict[str, Any]:
  return pickle.loads(record)


def own_records(folder: pathlib.Path, splits: Mapping[str, Any]) -> ArrayRecord:
  folder.mkdir()
  for name, split in splits.items():
    writer = array_record_module().ArrayRecordWriter(str(folder / name), "group_size:1")
    for row in rows(split):
      writer.write(pickle.dumps(row))
    writer.close()
  files: Any = {name: name for name in splits}
  decoder = "every_source:decode"
  return ArrayRecord(path=str(folder), files=files, decode=decoder, num_classes=4)


KINDS = ["arrays", "items", "many items", "batches", "records", "written records"]
READ_ONE_BY_ONE = ["items", "many items", "batches", "records"]


def loaded(
  kind: str,
  splits: Mapping[str, Any],
  folder: pathlib.Path,
  plugin: Callable[[Any], PluginDataset],
  ignore_label: int | None = None,
) -> Dataset:
  """A dataset of these splits, come as they may."""
  lazy = {"items": Items, "many items": ManyItems, "batches": Batches}
  if kind == "written records":
    path = write_array_record(folder / "data", splits, num_classes=4, ignore_label=ignore_label)
    return load(ArrayRecord(path=str(path)), seed=0, batch_size=4)
  if kind == "records":
    records = own_records(folder / "data", splits).model_copy(update={"ignore_label": ignore_label})
    return load(records, seed=0, batch_size=4)
  built = {name: lazy[kind](split) for name, split in splits.items()} if kind in lazy else splits
  return load(plugin(Data(splits=built, num_classes=4, ignore_label=ignore_label)), seed=0, batch_size=4)
