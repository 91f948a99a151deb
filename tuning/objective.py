"""The value of a trial: a number from the curve of one logged metric, chosen before or after it ran (PB-15, PB-20)."""

import math
import statistics
from collections.abc import Mapping, Sequence

from trialbook.tuning.study import Objective

SMOOTHED_OVER = 5
"""Evaluations in the running median of "smoothed": enough to outvote two that are good by chance, few enough to follow
a decay."""

Curve = Sequence[tuple[int, float]]
"""(step, value), in order of steps."""


def value_of(objective: Objective, points: Curve) -> tuple[int, float] | None:
  """Return the step and the value of a trial by an objective; None if it has no finite value.

  "best" is the best evaluation, the earliest among equals; "last" the last one; "smoothed" the median of the last
  `SMOOTHED_OVER`, at the step of the last. The state before the first step counts only where there is nothing else.
  """
  finite = [(step, value) for step, value in points if math.isfinite(value)]
  finite = [point for point in finite if point[0] > 0] or finite
  if not finite:
    return None
  if objective.value == "best":
    return min(finite, key=lambda point: (objective.sign * point[1], point[0]))
  if objective.value == "last":
    return finite[-1]
  return finite[-1][0], statistics.median(value for _, value in finite[-SMOOTHED_OVER:])


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
  values = [(step, value) for step, value in points.get(objective.metric, ()) if math.isfinite(value)]
  after = [value for step, value in values if step > 0]
  if objective.metric not in points:
    return f"{objective.metric} was never logged"
  if not after:
    return f"{objective.metric} was never finite after step 0"
  best = min(after) if objective.mode == "min" else max(after)
  initial = [value for step, value in values if step == 0]
  if initial and objective.sign * best >= objective.sign * initial[0]:
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
