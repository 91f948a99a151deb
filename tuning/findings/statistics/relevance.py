"""The smallest difference of the objective that matters in practice.

An error of 5% is five times as bad as one of 1%. Shares and losses have such a natural zero, and a difference matters
if it is a noticeable part of the distance from it. A log-likelihood, a reward or a metric with an unknown name may be
shifted by any constant without a change of meaning. There, a difference matters if it is a noticeable part of what
good trials differ by, so that no finding depends on an arbitrary zero, scale or direction.
"""

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from trialbook.tuning.once import once
from trialbook.tuning.results import StudyResults

RELEVANT = 0.02
"""Share of the distance from a perfect value: an error of 5.0% that becomes 5.1%. Less decides nothing in practice,
because seeds and the draw of validation examples move most objectives by as much."""
SPREAD_SHARE = 0.5
"""Share of the gap between the best and the median point, if that is less. In some studies all points are alike, as if
no trial brings a similarity of images near to 1; smaller differences are then what the study is about."""
LEAST_SHARE = 0.1
"""Least share of the first of both, however alike the points are."""
SMALL_EFFECT = 0.25
"""Share of the standard deviation among good points that matters where there is no natural zero. Cohen (1988) calls an
effect of a fifth of a standard deviation small; differences below a quarter exchange neighbours in the ranking only."""
GOOD = 0.5
"""Share of the points whose spread counts, the best. Bad points say how bad values can be, not what matters among
good ones."""
TO_DEVIATION = 1.4826
"""Standard deviation of normal values whose median absolute deviation is 1. The latter ignores an outlier, and bad
points up to half of those looked at: a quarter of the study must be good."""
LEAST_POINTS = 4
"""Points with a value under which their median and their spread are not used: two may agree by chance."""
SETTLED = 0.1
"""Share of a curve that is left out where only curves give a scale: initial values are arbitrary."""
LONG_SHARES = (
  *("accuracy", "error", "precision", "recall", "bleu", "auroc", "auprc", "miou", "dice", "ssim", "jaccard", "ndcg"),
  *("sensitivity", "specificity", "rouge", "similarity", "auc"),
)
"""Beginnings or ends of words in the names of metrics that are shares of a whole."""
SHARES = (
  *("acc", "err", "map", "iou", "wer", "cer", "ter", "eer", "top", "mrr", "ap", "f1", "fbeta", "rate", "hits", "pass"),
  *("exact",),
)
"""Words in such names that are parts of other words too (power, heatmap): they count alone or behind a split."""
LONG_DISTANCES = (
  "loss",
  "entropy",
  "perplexity",
  "deviance",
  "rmse",
  "nmse",
  "mse",
  "rmsle",
  "msle",
  "mape",
  "hausdorff",
)
"""Beginnings or ends of words in the names of metrics whose perfect value is 0 and that have no upper end. They come
before shares: a mean squared error is none."""
DISTANCES = (
  *("squared", "absolute", "mae", "reconstruction", "xent", "ce", "bce", "ppl", "brier", "bits", "bpb", "bpc", "edit"),
  *("fid", "kid", "lpips", "distance", "divergence", "levenshtein", "regret"),
)
"""Whole words in such names."""
LONG_UNANCHORED = ("likelihood", "elbo", "reward", "evidence")
"""Beginnings or ends of words in the names of metrics whose zero is arbitrary, whatever the other words are: the
density of continuous data changes with its unit, and a reward with any constant."""
UNANCHORED = ("nll", "loglik", "logp", "logprob", "bpd", "dim", "dims", "return", "returns")
"""Whole words in such names."""
SPLITS = ("", "train", "training", "val", "valid", "validation", "dev", "eval", "test")
"""Words that stand before another one without a space in between, as in valacc."""

Kind = Literal["share", "distance"]


@once
def has_natural_zero(results: StudyResults) -> bool:
  """Return whether the objective has a perfect value that is known, so that a share of the distance from it means
  something.

  By its name and its values: a share of a whole (an error, an accuracy, a similarity), or a distance from 0 (a loss, a
  squared error). No other metric has one, nor has a distance whose values have both signs or are so far from 0 that a
  relevant share of them is more than what good points differ by.
  """
  kind = _kind(results)
  if kind != "distance":
    return kind == "share"
  costs = _costs(results)
  if len(costs) < LEAST_POINTS:
    return True
  level = abs(float(np.median(costs[: _good(costs)])))
  return (spread := _spread(costs)) == 0 or RELEVANT * level <= SMALL_EFFECT * spread


