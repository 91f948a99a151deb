"""Ways to choose points: evenly, at random, on a grid, or near the best ones so far, as adaptive searches do.

Each is a function of the history, the points so far with their costs, that returns the next point: where it is on each
scale, 0 to 1, whether the hyperparameter exists there or not.
"""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

from trialbook.tuning import Halton
from trialbook.tuning.advice_benchmark.planted import Units
from trialbook.tuning.space.scales import Hyperparameter

History = Sequence[tuple[Units, float]]
Sampler = Callable[[History], Units]

START = 10
"""Random points with which an adaptive sampler begins, as Optuna's TPE does."""
EXPLOITS = 0.75
"""Share of the later points that lie near a good one."""
GOOD = 0.2
"""Share of the points so far that are good."""
WIDTH, NARROWEST = 0.2, 0.04
"""Standard deviation of the distance to a good point, as a share of each scale, at first and at last."""


def listed(points: Sequence[Units]) -> Sampler:
  """Return the sampler of a list of points, whatever they cost."""
  return lambda history: points[len(history)]


def halton(space: Sequence[Hyperparameter], seed: int, count: int) -> Sampler:
  """Return the sampler of the default search, which fills the space evenly."""
  names = [one.name for one in space]
  return listed([dict(zip(names, row, strict=True)) for row in Halton(seed=seed).units(space, 0, count).tolist()])


def uniform(space: Sequence[Hyperparameter], rng: np.random.Generator) -> Sampler:
  """Return the sampler of independent random points."""
  return lambda _: {one.name: float(rng.random()) for one in space}


def grid(space: Sequence[Hyperparameter], counts: Sequence[int]) -> Sampler:
  """Return the sampler of all combinations of some values of each scale, at equal distances from end to end."""
  axes = [np.linspace(0.0, 1.0, count).tolist() for count in counts]
  names = [one.name for one in space]
  return listed([dict(zip(names, units, strict=True)) for units in itertools.product(*axes)])


def adaptive(space: Sequence[Hyperparameter], count: int, rng: np.random.Generator) -> Sampler:
  """Return a sampler that begins at random, and then mostly stays near good points, ever closer, as TPE does."""

  def sample(history: History) -> Units:
    start = min(START, count // 3)
    if len(history) < start or rng.random() > EXPLOITS:
      return {one.name: float(rng.random()) for one in space}
    ranked = sorted(range(len(history)), key=lambda place: history[place][1])
    chosen = ranked[int(rng.integers(max(1, round(GOOD * len(history)))))]
    width = max(WIDTH * (1 - (len(history) - start) / max(count - start, 1)), NARROWEST)
    return {name: _inside(unit + float(rng.normal(0, width))) for name, unit in history[chosen][0].items()}

  return sample


def _inside(unit: float) -> float:
  """Return a place on the scale, reflected at its ends, so that points do not pile up there."""
  unit = abs(unit) % 2.0
  return min(2.0 - unit if unit > 1.0 else unit, 1.0 - 1e-9)
