"""The number of points of a search space, which is finite if no scale is continuous."""

import math
from collections.abc import Sequence
from typing import Any

from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, OneOf


def combinations(space: Sequence[Hyperparameter], parent: tuple[str, Any] | None = None) -> float:
  """Return the number of points of a space, under a value of a hyperparameter or of the whole; infinite if any scale is
  continuous."""
  found = 1.0
  for one in space:
    if one.parent == parent:
      values = values_of(one)
      if values is None:
        return math.inf
      found *= sum(combinations(space, (one.name, value)) for value in values)
  return found


def values_of(one: Hyperparameter) -> Sequence[Any] | None:
  """Return all values of a scale, in order; None if it is continuous."""
  match one.scale:
    case Discrete(values):
      return list(values)
    case Integer(low, high):
      return range(low, high + 1)
    case OneOf():
      return one.scale.values
    case _:
      return None
