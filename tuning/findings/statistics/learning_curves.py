"""The course of the best trials to their end: means over parts of their curves, and the errors of these.

`convergence` foresees from them what more steps would gain, `saturation` asks what fewer would lose. A trial whose
course is unlike that of the others, as of one that recovers late, is left out of the means.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from trialbook.tuning.findings.statistics.curve_trends import (
  ENOUGH_CURVES,
  complete,
  correlation,
  costs,
  deviation,
  effective_trials,
  noise_correlation,
  thinned,
)
from trialbook.tuning.findings.statistics.pieces import Jump, all_jumps, pieces
from trialbook.tuning.findings.statistics.relevance import TO_DEVIATION
from trialbook.tuning.findings.statistics.whole_trainings import BEST, WholeTrainings
from trialbook.tuning.results import StudyResults, Trial

TOP = 0.25
"""Share of the trials that are looked through for such as ran to their end; worse ones say nothing of the best."""
AVERAGED = 20
"""Number of those trials whose ends are compared with their middles. Evaluations vary by more than what is relevant,
and good trials all stop learning at about the same step. How fast they still improve differs more."""
UNLIKE = 4.0
"""Standard deviations from the median trial, by noise or by how trials differ, from which on the change of a trial's
level is unlike that of the others. Normal values have one in ten thousand beyond."""
LEFT_OUT = 0.25
"""Largest share of the trials that is left out for that: one of four or five. Of three it is one too."""
END = 0.3
"""Share of a curve in which its noise is measured: that from which the gain is foreseen."""
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
THINNED = 400
"""Number of points to which a curve is thinned where its pieces are looked for."""
AGREE, NEAR = 0.5, 0.05
"""Share of the best trials that must have a break within a distance of one another, a share of the steps, for it to be
that of their mean."""


@dataclasses.dataclass(frozen=True)
class LearningCurve:
  """The learning curve of a trial, averaged over parts of its steps.

  Attributes:
    trial: that ran to its end.
    twentieths: means of the costs over each twentieth of the steps: [20].
    error: standard error of the mean over a tenth, late in training.
    error_before: the same before half of the steps; noise is larger before a decay.
    last_break: where its last piece begins, as a share of the steps; 0 if the curve does not break.
  """

  trial: Trial
  twentieths: np.ndarray
  error: float
  error_before: float
  last_break: float = 0.0


@dataclasses.dataclass(frozen=True)
class LearningCurves:
  """The curves of the good trials that ran to their end.

  Attributes:
    best: of the best `BEST`, not empty.
    good: of the best `AVERAGED` in the best `TOP` of the study.
    noise_correlation: of two trials, from 0 to 1; trials that share the order of the data have it.
    left_out: trials among the best `BEST` whose course is unlike that of the others; they are in neither.
  """

  best: Sequence[LearningCurve]
  good: Sequence[LearningCurve]
  noise_correlation: float
  left_out: Sequence[Trial] = ()


def learning_curves(results: StudyResults, seen: WholeTrainings) -> LearningCurves | None:
  """Return the curves; None if none of the best trials ran to its end with enough evaluations."""
  trials = complete(results)
  among = seen.of(trials[: max(BEST, math.ceil(TOP * len(trials)))])[:AVERAGED]
  looked_at = [*among, *(trial for trial in seen.whole if trial not in among)][:ENOUGH_CURVES]
  jumps = dict(zip((trial.trial for trial in looked_at), _jumps(results, looked_at), strict=True))
  neighbours = correlation(_last_piece(results, trial, jumps[trial.trial]) for trial in looked_at)
  inflation = math.sqrt((1 + neighbours) / (1 - neighbours))
  good = [_learning_curve(results, trial, inflation, jumps[trial.trial]) for trial in among]
  best, left_out = _alike([one for one in good[:BEST] if one is not None])
  if not best:
    return None
  averaged, _ = _alike([one for one in good if one is not None and one.trial not in left_out])
  shared = _noise_correlation(results, looked_at, jumps)
  return LearningCurves(best, averaged, shared, left_out)


def _alike(curves: list[LearningCurve]) -> tuple[list[LearningCurve], list[Trial]]:
  """Return the curves whose course is like that of the others, and the trials of those that are unlike it.

  Two changes of the level are compared: from the fourth to the last fifth of the steps, and from the one that ends at
  half of them.
  """
  curves, left_out = list(curves), []
  most = 1 if len(curves) == 3 else int(LEFT_OUT * len(curves))
  while len(left_out) < most:
    means = np.array([one.twentieths for one in curves]).reshape(-1, 5, 4).mean(axis=2)
    halves = np.array([one.twentieths[6:10].mean() for one in curves])
    changes = np.stack([means[:, 3] - means[:, 4], halves - means[:, 4]])
    late = np.median([one.error for one in curves])
    early = np.median([one.error_before for one in curves])
    noise = np.array([late, math.hypot(late, early) / math.sqrt(2)])
    away = np.abs(changes - np.median(changes, axis=1, keepdims=True))
    scale = np.maximum(TO_DEVIATION * np.median(away, axis=1), np.maximum(noise, 1e-300))
    far = (away / scale[:, None]).max(axis=0)
    worst = int(np.argmax(far))
    if far[worst] < UNLIKE:
      break
    left_out.append(curves.pop(worst).trial)
  return curves, left_out


def typical(curves: Sequence[LearningCurve]) -> np.ndarray:
  """Return the mean of several curves over each twentieth of the steps: [20]."""
  return np.mean([one.twentieths for one in curves], axis=0)


def error_of_typical(curves: Sequence[LearningCurve], shared: float, *, before: bool = False) -> float:
  """Return the standard error of a tenth of `typical`, or of one with noise as in both halves of the steps.

  `shared` is the correlation of the noise of two trials.
  """
  errors = [error for one in curves for error in ((one.error, one.error_before) if before else (one.error,))]
  return math.hypot(*errors) / math.sqrt(len(errors) * effective_trials(len(curves), shared))


def tenths(curves: Sequence[LearningCurve]) -> np.ndarray:
  """Return `typical` over each tenth of the steps: [10]."""
  return typical(curves).reshape(10, 2).mean(axis=1)


def last_break(curves: Sequence[LearningCurve]) -> float:
  """Return where the last piece of most of several curves begins, as a share of the steps; 0 if most do not break, or
  at different places."""
  middle = float(np.median([one.last_break for one in curves]))
  near = sum(abs(one.last_break - middle) <= NEAR for one in curves)
  return middle if middle > 0 and near >= AGREE * len(curves) else 0.0


def _jumps(results: StudyResults, trials: Sequence[Trial]) -> list[list[Jump]]:
  """Return the jumps of each trial's curve, as indices into its evaluations after the start."""
  curves = [(trial, *thinned(*costs(results, trial), THINNED)) for trial in trials]
  found = []
  for (trial, steps, _), jumps in zip(curves, all_jumps(results, curves), strict=True):
    every = costs(results, trial)[0]
    # A point of a thinned curve has the last step of the evaluations that it stands for.
    before = np.searchsorted(every, steps[[jump.at - 1 for jump in jumps]], side="right")
    settled = np.searchsorted(every, steps[[jump.settled - 1 for jump in jumps]], side="right")
    found.append([Jump(int(at), int(end)) for at, end in zip(before, settled, strict=True)])
  return found


