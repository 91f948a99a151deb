"""What the columns of a table with one row per run mean, as W&B, MLflow, Ray, Optuna and people write it.

A column is, by the first rule that fits:

1. of the run: its name, state, duration, dates, or the step of its values;
2. a hyperparameter, if the user declares it;
3. a result, if it is the objective, is logged in curves or renamed, or has the prefix of results in its table;
4. a hyperparameter, if it has the prefix of hyperparameters in its table;
5. left out, if it describes the run (its notes, its host, ...);
6. a result, if it is numeric and has the name of a well-known metric, or of a split and not of a setting in it, or any
   number in a table with prefixes;
7. left out, if it holds nothing, dates, or another text in each run;
8. a hyperparameter, in tables without prefixes; else left out.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from trialbook.metric_names import better
from trialbook.tuning.importers import metric_names
from trialbook.tuning.importers.cells import is_empty, number, numbers
from trialbook.tuning.importers.column_types import NONE
from trialbook.tuning.importers.times_of_runs import moment, seconds

Cells = Sequence[Any]

NAMES = (
  *("trial", "trial_id", "trial_number", "number", "name", "run_name", "run_id", "id", "run"),
  *("tags.mlflow.runname", "trial_name", "experiment_tag"),
)
"""Columns that may name trials, in lower case with underscores: the first whose cells all differ does."""

STEPS = (
  *("step", "_step", "summary._step", "global_step", "trainer/global_step", "train/global_step"),
  *("training_iteration", "iteration", "epoch", "train/epoch", "metrics.epoch", "summary.epoch"),
)
"""Columns that may say at which step a run had its values, the first one first."""

CURVES_STEPS = STEPS[: STEPS.index("iteration")]
"""Those that are no hyperparameters beside curves either."""

DIFFERENT_TEXTS = 10
"""Runs, from which on a column with another text in each of them is a note, not a hyperparameter."""

_STATE = ("state", "status")
_SECONDS = (
  *("seconds", "runtime", "_runtime", "summary._runtime", "duration", "time_total_s", "elapsed", "elapsed_time"),
  *("wall_time", "walltime", "total_time"),
)
_STARTED = ("created", "created_at", "start_time", "started", "datetime_start", "started_at", "start")
_FINISHED = (
  *("end_time", "finished", "datetime_complete", "finished_at", "completed_at", "_timestamp", "summary._timestamp"),
  *("timestamp", "date", "updated"),
)
_SPLITS = ("train", "val", "valid", "validation", "eval", "test")
"""Splits of the data, as programs write them before a slash and a metric."""
_SETTING = re.compile(
  r"(?:\w*_)?(?:batch_size|dropout|dropout_rate|label_smoothing|max_grad_norm|momentum|weight_decay)|seed|num_workers"
  r"|(?:gradient_)?accumulation_steps|warmup_(?:steps|epochs|ratio)|max_(?:steps|epochs)|clip_norm"
)
"""Last parts of names of settings that people write beside results, such as train/batch_size, in lower case with
underscores."""
_OF_THE_RUN = re.compile(
  r"notes?|description|comments?|tags|user|user_id|sweep|sweep_name|group|job_type|entity|project|agent|host|hostname"
  r"|node_ip|pid|os|python_version|command|github|commit|git_(?:commit|hash|sha)|gpu_(?:type|count)|url|path|log_?dir"
  r"|trial_dir|workdir|output_dir|artifact_uri|lifecycle_stage|source_(?:type|name|version)|experiment_(?:id|name|tag)"
  r"|run_(?:id|name)|id|name|trial_(?:id|name|number)|done|should_checkpoint|checkpoint\w*|time_this_iter_s"
  r"|time_since_restore|warmup_time|iterations_since_restore|timesteps_\w+|episodes_\w+|trial_log_path|attempts|step"
  r"|hyperopt_\w+|index|level_0|unnamed:_\d+|datetime_\w+|created|updated|timestamp|date|runtime|duration|elapsed(?:_time)?|wall_?time|start_time|end_time"
  r"|_(?:step|runtime|timestamp|wandb.*)|(?:tags\.|system_attrs_|sys/|monitoring/|summary\._).*"
)
"""Columns that describe a run, in lower case with underscores."""


@dataclasses.dataclass(frozen=True)
class Style:
  """How a program marks the columns of its tables.

  Attributes:
    name: of the program.
    hyperparameters: prefix of their columns.
    results: prefixes of columns of results; every other number is one too where `only_results` is not set.
    only_results: whether numbers without these prefixes are none.
    needs: columns of which the table has at least one; empty: the prefix says enough.
  """

  name: str
  hyperparameters: str
  results: tuple[str, ...] = ()
  only_results: bool = False
  needs: tuple[str, ...] = ()


STYLES = (
  Style("MLflow", "params.", ("metrics.",), only_results=True),
  Style(
    "Optuna", "params_", ("values_", "value_", "user_attrs_"), needs=("number", "value", "datetime_start", "state")
  ),
  Style("Ray", "config/"),
  Style("W&B", "config.", ("summary.", "summary_metrics.")),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
  """What the columns of a table are, each by its name in the table.

  Attributes:
    special: "name" of the trials, "state", "reason", "step" of the values at the end, "seconds", "training_seconds",
      "started" and "finished" -> the column that holds it; those that no column holds are absent.
    results: those with values at the end.
    hyperparameters: column -> name of the hyperparameter.
    left_out: reason -> columns.
    style: how the table's program marks its columns; None: it does not.
  """

  special: Mapping[str, str]
  results: tuple[str, ...]
  hyperparameters: Mapping[str, str]
  left_out: Mapping[str, Sequence[str]]
  style: Style | None


def columns_of(
  table: Mapping[str, Cells],
  *,
  declared: Collection[str],
  metrics: Collection[str],
  labels: Collection[str] | None,
) -> Columns:
  """Return what the columns of a table are.

  Args:
    table: column -> cells.
    declared: names of hyperparameters that the user declares, with or without their prefix.
    metrics: names of metrics that the user names or that are in curves, in any spelling.
    labels: names of trials in the curves; None: there are no curves.
  """
  style = _style(table)
  special = _special(table, declared, labels)
  wanted = {spelling for metric in metrics for spelling in (metric, metric_names.ours(metric))}
  results: list[str] = []
  hyperparameters: dict[str, str] = {}
  left_out: dict[str, list[str]] = {}
  for column, cells in table.items():
    if column in special.values():
      continue
    short = _after(column, style.hyperparameters) if style is not None else None
    name = short if short is not None and column not in declared else column
    result = result_name(column, style)
    if column in declared or name in declared:
      hyperparameters[column] = name
    elif short is None and wanted & {column, result, metric_names.ours(column), metric_names.ours(result)}:
      results.append(column)
    elif short is not None:
      hyperparameters[column] = name
    elif describes_run(column) or (labels is None and plain_name(column) in STEPS):
      left_out.setdefault("about the run", []).append(column)
    elif is_numeric(cells) and (result != column or _is_well_known(column, cells) or _takes_all(style)):
      results.append(column)
    elif reason := _no_hyperparameter(cells, style):
      left_out.setdefault(reason, []).append(column)
    else:
      hyperparameters[column] = name
  twice = [name for name in hyperparameters.values() if [*hyperparameters.values()].count(name) > 1]
  return Columns(
    special=special,
    results=tuple(results),
    hyperparameters={column: column if name in twice else name for column, name in hyperparameters.items()},
    left_out=left_out,
    style=style,
  )


def result_name(column: str, style: Style | None) -> str:
  """Return the name of a result without the prefix that its table gives it."""
  found = (_after(column, prefix) for prefix in (style.results if style is not None else ()))
  return next((rest for rest in found if rest is not None), column)


def _special(table: Mapping[str, Cells], declared: Collection[str], labels: Collection[str] | None) -> dict[str, str]:
  by_name: dict[str, str] = {}
  for column in table:
    if column not in declared:
      by_name.setdefault(plain_name(column), column)

  def first(names: Sequence[str], fits: Callable[[Cells], bool] = lambda _: True) -> str | None:
    return next((by_name[name] for name in names if name in by_name and fits(table[by_name[name]])), None)

  steps = STEPS if labels is None else CURVES_STEPS
  found = {
    "name": first(NAMES, functools.partial(_name_rows, labels)) or first(NAMES[:1]) or first(NAMES, _all_differ),
    "state": first(_STATE[:1]) or first(_STATE[1:], _has_text),
    "reason": first(("reason",)),
    "step": first(steps, _are_steps),
    "seconds": first(_SECONDS[:1]) or first(_SECONDS[1:], functools.partial(_all, seconds)),
    "training_seconds": first(("training_seconds",)),
    "started": first(_STARTED, functools.partial(_all, moment)),
    "finished": first(_FINISHED, functools.partial(_all, moment)),
  }
  return {what: column for what, column in found.items() if column is not None}


def _style(columns: Collection[str]) -> Style | None:
  for style in STYLES:
    has_prefix = any(_after(column, style.hyperparameters) for column in columns)
    if has_prefix and (not style.needs or any(column in style.needs for column in columns)):
      return style
  return None


def _after(column: str, prefix: str) -> str | None:
  """Return what follows a prefix in a column's name; None if it begins otherwise, or nothing follows."""
  return column.removeprefix(prefix) if column.startswith(prefix) and column != prefix else None


