"""Studies in memory whose curves a test writes."""

import dataclasses

import numpy as np

from trialbook.tuning import StudyResults
from trialbook.tuning.advice_benchmark import planted


def study_of_curves(*curves: planted.Curves, state: str = "complete") -> StudyResults:
  """A study of a learning rate whose trials logged these curves, which may lack the objective."""
  trials = [
    planted.trial(number, {"optimizer.learning_rate": 0.01 * (number + 1)}, one, state=state, examples={})
    for number, one in enumerate(curves)
  ]
  # Also of a metric that no trial logged, as results read from records are.
  empty = planted.results([], planted.SPACE[:1])
  return dataclasses.replace(empty, trials=tuple(one.by(planted.OBJECTIVE) for one in trials))


def normal_noise(seed: int, count: int = 50, scale: float = 0.01) -> np.ndarray:
  """Normal noise, [count]."""
  return np.random.default_rng(seed).normal(0, scale, count)
