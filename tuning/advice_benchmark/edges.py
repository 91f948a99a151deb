"""Studies whose space is at fault, or seems so: edges of what a value can be, few values, all values tried."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from trialbook.tuning import Halton, StudyResults
from trialbook.tuning.advice_benchmark import planted, samplers
from trialbook.tuning.advice_benchmark.planted import Units
from trialbook.tuning.advice_benchmark.spaces import FLOOR, RATE, Surface
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Linear, Log, OneOf, Scale

NATURAL: Mapping[str, Scale] = {
  "dropout_rate": Linear(0.0, 0.9),
  "momentum": Linear(0.5, 0.99),
  "beta2": Linear(0.9, 0.999),
  "warmup_ratio": Linear(0.0, 0.9),
  "label_smoothing": Linear(0.0, 0.8),
  "keep_probability": Linear(0.2, 1.0),
}
"""Scales near 1, which these hyperparameters cannot exceed."""
NOISE = 0.003
"""Standard deviation of the errors."""


def most(name: str) -> float:
  """Return the largest value that somebody may propose for a hyperparameter of `NATURAL`."""
  return 1.0 if NATURAL[name].at(1.0) == 1.0 else 1.0 - 1e-9


def _one(name: str, scale: Scale) -> Hyperparameter:
  return Hyperparameter(name=name, path=name, scale=scale, role="nuisance")


def _study(space: Sequence[Hyperparameter], points: Sequence[Units], surface: Surface, seed: int) -> StudyResults:
  """Return a study with the error of each point, after an evaluation before the first step."""
  rng = np.random.default_rng((seed, 3))
  trials = []
  for number, units in enumerate(points):
    error = min(surface(units) + rng.normal(0, NOISE), 0.85)
    values = {one.name: one.scale.at(units[one.name]) for one in space}
    curve = np.array([0.9, error])
    trials.append(planted.trial(number, values, {"validation/error": (np.array([0, 1000]), curve)}))
  return planted.results(trials, space, source="planted")


def _halton(space: Sequence[Hyperparameter], seed: int, count: int) -> list[Units]:
  sampler = samplers.halton(space, seed, count)
  return [sampler([({}, 0.0)] * number) for number in range(count)]


def natural_bound(seed: int, count: float) -> StudyResults:
  """The best value of a hyperparameter that cannot exceed 1 lies beyond its upper edge."""
  name = list(NATURAL)[seed % len(NATURAL)]
  space = (_one(RATE, Log(1e-4, 1.0)), _one(name, NATURAL[name]))
  rng = np.random.default_rng((seed, 4))
  centre, beyond = rng.uniform(0.3, 0.7), rng.uniform(1.1, 1.6)
  surface = lambda units: FLOOR + 0.4 * (units[RATE] - centre) ** 2 + 0.4 * (units[name] - beyond) ** 2  # noqa: E731
  return _study(space, _halton(space, seed, int(count)), surface, seed)


def linear_rate(seed: int, count: float) -> StudyResults:
  """The learning rate is searched between 0.0001 and 1 on a linear scale; the best one is near 0.01."""
  space = (_one(RATE, Linear(1e-4, 1.0)), _one("weight_decay", Log(1e-6, 1e-2)))
  rng = np.random.default_rng((seed, 4))
  best, centre = rng.uniform(-2.3, -1.7), rng.uniform(0.3, 0.7)

  def surface(units: Units) -> float:
    decades = np.log10(space[0].scale.at(units[RATE])) - best
    return FLOOR + 0.05 * float(decades) ** 2 + 0.2 * (units["weight_decay"] - centre) ** 2

  return _study(space, _halton(space, seed, int(count)), surface, seed)


def exhausted(seed: int, count: float) -> StudyResults:
  """All combinations of some values of a finite space were tried: `count` learning rates, and two other choices."""
  rates = tuple(10.0**-power for power in range(int(count), 0, -1))
  space = (
    _one(RATE, Discrete(rates)),
    _one("activation", OneOf(["relu", "gelu"])),
    _one("batch_size", Discrete((64, 128))),
  )
  rng = np.random.default_rng((seed, 4))
  centre = rng.uniform(0.4, 0.6)
  grid = samplers.grid(space, (int(count), 2, 2))
  points = [grid([({}, 0.0)] * number) for number in range(4 * int(count))]
  surface = lambda units: FLOOR + 0.6 * (units[RATE] - centre) ** 2 + 0.02 * units["activation"]  # noqa: E731
  return _study(space, points, surface, seed)


def monotone(seed: int, count: float, *, seeds: int = 1, upper: bool = True) -> StudyResults:
  """Of so many learning rates, a decade or less apart, each is better than the one before; the last is the best."""
  space = (_one(RATE, Log(1e-4, 1.0)),)
  rng = np.random.default_rng((seed, 4))
  power = rng.uniform(0.8, 1.5)
  units = np.linspace(0, 1, int(count)).repeat(seeds)
  study = _study(
    space,
    [{RATE: float(unit)} for unit in units],
    lambda units: FLOOR + 0.5 * (1 - units[RATE] if upper else units[RATE]) ** power,
    seed,
  )
  if seeds == 1:
    return study
  numbers = [dataclasses.replace(one, values={**one.values, "seed": one.trial % seeds}) for one in study.trials]
  return planted.results(numbers, (*space, _one("seed", OneOf(range(seeds)))), source="planted")


def small_but_sure(seed: int, times: float) -> StudyResults:
  """A hyperparameter changes the error by so many times the noise, which is little beside what another one changes."""
  space = tuple(_one(name, Log(1e-4, 1.0)) for name in (RATE, "other"))
  rng = np.random.default_rng((seed, 4))
  centre = rng.uniform(0.3, 0.7)
  surface = lambda units: 0.3 + 2.0 * (units[RATE] - centre) ** 2 + times * NOISE * units["other"]  # noqa: E731
  points = Halton(seed=seed).units(list(space), 0, 60)
  return _study(space, [{RATE: float(a), "other": float(b)} for a, b in points], surface, seed)