def _last_piece(results: StudyResults, trial: Trial, jumps: Sequence[Jump]) -> tuple[np.ndarray, np.ndarray]:
  """Return the end of a trial's curve after its last jump, if it is long enough to see how neighbours correlate."""
  steps, values = costs(results, trial)
  first = jumps[-1].settled if jumps else 0
  return (steps[first:], values[first:]) if len(steps) - first >= min(LEAST, len(steps)) / 2 else (steps, values)


def _learning_curve(
  results: StudyResults, trial: Trial, inflation: float, jumps: Sequence[Jump]
) -> LearningCurve | None:
  """Return the curve of a trial; None if there are too few evaluations.

  `inflation` is the factor of standard errors that the correlation of neighbours makes.
  """
  steps, values = costs(results, trial)
  twentieths = _twentieths(steps, values)
  if twentieths is None:
    return None
  points, half = round(END * len(steps)), len(steps) // 2

  def noise(first: int, end: int) -> float | None:
    inside = pieces([jump for jump in jumps if jump.at < end], end, first)
    # Jumps that leave no piece long enough count as noise: better too much of it than too little.
    found = deviation(steps[first:end], values[first:end], inside) or deviation(steps[first:end], values[first:end])
    return None if found is None else found[0]

  late, before = noise(len(steps) - points, len(steps)), noise(half - points, half)
  if late is None or before is None:
    return None
  scale = inflation / math.sqrt(len(steps) / 10)
  last = jumps[-1].settled if jumps else 0
  # A piece that begins at an evaluation began after the one before it.
  begins = 0.5 * float(steps[last - 1] + steps[min(last, len(steps) - 1)]) / float(steps[-1]) if last else 0.0
  return LearningCurve(trial, twentieths, scale * late, scale * before, begins)


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


def _noise_correlation(results: StudyResults, whole: Sequence[Trial], jumps: Mapping[int, Sequence[Jump]]) -> float:
  """Return the correlation of the noise of two trials, estimated from some that ran to their end; with their jumps, by
  the trial's number."""
  curves = [(*costs(results, trial), jumps[trial.trial]) for trial in whole]
  count = int(np.median([len(steps) for steps, _, _ in curves]))
  # Where evaluations of a usual trial are, so that noise is not averaged between them.
  at = 1 - np.arange(int((1 - START) * count))[::-1] / count
  polynomial = np.polynomial.legendre.legvander(2 * at - 1, DEGREE)
  noise = []
  for steps, values, own in curves:
    if len(steps) >= COVERED * count:
      after = [at * steps[-1] >= steps[place] for jump in own for place in {jump.at, min(jump.settled, len(steps) - 1)}]
      values = np.interp(at * steps[-1], steps, values)
      slow, _ = np.linalg.qr(np.column_stack([polynomial, *(one for one in after if one.any() and not one.all())]))
      left = values - slow @ (slow.T @ values)
      # Each counts as much, whatever its size; rounding is no noise.
      if (size := float(left.std())) > 1e-9 * float(np.abs(values).max()):
        noise.append(left / size)
  return noise_correlation(np.array(noise), TURNS) if noise else 0.0
