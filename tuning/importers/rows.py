"""Rows of a CSV or Parquet file, one after the other."""

import contextlib
import csv
import dataclasses
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from trialbook.errors import UserError

SEPARATORS = (",", ";", "\t")
"""Separators of cells: spreadsheets write semicolons where numbers have a decimal comma."""


@dataclasses.dataclass(frozen=True)
class Rows:
  """The contents of a table's file.

  Attributes:
    path: of the file.
    columns: their names.
    rows: each with the place that messages name, `line 5` or `row 4`, and its cells: texts from CSV, Python's values
      from Parquet, None for null.
    separator: of cells; "" for Parquet.
  """

  path: pathlib.Path
  columns: Sequence[str]
  rows: Iterable[tuple[int, Sequence[Any]]]
  separator: str = ""

  def at(self, number: int) -> str:
    """Return where a row is."""
    return f"{self.path}, {self.place(number)}"

  def place(self, number: int) -> str:
    """Return where a row is, inside its file."""
    return f"{'row' if self.path.suffix == '.parquet' else 'line'} {number}"


@contextlib.contextmanager
def opened(path: pathlib.Path) -> Iterator[Rows]:
  """Yield the rows of a file, while it is open.

  The separator of a CSV file is the one of `SEPARATORS` that gives its header the most columns.

  Raises:
    UserError: if it cannot be read, also while the rows are; or a row has another number of cells than the header.
  """
  if path.suffix == ".parquet":
    yield _parquet(path)
    return
  try:
    with path.open(newline="", encoding="utf-8-sig") as file:
      start, skipped = 0, 0
      if re.fullmatch(r"sep=.\r?\n?", file.readline(), flags=re.IGNORECASE):
        start, skipped = file.tell(), 1  # Spreadsheets say so in a line before the header.
      file.seek(start)
      header = file.readline()
      separator = max(SEPARATORS, key=lambda one: len(next(csv.reader([header], delimiter=one), [])))
      file.seek(start)
      reader = csv.reader(file, delimiter=separator)
      columns = [name.strip() for name in next(reader, [])]
      yield Rows(path, columns, _cells(path, reader, len(columns), skipped), separator)
  except (csv.Error, UnicodeDecodeError) as error:
    raise UserError(f"{path} cannot be read as CSV in UTF-8: {error}") from None


def _cells(path: pathlib.Path, reader: Any, count: int, skipped: int) -> Iterator[tuple[int, Sequence[str]]]:
  for cells in reader:
    line = reader.line_num + skipped
    if len(cells) != count:
      if not cells:
        continue
      if len(cells) > count and not any(cells[count:]):
        cells = cells[:count]  # Spreadsheets leave separators at the end of a line.
      else:
        hint = (
          "; put cells that have commas into quotes" if len(cells) > count and reader.dialect.delimiter == "," else ""
        )
        raise UserError(f"{path}, line {line}: should have {count} cells, as the header has; it has {len(cells)}{hint}")
    yield line, cells


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
