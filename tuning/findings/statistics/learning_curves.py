"""The course of the best trials to their end: means over parts of their curves, and the errors of these.

`convergence` foresees from them what more steps would gain, `saturation` asks what fewer would lose.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from trialbook.tuning.findings.statistics.curve_trends import (
  ENOUGH_CURVES,
  complete,
  correlation,
  costs,
  deviation,
  noise_correlation,
)
from trialbook.tuning.results import StudyResults, Trial

BEST = 5
"""Trials whose ends are looked at: the best few, as the playbook says; enough to average noise."""
TOP = 0.25
"""Share of the trials that are looked through for such as ran to their end; worse ones say nothing of the best."""
AVERAGED = 20
"""Number of those trials whose ends are compared with their middles. Evaluations vary by more than what is relevant,
and good trials all stop learning at about the same step. How fast they still improve differs more."""
END = 0.3
"""Share of a curve in which its noise is measured: that from which the gain is foreseen."""
WHOLE = 0.95
"""Share of the steps that a trial must have run: the end of one that was cut short is not the end of its schedule."""
LEAST = 20
"""Evaluations of a trial, about, one in each twentieth of its steps: of fewer, the end is one or two."""
COVERED = 0.9
"""Share of `LEAST` evaluations that a trial must have: one or two may be missing."""
FILLED = 0.8
"""Share of the twentieths in which an evaluation must be: what is interpolated is not known."""
START = 0.3
"""Share of a curve that is left out where the noise of trials is compared: all fall steeply there."""
DEGREE = 4
"""Degree of the polynomial that removes the trend of the rest, which trials have in common too."""
TURNS = 3
"""Turns in the rest of the slowest wave by which noise is compared: slower ones may be part of the trend."""


@dataclasses.dataclass(frozen=True)
class LearningCurve:
  """The learning curve of a trial, averaged over parts of its steps.

  Attributes:
    trial: that ran to its end.
    twentieths: means of the costs over each twentieth of the steps: [20].
    error: standard error of the mean over a tenth, late in training.
    error_before: the same before half of the steps; noise is larger before a decay.
  """

  trial: Trial
  twentieths: np.ndarray
  error: float
  error_before: float


@dataclasses.dataclass(frozen=True)
class LearningCurves:
  """The curves of the good trials that ran to their end.

  Attributes:
    best: of the best `BEST`, not empty.
    good: of the best `AVERAGED` in the best `TOP` of the study.
    noise_correlation: of two trials, from 0 to 1; trials that share the order of the data have it.
  """

  best: Sequence[LearningCurve]
  good: Sequence[LearningCurve]
  noise_correlation: float


def learning_curves(results: StudyResults) -> LearningCurves | None:
  """Return the curves; None if none of the best trials ran to its end with enough evaluations."""
  trials = complete(results)
  whole = [trial for trial in trials if trial.last_step >= WHOLE * (results.length(trial) or 0)]
  among = {trial.trial for trial in trials[: max(BEST, math.ceil(TOP * len(trials)))]}
  neighbours = correlation(costs(results, trial) for trial in trials)
  inflation = math.sqrt((1 + neighbours) / (1 - neighbours))
  good = [_learning_curve(results, trial, inflation) for trial in whole if trial.trial in among][:AVERAGED]
  best = [one for one in good[:BEST] if one is not None]
  if not best:
    return None
  return LearningCurves(best, [one for one in good if one is not None], _noise_correlation(results, whole))


def tenths(curves: Sequence[LearningCurve]) -> np.ndarray:
  """Return the mean of several curves over each tenth of the steps: [10]."""
  return np.mean([one.twentieths for one in curves], axis=0).reshape(10, 2).mean(axis=1)


def _learning_curve(results: StudyResults, trial: Trial, inflation: float) -> LearningCurve | None:
  """Return the curve of a trial; None if there are too few evaluations.

  `inflation` is the factor of standard errors that the correlation of neighbours makes.
  """
  steps, values = costs(results, trial)
  twentieths = _twentieths(steps, values)
  points, half = round(END * len(steps)), len(steps) // 2
  noise, before = deviation(steps, values, points), deviation(steps[:half], values[:half], points)
  if twentieths is None or noise is None or before is None:
    return None
  scale = inflation / math.sqrt(len(steps) / 10)
  return LearningCurve(trial, twentieths, scale * noise, scale * before)


def _twentieths(steps: np.ndarray, values: np.ndarray) -> np.ndarray | None:
  """Return means over each twentieth of the steps: [20]; None if evaluations are too few. A twentieth without any, as
  where one is missing, has that of its neighbours."""
  if len(steps) < COVERED * LEAST:
    return None
  part = np.minimum((20 * (steps - 1) // steps[-1]).astype(int), 19)
  counts = np.bincount(part, minlength=20)
  if (counts > 0).sum() < FILLED * 20 or not counts[-2:].all():
    return None
  there = np.flatnonzero(counts)
  return np.interp(np.arange(20), there, np.bincount(part, values, minlength=20)[there] / counts[there])


def _noise_correlation(results: StudyResults, whole: Sequence[Trial]) -> float:
  """Return the correlation of the noise of two trials, estimated from all that ran to their end."""
  curves = [costs(results, trial) for trial in whole[:ENOUGH_CURVES]]
  count = int(np.median([len(steps) for steps, _ in curves]))
  # Where evaluations of a usual trial are, so that noise is not averaged between them.
  at = 1 - np.arange(int((1 - START) * count))[::-1] / count
  slow, _ = np.linalg.qr(np.polynomial.legendre.legvander(2 * at - 1, DEGREE))
  noise = []
  for steps, values in curves:
    if len(steps) >= COVERED * count:
      values = np.interp(at * steps[-1], steps, values)
      left = values - slow @ (slow.T @ values)
      # Each counts as much, whatever its size; rounding is no noise.
      if (size := float(left.std())) > 1e-9 * float(np.abs(values).max()):
        noise.append(left / size)
  return noise_correlation(np.array(noise), TURNS) if noise else 0.0
