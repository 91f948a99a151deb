"""Periods in a validation metric (PB-29), which should have none.

The playbook mentions it among what training curves show: a metric that goes up and down with the passes over the data
hints that they are not shuffled (again) in each, or that validation examples are among those for training.
"""

import math
from collections.abc import Sequence
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
from trialbook.tuning.findings.statistics.pieces import learning_rate
from trialbook.tuning.findings.wording import many, p_value, short
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
EVENT = 0.25
"""Share of the evaluations that are left out, one part after another, to see whether the rest has the wave too."""
RECURS = 0.5
"""Least share of the wave that the rest must have, whichever part is left out. What happens once, such as a restart or
a collapse, left at most 0.4 in 600 such studies. Waves whose amplitude falls to a quarter by the end had 0.6."""
OF_RATE = 0.5
"""Share of the variation of a logged learning rate that a wave must explain for the period to be its own."""
CERTAIN = 0.01
"""Largest p of a share that is called a period, after correction for the number of frequencies."""


class _Wave(NamedTuple):
  """The wave that explains the most.

  Attributes:
    frequency: in turns for each evaluation.
    share: of the variance, in the mean of the trials, without what a wave explains of noise.
    p: how likely noise is to have so large a share at any frequency.
    effective_trials: number of trials with noise of their own whose mean would be as noisy.
    recurs: how much of it is left where the part of the curves is left out that makes the most of it: about 1 for a
      wave, and 0 for what happens once.
  """

  frequency: float
  share: float
  p: float
  effective_trials: float
  recurs: float


