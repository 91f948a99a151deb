"""Periods in a validation metric (PB-29), which should have none.

The playbook mentions it among what training curves show: a metric that goes up and down with the passes over the data
hints that they are not shuffled (again) in each, or that validation examples are among those for training.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage, special

from tuning.findings.curve_noise import complete, costs, listed, text
from tuning.findings.finding import Finding
from tuning.results import StudyResults, Trial

START = 0.2
"""Share of the evaluations that is left out: there the curve falls steeply, and hides all else."""
LEAST = 24
"""Evaluations after the start: of fewer, the spectrum has too few frequencies to tell one from the others."""
MOST_TRIALS = 200
"""That are looked at, the best: more add nothing."""
DEGREE = 4
"""Of the polynomial that takes away what the running median leaves of the course of the training: slower than any
period that is looked for."""
LEAST_TURNS = 4
"""Of a period in the curve: fewer are a course, not a period."""
COVERED = 0.8
"""Share of the usual evaluations that a trial must have to be looked at: what is missing is interpolated."""
CERTAIN = 0.01
"""Largest p of the highest peak, after correction for the number of frequencies."""


def find(results: StudyResults) -> list[Finding]:
  """PB-29. The mean spectrum of the trials, each with the same weight, over that of autocorrelated noise that fits it;
  its highest peak, tested by the F distribution. How many trials it is worth is read from how the other frequencies
  differ and from how alike trials are there: those that share the order of the data share noise, and count as fewer."""
  trials, curves = _evaluated(results)
  if not trials:
    return [
      Finding(
        id="PB-29",
        question="periodicity",
        severity="cannot_tell",
        title=f"Whether {results.objective.metric} has a period cannot be told",
        why=f"It takes a complete trial with {math.ceil(LEAST / (1 - START))} evaluations, at about equal distances.",
        action=f"Evaluate {math.ceil(LEAST / (1 - START))} times at least in each training.",
      )
    ]
  distance, waves, noise = _waves(curves)
  powers = np.abs(waves) ** 2
  spectrum = powers.mean(axis=0)
  frequencies = np.arange(len(spectrum)) + LEAST_TURNS
  length = curves[0][0].size
  ratio = spectrum / _smooth(spectrum, frequencies / length)
  peak = int(np.argmax(ratio))
  worth = min(_worth(ratio), _independent(np.delete(waves, peak, axis=1)))
  ratio *= float(special.gammaincinv(worth, 0.5)) / worth  # The noise was fitted to the median, and is the mean.
  # The noise is known from half as many frequencies as there are, since a median is that much less certain.
  single = float(special.fdtrc(2 * worth, worth * len(ratio), ratio[peak]))
  p = -math.expm1(len(ratio) * math.log1p(-min(single, 1 - 1e-12)))
  period = distance * length / float(frequencies[peak])
  numbers = {
    "p": p,
    "period": period,
    "ratio": float(ratio[peak]),
    "trials": len(trials),
    "worth": worth,
    "evaluations": length,
  }
  if p >= CERTAIN:
    return [
      Finding(
        id="PB-29",
        question="periodicity",
        severity="ok",
        title=f"{results.objective.metric} has no period (p = {p:.2g})",
        why=f"The highest peak of the mean spectrum of {len(trials)} trials, at {period:,.0f} steps, is"
        f" {ratio[peak]:.1f} times the noise there, which is no more than chance gives over {len(ratio)} frequencies.",
        numbers=numbers,
      )
    ]
  amplitude = noise * math.sqrt(max(2 * (float(ratio[peak]) - 1) * 2 / length, 0.0))
  return [
    Finding(
      id="PB-29",
      question="periodicity",
      severity="warning",
      title=f"{results.objective.metric} goes up and down with a period of about {period:,.0f} steps (p = {p:.1g})",
      why=f"At this period the mean spectrum of {len(trials)} trials is {ratio[peak]:.1f} times that of noise, an"
      f" amplitude of about {text(amplitude)}. Validation should not know of passes over the training data; a period"
      f" that is shorter than two evaluations, {2 * distance:,.0f} steps, would show as a longer one. A learning rate"
      " that goes up and down, as with restarts, makes a period too.",
      trials=listed(trials[:10]),
      numbers={**numbers, "amplitude": amplitude},
      action="Compare the period with that of the learning rate, and with the steps of one pass over the training data."
      " If it is the latter: look whether each pass is shuffled anew and over all of the data, and whether validation"
      " examples are among those for training.",
      plot="curves",
    )
  ]


def _evaluated(results: StudyResults) -> tuple[list[Trial], list[tuple[np.ndarray, np.ndarray]]]:
  """Trials with enough evaluations, and their values at steps that all have in common, at equal distances."""
  trials, curves = [], []
  for trial in complete(results):
    steps, values = costs(results, trial)
    if len(steps) * (1 - START) >= LEAST:
      trials.append(trial)
      curves.append((steps, values))
  if not trials:
    return [], []
  distance = float(np.median([np.median(np.diff(steps)) for steps, _ in curves]))
  # The usual length; a trial that was cut short has not the same frequencies, and is left out.
  end = float(np.median([steps[-1] for steps, _ in curves]))
  start = START * end
  if not distance > 0:
    return [], []
  count = int((end - start) / distance) + 1
  grid = end - distance * np.arange(count)[::-1]
  whole = [
    (trial, (grid, np.interp(grid, steps, values)))
    for trial, (steps, values) in zip(trials, curves, strict=True)
    if steps[-1] >= end - distance and len(steps) >= COVERED * (end / distance) and count >= LEAST
  ][:MOST_TRIALS]
  return [trial for trial, _ in whole], [curve for _, curve in whole]


def _waves(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, np.ndarray, float]:
  """The distance of evaluations in steps, the trials' Fourier coefficients, each with a mean power of 1,
  [trials, frequencies], and the median noise of a trial.

  Frequencies are those of `LEAST_TURNS` and more turns, without Nyquist's, which has half the degrees of freedom.
  """
  values = np.array([value for _, value in curves])
  # The median of neighbours over one turn of the slowest period follows whatever falls, also the bends and steps that a
  # schedule of the learning rate makes, which would leak into all frequencies; it does not follow a period.
  values = values - ndimage.median_filter(values, (1, values.shape[1] // LEAST_TURNS | 1), mode="nearest")
  time = np.linspace(-1, 1, values.shape[1])
  course = np.polynomial.legendre.legvander(time, DEGREE)
  values = values - (course @ np.linalg.lstsq(course, values.T, rcond=None)[0]).T
  waves = np.fft.rfft(values, axis=1)[:, LEAST_TURNS : (values.shape[1] + 1) // 2]
  size = np.sqrt((np.abs(waves) ** 2).mean(axis=1))
  usable = size > 1e-9 * np.array([np.abs(value).max() for _, value in curves])
  distance = float(curves[0][0][1] - curves[0][0][0])
  if not usable.any():
    return distance, np.ones_like(waves), 0.0
  return distance, waves[usable] / size[usable, None], float(np.median(values.std(axis=1)))


def _smooth(spectrum: np.ndarray, turns: np.ndarray) -> np.ndarray:
  """The spectrum of autocorrelated noise, exp(a + b cos(2 pi f)), that fits: by the median, which peaks do not move."""
  design = np.stack([np.ones(len(turns)), np.cos(2 * np.pi * turns)], axis=1)
  logs = np.log(np.maximum(spectrum, 1e-12))
  weights = np.ones(len(logs))
  fit = logs
  for _ in range(20):  # Least absolute deviations, by weights.
    scaled = design * weights[:, None]
    fit = design @ np.linalg.lstsq(scaled, logs * weights, rcond=None)[0]
    weights = 1 / np.sqrt(np.maximum(np.abs(logs - fit), 1e-3))
  return np.exp(fit)


def _independent(waves: np.ndarray) -> float:
  """The number of independent trials that as many [trials, frequencies] are worth, by how alike they are: the power of
  a mean of them is their mean power over n where they have nothing in common, and as large where all is."""
  trials = len(waves)
  if trials < 2:
    return 1.0
  alike = (trials * np.abs(waves.mean(axis=0)) ** 2).mean() / (np.abs(waves) ** 2).mean()
  shared = min(max((float(alike) - 1) / (trials - 1), 0.0), 1.0)
  return trials / (1 + (trials - 1) * shared**2)


def _worth(ratio: np.ndarray) -> float:
  """The shape of the gamma distribution that the ratios have, from the middle half of their logarithms: the number of
  independent trials that they are worth, 1 at least."""
  low, high = np.quantile(np.log(np.maximum(ratio, 1e-12)), [0.25, 0.75])
  shapes = np.geomspace(1, MOST_TRIALS, 60)
  width = np.log(special.gammaincinv(shapes, 0.75) / special.gammaincinv(shapes, 0.25))
  return float(np.interp(-(high - low), -width, shapes))
