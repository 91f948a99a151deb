"""A simulation of trainings for procedures: curves by a function of each trial's config, in the study's own files."""

import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trialbook import files
from trialbook.trainer import Config
from trialbook.tuning import records
from trialbook.tuning.execution.planned_study import prepare
from trialbook.tuning.objective import value_of
from trialbook.tuning.records import TrialRecord, trial_folder
from trialbook.tuning.results import StudyResults, read_results
from trialbook.tuning.study import Study

Curves = Mapping[str, tuple[np.ndarray, np.ndarray]]


class Simulation:
  """A runner of studies that draws curves instead of training.

  Args:
    curves: of a training, metric -> (steps, values), by its config. None: it diverged.

  Attributes:
    ran: the configs of all trials that it has run.
  """

  def __init__(self, curves: Callable[[Config], Curves | None]):
    self._curves = curves
    self.ran: list[Config] = []

  def __call__(self, study: Study, folder: pathlib.Path, **_: Any) -> StudyResults:
    planned = prepare(study)
    folder.mkdir(parents=True, exist_ok=True)
    records.write_study(folder, planned.record())
    assert planned.config is not None
    known = records.read_trials(folder)
    for trial in planned.preview():
      if trial.trial in known:
        continue
      config = planned.config.override(dict(trial.changes))
      self.ran.append(config)
      curves = self._curves(config)
      inside = trial_folder(folder, trial.trial)
      inside.mkdir(parents=True)
      rows: dict[int, dict[str, float]] = {}
      for metric, (steps, values) in (curves or {}).items():
        for step, value in zip(steps, values, strict=True):
          rows.setdefault(int(step), {"step": int(step)})[metric] = float(value)
      steps = range(max(rows, default=-1) + 1)
      lines = (json.dumps(files.jsonable(rows[step])) if step in rows else f'{{"step": {step}}}' for step in steps)
      (inside / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
      points = [(s, r[study.objective.metric]) for s, r in sorted(rows.items()) if study.objective.metric in r]
      worth = value_of(study.objective, points) if curves is not None else None
      _write_run(inside, config, study.objective.metric, rows, worth)
      records.write_trial(
        inside,
        TrialRecord(
          trial=trial.trial,
          state="complete" if worth is not None else "infeasible",
          values=trial.values,
          changes=trial.changes,
          reason=None if worth is not None else "train/loss is not finite, for the first time at step 10",
          attempts=({"worker": None, "started": 0.0, "finished": 1.0, "end": "complete", "checkpoint": None},),
          summary={} if worth is None else {"objective": worth[1], "best_step": worth[0], "step": max(rows)},
        ),
      )
    return read_results(folder)


FACTS = dict.fromkeys(("input_shape", "input_dtype", "num_classes", "num_targets", "normalization"))
"""Facts of a dataset that nobody asks for."""


def _write_run(
  folder: pathlib.Path,
  config: Config,
  metric: str,
  rows: Mapping[int, Mapping[str, float]],
  worth: tuple[int, float] | None,
) -> None:
  """Write what `read_result` reads of a run; its value on the test set is that on the validation set."""
  files.write_json(folder / "config.json", {"format": files.FORMAT, **config.model_dump(mode="json")})
  status, dataset = "infeasible" if worth is None else "complete", {**FACTS, "name": "simulated", "examples": {}}
  record = {"format": files.FORMAT, "status": status, "step": max(rows, default=0), "started": 0.0, "dataset": dataset}
  files.write_json(folder / "run.json", record)
  if worth is not None and config.evaluation.test:
    name = metric.rpartition("/")[2]
    best = {"format": files.FORMAT, "metric": metric, "step": worth[0], "value": rows[worth[0]][metric], "note": None}
    files.write_json(folder / "best.json", best | {"checkpoint": "x", "final": {f"test/{name}": worth[1]}})
