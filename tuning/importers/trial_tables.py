"""Studies as tables that anybody can write: a folder with `trials.csv`, `curves.csv`, and perhaps `study.json`.

- `trials.csv`: a row for each trial. Column `trial` (its name); then, if there are, `state` (complete, infeasible,
  failed, stopped, running or pending), `reason`, `seconds`, `training_seconds`; every other column is a hyperparameter.
  An empty cell: it does not exist in this trial. Without `state`, or where it is empty, it follows from the curves: see
  `conversion.state_of`. Columns `step` and `attempts`, and those with the name of a metric, are passed over: a
  `trials.csv` of ours can be imported.
- `curves.csv`: columns `trial`, `step`, `metric`, `value`; an empty value is NaN. Step 0 is the state before training.
- `study.json`: any of `name`, `goal`, `objective` (`metric`, `mode`, `value`), and `hyperparameters`, which
  `declarations` describes.

Each table may be a `.parquet` file of the same columns instead.
"""

import dataclasses
import difflib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from trialbook.errors import UserError
from trialbook.naming import nearest
from trialbook.paths import as_path
from trialbook.tuning.importers import metric_names, rows
from trialbook.tuning.importers.declarations import Declared, read_declared
from trialbook.tuning.importers.rows import Rows
from trialbook.tuning.importers.source import Options, SourceStudy, SourceTrial, plain
from trialbook.tuning.records import State
from trialbook.tuning.study import TRIAL_COLUMNS

TOLD = 20
"""Problems of one file that are reported; of the others, only their number is."""
LARGEST_STEP = 2**53
"""Whole numbers up to there are exact also as floats, which tables may give."""

_STATES: dict[str, State] = {
  "complete": "complete",
  "completed": "complete",
  "finished": "complete",
  "done": "complete",
  "infeasible": "infeasible",
  "diverged": "infeasible",
  "failed": "failed",
  "fail": "failed",
  "crashed": "failed",
  "stopped": "stopped",
  "pruned": "stopped",
  "running": "running",
  "pending": "pending",
}


@dataclasses.dataclass(frozen=True)
class _Row:
  """A row of `trials.csv`: where it is, and the cells of its hyperparameters."""

  number: int
  state: State | None
  reason: str | None
  seconds: float | None
  training_seconds: float | None
  cells: dict[str, Any]


def read(source: str, options: Options) -> list[SourceStudy]:
  """Return the study in a folder of tables.

  Raises:
    UserError: with all that is wrong with its files: what, in which line and column, and what would be right.
  """
  folder = as_path(source)
  if not folder.is_dir():
    raise UserError(f"{source}: there is no such folder; name one that holds trials.csv and curves.csv")
  problems: list[str] = []
  declared = read_declared(folder / "study.json", problems)
  trials_path, curves_path = (_table(folder, name, problems) for name in ("trials", "curves"))
  if trials_path is None or curves_path is None:
    raise UserError(problems)
  with rows.opened(trials_path) as table:
    found = _read_trials(table, problems)
    at = table.at
  with rows.opened(curves_path) as table:
    curves = _read_curves(table, None if problems and not found else set(found), problems)
  metrics = {metric for curve in curves.values() for metric in curve}
  logged = {*metrics, *map(metric_names.ours, metrics), *options.rename.values()}
  # What is declared is set, whatever else is logged under its name; a learning rate is set, and logged where a schedule
  # changes it.
  logged -= {
    name for name in logged if name in declared.stored or metric_names.ours(name) == metric_names.LEARNING_RATE
  }
  if declared.objective is not None:
    logged.add(declared.objective.metric)
  names = [name for name in next(iter(found.values())).cells if name not in TRIAL_COLUMNS] if found else []
  results = [name for name in names if name in logged]
  names = [name for name in names if name not in logged]
  columns = {name: {trial: row.cells[name] for trial, row in found.items()} for name in names}
  values = {
    name: _values(name, cells, declared, lambda trial: at(found[trial].number), problems)
    for name, cells in columns.items()
  }
  hyperparameters = declared.hyperparameters(values, bool(found), problems)
  if problems:
    raise UserError(problems)
  trials = [
    SourceTrial(
      source=trial,
      values={name: column[trial] for name, column in values.items() if trial in column},
      curves=curves.get(trial, {}),
      state=row.state,
      reason=row.reason,
      seconds=row.seconds,
      training_seconds=row.training_seconds,
    )
    for trial, row in found.items()
  ]
  name = options.name or declared.name or folder.resolve().name
  goal = options.goal or declared.goal or f"What do the trials of {name} say?"
  own = SourceStudy(
    source=f"csv: {folder.resolve()}",
    name=name,
    goal=goal,
    trials=trials,
    objective=declared.objective,
    hyperparameters=hyperparameters,
    notes=[f"columns of trials that are metrics, not hyperparameters: {', '.join(results)}"] if results else [],
  )
  return [own]


