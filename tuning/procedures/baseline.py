"""Whether an initial configuration is reasonable: better than chance, simple, fast (PB-07).

The playbook ("Choosing the initial configuration"): before tuning, find a simple, relatively fast, not too expensive
configuration that gives reasonable results, which is clearly better than chance on the validation set. Simple means a
constant learning rate, a small model, and nothing that has not shown its worth yet. Here the configuration is trained
as it is and, if something can be turned off, without all that; what is as good without it starts without it.
"""

import dataclasses
import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from trialbook.progress import duration
from trialbook.trainer.profile import INPUT_BOUND
from trialbook.tuning import records
from trialbook.tuning.objective import value_of
from trialbook.tuning.procedures.chance import Chance, chance_of
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.simplicity import remarks, simplified, switched_on
from trialbook.tuning.results import StudyResults, Trial
from trialbook.tuning.study import Objective

GUESSING = 0.025
"""Probability with which a model that only guesses is called better than chance."""
WORSE = 2.0
"""Standard errors of a difference beyond which one configuration is clearly worse than another."""
LITTLE = 0.25
"""Share of chance's error or loss below which what is gained is remarked upon. It may be much for some data, but it is
also what a training with a useless learning rate reaches."""
STUDY_TRIALS, NIGHT_SECONDS = 20, 12 * 3600
"""A training is fast if a first study of as many, one after the other, takes a night."""
LATER = "Then the same without augmentation, regularization, averaging and schedule, if any of these is on."
"""What is run after the first study."""


