"""Parquet files: the columns that are needed are held in memory, images as they are encoded."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field, PositiveInt

from trialbook.errors import DataError, said
from trialbook.input_pipeline import images
from trialbook.input_pipeline.augmentation import Augmentation
from trialbook.input_pipeline.checked_source import checked, is_split, unknown_split
from trialbook.input_pipeline.conversion import NUMBER_THEM
from trialbook.input_pipeline.items import Pad, measured, padded
from trialbook.input_pipeline.source import SPLITS, Source
from trialbook.naming import nearest
from trialbook.paths import as_local_path
from trialbook.settings import FilePath, Host, Settings, Static

_MEMORY_SHARE = 0.5


class PadLengths(Settings):
  """Lists of different lengths, filled up with zeros to one length; see `trialbook.input_pipeline.items.Pad`."""

  keys: Static[tuple[str, ...]] = Field(min_length=1)
  length: Static[PositiveInt]
  mask: Static[str] = "mask"
  cut: Static[bool] = False


class Parquet(Settings):
  """Rows of Parquet files, such as those of the Hugging Face Hub.

  Numbers, booleans and lists of numbers are read as they are. A column of encoded images (bytes, or a struct with
  `bytes`) becomes images of `size`.
  """

  name: Static[Literal["parquet"]] = "parquet"
  path: Host[FilePath[str | None]] = None
  """The folder."""
  files: Host[dict[str, str]] = Field(default_factory=lambda: {split: f"{split}*.parquet" for split in SPLITS})
  """Patterns of the files of each split, below `path`; a split without files is left out."""
  columns: Static[dict[str, str]] = Field(default_factory=dict)
  """Columns that are read, and the key of each in a batch, such as {"image": "inputs", "label": "labels"}; none: all,
  under their own names."""
  num_classes: Static[int | None] = Field(default=None, ge=1)
  """Labels are below it; None: as the files declare it, or else 1 + the highest label."""
  size: Static[tuple[PositiveInt, PositiveInt]] = (224, 224)
  """Height and width of images in pixels: scaled until they cover it, and cropped around their centre."""
  channels: Static[Literal[1, 3]] = 3
  normalization: Static[tuple[tuple[float, ...], tuple[float, ...]] | None] = None
  """(means, deviations) of the inputs by channel; None: bytes get those of 2,000 training examples."""
  pad: tuple[PadLengths, ...] = ()
  ignore_label: Static[int | None] = None
  """Label that counts in no loss and no metric, such as -1 or 255."""
  workers: Host[int] = Field(default=0, ge=0)
  """Processes that decode, each of which holds the columns; 0: the training process does."""
  augmentation: Augmentation | None = None

  def read(self) -> Source:
    """Read the columns. Raise `DataError` that names what is missing or broken."""
    if self.path is None:
      raise DataError("dataset parquet: dataset.path is not set; set it to the folder of the files")
    folder = as_local_path(self.path)
    if wrong := [split for split in self.files if not is_split(split)]:
      raise DataError(f"dataset parquet: dataset.files: {unknown_split(wrong[0])}")
    paths = {split: sorted(one for one in folder.glob(names) if one.is_file()) for split, names in self.files.items()}
    if missing := [split for split in SPLITS[:2] if not paths.get(split)]:
      raise DataError(
        f"dataset parquet: no file in {folder} is for {missing[0]}: dataset.files = {self.files!r}; name its files"
      )
    self._check_memory(folder, [path for files in paths.values() for path in files])
    tables = _with_ids({split: self._table(files) for split, files in paths.items() if files})
    pads = tuple(Pad(**one.model_dump()) for one in self.pad)
    return checked(
      f"dataset parquet in {folder}",
      "parquet",
      {split: _split(Rows(table, self.size, self.channels, pads)) for split, table in tables.items()},
      num_classes=self.num_classes or self._classes(paths["train"][0], tables["train"]),
      normalization=self.normalization,
      ignore_label=self.ignore_label,
    )

  def _check_memory(self, folder: pathlib.Path, paths: list[pathlib.Path]) -> None:
    """Raise DataError if the columns take more than half of this machine's memory."""
    _, parquet = _pyarrow()
    needed = 0
    for path in paths:
      with _readable(path):
        about = parquet.read_metadata(path)
      groups = [about.row_group(number) for number in range(about.num_row_groups)]
      columns = [group.column(number) for group in groups for number in range(about.num_columns)]
      needed += sum(
        column.total_uncompressed_size
        for column in columns
        if not self.columns or column.path_in_schema.partition(".")[0] in self.columns
      )
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > _MEMORY_SHARE * there:
      raise DataError(
        f"dataset parquet in {folder}: the columns take {needed / 1e9:.1f} GB of {there / 1e9:.1f} GB of memory; name"
        " fewer in dataset.columns, or write them once with `trialbook data write` and train with"
        " dataset.name=array_record"
      )

  def _table(self, paths: list[pathlib.Path]) -> Any:
    arrow, parquet = _pyarrow()
    tables = []
    for path in paths:
      with _readable(path):
        known = parquet.read_schema(path).names
        if absent := [column for column in self.columns if column not in known]:
          raise DataError(f"{path}: has no column {absent[0]!r}{nearest(absent[0], known)}")
        tables.append(parquet.read_table(path, columns=list(self.columns) or None, partitioning=None))
    with _readable(paths[0].parent):
      whole = arrow.concat_tables(tables)
    return whole.rename_columns([self.columns.get(name, name) for name in whole.column_names])

  def _classes(self, path: pathlib.Path, train: Any) -> int | None:
    """Return the number of classes that `datasets` has written into a file, or that follows from the labels."""
    column = next((own for own, key in self.columns.items() if key == "labels"), "labels")
    try:
      about = json.loads((_pyarrow()[1].read_schema(path).metadata or {}).get(b"huggingface", b"{}"))
      return len(about["info"]["features"][column]["names"])
    except (ValueError, KeyError, TypeError):
      pass
    if "labels" not in train.column_names:
      return None
    labels = train.column("labels")
    if str(labels.type) not in _WHOLE:
      raise DataError(f"dataset parquet: labels are {labels.type}, but must be whole numbers; {NUMBER_THEM}")
    import pyarrow.compute

    return 1 + max(0, pyarrow.compute.max(labels).as_py())


