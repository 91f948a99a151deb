"""Curves as a table with a row for each value: columns `trial`, `step`, `metric`, `value`."""

import dataclasses
import difflib
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from trialbook.naming import nearest
from trialbook.tuning.importers.cells import LARGEST_WHOLE, is_empty, number, numbers
from trialbook.tuning.importers.column_types import shortened
from trialbook.tuning.importers.rows import Rows
from trialbook.tuning.importers.run_columns import NAMES, label, plain_name

Curves = dict[str, dict[str, dict[int, float]]]
"""Trial -> metric -> step -> value."""

SHOWN = 3
"""Rows that a note about repeated ones names."""


@dataclasses.dataclass
class _Repeated:
  """Rows for a metric of a trial at a step that an earlier row has: how many are equal to it, and which are not."""

  equal: list[str] = dataclasses.field(default_factory=list)
  different: list[str] = dataclasses.field(default_factory=list)

  def add(self, place: str, trial: str, metric: str, step: int, earlier: float, later: float) -> None:
    if earlier == later or (earlier != earlier and later != later):
      self.equal.append(place)
    else:
      self.different.append(f"trial {trial}, {metric}, step {step}: {earlier:g}, then {later:g} in {place}")

  def notes(self, name: str) -> list[str]:
    found = []
    if self.equal:
      rows = "1 row repeats an earlier one and was" if len(self.equal) == 1 else f"{len(self.equal)} rows repeat"
      rest = "" if len(self.equal) == 1 else " earlier ones and were"
      found.append(f"{name}: {rows}{rest} merged ({_some(self.equal, ', ')}).")
    if self.different:
      what = "1 value was given twice, and differently" if len(self.different) == 1 else ""
      what = what or f"{len(self.different)} values were given twice, and differently"
      found.append(f"{name}: {what}; the later row counts ({_some(self.different, '; ')}).")
    return found


@dataclasses.dataclass(frozen=True)
class CurveTable:
  """Curves of a table.

  Attributes:
    path: of the table.
    curves: trial -> metric -> step -> value.
    column: that names the trials.
    places: where each trial is first, in words.
  """

  path: pathlib.Path
  curves: Curves
  column: str
  places: Mapping[str, str]

  def unknown(self, trials: Collection[str]) -> list[str]:
    """Return what is wrong with trials that the other table does not have."""
    told = []
    for trial in self.curves:
      if trial not in trials:
        close = difflib.get_close_matches(trial, sorted(trials), n=3, cutoff=0.0)
        at = f"{self.places[trial]}, column {self.column}"
        told.append(f"{at}: {trial!r} is no trial of the other table{nearest(trial, close)}")
    return [*shortened(told, self.path)]


