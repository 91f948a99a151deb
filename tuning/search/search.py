"""Which points of a space are tried: searches that look at no result (PB-13, PB-14).

The i-th point depends on the search, the hyperparameters and i alone. So trials may run in any order and any number at
once, a study is repeated from its seed, and is extended by asking for the points behind the last (PB-15).
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float

from trialbook.naming import nearest
from trialbook.tuning.space import scales
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, OneOf, Scale

Point = dict[str, Any]
"""Name -> value, of the hyperparameters that exist there."""

MAX_GRID_DIMENSIONS = 2
"""Continuous ones of a grid; with more, each of them sees too few values (Bergstra & Bengio, 2012; PB-14)."""


class Search(Protocol):
  """What a study asks. Hyperparameters are a study's own tuple, parents before what is under them."""

  def count(self, hyperparameters: Sequence[Hyperparameter]) -> int | None:
    """How many points there are; None: as many as one likes."""
    ...

  def points(self, hyperparameters: Sequence[Hyperparameter], start: int, stop: int) -> list[Point]:
    """Points `start` to `stop` - 1, fewer where there are no more."""
    ...

  def problems(self, hyperparameters: Sequence[Hyperparameter]) -> list[str]:
    """What is wrong, in sentences. The scales are taken to be right."""
    ...

  def as_json(self) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Halton:
  """Quasi-random search, the default: SciPy's scrambled Halton sequence (Owen, 2017).

  Any stretch of points is nearly uniform: in a column with the prime base p, the share of any n of them below any
  threshold is right up to s/n, with s the sum of n's digits in base p. So small bases are better. Hyperparameters that
  do not exist at a point are drawn there too, and left out.

  A hyperparameter of k values has its values equally often among the first n points, for every n, if p or a power of
  it is k: each n/k times, up to less than one. Where no such column is left, the count is off by up to 5 among 512
  points, if p is 19 at most, and by up to 7, if it is 37 at most (measured: k from 2 to 12, 40 seeds; of random points
  the worst is 16 on average). So columns are given away in this order:

  1. Those whose base fits, to hyperparameters of finitely many values, each the one of the smallest base: first those
     without a parent, of them the scientific ones, of them those of the fewest values.
  2. The others by their base, the smallest first: again first to those without a parent, of them the scientific ones,
     of them those of the fewest values; those of a continuum are last.

  What is equal so far keeps the order of the hyperparameters.

  Attributes:
    seed: of the scrambling.
  """

  seed: int = 0

  def count(self, hyperparameters: Sequence[Hyperparameter]) -> int | None:
    return None

  def units(self, hyperparameters: Sequence[Hyperparameter], start: int, stop: int) -> Float[np.ndarray, "n d"]:
    """The points in the unit cube, a column for each hyperparameter: SciPy's, in another order of columns."""
    from scipy.stats import qmc  # Takes a second, and workers have no use for it.

    engine = qmc.Halton(len(hyperparameters), scramble=True, rng=self.seed)
    return engine.fast_forward(start).random(stop - start)[:, columns(hyperparameters)]

  def points(self, hyperparameters: Sequence[Hyperparameter], start: int, stop: int) -> list[Point]:
    return [scales.at(hyperparameters, units) for units in self.units(hyperparameters, start, stop).tolist()]

  def problems(self, hyperparameters: Sequence[Hyperparameter]) -> list[str]:
    return _seed_problems(self)

  def as_json(self) -> dict[str, Any]:
    return {"name": "halton", "seed": self.seed}


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
    return _seed_problems(self)

  def as_json(self) -> dict[str, Any]:
    return {"name": "uniform", "seed": self.seed}


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
    if not _is_whole(self.per_dimension) or self.per_dimension < 2:
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
    """How many combinations there are of what stands under a value."""
    here = [(one.name, self._values(one.scale)) for one in hyperparameters if one.parent == parent]
    return math.prod(sum(self._count(hyperparameters, (name, value)) for value in values) for name, values in here)

  def _continuous(self, hyperparameters: Sequence[Hyperparameter], parent: tuple[str, Any] | None) -> list[str]:
    """Names of the hyperparameters under a value of which a grid has not all values: the most that exist together."""
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


