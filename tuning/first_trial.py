"""The baseline of a study: the values of its first trial, with which every other trial can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trialbook.errors import ConfigError
from trialbook.settings import find
from trialbook.trainer import overrides
from trialbook.tuning.search.listed import point_problems
from trialbook.tuning.search.protocol import Point, exists
from trialbook.tuning.space.scales import DIGITS, Hyperparameter

if TYPE_CHECKING:
  from trialbook.trainer import Config


def point(config: Config | None, hyperparameters: Sequence[Hyperparameter], given: Mapping[str, Any]) -> Point:
  """Return the values of a baseline, by name: those that are given, and the config's for the others.

  Args:
    config: of the study; None for a function, which has no values of its own.
    hyperparameters: of the study.
    given: values by name.
  """
  found: Point = {}
  for one in hyperparameters:
    if not exists(one, found):
      continue
    value = given.get(one.name, None if config is None else value_in(config, one))
    if value is None and one.name not in given:
      continue
    found[one.name] = value
    if config is not None:
      # What is under a value has the defaults of that value's kind.
      try:
        config = overrides.override(config, one.changes(value), lambda _: [])
      except (ConfigError, TypeError):
        break  # A value that the scale does not have; `problems` says so.
  return found


def problems(config: Config | None, hyperparameters: Sequence[Hyperparameter], given: Mapping[str, Any]) -> list[str]:
  """Return what is wrong with a baseline."""
  found = point_problems(hyperparameters, {**point(config, hyperparameters, given), **given})
  hint = "; the config is not in this space: widen it, or give the value in `baseline`" if found and not given else ""
  return [f"baseline: {problem}{hint}" for problem in found]


def value_in(config: Config, one: Hyperparameter) -> Any:
  """Return the value of a hyperparameter that a config has; None: it has none."""
  located = find(config, one.path)
  value = None if located is None else located[1]
  match one.sets:
    case "presence":
      return value is not None
    case "name":
      return getattr(value, "name", None)
    case "complement":
      return None if value is None else float(f"{1.0 - value:.{DIGITS}g}")
    case _:
      return value
