"""The expansion of a scale: by how much a side moves out, as a short number, and where nothing lies beyond (PB-23)."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

from trialbook.errors import UserError
from trialbook.tuning.findings.statistics.points import TriedPoint, rounded, unit_of, value_at
from trialbook.tuning.results import StudyResults
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Linear

SHARES = ("momentum", "beta1", "beta2", "decay", "dropout_rate", "label_smoothing", "probability", "rate_of")
"""Endings of the names of fields that are shares, from 0 to 1; with what they are shares of."""


def bound_of(scale: Any, upper: bool) -> float:
  """Return the end of a numeric scale on one side."""
  if isinstance(scale, Discrete):
    return scale.values[-1 if upper else 0]
  return scale.max if upper else scale.min


def expanded(one: Hyperparameter, upper: bool, step: float) -> Any:
  """Return the scale with one side moved out by a share of its width; None if no value can lie beyond."""
  scale: Any = one.scale
  share = one.sets == "complement" or one.path.rpartition(".")[2].endswith(SHARES)
  if isinstance(scale, Discrete):
    values = list(scale.values)
    new = _next(values if upper else values[::-1])
    if (new < 0 <= min(values)) or (new == 0 < min(values)) or (share and not 0 <= new <= 1):
      return None
    return Discrete(tuple([*values, new] if upper else [new, *values]))
  value = value_at(one, 1 + step if upper else -step)
  if isinstance(scale, Integer):
    new = round(value) if upper else max(round(value), min(scale.min, 1))
    new = new if new != bound_of(scale, upper) else new + (1 if upper else -1)
    if new < min(scale.min, 1):
      return None
  else:

    def fits(new: float) -> bool:
      moved = unit_of(one, {one.name: new})
      return step / 2 <= (moved - 1 if upper else -moved) <= 2 * step

    # Of a narrow scale, a short number may be the old bound.
    new = rounded(one, value, fits, 2 if isinstance(scale, Linear) else 1)
    # Whatever was searched among positive numbers is not negative.
    new = max(new, 0.0) if scale.min >= 0 else new
    new = min(new, 1.0) if share and scale.max <= 1 else new
  if (new <= scale.max) if upper else (new >= scale.min):
    return None
  return dataclasses.replace(scale, **{"max" if upper else "min": new})


def places_of(one: Hyperparameter) -> float:
  """Return the number of values of a scale."""
  match one.scale:
    case Discrete(values):
      return len(values)
    case Integer(low, high):
      return high - low + 1
    case _:
      return math.inf


def _next(values: Sequence[float]) -> float:
  """Return the next value of a list: by its last factor where its factors are alike, else by its last difference."""
  last, before = values[-1], values[-2]
  if min(values) > 0 and len(values) > 2:
    factors = [b / a for a, b in itertools.pairwise(values)]
    if max(factors) / min(factors) < 1.5 and not math.isclose(last - before, before - values[-3]):
      new = float(f"{last * last / before:.3g}")
      return int(new) if all(isinstance(value, int) for value in values) and new == int(new) else new
  return last + (last - before)


def allowed(one: Hyperparameter, value: float, point: TriedPoint, results: StudyResults) -> bool:
  """Return whether the study's config accepts a value, with those of a good point; True if there is no config."""
  config = results.study.config
  if config is None:
    return True
  changes: dict[str, Any] = {}
  for other in results.space.values():
    if other.name in point.values and other.name != one.name:
      changes |= other.changes(point.values[other.name])
  try:
    config.override(changes)
  except UserError:
    return True  # The trouble is not this value.
  try:
    config.override({**changes, **one.changes(value)})
  except UserError:
    return False
  return True