def find(results: StudyResults) -> list[Finding]:
  """Return the finding on the wave, a sine and its harmonics, that explains the most of what the trials vary by from
  evaluation to evaluation (PB-29). It is a warning if that is enough to be seen, more than noise has by chance, and not
  due to a single event or to the learning rate."""
  metric = results.objective.metric
  trials, distance, values = _evaluated(results)
  if not trials:
    least = math.ceil(LEAST / (1 - START))
    return [
      _finding(
        severity="cannot_tell",
        title=f"Unknown whether {metric} is periodic: too few evaluations",
        why=f"It takes a complete trial with {least} evaluations that differ, at about equal distances.",
        action=f"Evaluate at least {least} times in each training.",
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
    "recurs": wave.recurs,
    "evaluations": length,
  }
  # Rounded down, so that what is below a limit does not read like the limit.
  floored = f"{math.floor(1000 * wave.share) / 1000:.1%}"
  explains = (
    f"A period of {period:,.0f} steps explains the most of the variation from evaluation to evaluation: at least"
    f" {floored}, in the mean of {many(len(trials), 'trial')} with {length} evaluations each, without the first"
    f" {START:.0%} of training"
  )
  if wave.share < VISIBLE:
    return [
      _finding(
        severity="ok",
        title=f"{metric} has no visible period",
        why=f"{explains}. Less than {VISIBLE:.0%} is not visible in a curve. Periods of up to"
        f" {distance * length / LEAST_TURNS:,.0f} steps were looked for, a third of what was looked at.",
        numbers=numbers,
      )
    ]
  if wave.recurs < RECURS:
    return [
      _finding(
        severity="ok",
        title=f"{metric} has no period: its strongest wave is in one part of the curves only",
        why=f"{explains}. But only {max(wave.recurs, 0.0):.0%} of that wave is left if one quarter of the curves is"
        f" left out; of a period, at least {RECURS:.0%} would be. A single event does that, such as a restart of the"
        " learning rate or a collapse.",
        numbers=numbers,
      )
    ]
  if wave.p >= CERTAIN:
    return [
      _finding(
        severity="cannot_tell",
        title=f"Unknown whether {metric} is periodic ({p_value(wave.p)})",
        why=f"{explains}. Noise may do so too: the trials share noise, and count as {wave.effective_trials:.1f}"
        " independent ones.",
        numbers=numbers,
        action="Evaluate more often, or complete more trials.",
      )
    ]
  found = (
    f"{explains}. Its amplitude is about {short(amplitude)}, and it is {low:,.0f} to {high:,.0f} steps long (95%"
    " interval)."
  )
  if _is_of_learning_rate(trials, distance, length, wave.frequency):
    return [
      _finding(
        severity="note",
        title=f"{metric} goes up and down with the learning rate, with a period of about {period:,.0f} steps",
        why=f"{found} The logged learning rate has the same period, as with restarts.",
        trials=trial_numbers(trials[:10]),
        numbers=numbers,
        action="Choose checkpoints at the end of a cycle, where the learning rate is smallest.",
        plot="curves",
      )
    ]
  return [
    _finding(
      severity="warning",
      title=f"{metric} goes up and down with a period of about {period:,.0f} steps ({p_value(wave.p)})",
      why=f"{found} Validation should not depend on passes over the training data. A period shorter than two"
      f" evaluations, {2 * distance:,.0f} steps, would look like a longer one. A learning rate that goes up and down,"
      " as with restarts, makes a period too.",
      trials=trial_numbers(trials[:10]),
      numbers=numbers,
      action="Compare the period with that of the learning rate, and with the steps of one pass over the training data."
      " If it is the latter, check that each pass is shuffled anew and covers all of the data, and that no validation"
      " example is among the training examples.",
      until=f"{many(len(trials), 'more trial')} with other data seeds that do not have this period.",
      plot="curves",
    )
  ]


def _is_of_learning_rate(trials: Sequence[Trial], distance: float, length: int, frequency: float) -> bool:
  """Return whether the learning rate of most trials that logged it has a wave of some frequency, in turns for each
  evaluation, which are `distance` steps apart."""
  shares = []
  for trial in trials:
    steps, rates = learning_rate(trial)
    if len(rates) < LEAST:
      continue
    end = steps[-1]
    rates = np.interp(end - distance * np.arange(length)[::-1], steps, rates)
    slow, _ = np.linalg.qr(np.polynomial.legendre.legvander(np.linspace(-1, 1, length), DEGREE))
    left = rates - slow @ (slow.T @ rates)
    angles = 2 * np.pi * frequency * np.arange(1, HARMONICS + 1)[:, None] * np.arange(length)
    sines, _ = np.linalg.qr(np.concatenate([np.sin(angles), np.cos(angles)]).T)
    if (size := float(left @ left)) > 1e-18 * float(rates @ rates):
      shares.append(float(((sines.T @ left) ** 2).sum()) / size)
  return bool(shares) and float(np.median(shares)) >= OF_RATE


def _evaluated(results: StudyResults) -> tuple[list[Trial], float, np.ndarray]:
  """Return the trials with enough evaluations, the distance of these in steps, and what three ways leave of their
  values without the course of the training [3, trials, evaluations], at steps that all have in common, at equal
  distances."""
  curves = ((trial, *costs(results, trial)) for trial in complete(results))
  curves = [one for one in curves if len(one[1]) * (1 - START) >= LEAST]
  distance = float(np.median([np.median(np.diff(steps)) for _, steps, _ in curves])) if curves else 0.0
  if distance <= 0:
    return [], 0.0, np.zeros((3, 0, 0))
  # The usual length; a trial that was cut short has not the same frequencies, and is left out.
  end = float(np.median([steps[-1] for _, steps, _ in curves]))
  curves = [one for one in curves if one[1][-1] >= end - distance and len(one[1]) >= COVERED * end / distance]
  count = int((1 - START) * end / distance) + 1 if curves else 0
  if count < LEAST:
    return [], distance, np.zeros((3, 0, 0))
  grid = end - distance * np.arange(count)[::-1]
  slow, _ = np.linalg.qr(np.polynomial.legendre.legvander(np.linspace(-1, 1, count), DEGREE))
  trials, left = [], []
  for trial, steps, values in curves:
    values = np.interp(grid, steps, values)
    # The median also follows the bends and steps that a schedule of the learning rate makes, and, where the curve is
    # steep, a wave. A polynomial first leaves waves as they are, but makes some of a step. Both see only a period.
    left_of_it = values - slow @ (slow.T @ values)
    ways = np.stack([_without_median(values), _without_median(left_of_it), left_of_it])
    ways = ways - ways @ slow @ slow.T
    if ways.std(axis=1).min() > 1e-9 * np.abs(values).max():
      trials.append(trial)
      left.append(ways)
    if len(trials) == MOST_TRIALS:
      break
  return trials, distance, np.array(left).reshape(-1, 3, count).swapaxes(0, 1)


def _without_median(values: np.ndarray) -> np.ndarray:
  """Return values [evaluations] less the median of their neighbours over one turn of the slowest period.

  The median follows what falls, and no period. It is taken a second time, since the first leaves noise in it.
  """
  course = values
  for _ in range(2):
    course = ndimage.median_filter(course, len(values) // LEAST_TURNS | 1, mode="nearest")
  return values - course


def _strongest(values: np.ndarray) -> _Wave:
  """Return the wave in values [3, trials, evaluations], which have a mean of 0 and a variance of 1 in each trial.

  Its share is the smaller of the first two. Whether it is more than noise is tested in the second by the F
  distribution, for the effective number of trials: those that share the order of the data share noise, and count as
  fewer.
  """
  length = values.shape[2]
  size = FINE * length
  # Without Nyquist's frequency, which has half the degrees of freedom.
  first = np.arange(LEAST_TURNS * FINE, size // 2 - FINE + 1)
  harmonics = np.arange(1, HARMONICS + 1)[:, None]
  turns = np.where(harmonics * first <= first[-1], harmonics * first, 0)
  (robust, _), (smooth, chances) = (_shares(one, turns) for one in values[:2])
  best = int(np.argmax(np.minimum(robust, smooth)))

  angles = 2 * np.pi / size * turns[turns[:, best] > 0, best][:, None] * np.arange(length)
  sines = np.concatenate([np.sin(angles), np.cos(angles)]).T
  basis, _ = np.linalg.qr(sines)
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
  return _Wave(float(first[best]) / size, share, p, effective, _without_an_event(values[2], sines))


def _without_an_event(values: np.ndarray, sines: np.ndarray) -> float:
  """Return how much of a wave is left where the part of the curves is not looked at that makes the most of it.

  Waves of some sines [evaluations, sines] and the course of the training are fitted to values [trials, evaluations]
  together, with and without each `EVENT` of the evaluations. What happens once is in one such part.
  """
  length = values.shape[1]
  course = np.polynomial.legendre.legvander(np.linspace(-1, 1, length), DEGREE)
  design = np.hstack([sines, course])
  count = sines.shape[1]

  def wave(kept: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(design[kept], values[:, kept].T, rcond=None)[0][:count]

  whole = wave(np.ones(length, bool))
  size = round(EVENT * length)
  found = []
  for first in range(0, length - size + 1, max(size // 4, 1)):
    at = np.arange(length)
    found.append(float((wave((at < first) | (at >= first + size)) * whole).sum()))
  return min(found) / float((whole**2).sum())


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
