"""How much the best point depends on the search that found it: the same study again, with another seed (PB-41)."""

import dataclasses
import math
import statistics
from collections.abc import Sequence

from trialbook.errors import UserError
from trialbook.trainer import Config
from trialbook.tuning.findings.statistics.points import feasible, points_of
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.study_source import study_of
from trialbook.tuning.results import StudyResults
from trialbook.tuning.search.bayesian import BayesianOptimization
from trialbook.tuning.search.halton import Halton
from trialbook.tuning.search.uniform import Uniform
from trialbook.tuning.study import Search

SEARCHES = {"halton": Halton, "uniform": Uniform, "bayesian_optimization": BayesianOptimization}
"""Searches that depend on a seed."""
NAME = "second_search"


@dataclasses.dataclass(frozen=True)
class SecondSearch:
  """What another search of the same space found.

  Attributes:
    best: config of its best point; None if no trial has a value.
    trial: of that point.
  """

  best: Config | None
  trial: int | None = None


def search_again(lab: Lab, study: StudyResults) -> SecondSearch:
  """Run a study again with the next seed of its search, and return its best point.

  Raises:
    UserError: if its search has no seed, so that it would find the same.
  """
  record = study.study
  made = _next(record.search)
  if made is None or record.config is None:
    raise UserError(f"--second_search: {study.folder} has a search without a seed, which would find the same again")
  again = study_of(record, made, name=f"{record.name}_again", goal=f"What does another search find? {record.goal}")
  results = lab.runner(again, lab.folder / NAME, workers=lab.workers, progress=lab.progress)
  lab.results[NAME] = results
  points = feasible(points_of(results))
  if not points:
    return SecondSearch(None)
  trial = next(trial for trial in results.trials if trial.trial == points[0].trials[0])
  changes = {path: value for path, value in trial.changes.items() if path != "seed"}
  return SecondSearch(record.config.override(changes), trial.trial)


def _next(search: object) -> Search | None:
  stored = dict(search) if isinstance(search, dict) else {}
  kind = SEARCHES.get(stored.pop("name", ""))
  return None if kind is None else kind(**{**stored, "seed": stored.get("seed", 0) + 1})


def deviation(first: Sequence[float], second: Sequence[float]) -> float:
  """Return the standard deviation of the best from search to search, by the retrains of the best of two searches.

  Of two values it is known to a factor of 3 only. Retrains of few seeds add to it.
  """
  return abs(statistics.fmean(first) - statistics.fmean(second)) / math.sqrt(2)
