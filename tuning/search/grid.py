"""Grid search: all combinations of some values of each hyperparameter (PB-14)."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from trialbook.tuning.search.protocol import Point, exists, is_whole_number
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, OneOf, Scale

MAX_GRID_DIMENSIONS = 2
"""Most continuous dimensions of a grid. With more, each has too few values (Bergstra & Bengio, 2012; PB-14)."""


@dataclasses.dataclass(frozen=True)
class Grid:
  """All combinations of values that exist together, each once; the last hyperparameter varies fastest.

  Of `Discrete`, `OneOf`, and an `Integer` of no more than `per_dimension` values, these are all values.

  Attributes:
    per_dimension: values of any other hyperparameter: evenly spaced on its scale, the smallest and the largest one of
      it included. Of an `Integer` on a log scale, those that would be the same number are one.
  """

  per_dimension: int = 5

  def count(self, hyperparameters: Sequence[Hyperparameter]) -> int:
    return self._count(hyperparameters, None)

  def points(self, hyperparameters: Sequence[Hyperparameter], start: int, stop: int) -> list[Point]:
    alternatives = [self._values(one.scale) for one in hyperparameters]
    return list(itertools.islice(_combinations(hyperparameters, alternatives), start, stop))

  def problems(self, hyperparameters: Sequence[Hyperparameter]) -> list[str]:
    if not is_whole_number(self.per_dimension) or self.per_dimension < 2:
      return [f"{self}: per_dimension should be a whole number from 2 on, for both ends of a scale"]
    names = self._continuous(hyperparameters, None)
    if len(names) > MAX_GRID_DIMENSIONS:
      each = self.per_dimension
      message = (
        f"{self}: {', '.join(names)} are {len(names)} continuous dimensions at once, and a grid is for"
        f" {MAX_GRID_DIMENSIONS} at most: in {each ** len(names)} trials it would try {each} values of each; use"
        " Halton(), where every trial tries a new value of each"
      )
      return [message]
    return []

  def as_json(self) -> dict[str, Any]:
    return {"name": "grid", "per_dimension": self.per_dimension}

  def _count(self, hyperparameters: Sequence[Hyperparameter], parent: tuple[str, Any] | None) -> int:
    """Return the number of combinations of the hyperparameters under a value."""
    here = [(one.name, self._values(one.scale)) for one in hyperparameters if one.parent == parent]
    return math.prod(sum(self._count(hyperparameters, (name, value)) for value in values) for name, values in here)

  def _continuous(self, hyperparameters: Sequence[Hyperparameter], parent: tuple[str, Any] | None) -> list[str]:
    """Return the names of the continuous hyperparameters under a value: the most that exist together."""
    names = []
    for one in hyperparameters:
      if one.parent == parent:
        values = self._all_values(one.scale)
        if values is None:
          names.append(one.name)
        else:
          names += max((self._continuous(hyperparameters, (one.name, value)) for value in values), key=len, default=[])
    return names

  def _values(self, scale: Scale) -> list[Any]:
    values = self._all_values(scale)
    if values is None:
      # The unit of a whole number is the middle of its interval.
      low, high = (scale.unit(scale.min), scale.unit(scale.max)) if isinstance(scale, Integer) else (0.0, 1.0)
      values = [scale.at(float(unit)) for unit in np.linspace(low, high, self.per_dimension)]
    return list(dict.fromkeys(values))

  def _all_values(self, scale: Scale) -> list[Any] | None:
    if isinstance(scale, Discrete | OneOf):
      return list(scale.values)
    if isinstance(scale, Integer) and scale.max - scale.min < self.per_dimension:
      return list(range(scale.min, scale.max + 1))
    return None


def _combinations(hyperparameters: Sequence[Hyperparameter], alternatives: Sequence[Sequence[Any]]) -> Iterator[Point]:
  """Return all points with one of the `alternatives` for each hyperparameter that exists."""

  def extended(point: Point, depth: int) -> Iterator[Point]:
    if depth == len(hyperparameters):
      yield point
    elif not exists(hyperparameters[depth], point):
      yield from extended(point, depth + 1)
    else:
      for value in alternatives[depth]:
        yield from extended({**point, hyperparameters[depth].name: value}, depth + 1)

  return extended({}, 0)
