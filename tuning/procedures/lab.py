"""The studies of a procedure: each in a folder beneath the procedure's, run or resumed by the study runner."""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from trialbook.errors import UserError
from trialbook.progress import duration
from trialbook.trainer import Config
from trialbook.tuning import records
from trialbook.tuning.execution.coordinator import run_study
from trialbook.tuning.procedures.conclusion import Conclusion, write
from trialbook.tuning.results import StudyResults
from trialbook.tuning.search.grid import Grid
from trialbook.tuning.search.listed import Listed
from trialbook.tuning.space.scales import Discrete, Integer, OneOf, Space
from trialbook.tuning.study import Objective, Search, Study

MOST_SEEDS = 1000
"""Most fresh seeds of one configuration, so that a larger number of them extends the same study."""
Runner = Callable[..., StudyResults]
"""What runs a study, called as `runner(study, folder, workers=…, progress=…)`, see `run_study`."""


@dataclasses.dataclass(kw_only=True)
class Lab:
  """What a procedure has to work with.

  Attributes:
    folder: of the procedure, with a folder for each of its studies.
    config: that the procedure is about.
    objective: by which its trials are ranked; None: the config's selection.
    workers: processes on this machine.
    cores_per_trial: CPU cores of each.
    progress: whether it is printed to standard error.
    runner: what runs a study: trainings on this machine, or a simulation of them in tests.
    results: of its studies so far, by name.
    costs: what was done beside studies, and how long it took, in words.
  """

  folder: pathlib.Path
  config: Config
  objective: Objective | None = None
  workers: int = 1
  cores_per_trial: int = 1
  progress: bool = False
  runner: Runner = run_study
  results: dict[str, StudyResults] = dataclasses.field(default_factory=dict)
  costs: list[str] = dataclasses.field(default_factory=list, init=False)

  @property
  def ranked_by(self) -> Objective:
    """Return the objective of its studies."""
    if self.objective is not None:
      return self.objective
    selection = self.config.resolved().selection
    if selection.metric is None or selection.mode is None:
      raise UserError("selection.metric: say which metric decides, and selection.mode, whether min or max is better")
    return Objective(selection.metric, selection.mode)

  def sweep(self, name: str, goal: str, path: str, values: list[Any], **more: Any) -> StudyResults:
    """Run a study of some values of one field, in their order; see `study`."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    ordered = numbers and sorted(set(values)) == values
    return self.study(name, goal, {path: Discrete(tuple(values)) if ordered else OneOf(values)}, search=Grid(), **more)

  def points(self, name: str, goal: str, points: list[Mapping[str, Any]], **more: Any) -> StudyResults:
    """Run a study of points that were chosen one by one, each path -> value, all with the same paths; see `study`."""
    space: dict[str, Any] = {}
    for path in points[0]:
      values = list(dict.fromkeys(point[path] for point in points))
      numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
      space[path] = Discrete(tuple(sorted(values))) if numbers else OneOf(values)
    return self.study(name, goal, space, search=Listed(points), **more)

  def study(
    self,
    name: str,
    goal: str,
    space: Space,
    *,
    search: Search,
    trials: int | None = None,
    config: Config | None = None,
    changes: Mapping[str, Any] | None = None,
    objective: Objective | None = None,
    scientific: Space | None = None,
  ) -> StudyResults:
    """Run a study in the folder of its name, or what is left of it.

    Args:
      name: of the study and of its folder.
      goal: the question, in words.
      space: its nuisance hyperparameters.
      search: where its points come from.
      trials: how many; None: all that the search has.
      config: of its trials; None: the procedure's.
      changes: of that config, for all trials.
      objective: that ranks the trials; None: the procedure's.
      scientific: its scientific hyperparameters.
    """
    study = Study(
      name=name,
      goal=goal,
      objective=objective or self.ranked_by,
      config=(config or self.config).override(dict(changes or {})),
      nuisance=space,
      scientific=scientific or {},
      trials=trials,
      search=search,
      cores_per_trial=self.cores_per_trial,
    )
    found = self.runner(study, self.folder / name, workers=self.workers, progress=self.progress)
    self.results[name] = found
    return found

  def retrained(
    self, name: str, goal: str, config: Config, first: int, count: int, changes: Mapping[str, Any] | None = None
  ) -> StudyResults:
    """Train a config with a number of seeds from `first` on; a larger number extends the same study.

    Of a study that has more seeds already, the first ones are returned, so that what follows is the same as before.
    """
    results = self.study(
      name,
      goal,
      {"seed": Integer(first, first + MOST_SEEDS - 1)},
      search=Grid(per_dimension=MOST_SEEDS),
      trials=max(count, self.known_trials(name)),
      config=config,
      changes=changes,
    )
    return dataclasses.replace(results, trials=results.trials[:count])

  def known_trials(self, name: str) -> int:
    """Return how many trials the study of this name has already, from an earlier call."""
    return max(records.read_trials(self.folder / name), default=-1) + 1

  @property
  def steps(self) -> int:
    """Return the training steps of all its trials so far."""
    return sum(trial.last_step for results in self.results.values() for trial in results.trials)

  @property
  def cost(self) -> str:
    """Return the cost of all that was done so far, in words."""
    trials = [trial for results in self.results.values() for trial in results.trials]
    seconds = sum(trial.training_seconds for trial in trials)
    trained = f"{len(trials)} trainings, {self.steps:,} steps, {duration(seconds)} of training"
    return "; ".join([*self.costs, *([trained] if trials or not self.costs else [])])

  def conclude(self, conclusion: Conclusion) -> Conclusion:
    """Write the conclusion, and return it."""
    write(conclusion, self.folder, self.config, list(self.results), self.cost)
    return conclusion
