"""The interface of a search that does not look at results (PB-13, PB-14), and the checks that searches share.

Point i depends only on the search, the hyperparameters and i. Trials may therefore run in any order and any number at
once, the same seed repeats a study, and a study is extended by the points after its last one (PB-15).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from trialbook.tuning.space.scales import Hyperparameter

Point = dict[str, Any]
"""Name -> value of each hyperparameter that exists at the point."""


class Search(Protocol):
  """A search. `hyperparameters` is the tuple of the study: a parent comes before those under its values."""

  def count(self, hyperparameters: Sequence[Hyperparameter]) -> int | None:
    """Return the number of points; None if it is unlimited."""
    ...

  def points(self, hyperparameters: Sequence[Hyperparameter], start: int, stop: int) -> list[Point]:
    """Return points `start` to `stop` - 1, fewer if the search ends before."""
    ...

  def problems(self, hyperparameters: Sequence[Hyperparameter]) -> list[str]:
    """Return what is wrong, in sentences. The scales are assumed to be valid."""
    ...

  def as_json(self) -> dict[str, Any]:
    """Return the name and the arguments, for records."""
    ...


def exists(one: Hyperparameter, point: Mapping[str, Any]) -> bool:
  """Return whether a hyperparameter exists at a point, given the values of its parents there."""
  return one.parent is None or (one.parent[0] in point and point[one.parent[0]] == one.parent[1])


def is_whole_number(value: Any) -> bool:
  """Return whether a value is an int and not a bool."""
  return isinstance(value, int) and not isinstance(value, bool)


def seed_problems(search: Search, seed: Any) -> list[str]:
  """Return what is wrong with the seed of a search, in sentences."""
  if is_whole_number(seed) and seed >= 0:
    return []
  return [f"{search}: the seed should be a whole number from 0 on"]