def number(cell: Any) -> float | None:
  """Return a cell as a number; None if it is not one."""
  if isinstance(cell, bool):
    return None
  try:
    return float(cell)
  except (TypeError, ValueError):
    return None


def _table(folder: pathlib.Path, name: str, problems: list[str]) -> pathlib.Path | None:
  for path in (folder / f"{name}.csv", folder / f"{name}.parquet"):
    if path.is_file():
      return path
  there = sorted(path.name for path in folder.iterdir())
  problems.append(f"{folder}: has no {name}.csv (or {name}.parquet); it has {', '.join(there[:10]) or 'nothing'}")
  return None


def _missing(table: Rows, wanted: Sequence[str], problems: list[str]) -> bool:
  lacking = [name for name in wanted if name not in table.columns]
  problems += [f"{table.at(1)}: column {name!r} is missing{nearest(name, table.columns)}" for name in lacking]
  twice = sorted({name for name in table.columns if table.columns.count(name) > 1})
  problems += [f"{table.at(1)}: column {name!r} is there twice" for name in twice]
  unnamed = "" in table.columns
  if unnamed:
    problems.append(f"{table.at(1)}, column {table.columns.index('') + 1}: has no name; leave it out, or name it")
  return bool(lacking or twice or unnamed)


def _label(cell: Any) -> str:
  """Return a trial's name; 7 and 7.0, which pandas makes of it, are the same."""
  text = "" if cell is None else str(cell).strip()
  return text[:-2] if text.endswith(".0") and text[:-2].isdecimal() else text


def _is_empty(cell: Any) -> bool:
  return cell is None or cell == "" or cell != cell or (isinstance(cell, str) and not cell.strip())


def _read_trials(table: Rows, problems: list[str]) -> dict[str, _Row]:
  found: dict[str, _Row] = {}
  if _missing(table, ["trial"], problems):
    return found
  told: list[str] = []
  for line, cells in table.rows:
    row = dict(zip(table.columns, cells, strict=True))
    at, trial = table.at(line), _label(row.pop("trial"))
    if not trial:
      told.append(f"{at}, column trial: is empty; give each trial a name or a number")
      continue
    if trial in found:
      told.append(
        f"{at}, column trial: {trial!r} stands in {table.at(found[trial].number).rpartition(', ')[2]} already"
      )
      continue
    times = {}
    for name in ("seconds", "training_seconds"):
      cell = row.pop(name, None)
      times[name] = None if _is_empty(cell) else number(cell)
      if not _is_empty(cell) and not (times[name] is not None and 0 <= times[name] < float("inf")):
        told.append(f"{at}, column {name}: {cell!r} should be a number of seconds, or empty")
    state = row.pop("state", None)
    text = "" if _is_empty(state) else str(state).strip().lower().removeprefix("trialstate.")
    if text and text not in _STATES:
      told.append(f"{at}, column state: {state!r}{nearest(text, _STATES)}")
    reason = row.pop("reason", None)
    reason = None if _is_empty(reason) else str(reason)
    found[trial] = _Row(line, _STATES.get(text), reason, times["seconds"], times["training_seconds"], row)
  problems += _shortened(told, table.path)
  return found


