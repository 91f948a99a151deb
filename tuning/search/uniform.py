"""Random search: independent points (PB-14)."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from trialbook.tuning.search.protocol import Point, seed_problems
from trialbook.tuning.space import scales
from trialbook.tuning.space.scales import Hyperparameter


@dataclasses.dataclass(frozen=True)
class Uniform:
  """Independent uniform random points, which leave larger gaps than those of `Halton`: to compare with (PB-14).

  Attributes:
    seed: point i is drawn from NumPy's generator seeded with [seed, i].
  """

  seed: int = 0

  def count(self, hyperparameters: Sequence[Hyperparameter]) -> int | None:
    return None

  def points(self, hyperparameters: Sequence[Hyperparameter], start: int, stop: int) -> list[Point]:
    generators = (np.random.default_rng([self.seed, index]) for index in range(start, stop))
    return [scales.at(hyperparameters, generator.random(len(hyperparameters)).tolist()) for generator in generators]

  def problems(self, hyperparameters: Sequence[Hyperparameter]) -> list[str]:
    return seed_problems(self, self.seed)

  def as_json(self) -> dict[str, Any]:
    return {"name": "uniform", "seed": self.seed}
