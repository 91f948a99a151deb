"""Periods in a validation metric (PB-29), which should have none.

The playbook mentions it among what training curves show: a metric that goes up and down with the passes over the data
hints that they are not shuffled (again) in each, or that validation examples are among those for training.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import ndimage, special

from trialbook.tuning.findings.finding import Finding, finding_of, trial_numbers
from trialbook.tuning.findings.statistics.curve_trends import (
  MOST_CORRELATED,
  complete,
  costs,
  effective_trials,
  noise_correlation,
)
from trialbook.tuning.findings.wording import p_value, short
from trialbook.tuning.results import StudyResults, Trial

_finding = finding_of("PB-29", "periodicity")

START = 0.2
"""Share of the evaluations that is left out: there the curve falls steeply, and hides all else."""
LEAST = 24
"""Evaluations after the start: of fewer, the spectrum has too few frequencies to separate one from the others."""
MOST_TRIALS = 100
"""Number of trials that are looked at, the best: what a period explains is known to 0.02 then."""
DEGREE = 4
"""Degree of the polynomial that removes most of the course of the training, and what a running median leaves of it:
slower than any period that is looked for."""
LEAST_TURNS = 3
"""Fewest turns of a period in what is looked at of a curve: fewer are a trend, not a period."""
COVERED = 0.8
"""Share of the usual evaluations that a trial must have to be looked at: what is missing is interpolated."""
HARMONICS = 3
"""Sines of a wave, of once, twice and three times its frequency: with them most of a saw and of a spike is seen too."""
FUNDAMENTAL = 0.5
"""Least share of the power of each harmonic that the first must have: twice the period of a sine is not its period."""
FINE = 8
"""Frequencies that are looked at, for each that a curve can separate: a wave between two of these is not missed."""
VISIBLE = 0.15
"""Share of the variance from evaluation to evaluation, in the mean of the trials, that a wave must explain to matter.
The amplitude of a sine is 0.6 standard deviations of the noise then, and a smaller one is not visible in a curve. It is
also above what noise and the bends of healthy curves explain in some dozens of trials, which is up to 0.13."""
LEFT = 0.02
"""Share that noise may have at a frequency beyond what the correlation of neighbours predicts: no noise is as simple as
that, and many trials would make each difference certain."""
HALF_WIDTH = 0.3
"""Half-width of the 95% interval of a frequency, in turns in the evaluations that are looked at. Measured: it holds the
true one of 97% or more of planted sines and saws that are warned of, at amplitudes from one to ten standard deviations
of the noise, in 4 trials and in 20."""
CERTAIN = 0.01
"""Largest p of a share that is called a period, after correction for the number of frequencies."""


class _Wave(NamedTuple):
  """The wave that explains the most.

  Attributes:
    frequency: in turns for each evaluation.
    share: of the variance, in the mean of the trials, without what a wave explains of noise.
    p: how likely noise is to have so large a share at any frequency.
    effective_trials: number of trials with noise of their own whose mean would be as noisy.
  """

  frequency: float
  share: float
  p: float
  effective_trials: float


def find(results: StudyResults) -> list[Finding]:
  """Return the finding on the wave, a sine and its harmonics, that explains the most of what the trials vary by from
  evaluation to evaluation (PB-29). It is a warning if that is enough to be seen, and more than noise has by chance."""
  metric = results.objective.metric
  trials, distance, values = _evaluated(results)
  if not trials:
    least = math.ceil(LEAST / (1 - START))
    return [
      _finding(
        severity="cannot_tell",
        title=f"Whether {metric} has a period cannot be told",
        why=f"It takes a complete trial with {least} evaluations that differ, at about equal distances.",
        action=f"Evaluate {least} times at least in each training.",
      )
    ]
  sizes = values.std(axis=2)
  wave = _strongest(values / sizes[:, :, None])
  length = values.shape[2]
  period = distance / wave.frequency
  low, high = (distance / (wave.frequency + side * HALF_WIDTH / length) for side in (1, -1))
  amplitude = math.sqrt(2 * wave.share) * float(np.median(sizes[1]))
  numbers = {
    "p": wave.p,
    "share": wave.share,
    "period": period,
    "period_low": low,
    "period_high": high,
    "amplitude": amplitude,
    "trials": len(trials),
    "worth": wave.effective_trials,
    "evaluations": length,
  }
  # Rounded down, so that what is below a limit does not read like the limit.
  floored = f"{math.floor(1000 * wave.share) / 1000:.1%}"
  explains = (
    f"A period of {period:,.0f} steps explains the most of how the metric varies from evaluation to evaluation, at"
    f" least {floored} in the mean of the trials that were looked at ({len(trials)})"
  )
  if wave.share < VISIBLE:
    return [
      _finding(
        severity="ok",
        title=f"{metric} has no period that could be seen",
        why=f"{explains}; below {VISIBLE:.0%} it is lost in the noise of a curve. Periods of up to"
        f" {distance * length / LEAST_TURNS:,.0f} steps were looked for, {LEAST_TURNS} of which are in the curves.",
        numbers=numbers,
      )
    ]
  if wave.p >= CERTAIN:
    return [
      _finding(
        severity="cannot_tell",
        title=f"Whether {metric} has a period cannot be told ({p_value(wave.p)})",
        why=f"{explains}, but noise may do so too in {length} evaluations of trials that are worth"
        f" {wave.effective_trials:.1f} with noise of their own.",
        numbers=numbers,
        action="Evaluate more often, or complete more trials.",
      )
    ]
  return [
    _finding(
      severity="warning",
      title=f"{metric} goes up and down with a period of about {period:,.0f} steps ({p_value(wave.p)})",
      why=f"{explains}, with an amplitude of about {short(amplitude)}; it is {low:,.0f} to {high:,.0f} steps long"
      " (95% interval). Validation should not know of passes over the training data; a period that is shorter than two"
      f" evaluations, {2 * distance:,.0f} steps, would show as a longer one. A learning rate that goes up and down, as"
      " with restarts, makes a period too.",
      trials=trial_numbers(trials[:10]),
      numbers=numbers,
      action="Compare the period with that of the learning rate, and with the steps of one pass over the training data."
      " If it is the latter: look whether each pass is shuffled anew and over all of the data, and whether validation"
      " examples are among those for training.",
      plot="curves",
    )
  ]


def _evaluated(results: StudyResults) -> tuple[list[Trial], float, np.ndarray]:
  """Return the trials with enough evaluations, the distance of these in steps, and what two ways leave of their values
  without the course of the training [2, trials, evaluations], at steps that all have in common, at equal distances."""
  curves = ((trial, *costs(results, trial)) for trial in complete(results))
  curves = [one for one in curves if len(one[1]) * (1 - START) >= LEAST]
  distance = float(np.median([np.median(np.diff(steps)) for _, steps, _ in curves])) if curves else 0.0
  if distance <= 0:
    return [], 0.0, np.zeros((2, 0, 0))
  # The usual length; a trial that was cut short has not the same frequencies, and is left out.
  end = float(np.median([steps[-1] for _, steps, _ in curves]))
  curves = [one for one in curves if one[1][-1] >= end - distance and len(one[1]) >= COVERED * end / distance]
  count = int((1 - START) * end / distance) + 1 if curves else 0
  if count < LEAST:
    return [], distance, np.zeros((2, 0, 0))
  grid = end - distance * np.arange(count)[::-1]
  slow, _ = np.linalg.qr(np.polynomial.legendre.legvander(np.linspace(-1, 1, count), DEGREE))
  trials, left = [], []
  for trial, steps, values in curves:
    values = np.interp(grid, steps, values)
    # The median also follows the bends and steps that a schedule of the learning rate makes, and, where the curve is
    # steep, a wave. A polynomial first leaves waves as they are, but makes some of a step. Both see only a period.
    ways = np.stack([_without_median(values), _without_median(values - slow @ (slow.T @ values))])
    ways = ways - ways @ slow @ slow.T
    if ways.std(axis=1).min() > 1e-9 * np.abs(values).max():
      trials.append(trial)
      left.append(ways)
    if len(trials) == MOST_TRIALS:
      break
  return trials, distance, np.array(left).reshape(-1, 2, count).swapaxes(0, 1)


def _without_median(values: np.ndarray) -> np.ndarray:
  """Return values [evaluations] less the median of their neighbours over one turn of the slowest period.

  The median follows what falls, and no period. It is taken a second time, since the first leaves noise in it.
  """
  course = values
  for _ in range(2):
    course = ndimage.median_filter(course, len(values) // LEAST_TURNS | 1, mode="nearest")
  return values - course


def _strongest(values: np.ndarray) -> _Wave:
  """Return the wave in values [2, trials, evaluations], which have a mean of 0 and a variance of 1 in each trial.

  Its share is the smaller of both. Whether it is more than noise is tested in the second by the F distribution, for the
  effective number of trials: those that share the order of the data share noise, and count as fewer.
  """
  length = values.shape[2]
  size = FINE * length
  # Without Nyquist's frequency, which has half the degrees of freedom.
  first = np.arange(LEAST_TURNS * FINE, size // 2 - FINE + 1)
  harmonics = np.arange(1, HARMONICS + 1)[:, None]
  turns = np.where(harmonics * first <= first[-1], harmonics * first, 0)
  (robust, _), (smooth, chances) = (_shares(one, turns) for one in values)
  best = int(np.argmax(np.minimum(robust, smooth)))

  angles = 2 * np.pi / size * turns[turns[:, best] > 0, best][:, None] * np.arange(length)
  basis, _ = np.linalg.qr(np.concatenate([np.sin(angles), np.cos(angles)]).T)
  shared = noise_correlation(values[1] - values[1] @ basis @ basis.T, LEAST_TURNS)
  effective = effective_trials(len(values[1]), shared)
  chance = chances[best] + LEFT * (1 - chances[best])
  noise = (1 - smooth[best]) * (1 - chances[best])
  ratio = (1 - noise) / noise * (1 - chance) / chance
  size_of_basis = basis.shape[1]
  single = float(special.fdtrc(size_of_basis * effective, (length - 1 - DEGREE - size_of_basis) * effective, ratio))
  # Half as many frequencies as evaluations are told apart, and there is about one more between two of them.
  p = -math.expm1((length - 2 * LEAST_TURNS) * math.log1p(-min(single, 1 - 1e-12)))
  share = max(float(min(robust[best], smooth[best])), 0.0)
  return _Wave(float(first[best]) / size, share, p, effective)


def _shares(values: np.ndarray, turns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Return what waves explain of values [trials, evaluations], in the mean, beyond what they explain of noise, and the
  latter.

  A wave has frequencies `turns` [harmonics, waves] in `FINE` times the evaluations, 0: none. It explains the sum of the
  spectrum there; -inf if another one explains that better. What it leaves is taken for noise with correlated
  neighbours.
  """
  length = values.shape[1]
  size = FINE * length
  spectrum = (2 * np.abs(np.fft.rfft(values, size)) ** 2).mean(axis=0) / length**2
  powers = np.where(turns > 0, spectrum[turns], 0)
  explained = np.minimum(powers.sum(axis=0), 1 - 1e-9)
  cosines = np.cos(2 * np.pi / size * turns)
  neighbours = (values[:, 1:] * values[:, :-1]).sum(axis=1).mean() / length
  shared = (neighbours - (powers * cosines).sum(axis=0)) / (1 - explained)
  shared = np.clip(shared, -MOST_CORRELATED, MOST_CORRELATED)
  color = (1 - shared**2) / (1 - 2 * shared * cosines + shared**2)
  chance = np.minimum((2 * (turns > 0) * color).sum(axis=0) / (length - 1 - DEGREE), 0.9)
  share = 1 - (1 - explained) / (1 - chance)
  return np.where(powers[0] >= FUNDAMENTAL * powers.max(axis=0), share, -np.inf), chance
