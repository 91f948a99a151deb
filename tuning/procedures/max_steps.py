"""How many steps to train (PB-60): those in which the fastest constant learning rate fits the training set.

The playbook ("Deciding how long to train when training is not compute-bound"): find the steps that a constant learning
rate takes to fit the training set perfectly, without augmentation and regularization, with the best learning rate
inside of the sweep. These are the first `max_train_steps`, to be raised when augmentation or regularization comes in.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from trialbook.settings import leaves
from trialbook.trainer import Config
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.results import StudyResults, Trial
from trialbook.tuning.study import Minimize

RATES_PER_DECADE = 2
"""Learning rates in each decade of the sweep: the best one is known to a factor of 1.8 at most."""
DECADES_BELOW, DECADES_ABOVE = 2, 1
"""Decades of the first sweep below and above the config's learning rate: defaults are more often too large than too
small without warmup."""
MOST_WIDENED = 3
"""Most times that the sweep is widened by a decade on the side where the best learning rate is."""
EVALUATIONS = 50
"""Evaluations of each training: the steps that are found are known to 2% of the budget."""
LEAST_EVALUATIONS = 20
"""Fewest evaluations of the trainings that are recommended: findings about curves need a dozen."""
PERFECT = {"error": 0.001, "loss": None}
"""Largest training metric that counts as a perfect fit, by the metric's last name; None: the user must say."""

OFF: Mapping[str, Any] = {
  "weight_decay": 0.0,
  "dropout_rate": 0.0,
  "label_smoothing": 0.0,
  "crop_padding": 0,
  "flip_probability": 0.0,
  "erasing_probability": 0.0,
  "mixup_alpha": None,
  "cutmix_alpha": None,
  "resized_crop_area": 1.0,
  "policy_layers": 0,
  "color_jitter": 0.0,
  "time_masks": 0,
  "frequency_masks": 0,
  "augmentation.function": None,
}
"""Fields that regularize or augment, and the value without effect."""


def off_name(path: str) -> str:
  """Return the name of a field in `OFF`: the last of its path, or the last two where the last says too little."""
  return ".".join(path.split(".")[-2:]) if path.endswith(".function") else path.rpartition(".")[2]


def without_regularization(config: Config) -> dict[str, Any]:
  """Return the changes that turn regularization and augmentation off, and the learning rate constant."""
  found: dict[str, Any] = {"schedule": {"name": "constant"}}
  for path, _, _, value in leaves(config):
    name = off_name(path)
    if name in OFF and value != OFF[name]:
      found[path] = OFF[name]
  if config.averaging is not None:
    found["averaging"] = None
  return found


