"""Log trees of AlgoPerf submissions: `[SUBMISSION/]study_N/WORKLOAD/trial_M/`, as its submission runner writes them.

A trial has `hparams.json`; `eval_measurements.csv`, a row an evaluation; and `measurements.csv`, these rows and ones
with `loss` and `grad_norm` of single steps. All studies of a workload become one: the points of `study_0` are trained
again in `study_1` and so on, so that trials of equal values are retrains of one point (PB-40), which `summary.source`
tells apart. (The format: github.com/mlcommons/algorithmic-efficiency, `submission_runner.py` and `logger_utils.py`.)
"""

import csv
import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator, Mapping

from trialbook import files
from trialbook.errors import UserError
from trialbook.paths import as_local_path
from trialbook.tuning.importers.source import Options, SourceStudy, SourceTrial, plain
from trialbook.tuning.study import Maximize, Minimize, Objective

TARGETS: Mapping[str, Objective] = {
  "criteo1tb": Minimize("validation/loss"),
  "fastmri": Maximize("validation/ssim"),
  "imagenet": Maximize("validation/accuracy"),
  "librispeech": Minimize("validation/wer"),
  "ogbg": Maximize("validation/mean_average_precision"),
  "wmt": Maximize("validation/bleu"),
  "mnist": Maximize("validation/accuracy"),
  "cifar": Maximize("validation/accuracy"),
}
"""Beginnings of names of workloads, each with the metric for whose target AlgoPerf measures the time (Dahl et al.,
2023, table 1)."""

_TIMES = (
  "score",
  "total_duration",
  "accumulated_submission_time",
  "accumulated_eval_time",
  "accumulated_logging_time",
  "preemption_count",
)
"""Columns that are not metrics: seconds since the trial began, and how often it was interrupted."""

_EVALUATED = re.compile(r"(train|validation|test)/.+")


def read(source: str, options: Options) -> list[SourceStudy]:
  """Return one study for each workload of each submission.

  The training metrics of evaluations become `train_subset/...`, as ours are called that are measured on a fixed part of
  the training set, and `loss` becomes `train/loss`. A trial without a file is imported with what there is.

  Raises:
    UserError: with all that is wrong, if there is no such tree or a file cannot be read.
  """
  root = as_local_path(source)
  if not root.is_dir():
    raise UserError(f"{source}: there is no such folder")
  found: dict[tuple[str, str], list[pathlib.Path]] = {}
  for path in _trials(root):
    submission = path.parent.parent.parent.relative_to(root).as_posix()
    found.setdefault((submission, path.parent.name), []).append(path)
  if not found:
    raise UserError(
      f"{source}: holds no study_N/WORKLOAD/trial_M folder; name the folder of a submission, or of several"
    )
  submissions = {submission for submission, _ in found}
  several = len(submissions) > 1
  problems: list[str] = []
  studies = []
  for (submission, workload), paths in sorted(found.items()):
    place = f"{submission}/{workload}" if several else workload
    folder = root / submission
    own = f"{folder.resolve().name}_{workload}"
    notes: list[str] = []
    trials = _without_unset([_trial(path, folder, problems, notes) for path in sorted(paths, key=_order)])
    label = own if several else workload
    name = options.name and (f"{options.name}_{label}" if len(found) > 1 else options.name)
    studies.append(
      SourceStudy(
        source=f"algoperf: {folder.resolve()}, {workload}",
        name=name or own,
        goal=options.goal or f"How well does {folder.resolve().name} train {workload}? (AlgoPerf)",
        place=place if len(found) > 1 else "",
        trials=trials,
        objective=next((target for begin, target in TARGETS.items() if workload.startswith(begin)), None),
        names=_names(trials),
        notes=notes,
      )
    )
  if problems:
    raise UserError(problems)
  return studies


def _without_unset(trials: list[SourceTrial]) -> list[SourceTrial]:
  """Return trials without the hyperparameters that are null in all of them; null in some means that it is off there."""
  used = {name for trial in trials for name, value in trial.values.items() if value is not None}
  return [
    dataclasses.replace(trial, values={name: value for name, value in trial.values.items() if name in used})
    for trial in trials
  ]


def _trials(root: pathlib.Path) -> Iterator[pathlib.Path]:
  for at, folders, _ in os.walk(root):
    path = pathlib.Path(at)
    inside = path.relative_to(root).parts
    if len(inside) >= 2 and re.fullmatch(r"study_\d+", inside[-2]):
      yield from (path / name for name in folders if re.fullmatch(r"trial_\d+", name))
      folders.clear()  # A trial's folder may hold checkpoints, of many files.


