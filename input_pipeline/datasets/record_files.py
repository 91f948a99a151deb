"""Records out of many ArrayRecord files, by number."""

import collections
import dataclasses
import pathlib
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from trialbook.errors import DataError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
  """Consecutive records of one file.

  Attributes:
    path: the file.
    first: number of the first record in the file.
    count: number of records.
  """

  path: pathlib.Path
  first: int
  count: int


_OPEN_FILES = 64


class RecordFiles:
  """The records of the parts, numbered in their order. A file is opened when it is first read.

  Batches are read with one call for each file that they touch: a call for each record would be 20 to 100 times
  slower. Safe to use from several threads.

  Attributes:
    parts: as they are numbered.
    read_seconds: how long reading took so far, in total.
  """

  def __init__(self, parts: Sequence[Part]):
    self.parts = tuple(parts)
    self._ends = np.cumsum([part.count for part in self.parts])
    # The ones used last, since each keeps its file open.
    self._readers: collections.OrderedDict[pathlib.Path, Any] = collections.OrderedDict()
    self._lock = threading.Lock()
    self.read_seconds = 0.0

  def __len__(self) -> int:
    return int(self._ends[-1]) if len(self._ends) else 0

  def read(self, indices: np.ndarray) -> list[bytes]:
    """Return the records at indices int64 [n], in that order. Raise DataError that names the file and the record."""
    before = time.perf_counter()
    records: list[bytes] = [b""] * len(indices)
    numbers = np.searchsorted(self._ends, indices, side="right")
    for number in np.unique(numbers):
      part = self.parts[number]
      rows = np.flatnonzero(numbers == number)
      within = indices[rows] - (self._ends[number] - part.count) + part.first
      for row, record in zip(rows.tolist(), self._read(part.path, within.tolist()), strict=True):
        records[row] = record
    self.read_seconds += time.perf_counter() - before
    return records

  def where(self, index: int) -> str:
    """Return where a record is, for messages."""
    number = int(np.searchsorted(self._ends, index, side="right"))
    part = self.parts[number]
    return f"{part.path}, record {index - int(self._ends[number]) + part.count + part.first}"

  def _read(self, path: pathlib.Path, within: list[int]) -> list[bytes]:
    with self._lock:
      reader = self._readers.get(path)
      if reader is None:
        reader = self._readers[path] = _open(path)
      self._readers.move_to_end(path)
      # Not closed here: another thread may be reading; it is when nobody has it any more.
      while len(self._readers) > _OPEN_FILES:
        self._readers.popitem(last=False)
    try:
      return reader.read(within)
    except Exception:
      for record in within:
        try:
          reader.read([record])
        except Exception as error:
          raise DataError(f"{path}, record {record}: cannot be read: {error}") from error
      raise


def count_records(path: pathlib.Path) -> int:
  """Return the number of records of a file. Raise DataError if it is not an ArrayRecord file."""
  reader = _open(path)
  count = reader.num_records()
  reader.close()
  return count


def array_record_module() -> Any:
  """Return ArrayRecord itself, which is imported where it is used. Raise DataError if it is not installed."""
  try:
    from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
  except ImportError as error:
    raise DataError(
      f"reading ArrayRecord files needs a package ({error}); run pip install 'trialbook[data]'"
    ) from error
  return array_record_module


def _open(path: pathlib.Path) -> Any:
  # It opens what is not there, or is something else, as a file without records.
  try:
    with open(path, "rb") as file:
      empty = not file.read(1)
  except OSError as error:
    raise DataError(f"{path}: cannot be read: {error.strerror}") from error
  # No read-ahead, since the records are wanted in random order.
  reader = array_record_module().ArrayRecordReader(str(path), "readahead_buffer_size:0")
  if empty or not reader.ok():
    raise DataError(f"{path}: is not an ArrayRecord file, or is incomplete")
  return reader
