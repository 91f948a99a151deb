"""Everything that the page shows of a study, as JSON: all tables, for each objective that a reader may choose."""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trialbook.metric_names import better
from trialbook.tuning import tables
from trialbook.tuning.compared_settings import ComparedSetting, buckets, compared_settings
from trialbook.tuning.findings import Finding, findings
from trialbook.tuning.findings.comparison import compared_axes
from trialbook.tuning.findings.statistics.best_of_k import best_of_k
from trialbook.tuning.findings.statistics.contenders import budget_of, contenders, first_of
from trialbook.tuning.reporting import charts, successive
from trialbook.tuning.reporting import plain as plain_json
from trialbook.tuning.reporting.answer import answer
from trialbook.tuning.reporting.axes import drawn
from trialbook.tuning.reporting.plain import plain, short
from trialbook.tuning.reporting.provenance import caveats, is_running, provenance, states
from trialbook.tuning.reporting.thinning import thinned
from trialbook.tuning.results import StudyResults, Trial
from trialbook.tuning.study import Objective

FORMAT = 1
"""Version of this JSON."""
CURVE_POINTS = 24_000
"""Most points of all curves of a page: about 0.4 megabytes of JSON, and more than a screen can show."""
FEWEST_POINTS = 30
"""Fewest points of a curve, with which its shape can still be seen."""
HISTOGRAM_BINS = 40
_QUANTILES = ("p5", "p25", "median", "p75", "p95")


def page_data(
  results: StudyResults, objectives: Sequence[Objective], seen: Sequence[Finding] | None = None
) -> dict[str, Any]:
  """Return the tables, plots and findings of a study by each of some objectives; the first one is shown first.

  Everything that depends on the objective is computed here, once, and the page only chooses: it has no arithmetic that
  could disagree with the reports in other formats.

  Args:
    results: of the study.
    objectives: that a reader may choose.
    seen: the findings by the results' own objective, if they are known.
  """
  compared = compared_settings(results)
  names = short_names(results)
  plots = charts.plots(results, names, [each.label for each in compared])
  seen = findings(results) if seen is None else seen
  return {
    "format": FORMAT,
    "study": _study(results),
    "hyperparameters": [
      plain({**one.as_json(), "name": one.name, "short": short})
      for one, short in zip(results.varied, names, strict=True)
    ],
    "objectives": [_objective(objective) for objective in objectives],
    "trials": trial_columns(results, compared),
    "commands": {trial.trial: command for trial in results.trials if (command := tables.command(trial))},
    "plots": [dataclasses.asdict(plot) for plot in plots],
    "views": [
      _view(by := _by(results, objective), compared, seen if by is results else findings(by))
      for objective in objectives
    ],
    "since": successive.changes(results, seen),
    "curves": _curves(results, objectives),
    "provenance": provenance(results),
    "warnings": caveats(results),
  }


def objectives_of(results: StudyResults) -> list[Objective]:
  """Return the objectives that a reader may choose: the study's, and others whose better direction is known (PB-15).

  Of the same split, an error and the accuracy that is its complement rank the same, so one of them is there. Metrics of
  single training batches are there only where no evaluation on training examples is.
  """
  own = results.objective
  found = [own]
  if own.metric in results.metrics:
    found += [dataclasses.replace(own, value=value) for value in ("best", "last", "smoothed") if value != own.value]
  for metric in results.metrics:
    split, _, last = metric.rpartition("/")
    mode = better(metric)
    twin = {"accuracy": f"{split}/error", "error": f"{split}/accuracy"}.get(last)
    if metric == own.metric or mode is None or twin == own.metric or (last == "accuracy" and twin in results.metrics):
      continue
    if split == "train" and f"train_subset/{last}" in results.metrics:
      continue
    found += [Objective(metric, mode, value) for value in ("best", "last")]
  return found


def short_names(results: StudyResults) -> list[str]:
  """Return names of `results.varied`: of each as much of its end as separates it from the others."""
  names = [one.name for one in results.varied]

  def shortest(name: str) -> str:
    ends = [name.split(".", count)[-1] for count in range(name.count("."), -1, -1)]
    alone = [end for end in ends if end != "present" and sum(f".{other}".endswith(f".{end}") for other in names) == 1]
    return next(iter(alone), name)

  return list(map(shortest, names))