def _read_curves(table: Rows, trials: set[str] | None, problems: list[str]) -> dict[str, dict[str, dict[int, float]]]:
  """Return trial -> metric -> step -> value; the names of the trials are None if they are not known."""
  found: dict[str, dict[str, dict[int, float]]] = {}
  if _missing(table, ["trial", "step", "metric", "value"], problems):
    return found
  places = [table.columns.index(name) for name in ("trial", "step", "metric", "value")]
  told: list[str] = []
  unknown: dict[str, int] = {}
  labels: dict[Any, str] = {}
  for line, cells in table.rows:
    trial, step, metric, value = (cells[place] for place in places)
    if trial not in labels:
      labels[trial] = _label(trial)
    trial = labels[trial]
    try:
      at, worth = int(step), float(value)
    except (TypeError, ValueError):
      problem, at, worth = _step_and_value(step, value)
      if problem:
        told.append(f"{table.at(line)}, {problem}")
        continue
    # Python reads 1_000 as a number.
    if (
      not 0 <= at <= LARGEST_STEP or (isinstance(step, float) and step != at) or (isinstance(step, str) and "_" in step)
    ):
      told.append(f"{table.at(line)}, column step: {step!r} should be a whole number from 0 on, below 2^53")
    elif isinstance(value, str) and "_" in value:
      told.append(f"{table.at(line)}, column value: {value!r} should be a number, nan, inf, or empty")
    elif not metric or metric == "step":
      told.append(f"{table.at(line)}, column metric: {metric!r} should be a name such as validation/error")
    elif trials is not None and trial not in trials:
      unknown.setdefault(trial, line)
    else:
      found.setdefault(trial, {}).setdefault(metric, {})[at] = worth
  for trial, line in unknown.items():
    close = difflib.get_close_matches(trial, sorted(trials or ()), n=3, cutoff=0.0)
    told.append(f"{table.at(line)}, column trial: {trial!r} is no trial of the other table{nearest(trial, close)}")
  problems += _shortened(told, table.path)
  return found


def _step_and_value(step: Any, value: Any) -> tuple[str, int, float]:
  """Return what is wrong with a step or a value that is not a plain number, "" if nothing, and both as numbers.

  300.0 is a step too, and an empty value is NaN.
  """
  at = number(step)
  if at is None or not at.is_integer():
    return f"column step: {step!r} should be a whole number from 0 on", 0, 0.0
  worth = float("nan") if _is_empty(value) else number(value)
  if worth is None:
    return f"column value: {value!r} should be a number, nan, inf, or empty", 0, 0.0
  return "", int(at), worth


def _values(name: str, cells: dict[str, Any], declared: Declared, at: Any, problems: list[str]) -> dict[str, Any]:
  """Return a column's values by trial, those that exist, of the type that all of them have."""
  cells = {trial: cell.strip() if isinstance(cell, str) else cell for trial, cell in cells.items()}
  cells = {trial: cell for trial, cell in cells.items() if not _is_empty(cell)}
  if declared.is_chosen(name) and "values" in declared.stored[name]:
    return {trial: declared.value(name, cell) for trial, cell in cells.items()}
  lower = {str(cell).lower() for cell in cells.values()}
  if lower <= {"true", "false"} and not declared.is_numeric(name):
    return {trial: str(cell).lower() == "true" for trial, cell in cells.items()}
  numbers = {trial: number(cell) for trial, cell in cells.items()}
  wrong = [trial for trial, value in numbers.items() if value is None or not abs(value) < float("inf")]
  if not wrong:
    whole = all(_is_whole(cell) for cell in cells.values())
    return {trial: int(cells[trial]) if whole else value for trial, value in numbers.items()}
  # One slip among numbers is a mistake; a column of words is a choice.
  if declared.is_numeric(name) or (not declared.is_chosen(name) and 2 * len(wrong) < len(cells)):
    problems += _shortened(
      [
        f"{at(trial)}, column {name}: {cells[trial]!r} should be a finite number, or empty where it does not exist"
        for trial in wrong
      ],
      f"column {name}",
    )
    return {}
  return {trial: plain(cell) for trial, cell in cells.items()}


def _is_whole(cell: Any) -> bool:
  return isinstance(cell, int) or (isinstance(cell, str) and cell.lstrip("+-").isdecimal())


def _shortened(told: list[str], where: Any) -> Iterator[str]:
  yield from told[:TOLD]
  if len(told) > TOLD:
    yield f"{where}: and {len(told) - TOLD} problems more like these"
