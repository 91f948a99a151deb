"""One trial again with other seeds: how much its result varies without any change (PB-41)."""

import dataclasses
import pathlib
import statistics

from trialbook.errors import UserError
from trialbook.tuning import records
from trialbook.tuning.results import StudyResults, read_results
from trialbook.tuning.search.grid import Grid
from trialbook.tuning.space.scales import Integer
from trialbook.tuning.study import Study

MOST_SEEDS = 1000
"""Most seeds for one trial."""


def of_trial(folder: pathlib.Path, trial: int, seeds: int) -> tuple[Study, pathlib.Path]:
  """Return the study of a trial's config with `seeds` other seeds, and its folder inside that of the trial's study.

  Raises:
    UserError: if there is no such trial, or its study is one of a function, which knows no seed, or was imported.
  """
  record = records.read_study(folder)
  found = next((one for one in read_results(folder).trials if one.trial == trial), None)
  if found is None:
    raise UserError(f"{folder} has no trial {trial}; it has {len(read_results(folder).trials)}, from 0")
  if record.source is not None:
    raise UserError(f"{folder} was imported from {record.source}: trials are run again where they were made")
  if record.config is None:
    raise UserError(f"{folder}: its trials call {record.function}, which has no seed to change")
  if "seed" in found.changes:
    raise UserError(f"{folder}: its seed is a hyperparameter already")
  if seeds < 2:
    raise UserError(f"seeds = {seeds}: a variance needs 2 at least")
  config = record.config.override(found.changes)
  study = Study(
    name=f"{record.name}_trial_{trial}",
    goal=f"How much does trial {trial} of {record.name} vary from seed to seed?",
    objective=record.objective,
    config=config,
    # The grid has all of them in order, and the study its first ones: a larger number extends it.
    nuisance={"seed": Integer(config.seed + 1, config.seed + MOST_SEEDS)},
    search=Grid(per_dimension=MOST_SEEDS),
    trials=seeds,
    cores_per_trial=record.cores_per_trial,
    devices_per_trial=record.devices_per_trial,
    max_attempts=record.max_attempts,
  )
  return study, folder / "reruns" / f"trial_{trial:04d}"


@dataclasses.dataclass(frozen=True)
class Spread:
  """The spread of the objective over seeds.

  Attributes:
    values: of each seed whose trial ended.
    mean: of them.
    deviation: their standard deviation, by n - 1; None for fewer than two.
  """

  values: tuple[float, ...]
  mean: float
  deviation: float | None


def spread(results: StudyResults) -> Spread | None:
  """Return the spread over the trials that have a value; None if there is none."""
  values = tuple(trial.objective for trial in results.trials if trial.objective is not None)
  if not values:
    return None
  return Spread(values, statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)
