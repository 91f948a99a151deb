"""A study that has been checked: its hyperparameters, its trials, and what they will cost."""

from __future__ import annotations

import dataclasses
import pathlib
import queue
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trialbook.command_line import this_command
from trialbook.errors import UserError
from trialbook.launch.watch import signals_to
from trialbook.trainer.evaluation_schedule import evaluation_steps
from trialbook.tuning import first_trial, records, tables
from trialbook.tuning.execution import earlier_studies
from trialbook.tuning.execution.executor import InterruptedStudyError
from trialbook.tuning.execution.local_workers import LocalWorkers
from trialbook.tuning.plan import PlannedTrial, plan, trial_config, trial_count
from trialbook.tuning.records import StudyRecord
from trialbook.tuning.search.bayesian import BayesianOptimization, Observation
from trialbook.tuning.search.halton import Halton
from trialbook.tuning.search.protocol import Point, Search
from trialbook.tuning.space.scales import Hyperparameter
from trialbook.tuning.study import Study, check

if TYPE_CHECKING:
  from trialbook.trainer import Config


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedStudy:
  """A study that has been checked.

  Attributes:
    study: as it was declared.
    config: of its trials but for their hyperparameters; None for a function.
    hyperparameters: parents before what is under them.
    trials: how many.
    baseline: values of trial 0; None: the search has them.
    earlier: results of earlier studies, for a search that uses them.
  """

  study: Study
  config: Config | None
  hyperparameters: tuple[Hyperparameter, ...]
  trials: int
  baseline: Point | None = None
  earlier: tuple[Observation, ...] = ()

  def plan(self, trial: int, values: Mapping[str, Any]) -> PlannedTrial:
    """Return the trial with these values."""
    return plan(self.study, self.config, self.hyperparameters, trial, values)

  def record(self) -> StudyRecord:
    """Return the record of the study if it is a new one."""
    hyperparameters = {one.name: one.as_json() for one in self.hyperparameters}
    found = records.describe(self.study, self.config, hyperparameters, self.trials, this_command())
    return dataclasses.replace(found, baseline=self.baseline)

  def points(self, start: int, stop: int) -> list[PlannedTrial]:
    """Return trials `start` to `stop` of a search that does not depend on results."""
    search = self.study.search
    assert not isinstance(search, BayesianOptimization)
    return [self.plan(trial, values) for trial, values in enumerate(self._points(search, start, stop), start=start)]

  def ask(self, observations: Sequence[Observation], trial: int) -> PlannedTrial:
    """Return a trial of a search that depends on results, given those of the other trials."""
    search = self.study.search
    assert isinstance(search, BayesianOptimization)
    before = 0 if self.baseline is None else 1
    if trial < before:
      return self.plan(trial, self.baseline or {})
    return self.plan(trial, search.ask(self.hyperparameters, observations, trial - before, self.earlier))

  def preview(self) -> list[PlannedTrial]:
    """Return all trials. If the search depends on results, return those of the sequence that it begins with instead."""
    search = self.study.search
    if isinstance(search, BayesianOptimization):
      search = Halton(seed=search.seed)
    return [self.plan(trial, values) for trial, values in enumerate(self._points(search, 0, self.trials))]

  def _points(self, search: Search, start: int, stop: int) -> list[Point]:
    """Return the values of trials `start` to `stop`: those of the baseline, and then the search's."""
    if self.baseline is None:
      return search.points(self.hyperparameters, start, stop)
    points = search.points(self.hyperparameters, max(start - 1, 0), max(stop - 1, 0))
    return [self.baseline, *points][:stop] if start == 0 else points

  def measured_estimate(self, trials: Sequence[PlannedTrial], workers: int) -> str | None:
    """Return how long the study takes, estimated from a few steps that a worker makes now; None for a function."""
    if self.config is None:
      return None
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with tempfile.TemporaryDirectory(prefix="trialbook-dry-run-") as name, signals_to(events):
      folder = pathlib.Path(name)
      records.write_study(folder, self.record())
      with LocalWorkers(folder, 1, self.study.cores_per_trial, self.study.devices_per_trial, events) as one:
        first = next((trial for trial in trials if trial.refusal is None), None)
        try:
          cost = None if first is None else one.measure(first)
        except InterruptedStudyError:
          raise KeyboardInterrupt from None
    if cost is None:
      return None
    groups = len({trial.group for trial in trials if trial.refusal is None})
    evaluations = len(list(evaluation_steps(self.config)))
    return tables.estimate(cost, self.config.max_train_steps, evaluations, len(trials), groups, workers)


def prepare(study: Study, trials: int | None = None) -> PlannedStudy:
  """Check a study; `trials` replaces the study's own number of trials.

  Raises:
    UserError: with all that is wrong.
  """
  if trials is not None:
    study = dataclasses.replace(study, trials=trials)
  checked = check(study)
  if checked.problems:
    raise UserError(checked.problems)
  config = None if study.config is None else trial_config(study.config, study.objective)
  search, hyperparameters = study.search, checked.hyperparameters
  folders = search.earlier if isinstance(search, BayesianOptimization) else ()
  return PlannedStudy(
    study=study,
    config=config,
    hyperparameters=hyperparameters,
    trials=trial_count(study, hyperparameters),
    baseline=None if study.baseline is None else first_trial.point(study.config, hyperparameters, study.baseline),
    earlier=tuple(earlier_studies.read(study, config, hyperparameters, folders)),
  )
