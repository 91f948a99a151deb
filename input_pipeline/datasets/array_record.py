"""Datasets in ArrayRecord files, which need not fit in memory.

What `write_array_record` writes is a directory:

  dataset.json                        format, fields, num_classes, normalization; for each split, its files and counts
  train-00000-of-00004.array_record   ... and the other files of the splits

A record is the raw bytes of an example's arrays, little-endian, in C order, one after the other in the order of
`fields`, which has each one's name, dtype and shape. So a batch is decoded by one `np.frombuffer`.
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NotRequired, cast

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from trialbook import files
from trialbook.errors import DataError, UserError, said
from trialbook.import_attribute import PluginError, import_attribute
from trialbook.input_pipeline import source
from trialbook.input_pipeline.augmentation import Augmentation
from trialbook.input_pipeline.cache import fetched
from trialbook.input_pipeline.checked_source import checked, is_split, unknown_split
from trialbook.input_pipeline.conversion import as_ignore_label, converted, label_problem, stacked
from trialbook.input_pipeline.datasets.plugin import PATTERN
from trialbook.input_pipeline.datasets.record_files import Part, RecordFiles, array_record_module, count_records
from trialbook.input_pipeline.source import Batch, Source
from trialbook.paths import as_path
from trialbook.record import Count, Format, Kind, shown, stored
from trialbook.settings import FilePath, Host, Settings, Static

FORMAT = 1
_ABOUT = "dataset.json"


@stored
class Written(TypedDict):
  """`dataset.json`: the fields of an example as (name, dtype, shape), and the files of each split with their counts."""

  format: Format
  fields: list[tuple[str, str, tuple[Count, ...]]]
  splits: dict[str, list[tuple[str, Count]]]
  num_classes: NotRequired[Count | None]
  normalization: NotRequired[tuple[tuple[float, ...], tuple[float, ...]] | None]
  notice: NotRequired[str]
  ignore_label: NotRequired[int | None]


DATASET = Kind(Written, "Restore the file from a copy, or write the dataset again with write_array_record", FORMAT)

Decode = Callable[[bytes], Mapping[str, Any]]


class ArrayRecord(Settings):
  """Examples in ArrayRecord files: a directory that `write_array_record` made, or files of the user's own.

  For one's own: `files` and `decode`, and `num_classes` where there are labels. Reading is by batch and at random;
  nothing is kept in memory.
  """

  name: Static[Literal["array_record"]] = "array_record"
  path: Host[FilePath[str | None]] = None
  """The directory."""
  files: Host[dict[str, str] | None] = None
  """Patterns of the files of each split, below `path`, such as {"train": "train-*"}; None: as dataset.json says."""
  decode: Static[str | None] = Field(default=None, pattern=PATTERN)
  """A function "module:function" from a record (bytes) to a dict of arrays, such as {"inputs": ..., "labels": ...};
  None: what `write_array_record` writes."""
  num_classes: Static[int | None] = Field(default=None, ge=1)
  """For one's own files."""
  ignore_label: Static[int | None] = None
  """Label that counts in no loss and no metric, such as -1 or 255; None: all count, or as dataset.json says."""
  normalization: Static[tuple[tuple[float, ...], tuple[float, ...]] | None] = None
  """(means, deviations) by channel, for one's own files; bytes get those of 2,000 examples, if not given."""
  sharding: Static[Literal["global", "files"]] = "global"
  """global: one random order over all files, the same examples in each batch on any number of hosts. files: for very
  many files; each host reads its own contiguous share of the records, so about 1/hosts of the files (one that lies
  across a border is read by both hosts), in an order of its own. (Without the `dataset.json` of `write_array_record`,
  each host opens all files once at the start, to count their records.) Each example still comes exactly once per epoch
  over all hosts, and resuming is exact on the same number of hosts; but examples never change hosts, and another
  number of hosts means another order."""
  workers: Host[int] = Field(default=0, ge=0)
  """Processes that decode; 0: the training process does. The batches are the same."""
  augmentation: Augmentation | None = None

  def read(self) -> Source:
    """Open the files. Raise `DataError` that names what is missing or broken."""
    if self.path is None:
      raise DataError("dataset array_record: dataset.path is not set; set it to the directory of the records")
    folder = as_path(self.path)
    if not folder.is_dir():
      raise DataError(f"dataset array_record: dataset.path = {self.path} is not a directory")
    about = _about(folder)
    if self.decode is None and about is None:
      how = (
        'set dataset.decode = "module:function" (if write_array_record wrote the directory, restore that file instead)'
      )
      raise DataError(f"dataset array_record: {folder} has no {_ABOUT}, which says how to decode; {how}")
    if self.files is None and about is None:
      raise DataError(
        f'dataset array_record: dataset.files is not set; name the files in {folder}, such as {{"train": "train-*"}}'
      )
    parts = self._parts(folder, about)
    if self.decode is not None:
      try:
        decode = import_attribute("dataset.decode", self.decode)
      except PluginError as error:
        raise DataError(str(error)) from error
      splits: dict[str, Any] = {split: Decoded(RecordFiles(files), decode) for split, files in parts.items()}
    else:
      assert about is not None, "checked above"
      fields = np.dtype(about["fields"])
      splits = {split: Raw(RecordFiles(files), fields) for split, files in parts.items()}
    known: dict[str, Any] = dict(about or {})
    return checked(
      f"dataset array_record in {folder}",
      "array_record",
      splits,
      num_classes=self.num_classes or known.get("num_classes"),
      normalization=self.normalization or known.get("normalization"),
      notice=known.get("notice", ""),
      ignore_label=self.ignore_label if self.ignore_label is not None else known.get("ignore_label"),
    )

  def _parts(self, folder: pathlib.Path, about: Written | None) -> dict[str, list[Part]]:
    found: dict[str, list[Part]] = {}
    if self.files is None:
      assert about is not None, "checked above"
      for split, files in about["splits"].items():
        if missing := [file for file, _ in files if not (folder / file).is_file()]:
          raise DataError(f"dataset array_record in {folder}: missing {', '.join(missing)}")
        found[split] = [Part(path=fetched(folder / file), first=0, count=count) for file, count in files]
      return found
    for split, pattern in self.files.items():
      if not is_split(split):
        raise DataError(f"dataset array_record: dataset.files: {unknown_split(split)}")
      paths = [fetched(path) for path in sorted(folder.glob(pattern)) if path.is_file()]
      if not paths:
        raise DataError(f"dataset array_record: no file in {folder} matches dataset.files.{split} = {pattern!r}")
      found[split] = [Part(path=path, first=0, count=count_records(path)) for path in paths]
    return found