def run(lab: Lab, *, budget: int | None = None, metric: str | None = None, target: float | None = None) -> Conclusion:
  """Find `max_train_steps` by a sweep of constant learning rates (PB-60).

  Args:
    lab: where the sweep runs.
    budget: steps of each training; None: the config's `max_train_steps`.
    metric: of the training subset that shows the fit; None: its error, or else its loss.
    target: value of it that counts as a perfect fit; None: an error of `PERFECT`.
  """
  steps = budget or lab.config.max_train_steps
  own = lab.ranked_by.metric.rpartition("/")[2]
  metric = metric or ("train_subset/error" if own in ("error", "accuracy") else "train_subset/loss")
  if target is None:
    target = PERFECT.get(metric.rpartition("/")[2])
  changes = {
    **without_regularization(lab.config),
    "max_train_steps": steps,
    "evaluation.every_steps": max(steps // EVALUATIONS, 1),
  }
  rate = _learning_rate(lab.config)
  exponents = [*range(-DECADES_BELOW * RATES_PER_DECADE, DECADES_ABOVE * RATES_PER_DECADE + 1)]
  fits: list[_Fit] = []
  for widened in range(MOST_WIDENED + 1):
    results = lab.sweep(
      f"rates_{widened}",
      f"How fast does each constant learning rate fit the training set in {steps} steps?",
      "optimizer.learning_rate",
      [float(f"{rate * 10 ** (one / RATES_PER_DECADE):.3g}") for one in exponents],
      changes=changes,
      objective=Minimize(metric),
    )
    fits += _fits(results, metric, target)
    fits.sort(key=lambda fit: fit.rate)
    best = _fastest(fits)
    if best is None or best not in (fits[0], fits[-1]):
      break
    step = -1 if fits[0] is best else 1
    first = round(RATES_PER_DECADE * math.log10((fits[0] if step < 0 else fits[-1]).rate / rate))
    exponents = sorted(first + step * (one + 1) for one in range(RATES_PER_DECADE))
  return lab.conclude(_conclusion(lab, fits, steps, metric, target))


@dataclasses.dataclass(frozen=True)
class _Fit:
  """How well one learning rate fits: steps until the target, None if never; and its best value."""

  rate: float
  steps: int | None
  best: float | None
  state: str


def _learning_rate(config: Config) -> float:
  return float(config.optimizer.learning_rate)


def _fits(results: StudyResults, metric: str, target: float | None) -> list[_Fit]:
  return [_fit(trial, metric, target) for trial in results.trials]


def _fit(trial: Trial, metric: str, target: float | None) -> _Fit:
  at, values = trial.curve(metric)
  reached = at[values <= target] if target is not None else at[:0]
  best = float(values.min()) if len(values) and trial.state == "complete" else None
  return _Fit(
    float(trial.values["optimizer.learning_rate"]), int(reached[0]) if len(reached) else None, best, trial.state
  )


def _fastest(fits: list[_Fit]) -> _Fit | None:
  """Return the fit that takes the fewest steps, or else the best one; of equals that in the middle of them."""
  fitting = [fit for fit in fits if fit.steps is not None]
  if fitting:
    least = min(fit.steps or 0 for fit in fitting)
    equal = [fit for fit in fitting if fit.steps == least]
    return equal[len(equal) // 2]
  return min((fit for fit in fits if fit.best is not None), key=lambda fit: fit.best or 0.0, default=None)


def _conclusion(lab: Lab, fits: list[_Fit], steps: int, metric: str, target: float | None) -> Conclusion:
  best = _fastest(fits)
  rates = f"{fits[0].rate:.3g} to {fits[-1].rate:.3g}"
  table = [
    {"learning rate": fit.rate, "steps to fit": fit.steps, f"best {metric}": fit.best, "state": fit.state}
    for fit in fits
  ]
  numbers: dict[str, Any] = {"budget": steps, "target": target, "metric": metric, "rates": len(fits)}
  make = _made(table)
  if best is None:
    return make(
      verdict=f"No learning rate from {rates} trains: all {len(fits)} trials were infeasible.",
      numbers=numbers,
      actions=["Look for a bug in the model, the data or the loss (`trialbook train --debug`)."],
    )
  at_edge = best is fits[0] or best is fits[-1]
  numbers |= {"learning_rate": best.rate, "best": best.best, "steps": best.steps}
  if target is None:
    return make(
      verdict=f"The best training {metric.rpartition('/')[2]} after {steps:,} steps is {best.best:.4g}, at a learning"
      f" rate of {best.rate:.3g}. Whether that is a perfect fit is not known.",
      numbers=numbers,
      actions=["Say which value counts as a fit, for example --target=0.01."],
    )
  if best.steps is None:
    return make(
      verdict=f"No learning rate from {rates} fits the training set in {steps:,} steps: the lowest {metric} is"
      f" {best.best:.4g}, and {target:g} counts as a fit.",
      numbers=numbers,
      actions=[
        f"Search with more steps: --budget={2 * steps}.",
        "If twice as many steps do not help, use a larger model, or check the labels.",
      ],
    )
  if at_edge:
    side = "smallest" if best is fits[0] else "largest"
    return make(
      verdict=f"The best learning rate, {best.rate:.3g}, is the {side} that was tried, after the sweep was widened"
      f" {MOST_WIDENED} times. No number of steps follows.",
      numbers=numbers,
      actions=[f"Set optimizer.learning_rate to {best.rate:.3g} and run this again."],
    )
  return make(
    verdict=f"{best.steps:,} steps: in so many, a constant learning rate of {best.rate:.3g} fits the training set"
    f" ({metric} at most {target:g}).",
    evidence=[
      f"{sum(fit.steps is not None for fit in fits)} of {len(fits)} learning rates from {rates} fit.",
      "The fastest one lies inside the sweep.",
      "Augmentation, regularization and the decay of the learning rate were off.",
    ],
    changes=_changes(lab.config, best.steps, best.rate),
    numbers=numbers,
    actions=[
      f"Search the learning rate around {best.rate:.3g}, with the other hyperparameters.",
      f"Raise max_train_steps, for example to {2 * best.steps:,}, when augmentation or regularization comes in.",
      "After the next study, look at the selected steps (PB-61). If they are always in the first tenth, train less.",
    ],
  )


def _changes(config: Config, steps: int, rate: float) -> dict[str, Any]:
  # With the config's own learning rate, so few steps may be far too few, and so may its evaluations.
  changes: dict[str, Any] = {"max_train_steps": steps, "optimizer.learning_rate": rate}
  if steps < LEAST_EVALUATIONS * config.evaluation.every_steps:
    changes["evaluation.every_steps"] = max(steps // LEAST_EVALUATIONS, 1)
  return changes


LATER = f"If the best learning rate is at an end of the sweep, the sweep is widened, at most {MOST_WIDENED} times."
"""What may be run after the first study."""


def _made(table: list[dict[str, Any]]) -> Any:
  def make(**fields: Any) -> Conclusion:
    return Conclusion(procedure="max-steps", id="PB-60", table=table, **fields)

  return make
