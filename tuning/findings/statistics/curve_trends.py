"""Trends of curves: straight lines through parts of them, with intervals that allow for correlated noise."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
from scipy import special

from trialbook.tuning.once import once
from trialbook.tuning.results import StudyResults, Trial

LEAST_POINTS = 5
"""Evaluations through which a line is drawn: two make it, the others say how well it is known."""
FAR = 3.0
"""Standard deviations from the line at which a value is pulled in: a single spike is not a trend, and normal noise has
only three values in a thousand beyond."""
PULLS = 3
"""Number of times that the line is drawn again with such values pulled in: the first line is itself drawn to a
spike."""
MOST_CORRELATED = 0.8
"""Largest estimate of the correlation of neighbours: beyond, noise cannot be separated from a trend."""
ENOUGH_CURVES = 100
"""Most curves whose correlations of neighbours the median is taken of: more do not change it."""
TRAINING = ("train", "training")
"""First words of the names of metrics of training examples."""
LOSSES = ("loss", "entropy", "nll", "xent", "ce", "perplexity", "ppl", "mse")
"""Last words of the names of losses, beside those that end in loss."""
LOOKED_AT = 20
"""Trials, the best, by which it is decided which of several training losses was logged until late."""
AS_LATE = 0.9
"""Share of the latest end of such a loss from which on another one was logged as late."""
SMOOTHED = 0.1
"""Share of a curve in the running mean whose best is looked for: narrow beside what is looked for, and an average of
several evaluations."""


@dataclasses.dataclass(frozen=True)
class Trend:
  """A line through values.

  Attributes:
    change: of the line, from the first step to the last.
    error: standard error of `change`, with what neighbouring values have in common.
    degrees_of_freedom: of `error`.
  """

  change: float
  error: float
  degrees_of_freedom: float

  @property
  def p_rise(self) -> float:
    """Return the one-sided p-value: the probability of such a rise if there is none."""
    return float(special.stdtr(self.degrees_of_freedom, -self.change / self.error))

  @property
  def half_width(self) -> float:
    """Return the half-width of the 95% interval of `change`."""
    return float(special.stdtrit(self.degrees_of_freedom, 0.975)) * self.error


@dataclasses.dataclass(frozen=True)
class Rise:
  """The course of a curve of costs after its best.

  Attributes:
    step: of the best of its running mean.
    level: there.
    amount: of a line through the rest, from `step` to the last step; negative where it still falls.
    low, high: its 95% interval.
    p: one-sided p-value, if there is no rise.
  """

  step: int
  level: float
  amount: float
  low: float
  high: float
  p: float


def trend(steps: np.ndarray, values: np.ndarray, shared: float = 0.0) -> Trend | None:
  """Return the line through values [points] at steps [points]; None for fewer than `LEAST_POINTS`.

  By least squares, values that are far off pulled in. `shared` is the correlation r of neighbours: it multiplies
  the variance of the change by (1 + r) / (1 - r), and leaves (1 - r^2) / (1 + r^2) of the values to know the noise by.
  """
  points = len(values)
  if points < LEAST_POINTS or steps[-1] <= steps[0]:
    return None
  line, left, spread = _line(steps, values)
  noise = float(np.sqrt(left @ left / (points - 2)))
  # Where values stand exactly on a line, rounding is all that is not known.
  rounding = 1e-9 * max(float(np.abs(values).max()), 1e-300)
  return Trend(
    change=float(line[-1] - line[0]),
    error=max(noise * float(np.sqrt((1 + shared) / (1 - shared) / spread)), rounding),
    degrees_of_freedom=max(points * (1 - shared**2) / (1 + shared**2) - 2, 1.0),
  )


def correlation(curves: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
  """Return the correlation of neighbouring evaluations: the median over curves (steps and values) of the correlation
  around a parabola in the last half. One curve gives a bad estimate, and trials of a study have it in common.

  Without most of the bias of short series (Kendall, 1954, for a mean; a parabola takes two degrees of freedom more);
  from 0 to `MOST_CORRELATED`, 0 if there is nothing to estimate it from.
  """
  found = []
  for steps, values in itertools.islice(curves, ENOUGH_CURVES):
    points = (len(values) + 1) // 2
    if points < LEAST_POINTS or steps[-1] <= steps[-points]:
      continue
    left = _around_parabola(steps[-points:], values[-points:])
    if (squares := float(left @ left)) > 0:
      raw = float(left[1:] @ left[:-1]) / squares
      found.append(raw + (3 + 4 * raw) / points)
  return min(max(float(np.median(found)), 0.0), MOST_CORRELATED) if found else 0.0


def noise_correlation(noise: np.ndarray, turns: int) -> float:
  """Return the correlation, from 0 to 1, of the noise of two trials; noise [trials, evaluations] has no slow course.

  By how alike it is at frequencies of `turns` at least: the power of a mean of trials is their mean power over n where
  they have nothing in common, and as large where all is. Trials that share the order of the data share noise.
  """
  waves = np.fft.rfft(noise)[:, turns : (noise.shape[1] + 1) // 2]
  powers = (np.abs(waves) ** 2).mean(axis=0)
  if len(noise) < 2 or not (powers > 0).any():
    return 0.0
  ratios = len(noise) * np.abs(waves.mean(axis=0))[powers > 0] ** 2 / powers[powers > 0]
  # The median over frequencies, which is log 2 for such powers: what is left of a period or a bend is in few of them.
  alike = float(np.median(ratios)) / math.log(2)
  return min(max((alike - 1) / (len(noise) - 1), 0.0), 1.0)


def effective_trials(trials: int, correlation: float) -> float:
  """Return the effective number of trials: that of independent ones whose mean is as noisy."""
  return trials / (1 + (trials - 1) * correlation)


def residuals(
  steps: np.ndarray, values: np.ndarray, pieces: Sequence[tuple[int, int]] | None = None
) -> tuple[np.ndarray, np.ndarray, int]:
  """Return values [points] less a parabola through each of several pieces (first and last index, the latter excluded;
  None: all is one), the indices of these points, and the degrees of freedom. Pieces of fewer than `LEAST_POINTS` are
  left out."""
  left, places, freedom = [np.zeros(0)], [np.zeros(0, int)], 0
  for first, end in pieces or [(0, len(values))]:
    if end - first >= LEAST_POINTS and steps[end - 1] > steps[first]:
      left.append(_around_parabola(steps[first:end], values[first:end]))
      places.append(np.arange(first, end))
      freedom += end - first - 3
  return np.concatenate(left), np.concatenate(places), freedom


def deviation(
  steps: np.ndarray, values: np.ndarray, pieces: Sequence[tuple[int, int]] | None = None
) -> tuple[float, int] | None:
  """Return the standard deviation of `residuals`, and its degrees of freedom; None if there are too few points."""
  left, _, freedom = residuals(steps, values, pieces)
  return (math.sqrt(float(left @ left) / freedom), freedom) if freedom else None


def _around_parabola(steps: np.ndarray, values: np.ndarray) -> np.ndarray:
  where = (2 * steps - steps[0] - steps[-1]) / (steps[-1] - steps[0])
  basis, _ = np.linalg.qr(np.stack([np.ones(len(where)), where, where**2], axis=1))
  left = values - basis @ (basis.T @ values)
  pulled = values - left + tamed(left)
  return pulled - basis @ (basis.T @ pulled)


def tamed(left: np.ndarray) -> np.ndarray:
  """Return residuals with those pulled in that are `FAR` robust standard deviations from 0 or more."""
  middle = float(np.median(np.abs(left))) * 1.4826
  return np.clip(left, -FAR * middle, FAR * middle) if middle > 0 else left


def _line(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
  """Return the line [points], the residuals [points], and the sum of squares of time, which goes from 0 to 1."""
  where = (steps - steps.mean()) / (steps[-1] - steps[0])
  spread = float(where @ where)
  line, left = _fit(where, spread, values)
  for _ in range(PULLS):
    line, left = _fit(where, spread, line + tamed(values - line))
  return line, left, spread


def _fit(where: np.ndarray, spread: float, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  line = values.mean() + where * float(where @ values) / spread
  return line, values - line


def rise_after_best(steps: np.ndarray, costs: np.ndarray, shared: float = 0.0) -> Rise | None:
  """Return how costs [points] changed after the best of their running mean; None if too few evaluations are left.

  The values of the running mean at its best were chosen for being low. They, and the one after them, which is a little
  like them, are left out, so that a flat curve does not seem to rise.
  """
  width = max(int(SMOOTHED * len(costs)), 3) | 1
  if len(costs) < width + LEAST_POINTS:
    return None
  sums = np.concatenate([[0.0], np.cumsum(costs)])
  smooth = (sums[width:] - sums[:-width]) / width
  best = int(np.argmin(smooth)) + width // 2
  start = best + width // 2 + 2
  line = trend(steps[start:], costs[start:], shared)
  if line is None:
    return None
  longer = float((steps[-1] - steps[best]) / (steps[-1] - steps[start]))
  return Rise(
    step=int(steps[best]),
    level=float(smooth[best - width // 2]),
    amount=line.change * longer,
    low=(line.change - line.half_width) * longer,
    high=(line.change + line.half_width) * longer,
    p=line.p_rise,
  )


def thinned(steps: np.ndarray, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
  """Return medians of equal numbers of neighbours, so that about `most` points are left, and single spikes go."""
  size = -(-len(values) // most)
  if size < 2:
    return steps, values
  blocks = len(values) // size
  # What does not fill a block is the oldest.
  kept = slice(len(values) - blocks * size, None)
  return steps[kept].reshape(blocks, size)[:, -1], np.median(values[kept].reshape(blocks, size), axis=1)


@once
def complete(results: StudyResults) -> list[Trial]:
  """Return the trials that have a value, the best first, and a curve of the objective."""
  return [trial for trial in results.ranked if len(trial.curve(results.objective.metric)[0])]


def costs(results: StudyResults, trial: Trial) -> tuple[np.ndarray, np.ndarray]:
  """Return the steps after the first, and the objective there as a cost: [evaluations] each; smaller is better."""
  return _after_start(trial, results.objective.metric, results.objective.sign)


def training_losses(results: StudyResults, trial: Trial) -> tuple[np.ndarray, np.ndarray]:
  """Return the steps after the first, and the training loss there, of the metric that `training_loss_metric` finds."""
  metric = training_loss_metric(results)
  return _after_start(trial, metric, 1) if metric else (np.zeros(0, int), np.zeros(0))


@once
def training_loss_metric(results: StudyResults) -> str | None:
  """Return the name of the loss of training examples that was logged until the latest in training; None if none was.

  Any name counts whose split is of training and that ends in a loss: `train_subset/ctc_loss`, `train_loss`. Among those
  logged about as late (`AS_LATE`), one on a fixed part of the training set comes first, and then the plainest name.
  """
  names = [name for name in results.metrics if _is_training_loss(name)]
  if len(names) < 2:
    return next(iter(names), None)
  trials = complete(results)[:LOOKED_AT] or results.trials[:LOOKED_AT]

  def coverage(name: str) -> float:
    ends = [steps[-1] / max(trial.last_step, 1) if len(steps := trial.curve(name)[0]) else 0.0 for trial in trials]
    return float(np.median(ends)) if ends else 0.0

  covered = {name: coverage(name) for name in names}
  latest = max(covered.values())
  late = [name for name in names if covered[name] >= AS_LATE * latest]
  return min(late, key=lambda name: ("subset" not in name, len(name), name))


def _is_training_loss(name: str) -> bool:
  words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower())
  return bool(words) and words[0] in TRAINING and (words[-1] in LOSSES or words[-1].endswith("loss"))


def _after_start(trial: Trial, metric: str, sign: int) -> tuple[np.ndarray, np.ndarray]:
  steps, values = trial.curve(metric)
  after = steps > 0
  return steps[after], sign * values[after]


def share_interval(count: int, total: int) -> tuple[float, float]:
  """Return the 95% interval of a share, count of total > 0 (Clopper and Pearson, 1934)."""
  low = float(special.betaincinv(count, total - count + 1, 0.025)) if count else 0.0
  high = float(special.betaincinv(count + 1, total - count, 0.975)) if count < total else 1.0
  return low, high
