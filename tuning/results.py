"""What a study came to: a row for each trial, and its curves; ranked by the study's objective or another one."""

import csv
import dataclasses
import functools
import io
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from trainer import UserError
from trialbook.naming import nearest
from tuning import objective as objectives
from tuning import records
from tuning.records import StudyRecord, TrialRecord, trial_folder
from tuning.study import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
  """One trial of a study, by some objective.

  Attributes:
    trial: its number.
    state: as recorded, but "infeasible" also for a trial that ran to its end and was uncharacteristically bad, see
      `tuning.objective.uncharacteristic`.
    reason: of the state, where there is one.
    values: of its hyperparameters, by name.
    changes: what they change in the study's config.
    objective: what it is worth; None if it is not complete.
    step: at which.
    seconds: that its processes worked on it.
    training_seconds: of these, in training and evaluation steps.
    attempts: how often it was started.
    started: when the last time, in seconds since the epoch; None if never.
    folder: its workdir.
  """

  trial: int
  state: str
  reason: str | None
  values: Mapping[str, Any]
  changes: Mapping[str, Any]
  objective: float | None
  step: int | None
  seconds: float
  training_seconds: float
  attempts: int
  started: float | None
  folder: pathlib.Path

  @functools.cached_property
  def curves(self) -> dict[str, list[tuple[int, float]]]:
    """All that it logged: metric -> (step, value), in order of steps. Read from its workdir when first asked for."""
    return objectives.curves(self.folder)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyResults:
  """The trials of a study.

  Attributes:
    folder: of the study.
    study: its record.
    objective: by which `trials` are valued.
    trials: by number; those that were not handed out yet are missing.
  """

  folder: pathlib.Path
  study: StudyRecord
  objective: Objective
  trials: tuple[Trial, ...]

  @classmethod
  def of(cls, folder: pathlib.Path, study: StudyRecord, trials: Iterable[TrialRecord]) -> "StudyResults":
    """By the study's own objective, from the records alone."""
    found = []
    for record in trials:
      state, reason = record.state, record.reason
      if state == "complete" and record.summary.get("uncharacteristic"):
        state, reason = "infeasible", record.summary["uncharacteristic"]
      summary = record.summary
      found.append(
        Trial(
          trial=record.trial,
          state=state,
          reason=reason,
          values=record.values,
          changes=record.changes,
          objective=summary.get("objective") if state == "complete" else None,
          step=summary.get("best_step"),
          seconds=summary.get("seconds", 0.0),
          training_seconds=summary.get("training_seconds", 0.0),
          attempts=len(record.attempts),
          started=record.attempts[-1]["started"] if record.attempts else None,
          folder=trial_folder(folder, record.trial),
        )
      )
    found.sort(key=lambda trial: trial.trial)
    return cls(folder=folder, study=study, objective=study.objective, trials=tuple(found))

  def by(self, objective: Objective) -> "StudyResults":
    """The same trials by another objective, from what they logged; nothing is run again (PB-15).

    Raises:
      UserError: if no trial logged such a metric.
    """
    known = sorted({name for trial in self.trials for name in trial.curves})
    if self.trials and objective.metric not in known:
      raise UserError(f"objective {objective.metric!r} was logged by no trial{nearest(objective.metric, known)}")
    stored = records.read_trials(self.folder)
    changed = []
    for trial in self.trials:
      state, reason = stored[trial.trial].state, stored[trial.trial].reason
      counts = objectives.counts_by_class(trial.folder) if state == "complete" else {}
      if state == "complete" and (unusual := objectives.uncharacteristic(objective, trial.curves, counts)):
        state, reason = "infeasible", unusual
      worth = objectives.value_of(objective, trial.curves.get(objective.metric, [])) if state == "complete" else None
      step, value = worth or (None, None)
      changed.append(dataclasses.replace(trial, state=state, reason=reason, objective=value, step=step))
    return dataclasses.replace(self, objective=objective, trials=tuple(changed))

  @property
  def ranked(self) -> list[Trial]:
    """The trials that have a value, the best first, the earlier one among equals."""
    valued = [trial for trial in self.trials if trial.objective is not None]
    return sorted(valued, key=lambda trial: (self.objective.sign * (trial.objective or 0.0), trial.trial))

  @property
  def best(self) -> Trial | None:
    """The first of `ranked`."""
    return next(iter(self.ranked), None)

  def count(self, state: str) -> int:
    """How many trials are in a state; of "pending", also those that were not handed out."""
    among = sum(trial.state == state for trial in self.trials)
    return among + (self.study.trials - len(self.trials) if state == "pending" else 0)

  def rows(self) -> list[dict[str, Any]]:
    """A tidy table: one row a trial, one column a hyperparameter; None where it does not exist in a trial."""
    return [
      {
        "trial": trial.trial,
        "state": trial.state,
        self.objective.metric: trial.objective,
        "step": trial.step,
        **{name: trial.values.get(name) for name in self.study.hyperparameters},
        "seconds": trial.seconds,
        "training_seconds": trial.training_seconds,
        "attempts": trial.attempts,
        "reason": trial.reason,
      }
      for trial in self.trials
    ]

  def curve_rows(self, *metrics: str) -> list[dict[str, Any]]:
    """A tidy table of curves: `trial`, `step`, `metric`, `value`; of all metrics if none is named."""
    return [
      {"trial": trial.trial, "step": step, "metric": metric, "value": value}
      for trial in self.trials
      for metric, points in trial.curves.items()
      if not metrics or metric in metrics
      for step, value in points
    ]

  def csv(self) -> str:
    """`rows` as CSV."""
    rows, text = self.rows(), io.StringIO()
    if rows:
      writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
      writer.writeheader()
      writer.writerows(rows)
    return text.getvalue()


def read_results(folder: str | pathlib.Path) -> StudyResults:
  """The results of the study in a folder, whether it is still running or not. Raises UserError if there is none."""
  folder = pathlib.Path(folder)
  return StudyResults.of(folder, records.read_study(folder), records.read_trials(folder).values())