def read_curves(table: Rows, problems: list[str], notes: list[str]) -> CurveTable:
  """Return the curves of a table.

  An empty value is NaN. Of two values of a metric at one step the later row counts; notes say which rows these are.

  Args:
    table: its rows.
    problems: to which what is wrong is added.
    notes: to which what is read in a way that is not plain is added.
  """
  found: Curves = {}
  spellings = {plain_name(column): column for column in reversed(table.columns)}
  first = next((spellings[name] for name in NAMES if name in spellings), "trial")
  columns = (first, "step", "metric", "value")
  lines: dict[str, str] = {}
  curve_table = CurveTable(table.path, found, first, lines)
  if lacking := [column for column in columns if column not in table.columns]:
    problems += [f"{table.at(1)}: column {column!r} is missing{nearest(column, table.columns)}" for column in lacking]
    return curve_table
  places = [table.columns.index(column) for column in columns]
  told: list[tuple[int, str]] = []
  labels: dict[Any, str] = {}
  odd: list[tuple[int, str, Any, str, Any]] = []
  plain_cells: tuple[Any, Any] | None = None
  has_point = False
  repeated = _Repeated()

  def add(line: int, trial: str, step: Any, at: int, metric: str, worth: float) -> None:
    if not 0 <= at <= LARGEST_WHOLE:
      told.append((line, f"{table.at(line)}, column step: {step!r} should be a whole number from 0 on, below 2^53"))
    elif not metric or metric == "step":
      told.append((line, f"{table.at(line)}, column metric: {metric!r} should be a name such as validation/error"))
    else:
      if trial not in found:
        lines[trial] = table.at(line)
      curve = found.setdefault(trial, {}).setdefault(metric, {})
      if at in curve:
        repeated.add(table.place(line), trial, metric, at, curve[at], worth)
      curve[at] = worth

  for line, cells in table.rows:
    trial, step, metric, value = (cells[place] for place in places)
    if trial not in labels:
      labels[trial] = label(trial)
    try:
      at, worth = int(step), float(value)
      # Python reads 1_0 as a number, and makes a whole one of 2.5.
      is_odd = (isinstance(step, float) and step != at) or (isinstance(step, str) and "_" in step)
      is_odd = is_odd or (isinstance(value, str) and "_" in value)
    except (TypeError, ValueError):
      exact, read = number(step), float("nan") if is_empty(value) else number(value)
      is_odd = exact is None or not exact.is_integer() or read is None
      at, worth = (0, 0.0) if is_odd else (int(exact or 0), read or 0.0)
    if is_odd:
      odd.append((line, labels[trial], step, metric, value))
      continue
    if plain_cells is None or (not has_point and "." in str(value)):
      plain_cells, has_point = (step, value), "." in str(value)
    add(line, labels[trial], step, at, metric, worth)
  if odd:
    _read_odd(table, odd, plain_cells, told, notes, add)
  problems += shortened([text for _, text in sorted(told)], table.path)
  notes += repeated.notes(table.path.name)
  return curve_table


def _read_odd(
  table: Rows,
  odd: list[tuple[int, str, Any, str, Any]],
  plain_cells: tuple[Any, Any] | None,
  told: list[tuple[int, str]],
  notes: list[str],
  add: Any,
) -> None:
  """Add the rows whose step or value is not written plainly, by the rule of `cells.numbers`.

  Args:
    table: of the rows.
    odd: line, trial, step, metric and value of each.
    plain_cells: step and value of a row that is written plainly; None if there is none.
    told: to which what is wrong is added, with the line.
    notes: to which what is read in a way that is not plain is added.
    add: takes line, trial, step as it is written, step, metric and value.
  """
  has_comma = table.separator == ";"
  beside = {-1: plain_cells} if plain_cells is not None else {}
  rows = dict(enumerate(odd))
  steps = numbers({key: row[2] for key, row in rows.items()} | {k: c[0] for k, c in beside.items()})
  texts = {key: row[4] for key, row in rows.items() if not is_empty(row[4])}
  values = numbers(texts | {key: cells[1] for key, cells in beside.items()}, decimal_comma=has_comma)
  failed = False
  for key, (line, trial, step, metric, value) in rows.items():
    at = steps.values.get(key)
    worth = values.values.get(key) if key in texts else float("nan")
    if at is None or not at.is_integer():
      reason = steps.wrong.get(key) or "should be a whole number from 0 on"
      told.append((line, f"{table.at(line)}, column step: {step!r} {reason}"))
    elif worth is None:
      reason = values.wrong.get(key) or "should be a number, nan, inf, or empty"
      told.append((line, f"{table.at(line)}, column value: {value!r} {reason}"))
    else:
      add(line, trial, step, int(at), metric, worth)
      continue
    failed = True
  if not failed:
    notes += [f"{table.path.name}: {note}." for note in (*steps.notes, *values.notes)]


def _some(texts: list[str], between: str) -> str:
  more = f"{between}and {len(texts) - SHOWN} more" if len(texts) > SHOWN else ""
  return between.join(texts[:SHOWN]) + more
