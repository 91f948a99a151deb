"""Logs as tables: a row for each step of each trial, instead of a row for each trial.

A table is a log if a column that names trials repeats its names at other steps. What is the same in all rows of each
trial belongs to the trial, and what varies is a curve. Or the rows have columns `metric` and `value`.
"""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trialbook.metric_names import better
from trialbook.tuning.importers.cells import is_empty, number
from trialbook.tuning.importers.rows import Rows
from trialbook.tuning.importers.run_columns import NAMES, STEPS, describes_run, is_numeric, label, plain_name
from trialbook.tuning.importers.run_rows import Table

LONG = ("metric", "value")
"""Columns of a log with a row for each value."""
_CHART = re.compile(r"(?P<run>.+) - (?P<metric>.+?)(?:__(?:MIN|MAX))?")
"""Columns of a chart that W&B exports: one for each run."""


@dataclasses.dataclass(frozen=True)
class Log:
  """The two tables that a log holds.

  Attributes:
    trials: a row for each trial.
    curves: a row for each value: `trial`, `step`, `metric`, `value`.
    notes: how it was read.
  """

  trials: Table
  curves: Rows
  notes: Sequence[str]


def split(table: Table) -> Log | None:
  """Return a log as two tables; None if the table has one row for each trial."""
  named = {plain_name(column): column for column in reversed([*table.columns])}
  steps = [named[name] for name in STEPS if name in named and _are_whole(table.columns[named[name]])]
  for name in (named[name] for name in NAMES if name in named):
    for step in steps:
      if name != step and _repeats(table.columns[name], table.columns[step]):
        return _split(table, name, step)
  return None


def is_chart(columns: Sequence[str]) -> bool:
  """Return whether the columns are those of a chart that W&B exports, which has no hyperparameters."""
  return len(columns) > 1 and plain_name(columns[0]) in STEPS and all(map(_CHART.fullmatch, columns[1:]))


def melted(table: Rows) -> Rows:
  """Return curves with a column for each metric as rows with one value each; others as they are."""
  named = {plain_name(column): column for column in reversed(table.columns)}
  trial = next((named[name] for name in NAMES if name in named), None)
  step = next((named[name] for name in STEPS if name in named), None)
  if trial is None or step is None or any(column in table.columns for column in LONG):
    return table
  metrics = [column for column in table.columns if column not in (trial, step) and not describes_run(column)]
  places = {column: table.columns.index(column) for column in (trial, step, *metrics)}

  def rows() -> Iterator[tuple[int, Sequence[Any]]]:
    for line, cells in table.rows:
      for metric in metrics:
        if not is_empty(cells[places[metric]]):
          yield line, (cells[places[trial]], cells[places[step]], metric, cells[places[metric]])

  return dataclasses.replace(table, columns=(trial, "step", *LONG), rows=rows())


def _are_whole(cells: Sequence[Any]) -> bool:
  return bool(cells) and all(
    (value := number(cell)) is not None and value >= 0 and value.is_integer() for cell in cells
  )


def _repeats(names: Sequence[Any], steps: Sequence[Any]) -> bool:
  """Return whether most names stand in several rows, at different steps."""
  at: dict[str, set[str]] = {}
  for name, step in zip(names, steps, strict=True):
    at.setdefault(label(name), set()).add(label(step))
  return 2 * sum(len(those) > 1 for those in at.values()) > len(at) and "" not in at


def _split(table: Table, name: str, step: str) -> Log:
  rows: dict[str, list[int]] = {}
  for index, cell in enumerate(table.columns[name]):
    rows.setdefault(label(cell), []).append(index)
  long = all(column in table.columns for column in LONG)
  others = [column for column in table.columns if column not in (name, step, *(LONG if long else ()))]
  fixed = {column: one for column in others if (one := _of_trials(table.columns[column], rows.values())) is not None}
  is_metric = {c for c in others if better(c) is not None and is_numeric(table.columns[c]) and not describes_run(c)}
  varying = [c for c in others if c not in fixed or c in is_metric]
  metrics = [] if long else [c for c in varying if is_numeric(table.columns[c]) and not describes_run(c)]
  left_out = [column for column in varying if column not in metrics]
  kept = {name: [*rows], **{column: cells for column, cells in fixed.items() if column not in metrics}}
  lines = [table.lines[those[0]] for those in rows.values()]

  def curves() -> Iterator[tuple[int, Sequence[Any]]]:
    for index, line in enumerate(table.lines):
      own = table.columns[name][index], table.columns[step][index]
      if long:
        yield line, (*own, *(table.columns[column][index] for column in LONG))
        continue
      for metric in metrics:
        if not is_empty(cell := table.columns[metric][index]):
          yield line, (*own, metric, cell)

  file = table.rows.path.name
  notes = [
    f"{file} is a log: its {len(table.lines)} rows are the steps ({step}) of {len(rows)} trials ({name})."
    + ("" if long else f" Their curves are {', '.join(metrics)}.")
  ]
  if left_out:
    notes.append(f"{file}: columns that vary within a trial and are no curves were left out: {', '.join(left_out)}.")
  trials = Table(table.rows, kept, lines, table.unpacked)
  return Log(trials, dataclasses.replace(table.rows, columns=(name, "step", *LONG), rows=curves()), notes)


def _of_trials(cells: Sequence[Any], rows: Any) -> list[Any] | None:
  """Return a cell for each trial, the only one that its rows have; None if they have several."""
  found = []
  for those in rows:
    filled: Mapping[str, Any] = {str(cells[index]): cells[index] for index in those if not is_empty(cells[index])}
    if len(filled) > 1:
      return None
    found.append(next(iter(filled.values()), cells[those[0]]))
  return found