@dataclasses.dataclass(frozen=True)
class Rows:
  """The rows of a table in memory.

  Attributes:
    table: of pyarrow.
    size: of images.
    channels: of images.
    pads: lists that are filled up.
    paths: the arrays that are returned; None: all.
  """

  table: Any
  size: tuple[int, int]
  channels: int
  pads: tuple[Pad, ...] = ()
  paths: tuple[str, ...] | None = None

  def __len__(self) -> int:
    return self.table.num_rows

  def only(self, paths: Iterable[str]) -> "Rows":
    """Return the split with these arrays alone."""
    wanted = tuple(paths)
    needed = {*wanted, *measured(self.pads, wanted)}
    table = self.table.select([name for name in self.table.column_names if name in needed])
    return dataclasses.replace(self, table=table, paths=wanted)

  def read(self, indices: np.ndarray) -> dict[str, Any]:
    """Return the rows at these indices: an array [n, ...] for each column, or a list where they are of no one shape."""
    part = self.table.take(indices)
    columns = {name: self._column(name, part.column(name)) for name in part.column_names}
    return padded(columns, self.pads, self.paths)

  def _column(self, name: str, column: Any) -> Any:
    kind = str(column.type)
    if kind in ("binary", "large_binary") or kind.startswith("struct<bytes:"):
      encoded = column.to_pylist()
      encoded = [one["bytes"] if isinstance(one, Mapping) else one for one in encoded]
      if None in encoded:
        raise DataError(f"{name} has no bytes; files that only name images elsewhere cannot be read")
      return images.all_decoded(lambda one: images.decoded(one, self.size, self.channels), encoded)
    if column.null_count:
      raise DataError(f"{name} has no value; fill it in, or leave out such rows")
    if "list<" in kind:
      return [np.asarray(row) for row in column.to_pylist()]
    return column.to_numpy()


def _split(rows: Rows) -> Any:
  """Return a split of rows; in memory as arrays if all its columns are plain numbers."""
  kinds = [str(one.type) for one in rows.table.schema]
  if all(kind in _PLAIN for kind in kinds) and not any(column.null_count for column in rows.table.columns):
    return {name: rows.table.column(name).to_numpy() for name in rows.table.column_names}
  return rows


_WHOLE = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
_PLAIN = (*_WHOLE, "halffloat", "float", "double", "bool")


def _with_ids(tables: Mapping[str, Any]) -> dict[str, Any]:
  """Return the tables with 64-bit columns as uint32 if their numbers need that, and it holds them."""
  import pyarrow.compute as compute

  found = dict(tables)
  for name in found["train"].column_names:
    columns = [table.column(name) for table in found.values() if name in table.column_names]
    if name == "labels" or any(str(column.type) != "int64" or not len(column) for column in columns):
      continue
    ends = [compute.min_max(column).as_py() for column in columns]
    low, high = min(one["min"] or 0 for one in ends), max(one["max"] or 0 for one in ends)
    if low >= 0 and 2**31 <= high < 2**32:
      for split, table in found.items():
        place = table.column_names.index(name)
        found[split] = table.set_column(place, name, table.column(name).cast("uint32"))
  return found


@contextlib.contextmanager
def _readable(path: pathlib.Path) -> Iterator[None]:
  arrow, _ = _pyarrow()
  try:
    yield
  except (OSError, arrow.ArrowException) as error:
    raise DataError(f"{path}: cannot be read: {said(error).splitlines()[0]}") from error


def _pyarrow() -> tuple[Any, Any]:
  try:
    import pyarrow
    import pyarrow.parquet
  except ImportError as error:
    raise DataError("dataset parquet needs pyarrow; run pip install 'trialbook[data]'") from error
  return pyarrow, pyarrow.parquet
