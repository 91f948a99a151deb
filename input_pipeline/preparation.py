"""Puts the files of a dataset where training reads them, and writes streams into files that can be."""

import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from trialbook.errors import DataError
from trialbook.input_pipeline.conversion import by_path, stacked
from trialbook.input_pipeline.datasets import tfds, tfds_preparation
from trialbook.input_pipeline.datasets.array_record import write_array_record
from trialbook.input_pipeline.datasets.plugin import Data, built
from trialbook.input_pipeline.items import named, padded
from trialbook.input_pipeline.registry import PREPARE, datasets
from trialbook.naming import nearest


def prepare(name: str, found_in: pathlib.Path | None, data_dir: str | None) -> pathlib.Path:
  """Prepare a dataset and return its folder.

  Args:
    name: of the dataset, or "tfds:NAME".
    found_in: the folder that holds its files now; None if it needs none.
    data_dir: of prepared datasets; None is the default.

  Raises:
    DataError: if the dataset is unknown or needs no preparation, or its files are missing or wrong.
  """
  if name in PREPARE:
    return PREPARE[name](found_in, data_dir)
  if re.match(tfds.NAME, name):
    return tfds_preparation.prepare(name.removeprefix("tfds:"), found_in, data_dir)
  if name in datasets():
    raise DataError(f"dataset {name} needs no preparation; those that do: {', '.join(PREPARE)}, tfds:NAME")
  raise DataError(f"unknown dataset {name!r}{nearest(name, [*PREPARE, 'tfds:NAME'])}")


def write(
  name: str,
  to: pathlib.Path,
  *,
  kwargs: Mapping[str, Any],
  num_classes: int | None,
  records_per_file: int,
) -> pathlib.Path:
  """Write what a function of the user's returns, streams too, as a directory for `dataset.name=array_record`.

  Args:
    name: of the function, "module:function"; it returns what `dataset.name` accepts, or streams in place of splits.
    to: the directory, which must not be there yet.
    kwargs: arguments of the function.
    num_classes: labels are below it; None: as the function says.
    records_per_file: number of records after which a new file begins.

  Raises:
    DataError: as `write_array_record`, or the function returns something else.
  """
  data = built("function", name, kwargs)
  if not isinstance(data.splits, Mapping):
    raise DataError(f"function {name!r}: got a {type(data.splits).__name__}; it must be a dict of splits")
  return write_array_record(
    to,
    {split: _examples(split, one, data) for split, one in data.splits.items()},
    num_classes=data.num_classes if num_classes is None else num_classes,
    records_per_file=records_per_file,
    notice=data.notice,
    ignore_label=data.ignore_label,
  )


def _examples(split: str, given: Any, data: Data) -> Iterable[Mapping[str, Any]] | Mapping[str, Any]:
  if isinstance(given, Mapping | tuple):
    arrays = by_path(named(given, data.keys))
    return padded(arrays, data.pad)
  if hasattr(given, "read"):
    raise DataError(f"{split}: gives whole batches; give examples one by one to write them")
  if not hasattr(given, "__iter__") and not (hasattr(given, "__len__") and hasattr(given, "__getitem__")):
    raise DataError(f"{split}: is a {type(given).__name__}; it must give examples, one after the other")
  return _one_by_one(given, data)


def _one_by_one(given: Any, data: Data) -> Iterator[Mapping[str, Any]]:
  # A class of torch has a length and places, and need not be iterable.
  has_places = hasattr(given, "__len__") and hasattr(given, "__getitem__")
  for example in (given[index] for index in range(len(given))) if has_places else given:
    one = stacked([named(example, data.keys)])
    yield {path: rows[0] for path, rows in padded(one, data.pad).items()}