def plain_name(column: str) -> str:
  """Return a column's name in lower case, with underscores for spaces and hyphens."""
  return re.sub(r"[ \-]+", "_", column.strip().lower())


def describes_run(column: str) -> bool:
  """Return whether a column, by its name, describes a run and not its training."""
  return _OF_THE_RUN.fullmatch(plain_name(column)) is not None


def _filled(cells: Cells) -> list[Any]:
  return [cell for cell in cells if not is_empty(cell) and not (isinstance(cell, str) and cell.strip().lower() in NONE)]


def _all(read: Callable[[Any], Any], cells: Cells) -> bool:
  filled = _filled(cells)
  return bool(filled) and all(read(cell) is not None for cell in filled)


def _all_differ(cells: Cells) -> bool:
  return not any(map(is_empty, cells)) and len({label(cell) for cell in cells}) == len(cells)


def _name_rows(labels: Collection[str] | None, cells: Cells) -> bool:
  return _all_differ(cells) and (labels is None or set(labels) <= {label(cell) for cell in cells})


def label(cell: Any) -> str:
  """Return a trial's name; 7 and 7.0, which pandas makes of it, are the same."""
  text = "" if cell is None else str(cell).strip()
  return text[:-2] if text.endswith(".0") and text[:-2].isdecimal() else text