def run(lab: Lab, *, seeds: int = 1) -> Conclusion:
  """Check whether the config is a reasonable baseline.

  Args:
    lab: where it is trained.
    seeds: trainings of each configuration, which differ in their seed.

  Raises:
    ConfigError: if the config cannot be run.
  """
  objective = lab.ranked_by
  chance = chance_of(lab.config, objective.metric, lab.folder)
  values = list(range(lab.config.seed, lab.config.seed + seeds))
  goal = f"Is {objective.metric} better than chance"
  given = _level("as given", lab.sweep("as_given", f"{goal}, with the config as it is?", "seed", values), chance)
  changes = simplified(lab.config)
  simple = None
  if changes:
    results = lab.sweep("simplified", f"{goal}, without what can be off?", "seed", values, changes=changes)
    simple = _level("simplified", results, chance)
  return lab.conclude(_concluded(lab, chance, given, simple, changes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Level:
  """What a configuration reaches.

  Attributes:
    name: of the configuration.
    value: mean over seeds of the best validation value; None if none trained.
    standard_error: of it, by validation examples and seeds; None if unknown.
    step: at which the first of them has its best value.
    evaluations: of each training, of which the best one counts.
    untrained: value before the first step.
    diverged: trainings that were not finite, of `trainings`.
    reason: of the first that diverged or failed.
    seconds: of a training.
    examples_per_second, waiting: speed, and share of the time waiting for data; None if they were not logged.
  """

  name: str
  value: float | None
  standard_error: float | None
  step: int | None
  evaluations: int
  untrained: float | None
  diverged: int
  trainings: int
  reason: str | None
  seconds: float
  examples_per_second: float | None
  waiting: float | None

  @property
  def needed(self) -> float:
    """Return the standard errors that are no chance, for the best of so many evaluations (Bonferroni)."""
    return statistics.NormalDist().inv_cdf(1 - GUESSING / max(self.evaluations, 1))


def _level(name: str, results: StudyResults, chance: Chance | None) -> Level:
  objective = results.objective
  # One that trained to its end has a value, be it no better than chance.
  ended = [trial for trial in results.trials if trial.recorded[0] == "complete"]
  found = [one for trial in ended if (one := value_of(objective, trial.curves.get(objective.metric, ())))]
  values = [value for _, value in found]
  first = results.trials[0]
  at_start = [value for step, value in first.curves.get(objective.metric, ()) if step == 0 and math.isfinite(value)]
  return Level(
    name=name,
    value=statistics.fmean(values) if values else None,
    standard_error=_standard_error(objective, values, ended, chance),
    step=found[0][0] if found else None,
    evaluations=len(first.curve(objective.metric)[0]),
    untrained=at_start[0] if at_start else None,
    diverged=len(results.trials) - len(ended),
    trainings=len(results.trials),
    reason=next((trial.reason for trial in results.trials if trial.recorded[0] != "complete"), None),
    seconds=statistics.fmean(trial.training_seconds for trial in results.trials),
    examples_per_second=_median(first, "examples_per_second"),
    waiting=_median(first, "data_wait_fraction"),
  )


def _standard_error(
  objective: Objective, values: Sequence[float], trials: Sequence[Trial], chance: Chance | None
) -> float | None:
  """Return the error of the mean value: that of a share of the validation examples, or else as much as chance has, and
  that of the seeds."""
  if not values:
    return None
  split, _, name = objective.metric.rpartition("/")
  mean, examples = statistics.fmean(values), trials[0].log.examples.get(split) or (chance.examples if chance else 0)
  if name in ("error", "accuracy") and examples and 0 <= mean <= 1:
    # A share of 0 of n examples is no proof of 0: as if there had been one success and one failure more (Laplace).
    share = (mean * examples + 1) / (examples + 2)
    sampling = math.sqrt(share * (1 - share) / examples)
  elif chance is not None:
    sampling = chance.standard_error
  elif len(values) > 1:
    sampling = 0.0
  else:
    return None
  of_seeds = statistics.variance(values) / len(values) if len(values) > 1 else 0.0
  return math.sqrt(sampling**2 + of_seeds)


def _median(trial: Trial, metric: str) -> float | None:
  values = trial.curve(metric)[1]
  return float(np.median(values)) if len(values) else None


def _gain(objective: Objective, level: Level, chance: Chance | None) -> tuple[float, float | None] | None:
  """Return by how much a level is better than chance, or than the untrained model if chance is not known, and by how
  many standard errors."""
  reference = level.untrained if chance is None else chance.value
  if level.value is None or reference is None:
    return None
  gain = objective.sign * (reference - level.value)
  if level.standard_error is None:
    return gain, None
  error = math.hypot(level.standard_error, 0.0 if chance is None else chance.standard_error)
  return gain, gain / error if error > 0 else None


def is_better(objective: Objective, level: Level | None, chance: Chance | None) -> bool:
  """Return whether a configuration is clearly better than chance."""
  found = None if level is None else _gain(objective, level, chance)
  if level is None or found is None:
    return False
  gain, errors = found
  return gain > 0 if errors is None else errors > level.needed


def gained(objective: Objective, level: Level, chance: Chance | None) -> float | None:
  """Return the share of chance's error or loss that a configuration removes; None if the metric is not one of these."""
  name = objective.metric.rpartition("/")[2]
  if level.value is None or chance is None or name not in ("error", "accuracy", "loss"):
    return None
  best = 1.0 if name == "accuracy" else 0.0
  room = abs(best - chance.value)
  return 1 - abs(best - level.value) / room if room else None


def _is_worse(objective: Objective, one: Level, other: Level) -> bool:
  """Return whether one level is clearly worse than another; without standard errors, whether it is worse at all."""
  loss = objective.sign * ((one.value or 0.0) - (other.value or 0.0))
  if one.standard_error is None or other.standard_error is None:
    return loss > 0
  return loss > WORSE * math.hypot(one.standard_error, other.standard_error)


def _concluded(
  lab: Lab, chance: Chance | None, given: Level, simple: Level | None, simpler: dict[str, Any]
) -> Conclusion:
  objective = lab.ranked_by
  good, good_simple = is_better(objective, given, chance), is_better(objective, simple, chance)
  worse = simple is not None and good and good_simple and _is_worse(objective, simple, given)
  level = given if good or simple is None or not good_simple else simple
  recommended: dict[str, Any] | None = None
  if good_simple and not worse:
    recommended = simpler
  elif good:
    recommended = {}
  found = _gain(objective, level, chance)
  numbers = {
    "metric": objective.metric,
    "chance": None if chance is None else chance.value,
    "chance_standard_error": None if chance is None else chance.standard_error,
    "value": given.value,
    "standard_error": given.standard_error,
    "share_gained": gained(objective, level, chance),
    "simplified": None if simple is None else simple.value,
    "standard_errors_better": None if found is None else found[1],
    "seconds": level.seconds,
    "examples_per_second": level.examples_per_second,
    "waiting": level.waiting,
    "constant_learning_rate": "schedule" not in simpler,
    "switched_on": switched_on(lab.config),
  }
  return Conclusion(
    procedure="baseline",
    id="PB-07",
    verdict=_verdict(objective, level, chance, good or good_simple),
    evidence=_evidence(lab, given, simple, level, recommended, gained(objective, level, chance)),
    changes=recommended,
    numbers=numbers,
    actions=_actions(lab, level, recommended, share=gained(objective, level, chance)),
    table=_table(objective, chance, given, simple),
  )


def _verdict(objective: Objective, level: Level, chance: Chance | None, good: bool) -> str:
  if level.value is None:
    return f"Not a baseline: no training came to its end ({level.reason})."
  reference = level.untrained if chance is None else chance.value
  told = f"{objective.metric} is {level.value:.4g}"
  if reference is None:
    return f"Whether this is a baseline is unknown: {told}, and nothing says what chance reaches."
  who = "of the untrained model" if chance is None else f"of {chance.predictor}"
  found = _gain(objective, level, chance)
  errors = f" ({found[1]:.1f} standard errors better)" if found and found[1] is not None else ""
  told = f"{told}, against {reference:.4g} {who}{errors}"
  if good:
    return f"A reasonable baseline{'' if level.name == 'as given' else ', once it is simplified'}: {told}."
  return f"Not better than chance: {told}; the best of {level.evaluations} evaluations needs {level.needed:.1f}."


def _evidence(
  lab: Lab,
  given: Level,
  simple: Level | None,
  level: Level,
  recommended: dict[str, Any] | None,
  share: float | None,
) -> list[str]:
  evidence = []
  if recommended is not None and share is not None:
    evidence.append(f"It removes {share:.0%} of what chance gets wrong.")
  if simple is None:
    evidence.append("It is simple: the learning rate is constant, and no augmentation or regularization is on.")
  else:
    parts = ", ".join(switched_on(lab.config))
    metric = lab.ranked_by.metric
    evidence.append(f"As given, {metric}: {_reached(given)}. Without {parts}: {_reached(simple)}.")
    if recommended:
      evidence.append("The simpler configuration is not clearly worse, so tuning begins with it.")
    elif recommended is not None:
      evidence.append(f"The simpler one is clearly worse (by {WORSE:g} standard errors), so nothing is turned off.")
  if recommended is not None:
    speed = "" if level.examples_per_second is None else f" ({level.examples_per_second:,.0f} examples/s)"
    study = f"a first study of {STUDY_TRIALS} takes {duration(STUDY_TRIALS * level.seconds)}"
    evidence.append(f"A training takes {duration(level.seconds)}{speed}, and {study}.")
  for one in (given, simple):
    if one is not None and one.diverged:
      evidence.append(f"{one.name}: {one.diverged} of {one.trainings} trainings did not end well ({one.reason}).")
  return evidence


def _actions(lab: Lab, level: Level, recommended: dict[str, Any] | None, *, share: float | None) -> list[str]:
  config = lab.config
  if recommended is None:
    found = ["Look for a bug in the data, the model or the loss: trialbook train --debug."]
    if level.value is None:
      rate = config.optimizer.learning_rate
      return [*found, f"Sweep the learning rate below {rate:.3g}, by factors of 10: --set optimizer.learning_rate=…"]
    return [
      *found,
      "Sweep the learning rate: trialbook tune max-steps shows which rates fit the training set.",
      f"Train for more than {config.max_train_steps:,} steps.",
    ]
  found = []
  if share is not None and share < LITTLE:
    found.append("That is little. Sweep the learning rate before anything else: trialbook tune max-steps.")
  if recommended:
    parts = ", ".join(switched_on(config))
    found.append(f"Later, turn on again, each as a question of its own, and keep if it helps: {parts}.")
  elif switched_on(config):
    found.append("Ask of each part on its own whether it helps, in a study that turns it off.")
  found += remarks(config)
  if STUDY_TRIALS * level.seconds > NIGHT_SECONDS:
    found.append(f"{STUDY_TRIALS} such trainings take longer than a night: use a smaller model or fewer steps.")
  if level.waiting is not None and level.waiting >= INPUT_BOUND:
    folder = records.trial_folder(lab.folder / level.name.replace(" ", "_"), 0)
    found.append(
      f"Training waits for data {level.waiting:.0%} of its time: `trialbook profile {folder}` names the slow stage."
    )
  return found


def _table(objective: Objective, chance: Chance | None, given: Level, simple: Level | None) -> list[dict[str, Any]]:
  rows = [
    {
      "configuration": one.name,
      objective.metric: one.value,
      "standard error": one.standard_error,
      "at step": one.step,
      "seconds": one.seconds,
      "examples/s": one.examples_per_second,
    }
    for one in (given, simple)
    if one is not None
  ]
  if chance is not None:
    rows.append(
      {"configuration": chance.predictor, objective.metric: chance.value, "standard error": chance.standard_error}
    )
  rows.append({"configuration": "untrained model", objective.metric: given.untrained})
  return rows


def _reached(level: Level) -> str:
  return "no training came to its end" if level.value is None else f"{level.value:.4g}"
