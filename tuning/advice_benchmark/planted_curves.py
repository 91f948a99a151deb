"""Studies with something wrong in their curves: what the findings about curves should see.

Each function takes a seed, an effect size, and changes of the healthy `planted.World` under it. Sizes are in what a
researcher would measure.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trialbook.tuning import StudyResults
from trialbook.tuning.advice_benchmark import planted

Reshape = Callable[[planted.Curves, planted.Units, np.random.Generator], planted.Curves]

SMALL: Mapping[str, Any] = {"trials": 12}
"""Of most instances: as many trials as show it, drawn fast."""
SCHEDULES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
  "linear": lambda time: 1 - time,
  "cosine": lambda time: 0.5 * (1 + np.cos(np.pi * time)),
  "last_tenth": lambda time: np.minimum(1, (1 - time) / 0.1),
  "last_fifth": lambda time: np.minimum(1, (1 - time) / 0.2),
  "steps": lambda time: np.where(time < 1 / 3, 1, np.where(time < 2 / 3, 0.3, 0.1)),
}
"""Usual learning rates, of time from 0 to 1, as a share of the largest."""
HARD: Mapping[str, Any] = {"trials": 20, "evaluations": 20, "validation_examples": 2000}
"""The harder healthy control: few evaluations, each on few examples."""


def overfitting_best(seed: int, size: float, **world: Any) -> StudyResults:
  """In every trial, also the best, the validation error rises in a line by `size` (of its own) after a random step
  between 30% and 50% of the training."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    return _raised(curves, size, rng.uniform(0.3, 0.5))

  return _study(seed, reshape, world)


def overfitting_others(seed: int, size: float, **world: Any) -> StudyResults:
  """The same where the learning rate is in the upper third of its range, in which no trial is the best."""

  def reshape(curves: planted.Curves, units: planted.Units, rng: np.random.Generator) -> planted.Curves:
    start = rng.uniform(0.3, 0.5)
    return _raised(curves, size, start) if units["optimizer.learning_rate"] > 2 / 3 else curves

  def surface(units: planted.Units, _: np.random.Generator) -> float:
    return 0.08 + 0.6 * (units["optimizer.learning_rate"] - 0.35) ** 2

  return _study(seed, reshape, {"surface": surface, **world})


def noisy_end(seed: int, size: float, **world: Any) -> StudyResults:
  """The error varies from evaluation to evaluation by a standard deviation of `size`, up to the end."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    return _changed(curves, lambda time: size * rng.normal(0, 1, len(time)) * (time > 0))

  return _study(seed, reshape, world)


def following(schedule: str, share: float, *, logged: bool) -> Reshape:
  """A healthy study whose errors and losses are larger by `share` (of those at the end) times the learning rate."""
  factor = SCHEDULES[schedule]

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    found = {
      name: (steps, values if name == "grad_norm" else values + share * values[-1] * factor(steps / steps[-1]))
      for name, (steps, values) in curves.items()
    }
    steps = curves["train/loss"][0]
    return {**found, "learning_rate": (steps, factor(steps / steps[-1]))} if logged else found

  return reshape


def still_improving(seed: int, size: float, **world: Any) -> StudyResults:
  """The error falls in a line by `size` (of that at the end) in the last half of the training, at a constant learning
  rate."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    end = size * curves["validation/error"][1][-1]
    steps = curves["train/loss"][0]
    return {
      **_changed(curves, lambda time: 2 * end * np.minimum(1 - time, 0.5)),
      "learning_rate": (steps, np.ones(len(steps))),
    }

  return _study(seed, reshape, world)