def _are_steps(cells: Cells) -> bool:
  return _all(lambda cell: value if (value := number(cell)) is not None and 0 <= value < 2**53 else None, cells)


def _has_text(cells: Cells) -> bool:
  return any(isinstance(cell, str) and number(cell) is None for cell in _filled(cells))


def is_numeric(cells: Cells) -> bool:
  """Return whether a column holds numbers, at least one; not finite ones count."""
  there = [cell for cell in cells if not is_empty(cell)]
  filled = [cell for cell in there if number(cell) is not None or cell in _filled([cell])]
  found = numbers(dict(enumerate(filled)), decimal_comma=True)
  return bool(filled) and not found.wrong


def _is_well_known(column: str, cells: Cells) -> bool:
  """Return whether a numeric column has the name of a metric; a precision of 16 or 32 is one of numbers, in bits."""
  if better(column) is None:
    split, slash, last = column.partition("/")
    return split in _SPLITS and slash != "" and _SETTING.fullmatch(plain_name(last)) is None
  is_bits = {number(cell) for cell in _filled(cells)} <= {8.0, 16.0, 32.0, 64.0}
  return not (is_bits and plain_name(column).endswith("precision"))


def _takes_all(style: Style | None) -> bool:
  return style is not None and not style.only_results


def _no_hyperparameter(cells: Cells, style: Style | None) -> str | None:
  """Return why a column is no hyperparameter; None if it may be one."""
  filled = _filled(cells)
  if not filled and not any(isinstance(cell, str) and cell.strip() for cell in cells):
    return "empty"
  if style is not None:
    return f"not marked as hyperparameters, which {style.name} calls {style.hyperparameters}*"
  if filled and not is_numeric(cells) and _all(moment, cells):
    return "dates"
  is_text = filled and not is_numeric(cells)
  if is_text and len(filled) >= DIFFERENT_TEXTS and len({str(cell) for cell in filled}) == len(filled):
    return "another text in each trial"
  return None
