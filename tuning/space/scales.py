"""Search spaces: which values a hyperparameter may have, on which scale, and under which other one (PB-10 to PB-14).

A space maps names to scales:

    {"optimizer.learning_rate": Log(1e-4, 1.0), "optimizer.one_minus_momentum": Log(1e-3, 1.0)}

Names are paths of the config's fields; `one_minus_x` sets the field `x` to one minus the value. `OneOf` chooses among
values, and may have a space of its own under each: these hyperparameters exist only where their value was chosen, and
two of one name under different values are two hyperparameters (PB-11). `Optional` leaves a field out (None) or not.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

DIGITS = 6
"""Significant digits of a value that was drawn: enough for any hyperparameter, and commands stay readable."""

Role = Literal["scientific", "nuisance", "fixed"]


class Scale(Protocol):
  """A mapping from a number in [0, 1) to a value.

  `unit` is the inverse of `at` (the middle of its interval where many numbers give one value).
  """

  def at(self, unit: float) -> Any: ...

  def unit(self, value: Any) -> float: ...

  def problems(self) -> list[str]: ...

  def as_json(self) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class Linear:
  """Uniform from `min` to `max`."""

  min: float
  max: float

  def at(self, unit: float) -> float:
    return _inside(self, _rounded(self.min + unit * (self.max - self.min), self.max - self.min))

  def unit(self, value: float) -> float:
    return (value - self.min) / (self.max - self.min)

  def problems(self) -> list[str]:
    return _bound_problems(self)

  def as_json(self) -> dict[str, Any]:
    return {"scale": "linear", "min": self.min, "max": self.max}


@dataclasses.dataclass(frozen=True)
class Log:
  """Uniform in the logarithm, from `min` > 0 to `max`."""

  min: float
  max: float

  def at(self, unit: float) -> float:
    return _inside(self, _rounded(self.min * (self.max / self.min) ** unit, self.max - self.min))

  def unit(self, value: float) -> float:
    return math.log(value / self.min) / math.log(self.max / self.min)

  def problems(self) -> list[str]:
    return _bound_problems(self) or (
      [] if self.min > 0 else [f"{self}: a log scale needs min > 0; use Linear, or begin at a small value"]
    )

  def as_json(self) -> dict[str, Any]:
    return {"scale": "log", "min": self.min, "max": self.max}


@dataclasses.dataclass(frozen=True)
class ReverseLog:
  """Uniform in the logarithm of one minus the value, from `min` to `max` < 1: for decays close to one."""

  min: float
  max: float

  def at(self, unit: float) -> float:
    # Rounded as a complement: of 1 - 1.23456e-7 all digits are kept.
    return _inside(
      self, 1.0 - _rounded((1.0 - self.min) * ((1.0 - self.max) / (1.0 - self.min)) ** unit, self.max - self.min)
    )

  def unit(self, value: float) -> float:
    return math.log((1.0 - value) / (1.0 - self.min)) / math.log((1.0 - self.max) / (1.0 - self.min))

  def problems(self) -> list[str]:
    return _bound_problems(self) or ([] if self.max < 1 else [f"{self}: a reverse-log scale needs max < 1"])

  def as_json(self) -> dict[str, Any]:
    return {"scale": "reverse_log", "min": self.min, "max": self.max}


@dataclasses.dataclass(frozen=True)
class Integer:
  """The whole numbers from `min` to `max`, both included; with `log`, small ones are as frequent by octave as large."""

  min: int
  max: int
  log: bool = False

  def at(self, unit: float) -> int:
    if self.log:
      low, high = self.min - 0.5, self.max + 0.5
      return _inside(self, round(low * (high / low) ** unit))
    return min(self.min + int(unit * (self.max - self.min + 1)), self.max)

  def unit(self, value: int) -> float:
    if self.log:
      low, high = self.min - 0.5, self.max + 0.5
      return math.log(value / low) / math.log(high / low)
    return (value - self.min + 0.5) / (self.max - self.min + 1)

  def problems(self) -> list[str]:
    found = _bound_problems(self)
    if not found and not all(isinstance(bound, int) and not isinstance(bound, bool) for bound in (self.min, self.max)):
      found.append(f"{self}: both bounds should be whole numbers")
    if not found and self.log and self.min < 1:
      found.append(f"{self}: a log scale needs min >= 1")
    return found

  def as_json(self) -> dict[str, Any]:
    return {"scale": "integer_log" if self.log else "integer", "min": self.min, "max": self.max}


Quantity = Linear | Log | ReverseLog | Integer
"""Scales between two bounds, of which a slice can be taken."""


@dataclasses.dataclass(frozen=True)
class Discrete:
  """Some numbers, in order, equally frequent."""

  values: Sequence[float]

  def at(self, unit: float) -> float:
    return self.values[min(int(unit * len(self.values)), len(self.values) - 1)]

  def unit(self, value: float) -> float:
    return (list(self.values).index(value) + 0.5) / len(self.values)

  def problems(self) -> list[str]:
    if not len(self.values):
      return ["Discrete([]): it needs a value at least"]
    if not all(map(_is_number, self.values)):
      return [
        f"Discrete({list(self.values)}): its values should be finite numbers of Python; for anything else, use OneOf"
      ]
    if any(later <= earlier for earlier, later in zip(self.values, self.values[1:], strict=False)):
      return [f"Discrete({list(self.values)}): each value should be larger than the one before it"]
    return []

  def as_json(self) -> dict[str, Any]:
    return {"scale": "discrete", "values": list(self.values)}


class OneOf:
  """One of some values without an order, equally frequent, each perhaps with hyperparameters of its own.

  Args:
    options: values; or a mapping from values to the spaces under them. The names in the space under a value of a group
      of fields, such as `optimizer`, are relative to that group; under any other field they are whole paths.
  """

  def __init__(self, options: Iterable[Any] | Mapping[Any, "Space"]):
    if not isinstance(options, Mapping):
      options = list(options)
    self._given = len(options)
    spaces = dict(options) if isinstance(options, Mapping) else {value: {} for value in options}
    self.spaces: Mapping[Any, Space] = spaces

  @property
  def values(self) -> list[Any]:
    """Return the values, in order."""
    return list(self.spaces)

  def at(self, unit: float) -> Any:
    return self.values[min(int(unit * len(self.spaces)), len(self.spaces) - 1)]

  def unit(self, value: Any) -> float:
    return (self.values.index(value) + 0.5) / len(self.spaces)

  def problems(self) -> list[str]:
    if not self.spaces:
      return ["OneOf([]): it needs a value at least"]
    if len(self.spaces) < self._given:
      return [f"OneOf({self.values}): two of its values are equal (1 and True are)"]
    wrong = [value for value in self.values if not (value is None or isinstance(value, str | int | float | tuple))]
    return [f"OneOf: the value {value!r} should be a string, a number, True, False, None or a tuple" for value in wrong]

  def as_json(self) -> dict[str, Any]:
    return {"scale": "categorical", "values": [list(v) if isinstance(v, tuple) else v for v in self.values]}

  def __eq__(self, other: object) -> bool:
    return isinstance(other, OneOf) and self.spaces == other.spaces

  def __hash__(self) -> int:
    return hash(tuple(self.spaces))

  def __repr__(self) -> str:
    return f"OneOf({dict(self.spaces) if any(self.spaces.values()) else self.values})"


class Optional:
  """A feature that is there or not: two hyperparameters, `NAME.present` and, where it is, its strength or its space.

  Args:
    inside: the scale of the field's value, or the space of a group of fields, such as `averaging`.
  """

  def __init__(self, inside: "Scale | OneOf | Space"):
    self.inside = inside

  def __eq__(self, other: object) -> bool:
    return isinstance(other, Optional) and self.inside == other.inside

  def __hash__(self) -> int:
    return hash(type(self))

  def __repr__(self) -> str:
    return f"Optional({self.inside})"


Space = Mapping[str, Scale | OneOf | Optional]
"""Names of fields, and what values they may have."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hyperparameter:
  """One dimension of a search space.

  Attributes:
    name: in tables and records: its path; under a value of another hyperparameter that one's path, the value, and
      its own name below it, such as `optimizer.adam.learning_rate`.
    path: of the field that it sets; without a config, the name that the function knows it by.
    scale: its values.
    role: scientific or nuisance (PB-10); what stands under a scientific value is nuisance. Fixed ones are recorded here
      where there is no config that holds them.
    parent: the hyperparameter and the value of it under which this one exists; None: it always does.
    sets: how the value enters the config: as it is; as one minus it; as the `name` of a group; as whether there is one.
    static: whether another value means another compiled program.
    inferred: whether the scale was made up from the values of the trials, as that of a study made elsewhere may be; its
      bounds are then those of the trials, not of a search.
  """

  name: str
  path: str
  scale: Scale
  role: Role
  parent: tuple[str, Any] | None = None
  sets: Literal["value", "complement", "name", "presence"] = "value"
  static: bool = False
  inferred: bool = False

  def changes(self, value: Any) -> dict[str, Any]:
    """Return what a value changes in the config: dotted path -> value."""
    match self.sets:
      case "complement":
        return {self.path: 1.0 - value}
      case "name":
        return {f"{self.path}.name": value}
      case "presence":
        return {} if value else {self.path: None}
      case _:
        return {self.path: value}

  def as_json(self) -> dict[str, Any]:
    """Return the scale's fields and those of the hyperparameter, for records."""
    parent = None if self.parent is None else {"name": self.parent[0], "value": self.parent[1]}
    return {
      "role": self.role,
      **self.scale.as_json(),
      "path": self.path,
      "parent": parent,
      "sets": self.sets,
      "static": self.static,
      **({"inferred": True} if self.inferred else {}),
    }

  @classmethod
  def from_json(cls, name: str, stored: Mapping[str, Any]) -> "Hyperparameter":
    """Return the hyperparameter that `as_json` described; of `OneOf` only the values. Raise KeyError or ValueError for
    anything else."""
    parent = stored.get("parent")
    return cls(
      name=name,
      path=stored.get("path", name),
      scale=scale_from_json(stored),
      role=stored["role"],
      parent=None if parent is None else (parent["name"], _value(parent["value"])),
      sets=stored.get("sets", "value"),
      static=stored.get("static", False),
      inferred=stored.get("inferred", False),
    )


