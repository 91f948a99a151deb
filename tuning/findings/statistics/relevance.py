"""The smallest difference of the objective that matters in practice."""

import re

import numpy as np

from trialbook.tuning.results import StudyResults

RELEVANT = 0.02
"""Share of the distance from a perfect value: an error of 5.0% that becomes 5.1%. Less decides nothing in practice,
because seeds and the draw of validation examples move most objectives by as much."""
SPREAD_SHARE = 0.5
"""Share of the gap between the best and the median trial, if that is less. In some studies all trials are alike, as if
no trial brings a similarity of images near to 1; smaller differences are then what the study is about."""
LEAST_SHARE = 0.1
"""Least share of the first of both, however alike the trials are."""
LEAST_TRIALS = 4
"""Trials with a value under which their median is not used."""
PERCENTAGES = (
  *("accuracy", "acc", "error", "err", "precision", "recall", "bleu", "auc", "auroc", "map", "miou", "iou", "dice"),
  *("wer", "cer", "top"),
)
"""Beginnings or ends of words in the names of metrics that are shares, and are written as percentages by many."""


def relevant(results: StudyResults, value: float) -> float:
  """Return the smallest difference from a value of the objective that matters: `RELEVANT` of its distance from
  perfection, or `SPREAD_SHARE` of the gap between trials, but not less than `LEAST_SHARE` of the former.

  What is perfect is 0 where smaller is better, and 1 or 100% for shares of which larger is better, such as an accuracy.
  """
  most = of_perfection(results, value)
  values = [trial.objective for trial in results.trials if trial.objective is not None]
  if len(values) < LEAST_TRIALS:
    return most
  best = min(values) if results.objective.mode == "min" else max(values)
  return max(min(most, SPREAD_SHARE * abs(float(np.median(values)) - best)), LEAST_SHARE * most)


def of_perfection(results: StudyResults, value: float) -> float:
  """Return `RELEVANT` of the distance from a perfect value."""
  distance, whole = abs(value), whole_of(results)
  if results.objective.mode == "max" and 0 <= value <= whole:
    distance = min(value, whole - value)
  return RELEVANT * distance


def whole_of(results: StudyResults) -> float:
  """Return how a share of all examples is written: 100 if the objective is a percentage, by its name and by what the
  trials logged, else 1."""
  words = re.split(r"[^a-z]+", results.objective.metric.lower())
  if not any(word.startswith(PERCENTAGES) or word.endswith(PERCENTAGES) for word in words if word):
    return 1.0
  curves = [values for trial in results.trials if len(values := trial.curve(results.objective.metric)[1])]
  if not curves:
    return 1.0
  low, high = min(values.min() for values in curves), max(values.max() for values in curves)
  return 100.0 if low >= 0 and 1 < high <= 100 else 1.0
