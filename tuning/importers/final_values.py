"""Values at the end of trials, which tables with one row per run give instead of curves."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from trialbook.metric_names import better
from trialbook.tuning.importers import metric_names
from trialbook.tuning.importers.cells import is_empty, number, numbers
from trialbook.tuning.importers.column_types import NONE, doubts, shortened
from trialbook.tuning.importers.declarations import Declared
from trialbook.tuning.importers.run_columns import Columns, Style, plain_name, result_name
from trialbook.tuning.importers.run_rows import Row, Table
from trialbook.tuning.importers.source import Options
from trialbook.tuning.records import State
from trialbook.tuning.study import Objective

RETURNED = "value"
"""Column of what a trial of Optuna returned."""

Curves = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Trial -> metric -> step -> value."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinalValues:
  """What trials have at their end, together with their curves.

  Attributes:
    curves: trial -> metric, as it is called there -> step -> value.
    names: metric, as it is called there -> our name.
    objective: by which trials are ranked, where only this table can say it; None otherwise.
    states: of trials that differ from what their row says, with the reason.
    any_length: trials whose step does not say whether they ran to their end.
    notes: what was decided, in sentences.
  """

  curves: Curves
  names: Mapping[str, str]
  objective: Objective | None
  states: Mapping[str, tuple[State | None, str | None]]
  any_length: Collection[str]
  notes: Sequence[str]


def final_values(
  table: Table,
  columns: Columns,
  trials: Mapping[str, Row],
  curves: Curves,
  options: Options,
  declared: Declared,
  problems: list[str],
) -> FinalValues:
  """Return curves, and the columns of results as curves of one value where there are no others of these metrics.

  The step of such a value is the trial's last one in its curves, or that of a column such as `step`; or else 1. A trial
  that did not run to its end, and of which no step is known, has no such value: it would seem to be one of the end.

  Args:
    table: of the trials.
    columns: what its columns are.
    trials: its rows, by name.
    curves: trial -> metric -> step -> value.
    options: of the import.
    declared: what the user declares.
    problems: to which what is wrong is added.
  """
  style = columns.style
  logged: dict[str, str] = {}
  for metric in sorted({metric for own in curves.values() for metric in own}):
    logged.setdefault(metric_names.ours(metric), metric)
  names = {column: _name(column, columns, bool(curves)) for column in columns.results}
  notes: list[str] = []
  values = {column: _numbers(table, column, trials, problems, notes) for column in columns.results}
  repeated = [column for column in columns.results if names[column] in logged or column in logged.values()]
  at_end = [column for column in columns.results if column not in repeated]
  objective, ranked = _objective(at_end, names, style, bool(curves), options, declared)
  found = {trial: {metric: dict(points) for metric, points in own.items()} for trial, own in curves.items()}
  steps = _steps(table, columns, trials)
  states: dict[str, tuple[State | None, str | None]] = {}
  unplaced: set[str] = set()
  for trial, row in trials.items():
    own = found.setdefault(trial, {})
    last = max((step for points in own.values() for step in points), default=None)
    known = last if last is not None else steps.get(trial)
    is_whole = row.state in (None, "complete", "infeasible")
    for column in columns.results:
      value = values[column].get(trial)
      metric = column if column in at_end else logged.get(names[column], column)
      if value is None or metric in own:
        continue
      # Not finite is what ended a trial, but a pruned one may be written so for want of a value.
      if known is None and not is_whole and (abs(value) < float("inf") or row.state == "pruned"):
        unplaced |= {trial} if column == ranked else set()
      else:
        own[metric] = {max(known or (max(steps.values(), default=1)), 1): value}
    lacks = ranked is not None and ranked not in own and trial not in unplaced
    if ranked is not None and lacks and (reason := _without_value(row, names[ranked], trial in curves)):
      states[trial] = ("failed", reason)
  if at_end:
    notes.append(_about_results(at_end, columns, bool(curves), bool(steps)))
  if repeated:
    notes.append(f"Columns left out, because curves have the same metrics: {', '.join(repeated)}.")
  empty = sum(trials[trial].state == "complete" for trial in states)
  notes += [] if ranked is None else _about_absence(names[ranked], len(unplaced), empty)
  # Steps differ where batch sizes do, and a column of epochs may be that of the best one; Ray's count what was trained.
  counts = plain_name(columns.special.get("step", "")) == "training_iteration"
  any_length = {trial for trial, row in trials.items() if trial not in curves and (row.state is not None or not counts)}
  return FinalValues(
    curves={trial: own for trial, own in found.items() if own},
    names={column: names[column] for column in at_end},
    objective=objective,
    states=states,
    any_length=any_length,
    notes=notes,
  )


def _name(column: str, columns: Columns, has_curves: bool) -> str:
  """Return our name of a result."""
  name = result_name(column, columns.style)
  if columns.style is not None and columns.style.name == "Optuna" and column == RETURNED:
    return "objective"
  others = [result_name(other, columns.style) for other in columns.results if other != column]
  # If it is the only result that can rank trials, nothing says what it was measured on.
  if not has_curves and name.lower() == "loss" and all(better(other) is None for other in others):
    return name
  return metric_names.ours(name)


def _numbers(
  table: Table, column: str, trials: Mapping[str, Row], problems: list[str], notes: list[str]
) -> dict[str, float]:
  """Return the numbers of a column by trial; NaN where it is written, none where the cell is empty."""
  cells = {trial: table.columns[column][row.index] for trial, row in trials.items()}
  there = {
    trial: cell
    for trial, cell in cells.items()
    if number(cell) is not None or not (is_empty(cell) or (isinstance(cell, str) and cell.strip().lower() in NONE))
  }
  found = numbers(there, decimal_comma=table.rows.separator == ";")
  told = [
    f"{trials[trial].at}, column {column}: {there[trial]!r} should be a number, nan, inf, or empty"
    for trial, reason in found.wrong.items()
    if not reason
  ]
  told = [*shortened(told, f"column {column}")]
  reasons = {trial: reason for trial, reason in found.wrong.items() if reason}
  told += doubts(column, reasons, there, lambda trial: trials[trial].at)
  problems += told
  notes += [f"{column}: {note}." for note in found.notes] if not told else []
  return dict(found.values)


def _steps(table: Table, columns: Columns, trials: Mapping[str, Row]) -> dict[str, int]:
  column = columns.special.get("step")
  if column is None:
    return {}
  cells = table.columns[column]
  found = {trial: number(cells[row.index]) for trial, row in trials.items()}
  # Logging that begins at 0 means one that ends there too; 0 is the state before training here.
  return {trial: max(int(step), 1) for trial, step in found.items() if step is not None and step == step}


def _objective(
  at_end: Sequence[str],
  names: Mapping[str, str],
  style: Style | None,
  has_curves: bool,
  options: Options,
  declared: Declared,
) -> tuple[Objective | None, str | None]:
  """Return the objective that only this table says, and the column of results by which trials are ranked."""
  asked = options.objective or (declared.objective and declared.objective.metric)
  if asked is not None:
    spellings = {asked, metric_names.ours(asked), options.rename.get(asked, asked)}
    named = [c for c in at_end if spellings & {c, names[c], options.rename.get(c, c)}]
    return None, next(iter(named), None)
  if has_curves:
    return None, None
  for metric in metric_names.DEFAULTS:
    if metric in names.values():
      return None, next(column for column in at_end if names[column] == metric)
  known = [column for column in at_end if column == RETURNED] if style is not None else []
  known = known or [column for column in at_end if better(names[column]) is not None] or list(at_end)
  mode = options.mode or (better(names[known[0]]) if len(known) == 1 else None)
  if len(known) != 1 or mode is None:
    return None, known[0] if len(known) == 1 else None
  return Objective(options.rename.get(known[0], names[known[0]]), mode), known[0]


def _without_value(row: Row, metric: str, has_curves: bool) -> str | None:
  """Return why a trial without a value failed; None if its state says something else."""
  if has_curves or row.reason is not None:
    return None
  if row.state == "failed":
    return f"recorded as {row.recorded}, without {metric}: an error, or a value that was not a number"
  if row.state == "complete":
    return f"recorded as {row.recorded}, but without {metric}: an empty cell may stand for NaN"
  return f"no {metric} was recorded" if row.state is None else None


def _about_results(at_end: Sequence[str], columns: Columns, has_curves: bool, has_steps: bool) -> str:
  what = f"Results, not hyperparameters: {', '.join(at_end)}"
  if has_curves:
    return f"{what}. They count as values at the end, because curves do not have them."
  where = f"at the step of the column {columns.special['step']!r}" if has_steps else "at step 1"
  return f"{what}. Each trial has one value of them, {where}, and no curve; findings about curves need curves.csv."


def _about_absence(metric: str, unplaced: int, empty: int) -> list[str]:
  """Return how many trials have no value: those that did not finish, and those that did."""
  notes = []
  if unplaced:
    what = "1 trial that did not finish has" if unplaced == 1 else f"{unplaced} trials that did not finish have"
    notes.append(f"{what} no {metric} here, because no column says at which step theirs was measured.")
  if empty:
    what = "1 finished trial has" if empty == 1 else f"{empty} finished trials have"
    counts = "counts" if empty == 1 else "count"
    notes.append(f"{what} no {metric} and {counts} as failed. pandas writes NaN as an empty cell.")
  return notes
