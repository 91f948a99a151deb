"""Search spaces drawn at random, and the errors that trials converge to in them."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from trialbook.tuning.advice_benchmark.planted import Units
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Linear, Log, OneOf, ReverseLog, Scale

RATE = "learning_rate"
"""Name of the learning rate, which each space has."""
SCALES: dict[str, Scale] = {
  "weight_decay": Log(1e-6, 1e-2),
  "one_minus_momentum": Log(1e-3, 1.0),
  "dropout_rate": Linear(0.0, 0.6),
  "label_smoothing": Linear(0.0, 0.3),
  "warmup_fraction": Linear(0.01, 0.3),
  "beta2": ReverseLog(0.9, 0.9999),
  "epsilon": Log(1e-10, 1e-4),
  "batch_size": Discrete((32, 64, 128, 256, 512, 1024)),
  "num_layers": Integer(2, 12),
  "width": Integer(32, 1024, log=True),
  "activation": OneOf(["relu", "gelu", "silu"]),
  "normalization": OneOf(["batch", "layer"]),
  "init_scale": Log(0.1, 10.0),
  "ema_decay": ReverseLog(0.9, 0.9999),
  "augmentation": Linear(0.0, 1.0),
}
"""Hyperparameters beside the learning rate."""
FLOOR = 0.08
"""Lowest error that any trial converges to."""
DEPENDS, LINKED = 0.2, 0.3
"""Shares of the spaces of which one hyperparameter exists only beside a value of another one, and of which the best
value of one moves with another one."""
MOVES = 0.3
"""Share of a scale by which it moves then, while the other one goes from end to end."""
STEEP = 5
"""Number of hyperparameters beyond which each matters less, so that errors stay below chance."""

Surface = Callable[[Units], float]
"""Returns the error of a point, without noise, from where it is on each scale that exists there."""


def space_of(dimensions: int, rng: np.random.Generator) -> tuple[Hyperparameter, ...]:
  """Return a learning rate and `dimensions` - 1 other nuisance hyperparameters."""
  names = list(rng.permutation(list(SCALES)))[: dimensions - 1]
  space = [Hyperparameter(name=RATE, path=RATE, scale=Log(1e-4, 1.0), role="nuisance")]
  space += [Hyperparameter(name=str(name), path=str(name), scale=SCALES[name], role="nuisance") for name in names]
  kinds = [one for one in space if isinstance(one.scale, OneOf)]
  numbers = [place for place, one in enumerate(space) if place and not isinstance(one.scale, OneOf)]
  if kinds and numbers and rng.random() < DEPENDS:
    place = int(rng.choice(numbers))
    space[place] = dataclasses.replace(space[place], parent=(kinds[0].name, kinds[0].scale.at(0.0)))
    space.append(space.pop(place))  # A child comes after its parent.
  return tuple(space)


def valley(space: Sequence[Hyperparameter], rng: np.random.Generator) -> Surface:
  """Return a valley with its bottom in the middle of each scale: nothing is better at an edge, or beyond.

  In each dimension the error rises with a power of 1.5 to 3 of the distance, on one side more steeply, and by amounts
  that differ up to a factor of 20. Of a categorical hyperparameter one value is the best.
  """
  depths = np.exp(rng.uniform(np.log(0.05), 0, len(space))) * min(1.0, STEEP / len(space))
  depths[0] = max(depths[0], 0.3 * min(1.0, STEEP / len(space)))
  parts = {}
  for one, depth in zip(space, depths.tolist(), strict=True):
    if isinstance(one.scale, OneOf):
      worse = 0.1 * depth * rng.permutation(len(one.scale.values))
      parts[one.name] = lambda unit, worse=worse: float(worse[min(int(unit * len(worse)), len(worse) - 1)])
    else:
      centre, power, skew = rng.uniform(0.3, 0.7), rng.uniform(1.5, 3.0), rng.uniform(0.7, 1.4)
      parts[one.name] = _wall(float(centre), depth, float(power), float(skew))
  numeric = [one.name for one in space if not isinstance(one.scale, OneOf) and one.parent is None]
  linked = [str(name) for name in rng.permutation(numeric)[:2]] if rng.random() < LINKED else []

  def surface(units: Units) -> float:
    moved = dict(units)
    if len(linked) == 2:
      moved[linked[0]] += MOVES * (units[linked[1]] - 0.5)
    return FLOOR + sum(parts[name](unit) for name, unit in moved.items())

  return surface


def _wall(centre: float, depth: float, power: float, skew: float) -> Callable[[float], float]:
  return lambda unit: depth * (abs(unit - centre) * (skew if unit > centre else 1.0)) ** power
