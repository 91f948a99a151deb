"""The type of a hyperparameter's column: numbers, whole numbers, true and false, or texts."""

import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trialbook.tuning.importers import inferred
from trialbook.tuning.importers.cells import Numbers, is_empty, numbers
from trialbook.tuning.importers.declarations import Declared
from trialbook.tuning.importers.source import plain

SHOWN = 20
"""Problems of one file that are reported; of the others, only their number is."""

NONE = ("none", "null", "nan", "na", "n/a", "<na>", "nat")
"""Texts, in lower case, by which programs write that there is no value."""

_TRUE = ("true", "yes", "on")
_FALSE = ("false", "no", "off")


def typed(
  name: str,
  cells: Mapping[str, Any],
  declared: Declared,
  *,
  decimal_comma: bool,
  at: Callable[[str], str],
  problems: list[str],
  notes: list[str],
) -> dict[str, Any]:
  """Return a column's values by trial, without those whose cell is empty; all have one type.

  A text such as `None` among numbers, or among true and false, is None.

  Args:
    name: of the hyperparameter.
    cells: by trial.
    declared: what the user says of it, which wins.
    decimal_comma: see `cells.numbers`.
    at: place of a trial's row, for messages.
    problems: to which what is wrong is added.
    notes: to which what is read in a way that is not plain is added.
  """
  cells = {trial: cell.strip() if isinstance(cell, str) else cell for trial, cell in cells.items()}
  cells = {trial: cell for trial, cell in cells.items() if not is_empty(cell)}
  if declared.is_chosen(name) and "values" in declared.stored[name]:
    return {trial: declared.value(name, cell) for trial, cell in cells.items()}
  here = {trial: cell for trial, cell in cells.items() if not _is_none(cell)}
  absent = {trial: None for trial in cells if trial not in here}
  if not declared.is_numeric(name) and (truths := _truths(here)) is not None:
    written = list(dict.fromkeys(str(cell) for cell in here.values()))
    if len({text.lower() for text in written}) > 2 or not {text.lower() for text in written} <= {"true", "false"}:
      notes.append(f"{name}: {_list(written)} are read as true or false.")
    if absent:
      notes.append(f"{name}: {_list([*dict.fromkeys(str(cells[trial]) for trial in absent)])} is a third value.")
    return _in_order(cells, truths | absent)
  found = numbers(here, decimal_comma=decimal_comma)
  wrong = dict(found.wrong)
  wrong |= {trial: "" for trial, value in found.values.items() if not abs(value) < float("inf")}
  if here and not wrong:
    notes += [f"{name}: {note}." for note in found.notes]
    return _in_order(cells, _as_numbers(name, here, found, declared, notes) | absent)
  # One slip among numbers is a mistake; a column of words is a choice.
  doubtful = [trial for trial, reason in wrong.items() if reason]
  may_be_texts = declared.is_chosen(name) or not (doubtful or 2 * len(wrong) < len(here))
  if here and (declared.is_numeric(name) or not may_be_texts):
    should_be = "should be a finite number, or empty where it does not exist"
    told = [f"{at(t)}, column {name}: {cells[t]!r} {should_be}" for t, reason in wrong.items() if not reason]
    problems += [*shortened(told, f"column {name}"), *doubts(name, {t: r for t, r in wrong.items() if r}, cells, at)]
    return {}
  return {trial: plain(cell) for trial, cell in cells.items()}


def shortened(told: Sequence[str], where: str | pathlib.Path) -> Iterator[str]:
  """Yield the first problems of many, and how many more there are."""
  yield from told[:SHOWN]
  if len(told) > SHOWN:
    yield f"{where}: and {len(told) - SHOWN} problems more like these"


def doubts(name: str, reasons: Mapping[Any, str], cells: Mapping[Any, Any], at: Callable[[Any], str]) -> Iterator[str]:
  """Yield each reason why cells of a column cannot be read, with the first of the cells and the number of others."""
  for reason in dict.fromkeys(reasons.values()):
    those = [key for key, its in reasons.items() if its == reason]
    more = f" ({len(those) - 1} more cells like it)" if len(those) > 1 else ""
    yield f"{at(those[0])}, column {name}: {cells[those[0]]!r} {reason}{more}"


def _is_none(cell: Any) -> bool:
  return isinstance(cell, str) and cell.lower() in NONE


def _truths(cells: Mapping[str, Any]) -> dict[str, bool] | None:
  """Return cells as true and false; None if they are something else. 1 and 0 count beside words only."""
  found: dict[str, bool] = {}
  has_word = False
  for trial, cell in cells.items():
    text = str(cell).lower()
    if text in _TRUE or text in _FALSE:
      found[trial], has_word = text in _TRUE, True
    elif text in ("0", "1", "0.0", "1.0"):
      found[trial] = text.startswith("1")
    else:
      return None
  return found if has_word else None


def _as_numbers(
  name: str, cells: Mapping[str, Any], found: Numbers, declared: Declared, notes: list[str]
) -> dict[str, Any]:
  fields = declared.stored.get(name, {})
  bounds = [fields[bound] for bound in ("min", "max") if bound in fields]
  wants_whole = str(fields.get("scale", "")).startswith("integer")
  wants_floats = fields.get("scale") in ("linear", "log", "reverse_log") or any(one != int(one) for one in bounds)
  # A learning rate of 1.0 is no count, whatever the others are.
  if found.as_floats is not None and not wants_whole and (wants_floats or inferred.is_continuous(name)):
    return dict(found.values)
  if not found.is_whole:
    return dict(found.values)
  if found.as_floats is not None and not wants_whole:
    notes.append(f"{name}: whole numbers that are written as floats ({found.as_floats}) are read as integers.")
  return {trial: _whole(cells[trial], value) for trial, value in found.values.items()}


def _whole(cell: Any, value: float) -> int:
  if isinstance(cell, int):
    return cell
  text = str(cell).lstrip("+-")
  return int(cell) if isinstance(cell, str) and text.isdecimal() else int(value)


def _in_order(cells: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
  return {trial: values[trial] for trial in cells}


def _list(texts: Sequence[str]) -> str:
  return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}"
