"""The next round of a tuning that is bound by compute: more steps, from what the last round found (PB-62, PB-63).

The playbook tunes in rounds of growing length. What was found in a short round transfers to a longer one the more
likely, the earlier it is in `TRANSFERS`. So the first are kept, and the last are searched again.
"""

import dataclasses
from typing import Any

from trialbook.errors import UserError
from trialbook.trainer import Config
from trialbook.trainer.schedules import Cosine, Linear, PluginSchedule, ScheduleConfig, resolve
from trialbook.tuning.findings.statistics.points import feasible, points_of
from trialbook.tuning.procedures.study_source import study_of
from trialbook.tuning.results import StudyResults
from trialbook.tuning.search.halton import Halton
from trialbook.tuning.space.scales import Hyperparameter
from trialbook.tuning.study import Study

KEPT = (("schedule.warmup_steps", "very likely"), ("model.", "likely"))
"""Beginnings of the fields that are kept at their best values, with how likely they transfer (PB-62)."""
TRANSFERS = (
  ("warmup length and initialization", "very likely"),
  ("architecture", "likely"),
  ("optimizer, augmentation and regularization", "might"),
  ("learning-rate schedule", "unlikely"),
)
"""What transfers from a shorter round to a longer one, by the playbook (PB-62)."""


@dataclasses.dataclass(frozen=True)
class NextRound:
  """The next round.

  Attributes:
    study: of it.
    kept: fields that are fixed at their best values of this round, each with how likely it transfers.
    searched: hyperparameters that are searched again.
    schedule: how the schedule was transferred, in words.
  """

  study: Study
  kept: dict[str, str]
  searched: tuple[str, ...]
  schedule: str


def next_round(results: StudyResults, steps: int) -> NextRound:
  """Return the round after a study, with more steps.

  Args:
    results: of the study.
    steps: of each training of the next round.

  Raises:
    UserError: if the study has no config or no trial with a value, or had as many steps.
  """
  config = results.study.config
  if config is None:
    raise UserError(f"{results.folder}: only a study of trainings has a next round")
  points = feasible(points_of(results))
  if not points:
    raise UserError(f"{results.folder}: no trial has a value")
  if steps <= config.max_train_steps:
    raise UserError(
      f"steps = {steps}: the next round should have more steps than this one, which had {config.max_train_steps}"
    )
  best = points[0].values
  fixed: dict[str, Any] = {}
  kept: dict[str, str] = {}
  for one in results.space.values():
    likely = next((words for begin, words in KEPT if one.path == begin or f"{one.path}.".startswith(begin)), None)
    if likely is not None and one.role == "nuisance" and one.name in best and _stands_alone(one, results):
      fixed[one.name] = best[one.name]
      kept[one.name] = likely
  schedule, words = transferred(config, steps)
  changes = {"max_train_steps": steps, "schedule": schedule.model_dump()}
  seed = results.study.search.get("seed", 0)
  study = study_of(
    results.study,
    Halton(seed=int(seed) + 1 if isinstance(seed, int) else 1),
    fixed=fixed,
    changes=changes,
    name=f"{results.study.name}_{steps}_steps",
  )
  searched = tuple(one.name for one in results.varied if one.name not in fixed and one.role != "fixed")
  return NextRound(study, kept, searched, words)


def transferred(config: Config, steps: int) -> tuple[ScheduleConfig, str]:
  """Return the schedule for a longer run, and how it follows from the shorter one, in words (PB-63).

  A linear decay keeps its length, and the constant part before it grows. A cosine is stretched over the longer run.
  """
  schedule = resolve(config.schedule, config.max_train_steps)
  more = steps - config.max_train_steps
  if isinstance(schedule, Linear):
    constant = schedule.constant_steps + more
    words = (
      f"The linear decay keeps its {schedule.decay_steps:,} steps, and the constant part before it grows from"
      f" {schedule.constant_steps:,} to {constant:,}."
    )
    return schedule.model_copy(update={"constant_steps": constant}), words
  if isinstance(schedule, Cosine) and schedule.decay_steps is not None:
    decay = schedule.decay_steps + more
    words = f"The cosine keeps its base learning rate, and is stretched from {schedule.decay_steps:,} to {decay:,}."
    return schedule.model_copy(update={"decay_steps": decay}), words
  if isinstance(schedule, PluginSchedule):
    return schedule, (
      f"The schedule, {schedule.name}, is unchanged: if its numbers are lengths, set them for the longer run."
    )
  return schedule, f"The schedule, {schedule.name}, does not depend on the number of steps, and is unchanged."


def _stands_alone(one: Hyperparameter, results: StudyResults) -> bool:
  """Return whether nothing is under a hyperparameter, and it is under nothing."""
  return one.parent is None and all(
    other.parent is None or other.parent[0] != one.name for other in results.space.values()
  )
