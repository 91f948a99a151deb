"""Steps, time and device-seconds to a validation target, for several batch sizes (PB-06).

The optimizer is tuned again at each size, by the same quasi-random search, on a budget of steps and not of epochs: an
epoch budget would give large batches fewer steps. The learning rate is constant, so that the step at which a training
reaches the target does not depend on the length that was planned. The virtual batch of batch normalization is the same
at all sizes, so that the model is. The best point of each size is trained again with other seeds, because the best of
a search is partly lucky.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trialbook.errors import UserError
from trialbook.trainer import Config
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.step_measurement import sized
from trialbook.tuning.procedures.steps_conclusion import concluded, nothing
from trialbook.tuning.procedures.target_steps import Reached, first_step, search_spread
from trialbook.tuning.results import StudyResults, Trial
from trialbook.tuning.search.halton import Halton
from trialbook.tuning.space.ready_spaces import adam_by_budget, space_of, under
from trialbook.tuning.space.scales import Space
from trialbook.tuning.study import Objective

FACTORS = (0.25, 0.5, 1, 2, 4)
"""Batch sizes, as factors of the config's."""
TRIALS = 20
"""Trials of each size: of two hyperparameters over three and four decades, 4.5 values of each."""
SEEDS = 3
"""Retrains of each size's best point, whose median is not moved by one of them."""
SLACK = 1.5
"""Factor of the steps of a smaller batch that a larger one may take. If tuned as well it never needs more, and the
factor is for chance."""
EVALUATIONS = 50
"""Evaluations of each training of a search: its steps are known to 2% of its budget."""
LUCK = 3
"""Factor of the best steps of a search that a retrain may take: the best is the luckiest of all trials."""
FINER = 25
"""Evaluations of a retrain in as many steps as the search's best took: its steps are known to 4%."""
RELIABLE = 3
"""Trials of the smallest size that reach the target, if none is given, within half of the budget; and of each size,
those that have to lie at an edge: fewer may do so by chance."""
OUTER = 0.25
"""Share of the range of the learning rate, on its scale, that is close to an end of it."""
ADAM_LIKE = ("adam", "nadam", "adamw", "lamb")
LATER = (
  f"The same search at each larger batch size, with {SLACK} times the steps that the size before needed, and"
  f" {SEEDS} retrains of the best point of each."
)
"""What is run after the first study."""


def run(
  lab: Lab,
  *,
  sizes: Sequence[int] | None = None,
  target: float | None = None,
  budget: int | None = None,
  trials: int = TRIALS,
  seeds: int = SEEDS,
) -> Conclusion:
  """Measure the steps to a target for several batch sizes.

  Args:
    lab: where the trainings run.
    sizes: batch sizes; None: `FACTORS` of the config's, as far as the training set and virtual batches allow.
    target: value of the objective's metric; None: what `RELIABLE` trials of the smallest size reach within half of the
      budget.
    budget: most steps of a training; None: the config's `max_train_steps`.
    trials: of the search at each size.
    seeds: retrains of the best point of each size.

  Raises:
    UserError: if a size cannot be run, or there are not two.
  """
  virtual = virtual_batch_size(lab.config, sizes)
  chosen = batch_sizes(lab.config, sizes, virtual)
  budget = budget or lab.config.max_train_steps
  space = under("optimizer", optimizer_space(lab.config.optimizer.name, trials))
  fixed = _fixed(lab.config, virtual)
  found: list[Reached] = []
  for size in chosen:
    before = next((one.steps for one in reversed(found) if one.steps is not None), None)
    steps = budget if before is None else min(budget, math.ceil(SLACK * before))
    results = _search(lab, size, steps, fixed, space, trials, longer=False)
    if target is None:
      target = reachable_target(results, budget, lab.ranked_by)
      if target is None:
        return lab.conclude(nothing(lab, results, size, budget))
    if _best(results, lab.ranked_by, target) is None and steps < budget:
      steps = budget
      results = _search(lab, size, steps, fixed, space, trials, longer=True)
    found.append(_reached(lab, size, steps, fixed, results, target, seeds, space))
    if found[-1].steps == 0:
      break  # The untrained model meets the target.
  assert target is not None
  return lab.conclude(concluded(lab, found, target, budget, virtual))


def virtual_batch_size(config: Config, sizes: Sequence[int] | None) -> int | None:
  """Return the virtual batch size of all trainings: the model's own, or the smallest size; None without batch norm."""
  if getattr(config.model, "normalization", None) != "batch":
    return None
  own = getattr(config.model, "virtual_batch_size", None)
  if own is not None:
    return own
  return min(sizes) if sizes else max(int(FACTORS[0] * config.batch_size), 1)


def batch_sizes(config: Config, sizes: Sequence[int] | None, virtual: int | None) -> list[int]:
  """Return the sizes to measure, in order. Raise UserError for those that cannot be run, or if there are not two."""
  step = config.gradient_accumulation * (virtual or 1)
  examples = config.dataset.read().info.examples["train"]
  if sizes:
    wrong = [size for size in sizes if size % step or size > examples or size < 1]
    if wrong:
      raise UserError(
        f"--sizes: {', '.join(map(str, wrong))}: each size must be a multiple of {step} (virtual batches and parts of"
        f" accumulation) and at most the {examples:,} training examples"
      )
    chosen = sorted(set(sizes))
  else:
    wanted = {int(factor * config.batch_size) for factor in FACTORS}
    chosen = sorted(size for size in wanted if 1 <= size <= examples and size % step == 0)
  if len(chosen) < 2:
    raise UserError(f"--sizes: give two batch sizes at least, multiples of {step} and at most {examples:,}")
  return chosen