def relevant(results: StudyResults, value: float) -> float:
  """Return the smallest difference from a value of the objective that matters.

  With a natural zero: `RELEVANT` of the distance from perfection, or `SPREAD_SHARE` of the gap between the best and the
  median point, but not less than `LEAST_SHARE` of the former. Without one: `SMALL_EFFECT` of the standard deviation
  among good points, which does not change if all values are shifted, and turns and scales as they do.
  """
  most = of_perfection(results, value)
  if not has_natural_zero(results):
    return most
  costs = _costs(results)
  if len(costs) < LEAST_POINTS:
    return most
  return max(min(most, SPREAD_SHARE * float(np.median(costs) - costs[0])), LEAST_SHARE * most)


def of_perfection(results: StudyResults, value: float) -> float:
  """Return `RELEVANT` of the distance of a value from a perfect one; without a natural zero the same as `relevant`.

  The distance of a share is that from the nearer of 0 and the whole, so that an error and its accuracy are alike.
  """
  if not has_natural_zero(results):
    return SMALL_EFFECT * (_spread(_costs(results)) or _spread_of_curves(results))
  return RELEVANT * (min(value, whole_of(results) - value) if _kind(results) == "share" else abs(value))


def whole_of(results: StudyResults) -> float:
  """Return how a share of all examples is written: 100 if the objective is a percentage, by its name and by what the
  trials logged, else 1."""
  if not _has_word(results.objective.metric, LONG_SHARES, SHARES):
    return 1.0
  low, high = _range(results)
  return 100.0 if low >= 0 and 1 < high <= 100 else 1.0


@once
def _kind(results: StudyResults) -> Kind | None:
  """Return the kind of the objective, by its name and the signs of its values; None if its zero is arbitrary."""
  metric = results.objective.metric
  share, distance = _has_word(metric, LONG_SHARES, SHARES), _has_word(metric, LONG_DISTANCES, DISTANCES)
  if not (share or distance) or _has_word(metric, LONG_UNANCHORED, UNANCHORED):
    return None
  values = [trial.objective for trial in results.trials if trial.objective is not None]
  low, high = min(values, default=0.0), max(values, default=0.0)
  if share and not distance and low >= 0 and high <= whole_of(results):
    return "share"
  # Turned around, as for a tool that can only maximize, it is a distance still.
  return "distance" if (low >= 0 if results.objective.mode == "min" else high <= 0) else None


def _has_word(metric: str, long: tuple[str, ...], whole: tuple[str, ...]) -> bool:
  """Return whether a word of a metric's name begins or ends with one of the long ones, or is one of the whole ones."""
  # Both ways to write words together: valAccuracy, mIoU.
  names = re.sub(r"([a-z])([A-Z])", r"\1_\2", metric).lower(), metric.lower()
  words = {word for name in names for pattern in ("[a-z]+", "[a-z]+[0-9]+") for word in re.findall(pattern, name)}
  return any(
    word.startswith(long) or word.endswith(long) or any(word == split + one for split in SPLITS for one in whole)
    for word in words
  )


@once
def _costs(results: StudyResults) -> np.ndarray:
  """Return the costs, the best first: of points, of which retrains are one, or of trials if points are too few."""
  sign = results.objective.sign
  points = [[sign * trial.objective for trial in point if trial.objective is not None] for point in results.points]
  found = np.sort([float(np.median(values)) for values in points if values])
  if len(found) < LEAST_POINTS:
    found = np.sort([value for values in points for value in values])
  return found


def _good(costs: Sequence[float] | np.ndarray) -> int:
  return min(max(int(np.ceil(GOOD * len(costs))), LEAST_POINTS), len(costs))


def _spread(costs: np.ndarray) -> float:
  """Return the standard deviation among the good ones of some costs, the best first: robust against the best and the
  worst of them; 0 if they are too few."""
  if len(costs) < LEAST_POINTS:
    return 0.0
  for some in (costs[: _good(costs)], costs):
    away = np.abs(some - np.median(some))
    # Where most are equal, those that are not count.
    if (size := float(np.median(away))) > 0 or (size := float(away.mean())) > 0:
      return TO_DEVIATION * size
  return 0.0


@once
def _spread_of_curves(results: StudyResults) -> float:
  """Return the standard deviation of the objective over a training, for want of trials; 0 if it was not logged."""
  found = []
  for trial in results.trials:
    steps, values = trial.curve(results.objective.metric)
    later = values[steps > SETTLED * steps[-1]] if len(steps) else values
    if len(later):
      found.append(TO_DEVIATION * float(np.median(np.abs(later - np.median(later)))))
  return float(np.median(found)) if found else 0.0


@once
def _range(results: StudyResults) -> tuple[float, float]:
  """Return the smallest and the largest value of the objective's metric that any trial logged or has."""
  logged = [values for trial in results.trials if len(values := trial.curve(results.objective.metric)[1])]
  own = [trial.objective for trial in results.trials if trial.objective is not None]
  return (
    min([*(float(values.min()) for values in logged), *own], default=0.0),
    max([*(float(values.max()) for values in logged), *own], default=0.0),
  )
