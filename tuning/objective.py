"""The value of a trial: a number from the curve of one logged metric, chosen before or after it ran (PB-15, PB-20)."""

import math
import statistics
from collections.abc import Mapping, Sequence

import numpy as np

from trialbook.tuning.study import Objective

SMOOTHED_OVER = 5
"""Evaluations in the running median of "smoothed": enough to outvote two that are good by chance, few enough to follow
a decay."""

Curve = Sequence[tuple[int, float]]
"""(step, value), in order of steps."""


def evaluations_of(points: Curve) -> tuple[np.ndarray, np.ndarray]:
  """Return the steps and the values of a curve, [evaluations] each."""
  array = np.array(points, float).reshape(-1, 2)
  return array[:, 0].astype(int), array[:, 1]


def finite(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Return the evaluations of a curve whose values are finite, [evaluations] each."""
  is_finite = np.isfinite(values)
  return (steps, values) if is_finite.all() else (steps[is_finite], values[is_finite])


def value_of(objective: Objective, points: Curve) -> tuple[int, float] | None:
  """Return the step and the value of a trial by an objective; None if it has no finite value.

  "best" is the best evaluation, the earliest among equals; "last" the last one; "smoothed" the median of the last
  `SMOOTHED_OVER`, at the step of the last. The state before the first step counts only where there is nothing else.
  """
  return value_of_finite(objective, *finite(*evaluations_of(points)))


def value_of_finite(objective: Objective, steps: np.ndarray, values: np.ndarray) -> tuple[int, float] | None:
  """Return `value_of` a curve that has only finite values: steps and values, [evaluations] each."""
  after = steps > 0
  if after.any():
    steps, values = steps[after], values[after]
  if not len(steps):
    return None
  if objective.value == "best":
    at = int(np.argmin(objective.sign * values))
    return int(steps[at]), float(values[at])
  if objective.value == "last":
    return int(steps[-1]), float(values[-1])
  return int(steps[-1]), statistics.median(values[-SMOOTHED_OVER:].tolist())


def uncharacteristic(
  objective: Objective, points: Mapping[str, Curve], class_examples: Mapping[str, Sequence[int]]
) -> str | None:
  """Return why a trial that ran to its end is nevertheless infeasible (PB-21); None if it is not.

  The rule, which looks at the trial alone and so depends on no other:

  1. its objective's metric was evaluated at step 0, and no evaluation after it was better;
  2. or, where the metric is an error or an accuracy of classes, no evaluation was better than always answering with the
     most frequent class, by more than two standard errors of a share of that many examples: networks that collapsed
     answer with one class, and which one is chance.

  Args:
    objective: of the study.
    points: the trial's curves by metric.
    class_examples: the number of examples of each class, by `SPLIT/class_examples`, where there are classes.
  """
  if objective.metric not in points:
    return f"{objective.metric} was never logged"
  evaluations = evaluations_of(points[objective.metric])
  return uncharacteristic_of_finite(objective, *finite(*evaluations), class_examples)


def uncharacteristic_of_finite(
  objective: Objective, steps: np.ndarray, values: np.ndarray, class_examples: Mapping[str, Sequence[int]]
) -> str | None:
  """Return `uncharacteristic` for a logged curve that has only finite values: steps and values, [evaluations] each."""
  after, initial = values[steps > 0], values[steps == 0]
  if not len(after):
    return f"{objective.metric} was never finite after step 0"
  best = float(after.min() if objective.mode == "min" else after.max())
  if len(initial) and objective.sign * best >= objective.sign * initial[0]:
    return f"{objective.metric} was never better than at initialization ({initial[0]:.4g}); the best was {best:.4g}"
  split, _, name = objective.metric.rpartition("/")
  counts = class_examples.get(f"{split}/class_examples", ())
  if name in ("error", "accuracy") and sum(counts) > 0:
    total = sum(counts)
    chance = max(counts) / total
    margin = 2 * math.sqrt(chance * (1 - chance) / total)
    accuracy = 1 - best if name == "error" else best
    if accuracy <= chance + margin:
      return f"{objective.metric} was never better than the most frequent class alone; the best was {best:.4g}"
  return None
