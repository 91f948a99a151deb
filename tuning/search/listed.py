"""Points that were chosen by hand (PB-13)."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from trialbook.naming import nearest
from trialbook.tuning.search.protocol import Point, exists, is_whole_number
from trialbook.tuning.space import scales
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, OneOf, Scale


@dataclasses.dataclass(frozen=True)
class Listed:
  """Points that were chosen by hand, in their order.

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
      found += [f"Listed, point {index}: {problem}" for problem in point_problems(hyperparameters, trial)]
      if trial in self.trials[:index]:
        found.append(f"Listed, point {index}: is equal to point {self.trials.index(trial)}")
    return found

  def as_json(self) -> dict[str, Any]:
    return {"name": "listed", "trials": [dict(trial) for trial in self.trials]}


def point_problems(hyperparameters: Sequence[Hyperparameter], trial: Mapping[str, Any]) -> list[str]:
  """Return why some values, by name, are not a point of a space; [] if they are."""
  known = [one.name for one in hyperparameters]
  found = [f"unknown hyperparameter {name!r}{nearest(name, known)}" for name in trial if name not in known]
  present: Point = {}
  for one in hyperparameters:
    condition = f"where {one.parent[0]} = {one.parent[1]!r}" if one.parent else "at every point"
    if not exists(one, present):
      if one.name in trial:
        found.append(f"{one.name} = {trial[one.name]!r}: exists only {condition}; leave it out")
    elif one.name not in trial:
      found.append(f"{one.name} is missing, which exists {condition}")
    else:
      present[one.name] = trial[one.name]
      if not _has(one.scale, trial[one.name]):
        found.append(f"{one.name} = {trial[one.name]!r}: should be a value of {one.scale}")
  return found


def _has(scale: Scale, value: Any) -> bool:
  """Return whether a scale has the value, which may be of any type."""
  if isinstance(scale, Discrete | OneOf):
    # True == 1, but a field for one does not take the other.
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in scale.values)
  if isinstance(scale, Integer):
    return is_whole_number(value) and scale.min <= value <= scale.max
  try:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= scale.unit(value) <= 1
  except ValueError:
    # The logarithm of what is not positive.
    return False
