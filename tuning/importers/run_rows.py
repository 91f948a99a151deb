"""The rows of a table with one row per run: the name, the state and the times of each trial."""

import dataclasses
import difflib
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from trialbook.naming import nearest
from trialbook.tuning.importers.cells import is_empty, number
from trialbook.tuning.importers.column_types import NONE, shortened
from trialbook.tuning.importers.rows import Rows
from trialbook.tuning.importers.run_columns import label
from trialbook.tuning.importers.times_of_runs import moment, seconds
from trialbook.tuning.importers.unpacked import unpacked
from trialbook.tuning.records import State

STATES: Mapping[str, State] = {
  **dict.fromkeys(
    ("complete", "completed", "finished", "done", "terminated", "success", "succeeded", "ok"), "complete"
  ),
  **dict.fromkeys(("infeasible", "diverged"), "infeasible"),
  **dict.fromkeys(("failed", "fail", "crashed", "error", "errored", "out_of_memory"), "failed"),
  **dict.fromkeys(
    ("stopped", "killed", "preempted", "preempting", "cancelled", "canceled", "timeout", "paused"), "stopped"
  ),
  "pruned": "pruned",
  "running": "running",
  **dict.fromkeys(("pending", "waiting", "scheduled", "queued"), "pending"),
}
"""States as programs call them, in lower case, and ours."""

LIKE_TRIAL = 0.8
"""Similarity to `trial` from which on a column's name is a slip."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
  """A trial's row.

  Attributes:
    index: among the rows of the table.
    at: its place, for messages.
    state: None if the table says none.
    recorded: as it is written.
    reason: of the state.
    seconds, training_seconds: durations.
    started, finished: in seconds since the epoch.
  """

  index: int
  at: str
  state: State | None
  recorded: str
  reason: str | None
  seconds: float | None
  training_seconds: float | None
  started: float | None
  finished: float | None


@dataclasses.dataclass(frozen=True)
class Table:
  """The cells of a table.

  Attributes:
    rows: its file.
    columns: name -> cells.
    lines: numbers of the rows, for messages.
    unpacked: columns that held dictionaries.
  """

  rows: Rows
  columns: Mapping[str, Sequence[Any]]
  lines: Sequence[int]
  unpacked: Sequence[str]


def read_table(table: Rows, problems: list[str]) -> Table | None:
  """Return the cells of a table by column; None if its columns have no names of their own. Add to `problems`.

  Columns without a name are left out if they are empty or count the rows, as pandas writes its index.
  """
  if not table.columns:
    problems.append(f"{table.path}: is empty; its first line should name the columns")
    return None
  lines: list[int] = []
  cells: list[Sequence[Any]] = []
  for line, row in table.rows:
    lines.append(line)
    cells.append(row)
  columns = [[row[place] for row in cells] for place in range(len(table.columns))]
  named = [place for place, name in enumerate(table.columns) if name or not _is_index(columns[place])]
  names = [table.columns[place] for place in named]
  before = len(problems)
  twice = sorted({name for name in names if name and names.count(name) > 1})
  problems += [f"{table.at(1)}: column {name!r} is there twice" for name in twice]
  for place in named:
    if not table.columns[place]:
      problems.append(f"{table.at(1)}, column {place + 1}: has no name; leave it out, or name it")
  if len(problems) > before:
    return None
  flat, held = unpacked({table.columns[place]: columns[place] for place in named})
  return Table(table, flat, lines, held)


def trials_of(
  table: Table, special: Mapping[str, str], labels: Sequence[str] | None, problems: list[str], notes: list[str]
) -> dict[str, Row]:
  """Return the rows by the names of their trials, in order; numbers from 0 on if no column names them.

  Args:
    table: of the trials.
    special: "name", "state", ... -> the column that holds it.
    labels: names of the trials in curves; None: there are no curves.
    problems: to which what is wrong is added.
    notes: to which what was merged is added.
  """
  at, columns = table.rows.at, table.columns
  name = special.get("name")
  if name is None:
    close = difflib.get_close_matches("trial", columns, n=1, cutoff=LIKE_TRIAL)
    numbered = set(labels or ()) <= {str(index) for index in range(len(table.lines))}
    if close or not numbered:
      problems.append(f"{at(1)}: column 'trial' is missing{nearest('trial', columns)}")
      return {}
  found: dict[str, Row] = {}
  told: list[str] = []
  merged: list[str] = []
  for index, line in enumerate(table.lines):
    cells = {what: columns[column][index] for what, column in special.items()}
    trial = str(index) if name is None else label(cells["name"])
    if not trial:
      told.append(f"{at(line)}, column {name}: is empty; give each trial a name or a number")
      continue
    if trial in found:
      earlier = found[trial].index
      if all(column[index] == column[earlier] for column in columns.values()):
        merged.append(table.rows.place(line))
      else:
        there = table.rows.place(table.lines[earlier])
        told.append(f"{at(line)}, column {name}: {trial!r} stands in {there} already, with other cells")
      continue
    state = cells.get("state")
    text = "" if is_empty(state) else str(state).strip().lower().removeprefix("trialstate.")
    text = "" if text in NONE else text
    if text and text not in STATES:
      known = STATES if difflib.get_close_matches(text, STATES, n=1) else typing.get_args(State)
      told.append(f"{at(line)}, column {special['state']}: {state!r} is not a state{nearest(text, known)}")
    reason = cells.get("reason")
    found[trial] = Row(
      index=index,
      at=at(line),
      state=STATES.get(text),
      recorded="" if not text else str(state).strip(),
      reason=None if is_empty(reason) else str(reason),
      seconds=_duration(cells, special, "seconds", at(line), told),
      training_seconds=_duration(cells, special, "training_seconds", at(line), told),
      started=_moment(cells.get("started")),
      finished=_moment(cells.get("finished")),
    )
  problems += shortened(told, table.rows.path)
  if name is None and (equal := _equal(table)):
    notes.append(
      f"{table.rows.path.name}: rows that are equal were kept as trials of their own ({'; '.join(equal[:5])})."
    )
  if merged:
    repeats = "row repeats another one and was" if len(merged) == 1 else "rows repeat others and were"
    notes.append(f"{table.rows.path.name}: {len(merged)} {repeats} merged ({', '.join(merged[:5])}).")
  return found


def _equal(table: Table) -> list[str]:
  """Return the places of rows whose cells are equal, those of each such row together."""
  places: dict[tuple[str, ...], list[str]] = {}
  for index, line in enumerate(table.lines):
    key = tuple(str(cells[index]) for cells in table.columns.values())
    places.setdefault(key, []).append(table.rows.place(line))
  return [", ".join(those) for those in places.values() if len(those) > 1]


def _duration(
  cells: Mapping[str, Any], special: Mapping[str, str], what: str, at: str, told: list[str]
) -> float | None:
  cell = cells.get(what)
  if is_empty(cell) or (isinstance(cell, str) and cell.strip().lower() in NONE):
    return None
  value = seconds(cell)
  if value is None:
    told.append(f"{at}, column {special[what]}: {cell!r} should be a number of seconds, or empty")
  return value


def _moment(cell: Any) -> float | None:
  return None if is_empty(cell) else moment(cell)


def _is_index(cells: Sequence[Any]) -> bool:
  """Return whether the cells of a column without a name are empty, or count the rows."""
  return all(map(is_empty, cells)) or [number(cell) for cell in cells] == [float(n) for n in range(len(cells))]
