"""Cells of tables as numbers, in the ways that programs and spreadsheets write them.

One rule holds for hyperparameters, results and curves: a decimal comma, groups of three digits, and underscores
between groups are read where the whole column leaves no doubt, and each is reported.
"""

import dataclasses
import decimal
import math
import re
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar

Key = TypeVar("Key", bound=Hashable)

LARGEST_WHOLE = 2**53
"""Whole numbers up to there are exact also as floats, as which tables may give them."""

EXAMPLES = 3
"""Cells that a note shows."""

_PERCENT = re.compile(r"[+-]?\d+(?:[.,]\d+)? ?%")
_WHOLE = re.compile(r"[+-]?\d+")
_WHOLE_FLOAT = re.compile(r"[+-]?\d+\.0+")
_DECIMAL_COMMA = re.compile(r"[+-]?(\d*|\d{1,3}(\.\d{3})+),\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?")
_UNDERSCORES = re.compile(r"[+-]?\d{1,3}(_\d{3})+(\.\d*)?([eE][+-]?\d+)?")


@dataclasses.dataclass(frozen=True)
class Numbers:
  """What the cells of a column are as numbers.

  Attributes:
    values: of the cells that are numbers, by key; those that are not finite too.
    wrong: the cells that are none, each with the reason if it is not plain; "" otherwise.
    notes: sentences about cells that are not written plainly, without the column's name.
    is_whole: whether all are whole numbers, which pandas writes as 128.0 where a cell of the column is empty.
    as_floats: a cell that shows that; None if all are written as whole numbers.
  """

  values: Mapping[Any, float]
  wrong: Mapping[Any, str]
  notes: tuple[str, ...] = ()
  is_whole: bool = False
  as_floats: str | None = None


def is_empty(cell: Any) -> bool:
  """Return whether a cell holds nothing; NaN in a Parquet column is nothing too."""
  return cell is None or cell == "" or cell != cell or (isinstance(cell, str) and not cell.strip())


def number(cell: Any) -> float | None:
  """Return a plainly written cell as a number; None if it is not one."""
  if isinstance(cell, bool):
    return None
  if isinstance(cell, str):
    if "_" in cell:
      return None  # Python reads 1_0 as a number.
  elif not isinstance(cell, int | float | decimal.Decimal):
    return None
  try:
    return float(cell)
  except (ValueError, OverflowError):
    return None


def numbers(cells: Mapping[Key, Any], *, decimal_comma: bool = False) -> Numbers:
  """Return the cells of a column, none of which is empty, as numbers.

  Args:
    cells: by any key.
    decimal_comma: whether the table's separator shows that its numbers have decimal commas, so that 1,000 is one.
  """
  values: dict[Any, float] = {}
  rest: dict[Any, str] = {}
  for key, cell in cells.items():
    if (value := number(cell)) is not None:
      values[key] = value
    else:
      rest[key] = str(cell).strip()
  wrong, notes = {}, []
  with_percent = {key: text for key, text in rest.items() if _PERCENT.fullmatch(text)}
  if with_percent and len(with_percent) == len(cells):
    shares = {key: float(text.rstrip("% ").replace(",", ".")) for key, text in with_percent.items()}
    note = _note("a percent sign", [(text, shares[key]) for key, text in with_percent.items()])
    return Numbers(shares, {}, (note,))
  with_comma = {key: text for key, text in rest.items() if "," in text}
  if with_comma:
    has_point = any(isinstance(cells[key], str) and "." in cells[key] for key in values)
    reason, read = _commas(list(with_comma.values()), has_point, decimal_comma)
    if reason == "" and read is not None:
      values |= {key: read(text) for key, text in with_comma.items()}
      kind = "decimal commas" if read is _with_decimal_comma else "commas between groups of three digits"
      notes.append(_note(kind, [(text, read(text)) for text in with_comma.values()]))
    else:
      wrong |= dict.fromkeys(with_comma, reason)
  with_underscore = {key: text for key, text in rest.items() if "_" in text and "," not in text}
  if with_underscore:
    # 128_256 in a column of such texts is a pair of widths; 1_000 beside other numbers is a thousand.
    fits = all(_UNDERSCORES.fullmatch(text) for text in with_underscore.values())
    if fits and (values or all(text.endswith("_000") for text in with_underscore.values())):
      read_as = {key: float(text.replace("_", "")) for key, text in with_underscore.items()}
      values |= read_as
      notes.append(_note("underscores", [(text, read_as[key]) for key, text in with_underscore.items()]))
    else:
      wrong |= dict.fromkeys(with_underscore, "")
  wrong |= {key: "" for key in rest if key not in values and key not in wrong}
  as_floats = next((str(cells[key]).strip() for key in values if _is_whole_float(cells[key])), None)
  is_whole = bool(values) and not wrong and all(_is_whole(cells[key], value) for key, value in values.items())
  order = [key for key in cells if key in values]
  return Numbers({key: values[key] for key in order}, wrong, tuple(notes), is_whole, as_floats if is_whole else None)


def _commas(texts: list[str], has_point: bool, decimal_comma: bool) -> tuple[str, Callable[[str], float] | None]:
  """Return why texts with a comma are no numbers, "" if they are, and how to read each."""
  decimal_fits = all(_DECIMAL_COMMA.fullmatch(text) for text in texts)
  thousands_fit = all(_THOUSANDS.fullmatch(text) for text in texts)
  if decimal_fits and thousands_fit:
    if decimal_comma or any(text.lstrip("+-").startswith("0") for text in texts):
      thousands_fit = False
    elif has_point:
      decimal_fits = False
    else:
      return "may be a decimal comma or a thousands separator; write it without a comma", None
  if decimal_fits and has_point:
    return "has a decimal comma, and other cells have a decimal point; write all in one way", None
  if decimal_fits:
    return "", _with_decimal_comma
  if thousands_fit:
    return "", lambda text: float(text.replace(",", ""))
  return "", None


def _with_decimal_comma(text: str) -> float:
  return float(text.replace(".", "").replace(",", "."))


def _note(kind: str, examples: list[tuple[str, float]]) -> str:
  shown = ", ".join(f"{text!r} is {value:g}" for text, value in examples[:1])
  return f"{len(examples)} {'number has' if len(examples) == 1 else 'numbers have'} {kind} ({shown})"


def _is_whole(cell: Any, value: float) -> bool:
  if not math.isfinite(value) or not value.is_integer() or abs(value) > LARGEST_WHOLE:
    return isinstance(cell, int) or (isinstance(cell, str) and _WHOLE.fullmatch(cell.strip()) is not None)
  if isinstance(cell, str):
    text = cell.strip()
    # 1e3 is written by somebody who thinks of a float.
    return "e" not in text.lower()
  return True


def _is_whole_float(cell: Any) -> bool:
  if isinstance(cell, str):
    return _WHOLE_FLOAT.fullmatch(cell.strip()) is not None
  return isinstance(cell, float) and cell.is_integer()
