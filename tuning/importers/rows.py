"""Rows of a CSV or Parquet file, one after the other."""

import contextlib
import csv
import dataclasses
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from trialbook.errors import UserError


@dataclasses.dataclass(frozen=True)
class Rows:
  """The contents of a table's file.

  Attributes:
    path: of the file.
    columns: their names.
    rows: each with the place that messages name, `line 5` or `row 4`, and its cells: texts from CSV, Python's values
      from Parquet, None for null.
  """

  path: pathlib.Path
  columns: Sequence[str]
  rows: Iterable[tuple[int, Sequence[Any]]]

  def at(self, number: int) -> str:
    """Return where a row is."""
    return f"{self.path}, {'line' if self.path.suffix == '.csv' else 'row'} {number}"


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Rows]:
  """Yield the rows of a file, while it is open.

  Raises:
    UserError: if it cannot be read, also while the rows are; or a row has another number of cells than the header.
  """
  if path.suffix == ".parquet":
    yield _parquet(path)
    return
  try:
    with path.open(newline="", encoding="utf-8-sig") as file:
      reader = csv.reader(file)
      columns = next(reader, [])
      yield Rows(path, [name.strip() for name in columns], _cells(path, reader, len(columns)))
  except (csv.Error, UnicodeDecodeError) as error:
    raise UserError(f"{path} cannot be read as CSV in UTF-8: {error}") from None


def _cells(path: pathlib.Path, reader: Any, count: int) -> Iterator[tuple[int, Sequence[str]]]:
  for cells in reader:
    if len(cells) != count:
      if not cells:
        continue
      raise UserError(
        f"{path}, line {reader.line_num}: should have {count} cells, as the header has; it has {len(cells)}"
      )
    yield reader.line_num, cells


def _parquet(path: pathlib.Path) -> Rows:
  try:
    import pyarrow
    import pyarrow.parquet
  except ImportError:
    raise UserError(f"{path} is read by pyarrow: pip install 'trialbook[data]'; or write it as CSV") from None
  try:
    file = pyarrow.parquet.ParquetFile(path)
  except (pyarrow.ArrowException, OSError) as error:
    raise UserError(f"{path} cannot be read as Parquet: {error}") from None

  def rows() -> Iterator[tuple[int, Sequence[Any]]]:
    number = 0
    for batch in file.iter_batches():
      for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
        number += 1
        yield number, cells

  return Rows(path, file.schema_arrow.names, rows())