def scale_from_json(stored: Mapping[str, Any]) -> "Scale":
  """Return the scale of a record. Raise KeyError or ValueError if there is none."""
  match stored["scale"]:
    case "linear":
      return Linear(stored["min"], stored["max"])
    case "log":
      return Log(stored["min"], stored["max"])
    case "reverse_log":
      return ReverseLog(stored["min"], stored["max"])
    case "integer" | "integer_log" as name:
      return Integer(stored["min"], stored["max"], log=name == "integer_log")
    case "discrete":
      return Discrete(tuple(stored["values"]))
    case "categorical":
      return OneOf([_value(value) for value in stored["values"]])
    case other:
      raise ValueError(f"unknown scale {other!r}")


def _value(value: Any) -> Any:
  return tuple(value) if isinstance(value, list) else value


def active(hyperparameters: Sequence[Hyperparameter], values: Mapping[str, Any]) -> dict[str, Any]:
  """Return those values that exist, given a value for every hyperparameter and so for all parents."""
  kept: dict[str, Any] = {}
  # Parents stand before what is under them.
  for one in hyperparameters:
    if one.parent is None or (one.parent[0] in kept and kept[one.parent[0]] == one.parent[1]):
      kept[one.name] = values[one.name]
  return kept


def at(hyperparameters: Sequence[Hyperparameter], units: Sequence[float]) -> dict[str, Any]:
  """Return the values of a point of the unit cube [number of hyperparameters]; those that do not exist are left out."""
  values = {one.name: one.scale.at(float(unit)) for one, unit in zip(hyperparameters, units, strict=True)}
  return active(hyperparameters, values)


def _rounded(value: float, width: float) -> float:
  """Return a value with `DIGITS` digits, counted from the width of a range, or from its own size if that is less."""
  size = min(abs(value) or width, width)
  return round(value, DIGITS - 1 - math.floor(math.log10(size)))


def _inside(scale: Any, value: Any) -> Any:
  """Return a value moved back inside the bounds, which rounding may exceed by a digit."""
  return min(max(value, scale.min), scale.max)


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _bound_problems(scale: Any) -> list[str]:
  bounds = (scale.min, scale.max)
  if not all(map(_is_number, bounds)):
    return [f"{scale}: both bounds should be finite numbers of Python"]
  return [] if scale.min < scale.max else [f"{scale}: min should be smaller than max"]
