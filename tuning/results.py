"""The results of a study: a row for each trial, and its curves; ranked by the study's objective or another one."""

import csv
import dataclasses
import functools
import io
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from trialbook import escaping
from trialbook.errors import UserError
from trialbook.naming import nearest
from trialbook.paths import as_path
from trialbook.tuning import objective as objectives
from trialbook.tuning import records
from trialbook.tuning.curves import Log, LogFile
from trialbook.tuning.endings import Ending, endings
from trialbook.tuning.objective import Curve
from trialbook.tuning.records import StudyRecord, TrialRecord, trial_folder
from trialbook.tuning.space.scales import Hyperparameter
from trialbook.tuning.study import Objective
from trialbook.tuning.training_lengths import TrainingLength, training_length


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
  """A row of results: a trial as an objective values it, made from its record and what it logged.

  Attributes:
    trial: its number.
    state: as recorded, but "infeasible" also for a trial that ran to its end and was uncharacteristically bad, see
      `trialbook.tuning.objective.uncharacteristic`.
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
    log: what it logged.
    recorded: its state and reason as recorded, whatever the objective.
    source: what it is called where it was made; None if by its number.
  """

  trial: int
  state: str
  reason: str | None
  values: Mapping[str, Any]
  changes: Mapping[str, Any]
  objective: float | None
  step: int | None
  seconds: float = 0.0
  training_seconds: float = 0.0
  attempts: int = 1
  started: float | None = None
  folder: pathlib.Path
  log: Log = dataclasses.field(compare=False, repr=False)
  recorded: tuple[str, str | None]
  source: str | None = None
  # Shared by the same trial under other objectives.
  _arrays: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = dataclasses.field(
    default_factory=dict, compare=False, repr=False
  )

  @property
  def curves(self) -> Mapping[str, Curve]:
    """Return all that it logged: metric -> (step, value), in order of steps. Read from its workdir at the first
    call."""
    return self.log.curves

  def evaluations(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and values of a metric, [evaluations] each; empty if not logged."""
    key = (metric, "all")
    if key not in self._arrays:
      self._arrays[key] = objectives.evaluations_of(self.curves.get(metric, ()))
    return self._arrays[key]

  def curve(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Return `evaluations` without those that are not finite."""
    key = (metric, "finite")
    if key not in self._arrays:
      self._arrays[key] = objectives.finite(*self.evaluations(metric))
    return self._arrays[key]

  @functools.cached_property
  def last_step(self) -> int:
    """Return the last step at which it logged something; 0 if it logged nothing."""
    return max((points[-1][0] for points in self.curves.values() if points), default=0)

  def by(self, objective: Objective) -> "Trial":
    """Return the same trial with its value by another objective."""
    state, reason = self.recorded
    worth = None
    if state == "complete":
      if unusual := self._uncharacteristic(objective):
        state, reason = "infeasible", unusual
      else:
        worth = objectives.value_of_finite(objective, *self.curve(objective.metric))
    step, value = worth or (None, None)
    return dataclasses.replace(self, state=state, reason=reason, objective=value, step=step)

  def _uncharacteristic(self, objective: Objective) -> str | None:
    classes = self.log.class_examples
    if objective.metric not in self.curves:
      return objectives.uncharacteristic(objective, self.curves, classes)
    return objectives.uncharacteristic_of_finite(objective, *self.curve(objective.metric), classes)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyResults:
  """The trials of a study.

  Attributes:
    folder: of the study.
    study: its record.
    objective: by which `trials` are valued.
    trials: by number; those that were not handed out yet are missing.
    reruns: of some trials, the study of the same point with other seeds, by the trial's number (PB-41).
    shared: what was computed and depends on no objective, by all that it depends on; the same under other objectives.
  """

  folder: pathlib.Path
  study: StudyRecord
  objective: Objective
  trials: tuple[Trial, ...]
  reruns: Mapping[int, "StudyResults"] = dataclasses.field(default_factory=dict)
  shared: dict[Any, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)

  @classmethod
  def of(cls, folder: pathlib.Path, study: StudyRecord, trials: Iterable[TrialRecord]) -> "StudyResults":
    """Return the results by the study's own objective, from the records alone."""
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
          log=LogFile(trial_folder(folder, record.trial), study.first_step, *_end_of_log(record)),
          recorded=(record.state, record.reason),
          source=None if summary.get("source") == str(record.trial) else summary.get("source"),
        )
      )
    found.sort(key=lambda trial: trial.trial)
    return cls(folder=folder, study=study, objective=study.objective, trials=tuple(found))

  def by(self, objective: Objective) -> "StudyResults":
    """Return the same trials by another objective, from what they logged; nothing is run again (PB-15).

    Raises:
      UserError: if no trial logged such a metric.
    """
    if self.trials and objective.metric not in self.metrics:
      raise UserError(f"objective {objective.metric!r} was logged by no trial{nearest(objective.metric, self.metrics)}")
    return dataclasses.replace(
      self,
      objective=objective,
      trials=tuple(trial.by(objective) for trial in self.trials),
      reruns={
        number: study.by(objective) for number, study in self.reruns.items() if objective.metric in study.metrics
      },
    )

  @functools.cached_property
  def known(self) -> dict[Any, Any]:
    """Return what functions of these results found, by function and arguments (`trialbook.tuning.once`)."""
    return {}

  @functools.cached_property
  def metrics(self) -> list[str]:
    """Return the names of all metrics that any trial logged, in alphabetical order."""
    return sorted({name for trial in self.trials for name in trial.curves})

  @functools.cached_property
  def space(self) -> dict[str, Hyperparameter]:
    """Return the hyperparameters by name; those of studies made elsewhere may have an `inferred` scale."""
    return {name: Hyperparameter.from_json(name, stored) for name, stored in self.study.hyperparameters.items()}

  @functools.cached_property
  def varied(self) -> list[Hyperparameter]:
    """Return the hyperparameters, scientific ones first, that have at least two values among the trials; no seeds."""
    found = []
    for one in self.space.values():
      values = {_hashable(trial.values[one.name]) for trial in self.trials if one.name in trial.values}
      if len(values) > 1 and one.path != "seed":
        found.append(one)
    return sorted(found, key=lambda one: one.role != "scientific")

  @functools.cached_property
  def points(self) -> list[tuple[Trial, ...]]:
    """Return the trials, those of equal values but for the seed together: retrains of one point (PB-40)."""
    seeds = {one.name for one in self.space.values() if one.path == "seed"}
    found: dict[Any, list[Trial]] = {}
    for trial in self.trials:
      key = tuple(sorted((name, _hashable(value)) for name, value in trial.values.items() if name not in seeds))
      found.setdefault(key, []).append(trial)
    return list(map(tuple, found.values()))

  @functools.cached_property
  def steps(self) -> int | None:
    """Return the steps of a whole training by the config, or else the last step that any trial logged; None if none
    did."""
    if self.study.config is not None:
      return self.study.config.max_train_steps
    return max((trial.last_step for trial in self.trials), default=0) or None

  def length(self, trial: Trial) -> int | None:
    """Return the steps of a whole training of a trial: as it or the config says, or else as the other trials show
    (`training_lengths`), or its own if these are more; None if unknown."""
    own = trial.changes.get("max_train_steps")
    if isinstance(own, int | float) and own >= 1:
      return int(own)
    if self.study.config is not None:
      return self.study.config.max_train_steps
    return max(round(self.training_length.of(trial.values)), trial.last_step) or None

  @functools.cached_property
  def training_length(self) -> TrainingLength:
    """Return the length of a whole training, told from the complete trials."""
    complete = [trial for trial in self.trials if trial.state == "complete"]
    return training_length([trial.last_step for trial in complete], [trial.values for trial in complete])

  @functools.cached_property
  def endings(self) -> Mapping[int, Ending]:
    """Return how each trial ended, by its number: its state is what was recorded, and this is what its curves say."""
    return endings(self)

  def training_metric(self, metric: str) -> str | None:
    """Return the metric of training examples that corresponds to one of another split, of the fixed part if there is
    one."""
    last = metric.rpartition("/")[2]
    return next((name for name in (f"train_subset/{last}", f"train/{last}") if name in self.metrics), None)

  @functools.cached_property
  def ranked(self) -> list[Trial]:
    """Return the trials that have a value, the best first, the earlier one among equals."""
    valued = [trial for trial in self.trials if trial.objective is not None]
    return sorted(valued, key=lambda trial: (self.objective.sign * (trial.objective or 0.0), trial.trial))

  @functools.cached_property
  def by_point(self) -> list[Trial]:
    """Return `ranked` with the retrains of a point together, in the order of their means: of several seeds the best one
    is good by chance (PB-40)."""
    places: dict[int, tuple[float, int]] = {}
    for trials in self.points:
      ended = [trial for trial in trials if trial.objective is not None or trial.state == "infeasible"]
      costs = [self.objective.sign * trial.objective for trial in ended if trial.objective is not None]
      for trial in ended if costs else ():
        places[trial.trial] = (math.fsum(costs) / len(costs), ended[0].trial)
    return sorted(self.ranked, key=lambda trial: places[trial.trial])

  @property
  def best(self) -> Trial | None:
    """Return the first of `by_point`: the best retrain of the point whose mean is the best."""
    return next(iter(self.by_point), None)

  def count(self, state: str) -> int:
    """Return how many trials are in a state; for "pending", also those that were not handed out."""
    among = sum(trial.state == state for trial in self.trials)
    return among + (self.study.trials - len(self.trials) if state == "pending" else 0)

  def rows(self) -> list[dict[str, Any]]:
    """Return a tidy table: one row a trial, one column a hyperparameter; None if it does not exist in a trial."""
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
    """Return a tidy table of curves: `trial`, `step`, `metric`, `value`; of all metrics if none is named."""
    return [
      {"trial": trial.trial, "step": step, "metric": metric, "value": value}
      for trial in self.trials
      for metric, points in trial.curves.items()
      if not metrics or metric in metrics
      for step, value in points
    ]

  def csv(self) -> str:
    """Return `rows` as CSV."""
    rows, text = self.rows(), io.StringIO()
    if rows:
      writer = csv.writer(text, lineterminator="\n")
      writer.writerows(map(escaping.spreadsheet, row) for row in [rows[0].keys(), *(row.values() for row in rows)])
    return text.getvalue()


def read_results(folder: str | pathlib.Path) -> StudyResults:
  """Return the results of the study in a folder, whether it is still running or not. Raise UserError if there is
  none."""
  folder = as_path(folder)
  study, trials = records.read_study(folder), records.read_trials(folder).values()
  records.check_values(folder, study, trials)
  found = StudyResults.of(folder, study, trials)
  again = {}
  for path in sorted(folder.glob("reruns/trial_*/study.json")):
    number = path.parent.name.removeprefix("trial_")
    if number.isdecimal():
      again[int(number)] = read_results(path.parent)
  return dataclasses.replace(found, reruns=again)


def _end_of_log(record: TrialRecord) -> tuple[int | None, int | None]:
  """Return the last step and the number of lines of the log of a trial; None where its record does not say that."""
  ended = record.state in ("complete", "pruned")
  return (record.summary.get("step"), record.summary.get("lines")) if ended else (None, None)


def _hashable(value: Any) -> Any:
  """Return a key for a value: 1 and True are equal in Python, but are two values of a hyperparameter."""
  return isinstance(value, bool), tuple(value) if isinstance(value, list) else value