def _order(path: pathlib.Path) -> tuple[int, int]:
  numbers = [int(name.rpartition("_")[2]) for name in (path.parent.parent.name, path.name)]
  return numbers[0], numbers[1]


def _names(trials: list[SourceTrial]) -> dict[str, str]:
  names = {name for trial in trials for name in trial.curves}
  evaluated = {name: name.replace("train/", "train_subset/", 1) for name in names if name.startswith("train/")}
  return evaluated | {"loss": "train/loss"}


def _trial(path: pathlib.Path, submission: pathlib.Path, problems: list[str], notes: list[str]) -> SourceTrial:
  name = path.relative_to(submission).as_posix()
  curves: dict[str, dict[int, float]] = {}
  times: dict[str, float] = {}
  for file in ("measurements.csv", "eval_measurements.csv"):
    if (path / file).exists():
      try:
        lines = _read_csv(path / file, curves, times, problems)
      except csv.Error as error:
        problems.append(f"{path / file} cannot be read as CSV: {error}")
        continue
      notes += [f"{name}/{file}, line {line} is cut short, and left out" for line in lines]
    else:
      notes.append(f"{name} has no {file}")
  values = {}
  try:
    stored = files.read_json(path / "hparams.json")
    if stored is None:
      notes.append(f"{name} has no hparams.json: its hyperparameters are unknown")
    values = {key: plain(value) for key, value in (stored or {}).items()}
  except UserError as error:
    problems += error.problems
  in_steps = [times[one] for one in ("accumulated_submission_time", "accumulated_eval_time") if one in times]
  return SourceTrial(
    source=name,
    values=values,
    curves={metric: points for metric, points in curves.items() if points},
    seconds=times.get("total_duration", times.get("accumulated_submission_time")),
    training_seconds=sum(in_steps) if in_steps else None,
  )


def _read_csv(
  path: pathlib.Path, curves: dict[str, dict[int, float]], times: dict[str, float], problems: list[str]
) -> list[int]:
  """Add what a file measured to the curves; the later one of two values of a metric at a step counts.

  An empty cell is not a value. But the writer of such tables leaves NaN empty too. Where an evaluation has no value of
  a metric that others of the trial have, but has other ones, it was NaN. And in the row of a single step that has no
  finite value, the metrics of single steps were NaN: there would be no such row otherwise.

  Returns:
    the numbers of the lines that lack cells at their end.
  """
  short: list[int] = []
  with path.open(newline="", encoding="utf-8", errors="replace") as file:
    rows = csv.reader(file)
    header = next(rows, [])
    if "global_step" not in header:
      problems.append(f"{path}, line 1: should have a column 'global_step'; it has {', '.join(header) or 'none'}")
      return []
    measured: set[str] = set()
    empty: list[tuple[str, int]] = []
    for cells in rows:
      if len(cells) < len(header):
        if cells:  # A job was killed while it wrote.
          short.append(rows.line_num)
        continue
      row = dict(zip(header, cells, strict=False))
      try:
        step = int(float(row["global_step"]))
      except (ValueError, OverflowError):
        problems.append(f"{path}, line {rows.line_num}, column global_step: {row['global_step']!r} is no step")
        continue
      evaluated = any(text for name, text in row.items() if _EVALUATED.fullmatch(name))
      is_dead = not any(_is_finite(text) for name, text in row.items() if name != "global_step")
      for name, text in row.items():
        if name == "global_step":
          continue
        if not text:
          is_evaluation = _EVALUATED.fullmatch(name) is not None
          if (evaluated and is_evaluation) or (is_dead and not is_evaluation and name not in _TIMES):
            empty.append((name, step))
          continue
        try:
          value = float(text)
        except ValueError:
          problems.append(f"{path}, line {rows.line_num}, column {name}: {text!r} is no number")
          continue
        measured.add(name)
        if name in _TIMES:
          times[name] = max(times.get(name, value), value)
        else:
          curves.setdefault(name, {})[step] = value
  for name, step in empty:
    if name in measured and step not in curves[name]:
      curves[name][step] = float("nan")
  return short


def _is_finite(text: str) -> bool:
  return text.strip().lower() not in ("", "nan", "inf", "-inf")