def optimizer_space(name: str, trials: int) -> Space:
  """Return what is tuned of an optimizer: its ready space, or of Adam and its kin what the number of trials allows."""
  return adam_by_budget(trials) if name in ADAM_LIKE else space_of(name)


def reachable_target(results: StudyResults, budget: int, objective: Objective) -> float | None:
  """Return the value that `RELIABLE` trials reach within half of the budget; None if there are not so many."""
  reached = []
  for trial in results.trials:
    at, values = trial.curve(objective.metric)
    early = values[(at > 0) & (at <= budget / 2)]
    if trial.state == "complete" and len(early):
      reached.append(float(np.min(objective.sign * early)))
  return objective.sign * sorted(reached)[RELIABLE - 1] if len(reached) >= RELIABLE else None


def _fixed(config: Config, virtual: int | None) -> dict[str, Any]:
  """Return the changes of all trainings. Nothing is kept of them but their curves."""
  own = {} if virtual is None else {"model.virtual_batch_size": virtual}
  return {
    **own,
    "schedule": {"name": "constant"},
    "evaluation.train_examples": 0,
    "evaluation.predictions": 0,
    "checkpointing.every_evaluations": 0,
    "export": False,
  }


def _changes(lab: Lab, size: int, steps: int, every: int, fixed: Mapping[str, Any]) -> dict[str, Any]:
  return {**fixed, **sized(lab.config, size), "max_train_steps": steps, "evaluation.every_steps": every}


def _search(
  lab: Lab, size: int, steps: int, fixed: Mapping[str, Any], space: Space, trials: int, *, longer: bool
) -> StudyResults:
  return lab.study(
    f"batch_{size}{'_longer' if longer else ''}",
    f"In how many steps, at most {steps:,}, does a batch size of {size} reach the target?",
    space,
    search=Halton(),
    trials=trials,
    changes=_changes(lab, size, steps, max(steps // EVALUATIONS, 1), fixed),
  )


def _best(results: StudyResults, objective: Objective, target: float) -> tuple[Trial, int] | None:
  """Return the trial that reaches the target in the fewest steps, the better one among equals, and its steps."""
  reaching = [
    (step, objective.sign * (trial.objective or 0.0), trial.trial, trial)
    for trial in results.trials
    if (step := _step(trial, objective, target)) is not None
  ]
  return (min(reaching)[3], min(reaching)[0]) if reaching else None


def _step(trial: Trial, objective: Objective, target: float) -> int | None:
  return first_step(trial, objective, target) if trial.state == "complete" else None


def _reached(
  lab: Lab,
  size: int,
  steps: int,
  fixed: Mapping[str, Any],
  results: StudyResults,
  target: float,
  seeds: int,
  space: Space,
) -> Reached:
  """Train the best point of a size again, and return what it reaches."""
  objective = lab.ranked_by
  unreached = Reached(
    batch_size=size,
    budget=steps,
    resolution=max(steps // EVALUATIONS, 1),
    trials=len(results.trials),
    feasible=sum(trial.state == "complete" for trial in results.trials),
  )
  best = _best(results, objective, target)
  if best is None:
    return unreached
  trial, searched = best
  every = max(searched // FINER, 1)
  first = lab.config.seed + 1
  again = lab.sweep(
    f"batch_{size}_seeds",
    f"In how many steps do other seeds of the best point reach the target with a batch size of {size}?",
    "seed",
    list(range(first, first + seeds)),
    changes={**_changes(lab, size, max(min(steps, LUCK * searched), 1), every, fixed), **trial.changes},
  )
  of_seeds = [first_step(one, objective, target) for one in again.trials]
  rates = [float(np.median(values)) for one in results.trials if len(values := one.curve("examples_per_second")[1])]
  return dataclasses.replace(
    unreached,
    searched=searched,
    spread=search_spread([_step(one, objective, target) for one in results.trials]),
    resolution=every,
    of_seeds=tuple(of_seeds),
    changes=trial.changes,
    at_edge=_is_at_edge(results, space["optimizer.learning_rate"], objective, target),
    examples_per_second=statistics.median(rates) if rates else None,
    devices=results.study.devices_per_trial,
  )


def _is_at_edge(results: StudyResults, scale: Any, objective: Objective, target: float) -> bool:
  """Return whether the best learning rate of a search may lie beyond its space.

  That is so if the best trial has the smallest or the largest one of all trials, be they diverged, and the next best
  are close to the same end. One alone is at an end by chance: with another momentum, other rates are as good.
  """
  reached = [(step, trial) for trial in results.trials if (step := _step(trial, objective, target)) is not None]
  best = [trial for _, trial in sorted(reached, key=lambda one: (one[0], one[1].trial))[:RELIABLE]]

  def place(trial: Trial) -> float:
    return scale.unit(trial.values["optimizer.learning_rate"])

  places, tried = [place(trial) for trial in best], [place(trial) for trial in results.trials]
  low = places[0] == min(tried) and max(places) <= OUTER
  high = places[0] == max(tried) and min(places) >= 1 - OUTER
  return low or high