def trial_columns(results: StudyResults, compared: Sequence[ComparedSetting]) -> dict[str, list[Any]]:
  """Return what is known of each trial whatever the objective, a list a column.

  "source" is there if the trial was made elsewhere under another name. For hyperparameter *i* of `results.varied`:
  `h{i}` its value as axes show it, `b{i}` its slice, `o{i}` the slice's place.
  """
  setting_of = {trial.trial: setting.label for setting in compared for trial in setting.trials}
  columns: dict[str, list[Any]] = {
    "trial": [trial.trial for trial in results.trials],
    "setting": [setting_of.get(trial.trial) for trial in results.trials],
    "seconds": [short(trial.seconds) for trial in results.trials],
    "values": [tables.values_text(trial.values, results.study.hyperparameters) for trial in results.trials],
  }
  if any(trial.source is not None for trial in results.trials):
    columns["source"] = [trial.source for trial in results.trials]
  for number, one in enumerate(results.varied):
    places = {
      trial.trial: (place, part.label)
      for place, part in enumerate(buckets(one, results.trials))
      for trial in part.trials
    }
    columns[f"h{number}"] = [
      drawn(one, trial.values[one.name]) if one.name in trial.values else None for trial in results.trials
    ]
    columns[f"o{number}"] = [places.get(trial.trial, (None, None))[0] for trial in results.trials]
    columns[f"b{number}"] = [places.get(trial.trial, (None, None))[1] for trial in results.trials]
  return columns


def view_tables(
  results: StudyResults, compared: Sequence[ComparedSetting], verdicts: Sequence[Finding]
) -> dict[str, dict[str, list[Any]]]:
  """Return the tables of plots that depend on the objective, a list a column; "trials" is beside `trial_columns`.

  Args:
    results: of the study.
    compared: its settings.
    verdicts: the findings on the comparison.
  """
  sign, best = results.objective.sign, results.best
  means, digits = tables.means(results), _digits(results)
  trials = {
    "objective": [short(trial.objective, digits) for trial in results.trials],
    "worth": [None if trial.objective is None else short(sign * trial.objective, digits) for trial in results.trials],
    "step": [trial.step if trial.objective is not None else None for trial in results.trials],
    "state": [trial.state for trial in results.trials],
    "reason": [trial.reason for trial in results.trials],
    "best": [best is not None and trial.trial == best.trial for trial in results.trials],
  }
  if means:
    trials["mean"] = [short(means.get(trial.trial), digits) for trial in results.trials]
  return {"trials": trials, "settings": _settings(results, verdicts), "best_of_k": _best_of_k(results, compared)}


def common_tables(results: StudyResults) -> dict[str, dict[str, list[Any]]]:
  """Return the tables of plots that depend on no objective but the study's."""
  norms = [trial.curve("grad_norm")[1] for trial in results.ranked[: charts.SHOWN]]
  positive = np.concatenate([*norms, np.empty(0)])
  positive = positive[positive > 0]
  if not positive.size:
    return {"grad_histogram": {}, "grad_percentile": {}}
  low, high = positive.min(), positive.max()
  edges = np.geomspace(low, high * 1.0001 if high > low else low * 1.1, HISTOGRAM_BINS + 1)
  counts, _ = np.histogram(positive, edges)
  columns = {"low": edges[:-1], "high": edges[1:], "count": counts}
  return {
    "grad_histogram": {name: [short(float(value)) for value in values] for name, values in columns.items()},
    "grad_percentile": {"value": [short(float(np.percentile(positive, 90)))]},
  }


