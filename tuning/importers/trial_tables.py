"""Studies as tables: a folder with `trials.csv`, and perhaps `curves.csv` and `study.json`; or one table alone.

- `trials.csv`: a row for each trial, with its hyperparameters. `run_columns` says which column is what, also in the
  tables that W&B, MLflow, Ray and Optuna export: names of trials, states, durations, and results, which are the values
  at the end. An empty cell: it does not exist in this trial. Without `state`, or where it is empty, the state follows
  from the curves: see `trial_endings.states`. A `trials.csv` of ours can be imported.
- `curves.csv`: columns `trial`, `step`, `metric`, `value`, or `trial`, `step` and one for each metric; an empty value
  is NaN in the first form, and none in the second. Step 0 is the state before training. Without it, each result is a
  curve of one value. A table alone may be a log, with a row for each step of each trial: see `log_tables`.
- `study.json`: any of `name`, `goal`, `objective` (`metric`, `mode`, `value`), and `hyperparameters`, which
  `declarations` describes.

Each table may be a `.parquet` file of the same columns instead. Whatever is inferred, left out or merged is in the
study's notes.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

from trialbook.errors import UserError
from trialbook.paths import as_local_path
from trialbook.tuning.importers import gaps, metric_names, rows
from trialbook.tuning.importers.column_types import typed
from trialbook.tuning.importers.curve_tables import CurveTable, read_curves
from trialbook.tuning.importers.declarations import Declared, read_declared
from trialbook.tuning.importers.final_values import FinalValues, final_values
from trialbook.tuning.importers.log_tables import is_chart, melted, split
from trialbook.tuning.importers.run_columns import Columns, columns_of
from trialbook.tuning.importers.run_rows import Row, Table, read_table, trials_of
from trialbook.tuning.importers.source import Options, SourceStudy, SourceTrial

ENDINGS = ("csv", "parquet")


@dataclasses.dataclass(frozen=True)
class _Sources:
  """The files of a study as tables, and what the user declares of it."""

  place: pathlib.Path
  trials: pathlib.Path
  curves: pathlib.Path | None
  declared: Declared
  name: str


def read(source: str, options: Options) -> list[SourceStudy]:
  """Return the study in a folder of tables, or in the file of a table.

  Raises:
    UserError: with all that is wrong with its files: what, in which line and column, and what would be right.
  """
  problems: list[str] = []
  files = _sources(as_local_path(source), options, problems)
  if files is None:
    raise UserError(problems)
  notes: list[str] = []
  wrong_curves: list[str] = []
  curves: CurveTable | None = None
  if files.curves is not None:
    with rows.opened(files.curves) as opened:
      curves = read_curves(melted(opened), wrong_curves, notes)
  with rows.opened(files.trials) as opened:
    if is_chart(opened.columns):
      raise UserError(
        f"{files.trials}: is a chart with a column for each run, which lacks their hyperparameters; export the table of"
        " the runs instead, and put the chart's values into curves.csv with the columns trial, step and one per metric"
      )
    table = read_table(opened, problems)
  if table is None:
    raise UserError([*problems, *wrong_curves])
  if curves is None and (log := split(table)) is not None:
    table, notes = log.trials, [*notes, *log.notes]
    curves = read_curves(log.curves, wrong_curves, notes)
  declared = files.declared
  labels = None if curves is None or not curves.curves else list(curves.curves)
  columns = columns_of(
    table.columns, declared=declared.stored, metrics=_metrics(options, declared, curves), labels=labels
  )
  trials = trials_of(table, columns.special, labels, problems, notes)
  if curves is not None and trials:
    wrong_curves += curves.unknown(trials)
  values = {
    name: _values(table, column, name, trials, declared, problems, notes)
    for column, name in columns.hyperparameters.items()
  }
  ran = [trial for trial, row in trials.items() if row.state not in ("failed", "pending", "running")]
  for column, off in {name: gaps.switched_off(name, values, ran, declared.stored) for name in values}.items():
    values[column] |= dict.fromkeys(off)
  hyperparameters = declared.hyperparameters(values, bool(trials), problems)
  ends = final_values(table, columns, trials, {} if curves is None else curves.curves, options, declared, problems)
  if curves is None and trials and not columns.results and not problems:
    problems.append(
      f"{files.trials}: no column is known to hold results, and there is no curves.csv; name the column to rank by,"
      f" --objective=COLUMN --mode=min or --mode=max; columns: {', '.join(table.columns)}"
    )
  if problems or wrong_curves:
    raise UserError([*problems, *wrong_curves])
  name = options.name or declared.name or files.name
  return [
    SourceStudy(
      source=f"csv: {files.place.resolve()}",
      name=name,
      goal=options.goal or declared.goal or f"What do the trials of {name} say?",
      trials=[_trial(trial, row, values, ends) for trial, row in trials.items()],
      objective=declared.objective or ends.objective,
      hyperparameters=hyperparameters,
      names=ends.names,
      notes=[*_about_columns(table, columns), *notes, *ends.notes],
    )
  ]


def _sources(place: pathlib.Path, options: Options, problems: list[str]) -> _Sources | None:
  if place.is_file():
    if place.suffix.removeprefix(".").lower() not in ENDINGS:
      problems.append(f"{place}: is not a table; name a .csv or .parquet file, or a folder that holds trials.csv")
      return None
    declared = _declared(None, options, problems)
    return _Sources(place=place, trials=place, curves=None, declared=declared, name=place.stem)
  if not place.is_dir():
    problems.append(f"{place}: there is no such folder or file; name a table, or a folder that holds trials.csv")
    return None
  declared = _declared(place / "study.json", options, problems)
  trials, curves = (
    next((path for ending in ENDINGS if (path := place / f"{name}.{ending}").is_file()), None)
    for name in ("trials", "curves")
  )
  if trials is None:
    there = sorted(path.name for path in place.iterdir())
    has = ", ".join(there[:10]) or "nothing"
    problems.append(f"{place}: has no trials.csv (or trials.parquet), a table with a row for each trial; it has {has}")
    return None
  return _Sources(place=place, trials=trials, curves=curves, declared=declared, name=place.resolve().name)


def _declared(path: pathlib.Path | None, options: Options, problems: list[str]) -> Declared:
  """Return what `study.json` and `--space` declare."""
  beside = Declared(path=path or pathlib.Path("study.json")) if path is None else read_declared(path, problems)
  if options.space is None:
    return beside
  space = as_local_path(options.space)
  if not space.is_file():
    problems.append(f"{space}: there is no such file")
    return beside
  declared = read_declared(space, problems)
  if beside.stored:
    problems.append(f"{space}: {beside.path} declares hyperparameters already; put all of them into one file")
  if said := [key for key in ("name", "goal", "objective") if getattr(declared, key) is not None]:
    problems.append(f"{space}: should have hyperparameters only; say {', '.join(f'--{key}' for key in said)}")
  return dataclasses.replace(beside, path=space, stored=declared.stored)


def _metrics(options: Options, declared: Declared, curves: CurveTable | None) -> set[str]:
  """Return the names of metrics that the user gives, or that are in curves."""
  logged = {metric for curve in (curves.curves.values() if curves is not None else ()) for metric in curve}
  # A learning rate is set, and logged where a schedule changes it.
  found = {metric for metric in logged if metric_names.ours(metric) != metric_names.LEARNING_RATE}
  found |= {*options.rename, *options.rename.values()}
  found |= {options.objective} if options.objective is not None else set()
  return found | ({declared.objective.metric} if declared.objective is not None else set())


def _values(
  table: Table,
  column: str,
  name: str,
  trials: Mapping[str, Row],
  declared: Declared,
  problems: list[str],
  notes: list[str],
) -> dict[str, Any]:
  cells = table.columns[column]
  return typed(
    name,
    {trial: cells[row.index] for trial, row in trials.items()},
    declared,
    decimal_comma=table.rows.separator == ";",
    at=lambda trial: trials[trial].at,
    problems=problems,
    notes=notes,
  )


def _trial(trial: str, row: Row, values: Mapping[str, Mapping[str, Any]], ends: FinalValues) -> SourceTrial:
  state, reason = ends.states.get(trial, (row.state, row.reason))
  if state == "stopped" and reason is None and row.recorded:
    reason = f"recorded as {row.recorded}"
  took = row.seconds
  if took is None and row.started is not None and row.finished is not None and row.finished >= row.started:
    took = row.finished - row.started
  return SourceTrial(
    source=trial,
    values={name: column[trial] for name, column in values.items() if trial in column},
    curves=ends.curves.get(trial, {}),
    state=state,
    reason=reason,
    any_length=trial in ends.any_length,
    seconds=took,
    training_seconds=row.training_seconds,
    started=row.started,
    finished=row.finished,
  )


def _about_columns(table: Table, columns: Columns) -> list[str]:
  """Return what the columns of a table were taken for, in sentences; nothing where all is plain."""
  notes = []
  special = columns.special
  file = table.rows.path.name
  if table.unpacked:
    notes.append(f"{file}: dictionaries were unpacked into a column for each key: {', '.join(table.unpacked)}.")
  name = special.get("name")
  if name is None:
    notes.append(f"{file} does not name its trials: they are numbered from 0 on, in the order of its rows.")
  elif name.lower() != "trial":
    notes.append(f"Trials are named by the column {name!r}.")
  uses = {"state": "state", "seconds": "duration", "started": "start", "finished": "end"}
  used = [f"{special[what]} ({use})" for what, use in uses.items() if special.get(what, what) != what]
  if used:
    notes.append(f"Columns used for times and states: {', '.join(used)}.")
  if columns.style is not None:
    prefix = columns.style.hyperparameters
    kept = [column for column, name in columns.hyperparameters.items() if column == name and column.startswith(prefix)]
    rest = f" (kept: {', '.join(kept)})" if kept else ""
    notes.append(
      f"Hyperparameters are the columns {prefix}*, as {columns.style.name} writes them, without prefix{rest}."
    )
  if columns.left_out:
    parts = [f"{', '.join(names)} ({reason})" for reason, names in columns.left_out.items()]
    notes.append(f"Columns left out: {'; '.join(parts)}.")
  return notes