@dataclasses.dataclass(frozen=True)
class Listed:
  """Points that somebody chose, in their order.

  Attributes:
    trials: of each point name -> value, for the hyperparameters that exist there.
  """

  trials: Sequence[Mapping[str, Any]]

  def count(self, hyperparameters: Sequence[Hyperparameter]) -> int:
    return len(self.trials)

  def points(self, hyperparameters: Sequence[Hyperparameter], start: int, stop: int) -> list[Point]:
    return [scales.active(hyperparameters, trial) for trial in self.trials[start:stop]]

  def problems(self, hyperparameters: Sequence[Hyperparameter]) -> list[str]:
    if not self.trials:
      return ["Listed([]): it needs a point at least"]
    found = []
    for index, trial in enumerate(self.trials):
      found += [f"Listed, point {index}: {problem}" for problem in _point_problems(hyperparameters, trial)]
      if trial in self.trials[:index]:
        found.append(f"Listed, point {index}: is equal to point {self.trials.index(trial)}")
    return found

  def as_json(self) -> dict[str, Any]:
    return {"name": "listed", "trials": [dict(trial) for trial in self.trials]}


def columns(hyperparameters: Sequence[Hyperparameter]) -> list[int]:
  """For each hyperparameter the column of the Halton sequence that it has, in the order that `Halton` tells."""
  counts = [_value_count(one.scale) for one in hyperparameters]

  def urgency(position: int) -> tuple[bool, bool, float]:
    one = hyperparameters[position]
    return one.parent is not None, one.role != "scientific", counts[position]

  order = sorted(range(len(hyperparameters)), key=urgency)
  # The bases of SciPy's columns.
  left = dict(enumerate(_primes(len(hyperparameters))))
  given = {}
  for position in order:
    fitting = [column for column, base in left.items() if _is_power(counts[position], base)]
    if fitting:
      given[position] = fitting[0]
      del left[fitting[0]]
  given |= zip((position for position in order if position not in given), left, strict=True)
  return [given[position] for position in range(len(hyperparameters))]


def _combinations(hyperparameters: Sequence[Hyperparameter], alternatives: Sequence[Sequence[Any]]) -> Iterator[Point]:
  """All points with one of the `alternatives` for each hyperparameter that exists."""

  def extended(point: Point, depth: int) -> Iterator[Point]:
    if depth == len(hyperparameters):
      yield point
    elif not _exists(hyperparameters[depth], point):
      yield from extended(point, depth + 1)
    else:
      for value in alternatives[depth]:
        yield from extended({**point, hyperparameters[depth].name: value}, depth + 1)

  return extended({}, 0)


def _point_problems(hyperparameters: Sequence[Hyperparameter], trial: Mapping[str, Any]) -> list[str]:
  known = [one.name for one in hyperparameters]
  found = [f"unknown hyperparameter {name!r}{nearest(name, known)}" for name in trial if name not in known]
  present: Point = {}
  for one in hyperparameters:
    condition = f"where {one.parent[0]} = {one.parent[1]!r}" if one.parent else "at every point"
    if not _exists(one, present):
      if one.name in trial:
        found.append(f"{one.name} = {trial[one.name]!r}: exists only {condition}; leave it out")
    elif one.name not in trial:
      found.append(f"{one.name} is missing, which exists {condition}")
    else:
      present[one.name] = trial[one.name]
      if not _has(one.scale, trial[one.name]):
        found.append(f"{one.name} = {trial[one.name]!r}: should be a value of {one.scale}")
  return found


def _exists(one: Hyperparameter, point: Mapping[str, Any]) -> bool:
  return one.parent is None or (one.parent[0] in point and point[one.parent[0]] == one.parent[1])


def _has(scale: Scale, value: Any) -> bool:
  """Whether a scale has the value, which may be anything."""
  if isinstance(scale, Discrete | OneOf):
    # True == 1, but a field for one does not take the other.
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in scale.values)
  if isinstance(scale, Integer):
    return _is_whole(value) and scale.min <= value <= scale.max
  try:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= scale.unit(value) <= 1
  except ValueError:
    # The logarithm of what is not positive.
    return False


def _value_count(scale: Scale) -> float:
  """How many equally frequent values there are, infinite for anything else."""
  if isinstance(scale, Discrete | OneOf):
    return len(scale.values)
  if isinstance(scale, Integer) and not scale.log:
    return scale.max - scale.min + 1
  return math.inf


def _is_power(count: float, base: int) -> bool:
  """Whether `count` is base, base², …"""
  return any(count == base**exponent for exponent in range(1, 64))


def _primes(count: int) -> list[int]:
  numbers = (number for number in itertools.count(2) if all(number % smaller for smaller in range(2, number)))
  return list(itertools.islice(numbers, count))


def _is_whole(value: Any) -> bool:
  return isinstance(value, int) and not isinstance(value, bool)


def _seed_problems(search: Halton | Uniform) -> list[str]:
  if _is_whole(search.seed) and search.seed >= 0:
    return []
  return [f"{search}: the seed should be a whole number from 0 on"]