def hardly_begun(seed: int, size: float, **world: Any) -> StudyResults:
  """The error falls from chance by as much as the steps to the power of `size`; no learning rate is logged."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    steps, errors = curves["validation/error"]
    end = 0.3 + errors[-1]
    return {**curves, "validation/error": (steps, 0.9 - (0.9 - end) * (steps / steps[-1]) ** size)}

  return _study(seed, reshape, world)


def saturated_and_noisy(seed: int, size: float, **world: Any) -> StudyResults:
  """`saturated_early` where an evaluation varies by about 5% of the best error up to the end, in as many trials as a
  usual study has."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    found = {
      name: both if name == "grad_norm" else (both[0], np.interp(np.minimum(both[0] / (1 - size), both[0][-1]), *both))
      for name, both in curves.items()
    }
    return _changed(found, lambda time: 0.003 * rng.normal(0, 1, len(time)) * (time > 0))

  return _study(seed, reshape, {"trials": 48, **world})


def saturated_early(seed: int, size: float, **world: Any) -> StudyResults:
  """The training would have been as good with a share of 1 - `size` of the steps: all that happens, happens in them."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    found = {}
    for name, (steps, values) in curves.items():
      if name == "grad_norm":
        found[name] = steps, values
      else:
        found[name] = steps, np.interp(np.minimum(steps / (1 - size), steps[-1]), steps, values)
    return found

  return _study(seed, reshape, world)


def rising_training_loss(seed: int, size: float, **world: Any) -> StudyResults:
  """In a third of the trials the training loss rises by `size` (of its own) in the last third of the training."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    if rng.random() > 1 / 3:
      return curves
    return {
      name: (steps, values * (1 + size * 3 * np.maximum(steps / steps[-1] - 2 / 3, 0))) if _is_training(name) else both
      for name, both in curves.items()
      for steps, values in [both]
    }

  return _study(seed, reshape, world)


def periodic(seed: int, size: float, **world: Any) -> StudyResults:
  """A sine of amplitude `size` in the validation error, 3 to 10 evaluations long, the same in all trials."""
  turns = np.random.default_rng(seed + 500_000).uniform(5, 16)

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    phase = rng.uniform(0, 2 * np.pi)
    return _changed(curves, lambda time: size * np.sin(2 * np.pi * turns * time + phase) * (time > 0))

  return _study(seed, reshape, world)


def early_best(seed: int, size: float, **world: Any) -> StudyResults:
  """In a share `size` of the trials the best evaluation is in the first tenth, and the error a quarter higher after."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    if rng.random() > size:
      return curves
    return _changed(
      {
        name: (steps, np.interp(np.minimum(steps / 0.08, steps[-1]), steps, values)) if "/" in name else (steps, values)
        for name, (steps, values) in curves.items()
      },
      lambda time: 0.25 * curves["validation/error"][1][-1] * np.clip((time - 0.08) / 0.2, 0, 1),
    )

  return _study(seed, reshape, {"evaluations": 100, **world})


def gradient_outliers(seed: int, size: float, **world: Any) -> StudyResults:
  """One norm in fifty is `size` times as large as its neighbours, in every second trial."""

  def reshape(curves: planted.Curves, _: planted.Units, rng: np.random.Generator) -> planted.Curves:
    steps, norm = curves["grad_norm"]
    hit = (rng.random(len(norm)) < 0.02) & (rng.random() < 0.5)
    return {**curves, "grad_norm": (steps, np.where(hit, size * norm, norm))}

  return _study(seed, reshape, world)


def _study(seed: int, reshape: Reshape, world: Mapping[str, Any]) -> StudyResults:
  return planted.healthy(seed, **{**SMALL, "reshape": reshape, **world})


def _changed(curves: planted.Curves, change: Callable[[np.ndarray], np.ndarray]) -> planted.Curves:
  """With a change of the validation error, of time [evaluations] from 0 to 1; of the loss three times as large."""
  steps, errors = curves["validation/error"]
  added = change(steps / steps[-1])
  loss_steps, losses = curves["validation/loss"]
  return {**curves, "validation/error": (steps, errors + added), "validation/loss": (loss_steps, losses + 3 * added)}


def _raised(curves: planted.Curves, size: float, start: float) -> planted.Curves:
  end = curves["validation/error"][1][-1]
  return _changed(curves, lambda time: size * end * np.maximum(time - start, 0) / (1 - start))


def _is_training(name: str) -> bool:
  return name in ("train/loss", "train_subset/loss", "train_subset/error")