@dataclasses.dataclass(frozen=True)
class Raw:
  """Records of which each is the raw bytes of an example's fields.

  Attributes:
    files: the records.
    fields: what is in each.
    paths: the fields that are returned; None: all.
  """

  files: RecordFiles
  fields: np.dtype
  paths: tuple[str, ...] | None = None

  def __len__(self) -> int:
    return len(self.files)

  def only(self, paths: Iterable[str]) -> "Raw":
    """Return the split with these arrays alone."""
    return dataclasses.replace(self, paths=tuple(paths))

  def read(self, indices: np.ndarray) -> Batch:
    """Return the examples at these indices."""
    records = self.files.read(indices)
    for index, record in zip(indices, records, strict=True):
      if len(record) != self.fields.itemsize:
        raise DataError(f"{self.files.where(int(index))}: has {len(record)} bytes, expected {self.fields.itemsize}")
    rows = np.frombuffer(b"".join(records), self.fields)
    names = (self.fields.names or ()) if self.paths is None else self.paths
    return {name: rows[name].astype(rows[name].dtype, order="C") for name in names}


@dataclasses.dataclass(frozen=True)
class Decoded:
  """Records of which each is decoded by a function.

  Attributes:
    files: the records.
    decode: the function.
    paths: of the arrays that are stacked; None: all.
  """

  files: RecordFiles
  decode: Decode
  paths: tuple[str, ...] | None = None

  def __len__(self) -> int:
    return len(self.files)

  def only(self, paths: Iterable[str]) -> "Decoded":
    """Return the split with these arrays alone."""
    return dataclasses.replace(self, paths=tuple(paths))

  def read(self, indices: np.ndarray) -> Batch:
    """Return the examples at these indices."""
    examples = []
    for index, record in zip(indices, self.files.read(indices), strict=True):
      try:
        examples.append(self.decode(record))
      except Exception as error:
        where = self.files.where(int(index))
        raise DataError(f"{where}: cannot be decoded: {said(error)}") from error
    return stacked(examples, self.paths)


def write_array_record(
  path: str | pathlib.Path,
  splits: Mapping[str, Iterable[Mapping[str, Any]] | Mapping[str, np.ndarray]],
  *,
  num_classes: int | None = None,
  records_per_file: int = 100_000,
  notice: str = "",
  ignore_label: int | None = None,
) -> pathlib.Path:
  """Write a directory that `dataset.name=array_record` reads; it appears whole or not at all.

  Args:
    path: the directory, which must not be there yet.
    splits: "train", "validation" and, if there is one, "test": examples one by one, dicts of arrays such as {"inputs":
      array, "labels": integer}, nested or not, or whole arrays [n, ...] of each. All alike in shape and dtype.
    num_classes: labels are below it; needed if there are labels.
    records_per_file: number of records after which a new file begins.
    notice: what must be said beside every result.
    ignore_label: as `Info.ignore_label`.

  Raises:
    DataError: an example is not like the first, or has a label out of range; a split is empty; the directory is there.
  """
  folder = as_path(path)
  if folder.exists():
    raise DataError(f"{folder} already exists; remove it, or write to another directory")
  ignore_label = as_ignore_label(ignore_label)
  if unknown := [split for split in splits if not is_split(split)]:
    raise DataError(unknown_split(unknown[0]))
  try:
    with files.replacing_folder(folder) as staging:
      writer = _Writer(staging, num_classes, records_per_file, ignore_label)
      written = {split: writer.write(split, _one_by_one(examples)) for split, examples in splits.items()}
      if missing := [split for split in ("train", "validation") if split not in written]:
        raise DataError(f"split {missing[0]!r} is missing; train and validation are required")
      about = {
        "format": FORMAT,
        "fields": [[name, dtype.str, list(shape)] for name, (shape, dtype) in writer.spec.items()],
        "num_classes": None if num_classes is None else int(num_classes),
        "ignore_label": ignore_label,
        "normalization": None if writer.histogram is None else source.histogram_statistics(writer.histogram),
        "notice": notice,
        "splits": written,
      }
      (staging / _ABOUT).write_text(json.dumps(about, indent=1))
  except OSError as error:
    raise DataError(f"cannot write {folder}: {error}") from error
  return folder


