"""Spaces of finitely many points, and grids: studies that have tried all of them, so that none are left to try (PB-24).

What more trials would gain is extrapolated from points that were drawn at random. A grid is not: once all combinations
of its values were tried, twice as many trials would only repeat them.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from trialbook.tuning.findings.statistics.expansion import limit_of
from trialbook.tuning.findings.statistics.points import (
  TriedPoint,
  feasible,
  is_numeric,
  points_of,
  searched,
  tried_points,
)
from trialbook.tuning.once import once
from trialbook.tuning.results import StudyResults
from trialbook.tuning.space.counting import combinations, values_of

LEAST_EVEN, EVEN_DIGITS = 5, 4
"""Fewest values whose equal gaps show that they were chosen, and digits with which fewer values do."""
EVEN = 1.4
"""Largest ratio of the distances between the values of a grid: 1, 2, 5, 10 have 1.3 on a logarithmic scale."""
MOST_SHOWN = 2
"""Hyperparameters that are proposed to get new values: those of more are another study."""
DIGITS = 2
"""Most digits of values that people choose; those that are drawn have six or more."""


@dataclasses.dataclass(frozen=True)
class FiniteSpace:
  """A space of which all points are known.

  Attributes:
    values: of each hyperparameter that was varied, in order, by name.
    combinations: number of points of the space.
    tried: number of those that were tried, whether or not they have a value.
    is_declared: whether these are all values that the space has; otherwise they are those that were tried, and others
      could be chosen.
  """

  values: Mapping[str, tuple[Any, ...]]
  combinations: int
  tried: int
  is_declared: bool

  @property
  def is_exhausted_grid(self) -> bool:
    """Return whether no other point can be tried; to a row of values of one hyperparameter others can be added."""
    return self.left == 0 and (self.is_declared or len(self.values) > 1)

  @property
  def left(self) -> int:
    """Return the number of points that are left to try."""
    return max(self.combinations - self.tried, 0)

  @property
  def said(self) -> str:
    """Return that all of its points were tried, in a clause."""
    counts = [f"{len(values)} of {name}" for name, values in self.values.items()]
    of = f" ({', '.join(counts[:-1])} and {counts[-1]})" if len(counts) > 1 else ""
    if self.is_declared:
      what = f"values of {next(iter(self.values))}" if len(counts) == 1 else "combinations"
      return f"All {self.combinations} {what}{of} were tried"
    what = f"values of the grid of {next(iter(self.values))}" if len(counts) == 1 else "combinations of the grid"
    return f"All {self.combinations} {what}{of} were tried"


@once
def finite_space(results: StudyResults) -> FiniteSpace | None:
  """Return the study's space if it is finite, or the grid of values that were tried; None if neither."""
  space = [one for one in results.space.values() if one.role != "fixed" and one.path != "seed"]
  points = tried_points(results)
  if not space or not points:
    return None
  if any(one.inferred for one in space) or math.isinf(count := combinations(space)):
    return _grid(results, points)
  names = {one.name for one in space}
  known = {one.name: {repr(value) for value in values_of(one) or ()} for one in space}
  within = [point for point in points if all(repr(v) in known[k] for k, v in point.values.items() if k in names)]
  values = {one.name: tuple(values_of(one) or ()) for one in space}
  return FiniteSpace({name: all_ for name, all_ in values.items() if len(all_) > 1}, int(count), len(within), True)


def exhausted(results: StudyResults) -> FiniteSpace | None:
  """Return the finite space or grid of a study that has tried all of it; None if points are left."""
  found = finite_space(results)
  return found if found is not None and found.left == 0 else None


def instead(space: FiniteSpace, results: StudyResults) -> str:
  """Return what can be done after all points were tried, in a clause: values to add next to the best point's."""
  found = feasible(points_of(results))
  axes = {one.name: one for one in searched(results) if is_numeric(one)}
  inner, outer = [], []
  for name, values in space.values.items():
    value = found[0].values.get(name) if found else None
    if name not in axes or value not in values:
      continue
    place = values.index(value)
    if 0 < place < len(values) - 1:
      inner.append(f"{name} between {values[place - 1]:g} and {values[place + 1]:g}")
    elif limit_of(axes[name], upper := place > 0) != value:
      outer.append(f"{name} {'above' if upper else 'below'} {value:g}")
  parts = [*outer, *inner][:MOST_SHOWN]
  return f"add values next to the best ones ({', '.join(parts)})" if parts else "add values to the space"


def _grid(results: StudyResults, points: Sequence[TriedPoint]) -> FiniteSpace | None:
  """Return the grid that the tried points make up: each combination of their values once; None if they are no grid."""
  axes = searched(results)
  if not axes or not all(one.name in point.values for one in axes for point in points):
    return None
  values: dict[str, tuple[Any, ...]] = {}
  for one in axes:
    found = list(
      dict.fromkeys(point.values[one.name] for point in points if not isinstance(point.values[one.name], list))
    )
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)
    values[one.name] = tuple(sorted(found) if numeric else found)
  if math.prod(map(len, values.values())) != len(points):
    return None
  (first, *others) = axes
  chosen = results.study.search.get("name") == "grid" or not is_numeric(first) or is_chosen(values[first.name])
  return FiniteSpace(values, len(points), len(points), False) if others or chosen else None


def is_chosen(values: Sequence[float]) -> bool:
  """Return whether numbers, in order, look chosen instead of drawn: short, or at equal distances or factors."""
  if len(values) < 2 or not all(isinstance(value, int | float) for value in values):
    return False
  if all(float(f"{value:.{DIGITS}g}") == value for value in values):
    return True
  views = [list(values)]
  if values[0] > 0:
    views.append([math.log(value) for value in values])
  if values[-1] < 1:
    views.append([-math.log(1 - value) for value in values])
  gaps = [[later - earlier for earlier, later in itertools.pairwise(view)] for view in views]
  # Of three or four drawn values, every fourth set has gaps that are about equal.
  few = 2 < len(values) < LEAST_EVEN and all(float(f"{value:.{EVEN_DIGITS}g}") == value for value in values)
  return (few or len(values) >= LEAST_EVEN) and any(max(each) <= EVEN * min(each) for each in gaps)