def rows(columns: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
  """Return a table as a list of objects, as plots take it."""
  return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def curve_rows(results: StudyResults, metric: str, shown: Sequence[Trial], points: int) -> list[dict[str, Any]]:
  """Return the table "curves" of the static pictures: of the trials that are shown, by the objective's metric."""
  split = "objective" if metric == results.objective.metric else "training"
  return [
    {
      "trial": trial.trial,
      "place": place,
      "metric": metric,
      "split": split,
      "step": int(step),
      "value": float(value),
      "chosen": split == "objective" and int(step) == trial.step,
    }
    for place, trial in enumerate(shown)
    for step, value in zip(*thinned(*trial.curve(metric), points), strict=True)
  ]


def _study(results: StudyResults) -> dict[str, Any]:
  return {
    "name": results.study.name,
    "goal": results.study.goal,
    "states": states(results),
    "running": is_running(results),
    "written": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
  }


def _objective(objective: Objective) -> dict[str, Any]:
  test = objective.metric.startswith("test/")
  return {
    **dataclasses.asdict(objective),
    "label": f"{objective.metric}, {objective.value}",
    "warning": "This ranks by the test set, so the best value is too optimistic an estimate." if test else None,
  }


def _by(results: StudyResults, objective: Objective) -> StudyResults:
  """Return the results by an objective; unchanged for the study's own, whose metric may not have been logged yet."""
  return results if objective == results.objective else results.by(objective)


def _view(results: StudyResults, compared: Sequence[ComparedSetting], seen: Sequence[Finding]) -> dict[str, Any]:
  compared = [dataclasses.replace(each, trials=_again(results, each.trials)) for each in compared]
  return {
    "answer": answer(results, seen),
    "best": None if results.best is None else results.best.trial,
    "order": [trial.trial for trial in results.ranked],
    "digits": tables.digits(results),
    "training_metric": results.training_metric(results.objective.metric),
    "findings": [_finding(one) for one in seen],
    "tables": view_tables(results, compared, [one for one in seen if one.question == "comparison"]),
    "states": states(results),
  }


def _digits(results: StudyResults) -> int:
  """Return the significant digits that the page needs of the objective: one more than it shows."""
  return max(plain_json.DIGITS, tables.digits(results) + 1)


def _again(results: StudyResults, trials: Sequence[Trial]) -> list[Trial]:
  """Return the same trials by the objective of these results."""
  wanted = {trial.trial for trial in trials}
  return [trial for trial in results.trials if trial.trial in wanted]


def _finding(one: Finding) -> dict[str, Any]:
  return plain({**one.as_json(), "paste": one.paste})


def _settings(results: StudyResults, verdicts: Sequence[Finding]) -> dict[str, list[Any]]:
  """Return the settings of each comparison, with the interval of the verdict around each: where its typical best lies,
  if that of the winner lies at `reference`."""
  sign = results.objective.sign
  of_axis = {one.numbers["hyperparameter"]: one.numbers for one in verdicts if "settings" in one.numbers}
  found = []
  for hyperparameter, settings in compared_axes(results):
    numbers = of_axis.get(hyperparameter.name, {})
    field = contenders(results, settings)
    known = first_of(results, field)
    for one in field:
      if one.best is None:
        continue
      lead = numbers.get("leads", {}).get(one.setting.label)
      at = None if lead is None else numbers["typical"]
      ends = [None if lead is None or lead[end] is None else at + sign * lead[end] for end in ("low", "lead", "high")]
      found.append(
        {
          "setting": one.setting.label,
          "order": len(found),
          "objective": sign * one.costs[0],
          "trial": one.best.trial,
          "step": one.best.step,
          "budget": budget_of(known),
          "winner": one is known[0],
          "points": one.total,
          "pruned": one.pruned,
          "low": ends[0],
          "typical": numbers.get("typical") if one is known[0] else ends[1],
          "high": ends[2],
          "reference": numbers.get("typical"),
        }
      )
  return _columns(found)


def _best_of_k(results: StudyResults, compared: Sequence[ComparedSetting]) -> dict[str, list[Any]]:
  if len(compared) > charts.TOLD_APART:
    compared = [ComparedSetting("all trials", {}, results.trials)]
  sign = results.objective.sign
  found = []
  for one in contenders(results, compared):
    for each in best_of_k([sign * cost for cost in one.costs], sign, one.without_value):
      found.append({"setting": one.setting.label, "k": each.k, **{name: getattr(each, name) for name in _QUANTILES}})
  return _columns(found)


def _columns(found: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
  return {name: [plain(row[name]) for row in found] for name in (found[0] if found else {})}


def _curves(results: StudyResults, objectives: Sequence[Objective]) -> dict[str, Any]:
  """Return the curves of all metrics that the page may draw; steps are stored once for all curves that have the
  same."""
  wanted = dict.fromkeys(objective.metric for objective in objectives)
  wanted |= dict.fromkeys(name for metric in list(wanted) if (name := results.training_metric(metric)))
  if "grad_norm" in results.metrics:
    wanted["grad_norm"] = None
  limit = max(CURVE_POINTS // max(len(results.trials) * len(wanted), 1), FEWEST_POINTS)
  steps: dict[tuple[int, ...], int] = {}
  found: dict[str, dict[int, Any]] = {}
  for metric in wanted:
    of_metric = found.setdefault(metric, {})
    curves = {trial.trial: thinned(*trial.curve(metric), limit) for trial in results.trials}
    ends = sorted(float(values[-1]) for _, values in curves.values() if len(values))
    digits = max(plain_json.DIGITS, tables.digits_of(ends), tables.digits_of([-end for end in reversed(ends)]))
    for trial, (at, values) in curves.items():
      if len(at):
        key = tuple(map(int, at))
        of_metric[trial] = [steps.setdefault(key, len(steps)), [short(float(value), digits) for value in values]]
  return {"steps": [list(key) for key in steps], "values": found, "tables": common_tables(results)}