class _Writer:
  def __init__(self, folder: pathlib.Path, num_classes: int | None, records_per_file: int, ignore_label: int | None):
    self._folder, self._num_classes, self._records_per_file = folder, num_classes, records_per_file
    self._ignore_label = ignore_label
    self.spec: dict[str, tuple[tuple[int, ...], np.dtype]] = {}
    self.histogram: np.ndarray | None = None

  def write(self, split: str, examples: Iterable[Mapping[str, Any]]) -> list[tuple[str, int]]:
    """Write one split; return its files and how many records each has."""
    counts: list[int] = []
    with contextlib.ExitStack() as closing:
      writer = None
      for number, example in enumerate(examples):
        record = self._encoded(f"{split}, example {number}", split, example)
        if writer is None or counts[-1] == self._records_per_file:
          closing.close()
          path = self._folder / f"{split}-{len(counts):05d}"
          # Each record on its own: they are read in random order.
          writer = array_record_module().ArrayRecordWriter(str(path), "group_size:1,uncompressed")
          closing.callback(writer.close)
          counts.append(0)
        writer.write(record)
        counts[-1] += 1
    if not counts:
      raise DataError(f"{split}: is empty")
    names = [f"{split}-{index:05d}-of-{len(counts):05d}.array_record" for index in range(len(counts))]
    for index, name in enumerate(names):
      os.replace(self._folder / f"{split}-{index:05d}", self._folder / name)
    return list(zip(names, counts, strict=True))

  def _encoded(self, where: str, split: str, example: Mapping[str, Any]) -> bytes:
    try:
      batch, problems, left_out, _ = converted(stacked([example]))
    except DataError as error:
      raise DataError(f"{where}: {error}") from None
    if problems or left_out:
      raise DataError(f"{where}: {'; '.join([*problems, *left_out.values()])}")
    spec = {key: (array.shape[1:], array.dtype.newbyteorder("<")) for key, array in batch.items()}
    if not self.spec:
      self.spec = spec
      if "labels" in batch and self._num_classes is None:
        raise DataError("num_classes is required, because there are labels")
      if "inputs" in batch and batch["inputs"].dtype == np.uint8:
        self.histogram = np.zeros((batch["inputs"].shape[-1], 256), np.int64)
    if spec != self.spec:
      raise DataError(
        f"{where}: is {_told(spec)}; the first example is {_told(self.spec)}; bring all to one shape and dtype"
      )
    if problem := label_problem(batch, self._num_classes, self._ignore_label):
      raise DataError(f"{where}: {problem}")
    if split == "train" and self.histogram is not None:
      source.add_to_histogram(self.histogram, batch["inputs"])
    # In the order of the first example, as readers expect it.
    return b"".join(batch[key].astype(dtype, copy=False).tobytes() for key, (_, dtype) in self.spec.items())


def _told(spec: Mapping[str, tuple[tuple[int, ...], np.dtype]]) -> str:
  return ", ".join(f"{key} {dtype.name}{list(shape)}" for key, (shape, dtype) in spec.items())


def _one_by_one(examples: Iterable[Mapping[str, Any]] | Mapping[str, np.ndarray]) -> Iterable[Mapping[str, Any]]:
  if not isinstance(examples, Mapping):
    return examples
  arrays: Mapping[str, np.ndarray] = source.flat(cast(Any, examples))
  lengths = {key: len(array) for key, array in arrays.items()}
  if len(set(lengths.values())) > 1:
    raise DataError(f"the arrays of a split must have the same length; their lengths are {lengths}")
  return ({key: array[index] for key, array in arrays.items()} for index in range(next(iter(lengths.values()), 0)))


def _about(folder: pathlib.Path) -> Written | None:
  path = folder / _ABOUT
  try:
    about = DATASET.read(path)
    if about is not None:
      for name, dtype, _ in about["fields"]:
        if not _is_dtype(dtype):
          raise DATASET.error(path, [f"fields: the dtype of {name} is {shown(dtype)}"])
      if not about["fields"] or not about["splits"]:
        raise DATASET.error(path, ["it has no fields or no splits"])
    return about
  except UserError as error:
    raise DataError(str(error)) from None


def _is_dtype(name: str) -> bool:
  try:
    np.dtype(name)
  except TypeError:
    return False
  return True
