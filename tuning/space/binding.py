"""The list of hyperparameters of search spaces, each found in the config and within its field's range (PB-11)."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trialbook.errors import ConfigError
from trialbook.settings import Settings, find, leaves
from trialbook.trainer import overrides
from trialbook.tuning.space.scales import Hyperparameter, OneOf, Optional, Role, Scale, Space

if TYPE_CHECKING:
  from trialbook.trainer import Config


def flatten(config: Config | None, spaces: Mapping[Role, Space]) -> tuple[list[Hyperparameter], list[str]]:
  """Return the hyperparameters of spaces, parents before what is under them, and what is wrong.

  Args:
    config: that they change; None for those of a function, which knows names and no fields.
    spaces: by role.
  """
  groups = {} if config is None else _varied_groups(config, spaces)
  problems: list[str] = []
  found: list[Hyperparameter] = []
  for role, space in spaces.items():
    walk = _Walk(role, problems)
    for name, scale in walk.entries(space, role):
      group = next((group for group in groups if name.startswith(f"{group}.") and name != f"{group}.name"), None)
      if group is None:
        found += walk.one(config, name, name, scale, role, None)
      else:
        found += walk.under_each(group, groups[group], name, scale, role)
  names = [one.name for one in found]
  twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
  problems += [f"hyperparameter {name!r} is there twice: give it one role" for name in twice]
  if not problems:
    problems += _conflicts(found)
  return found, problems


def changes(hyperparameters: Sequence[Hyperparameter], values: Mapping[str, Any]) -> dict[str, Any]:
  """Return what values, by name, change in the config: dotted path -> value."""
  known = {one.name: one for one in hyperparameters}
  found: dict[str, Any] = {}
  for name, value in values.items():
    found |= known[name].changes(value)
  return found


class _Walk:
  """A walk through the spaces of one role; `problems` collects what is wrong."""

  def __init__(self, argument: str, problems: list[str]):
    self._argument, self._problems = argument, problems

  def entries(self, space: Space, where: str) -> Iterator[tuple[str, Any]]:
    """Yield the names and scales of what should be a space."""
    if not isinstance(space, Mapping):
      self._problems.append(f"{where} = {space!r}: should be a space, such as {{'learning_rate': Log(1e-4, 1.0)}}")
      return
    for name, scale in space.items():
      if isinstance(name, str):
        yield name, scale
      else:
        self._problems.append(f"{where}: the name {name!r} should be a string")

  def under_each(
    self, group: str, choices: Mapping[Any, Config], name: str, scale: Any, role: Role
  ) -> list[Hyperparameter]:
    """Return a hyperparameter in a group whose kind another one chooses; each kind must have it."""
    found: list[Hyperparameter] = []
    wrong = []
    for value, config in choices.items():
      problems: list[str] = []
      found = _Walk(self._argument, problems).one(config, name, name, scale, role, None) or found
      wrong += [f"where {group} is {value!r}, {problem}" for problem in problems]
    if found and wrong:
      wrong[-1] += "; what belongs to some kinds only stands under them: OneOf({'kind': {'name': ...}})"
    self._problems += wrong
    return found

  def one(
    self, config: Config | None, path: str, name: str, scale: Any, role: Role, parent: tuple[str, Any] | None
  ) -> list[Hyperparameter]:
    """Return a hyperparameter and what is under it."""
    where = f"{self._argument}[{name!r}]"
    if isinstance(scale, Optional):
      return self._optional(config, path, name, scale, role, parent)
    if isinstance(scale, type) or not all(hasattr(scale, part) for part in ("at", "unit", "problems", "as_json")):
      self._problems.append(f"{where} = {scale!r}: should be a scale such as Log(1e-4, 1.0) or OneOf(['a', 'b'])")
      return []
    if found := scale.problems():
      self._problems += [f"{where}: {problem}" for problem in found]
      return []
    one = Hyperparameter(name=name, path=path, scale=scale, role=role, parent=parent)
    if config is not None:
      located = _bind(config, one)
      if isinstance(located, str):
        self._problems.append(f"{where}: {located}")
        return []
      one = located
    if not isinstance(scale, OneOf):
      if config is not None:
        wrong = [problem for value in _samples(scale) for problem in _with(config, one, value)[1]]
        self._problems += [f"{where}: {problem}" for problem in wrong]
      return [one]
    below: list[Hyperparameter] = []
    for value, space in scale.spaces.items():
      inside, wrong = (None, []) if config is None else _with(config, one, value)
      self._problems += [f"{where}: {problem}" for problem in wrong]
      if not wrong:
        below += self._below(inside, space, one, value, f"{one.name}.{value}")
    return [one, *below]

  def _below(
    self, config: Config | None, space: Space, parent: Hyperparameter, value: Any, prefix: str
  ) -> list[Hyperparameter]:
    """Return the hyperparameters of a space under a value of a parent, which `config` has already."""
    found: list[Hyperparameter] = []
    is_group = parent.sets in ("name", "presence")
    for key, scale in self.entries(space, f"{self._argument}[{prefix!r}]"):
      if is_group and key.startswith(f"{parent.path}."):
        short = key.removeprefix(f"{parent.path}.")
        self._problems.append(
          f"{self._argument}[{prefix!r}]: {key!r}: names are relative to {parent.path} here; write {short!r}"
        )
        continue
      path = f"{parent.path}.{key}" if is_group else key
      # What stands under a scientific value has to be tuned for it.
      found += self.one(config, path, f"{prefix}.{key}", scale, "nuisance", (parent.name, value))
    return found

  def _optional(
    self, config: Config | None, path: str, name: str, scale: Optional, role: Role, parent: tuple[str, Any] | None
  ) -> list[Hyperparameter]:
    where = f"{self._argument}[{name!r}]"
    if config is None:
      self._problems.append(f"{where}: Optional is for fields of a config; a function can have OneOf([False, True])")
      return []
    if isinstance(scale.inside, Optional) or scale.inside == {}:
      self._problems.append(f"{where}: Optional needs a scale, or the space of the group's fields")
      return []
    presence = Hyperparameter(
      name=f"{name}.present",
      path=path,
      scale=OneOf([False, True]),
      role=role,
      parent=parent,
      sets="presence",
      static=True,
    )
    if wrong := _with(config, presence, False)[1]:
      self._problems += [f"{where}: it cannot be left out: {problem}" for problem in wrong]
      return [presence]
    if not isinstance(scale.inside, Mapping):
      return [presence, *self.one(config, path, name, scale.inside, "nuisance", (presence.name, True))]
    with_group = _bring_in(config, f"{path}.{next(iter(scale.inside))}")
    return [presence, *self._below(with_group, scale.inside, presence, True, name)]


def _samples(scale: Scale) -> list[Any]:
  """Return all values that are listed; otherwise both ends, and one between, which is not whole if the scale is not."""
  if values := getattr(scale, "values", None):
    return list(values)
  return [scale.min, scale.at(0.618), scale.max]  # pyright: ignore[reportAttributeAccessIssue]


def _varied_groups(config: Config, spaces: Mapping[Role, Space]) -> dict[str, dict[Any, Config]]:
  """Return the groups whose kind a hyperparameter without a parent chooses: path -> value -> the config with it."""
  found: dict[str, dict[Any, Config]] = {}
  for space in spaces.values():
    for name, scale in space.items():
      if not isinstance(name, str) or not isinstance(scale, OneOf) or scale.problems():
        continue
      one = _bind(config, Hyperparameter(name=name, path=name, scale=scale, role="nuisance"))
      if isinstance(one, Hyperparameter) and one.sets == "name":
        kinds = {value: _with(config, one, value)[0] for value in scale.values}
        found[one.path] = {value: inside for value, inside in kinds.items() if inside is not None}
  return {path: kinds for path, kinds in found.items() if kinds}


def _bind(config: Config, one: Hyperparameter) -> Hyperparameter | str:
  """Return the hyperparameter with how it enters the config, or what is wrong with its path."""
  head, dot, last = one.path.rpartition(".")
  if last == "name" and head and isinstance(one.scale, OneOf) and _is_group(config, head):
    one = dataclasses.replace(one, name=one.name.removesuffix(".name"), path=head)
  candidates = [(one.path, False)]
  if last.startswith("one_minus_"):
    candidates.append((f"{head}{dot}{last.removeprefix('one_minus_')}", True))
  for path, is_complement in candidates:
    found = find(_bring_in(config, path), path)
    if found is None:
      continue
    field, value = found
    if isinstance(value, Settings):
      has_kinds = "name" in type(value).model_fields
      if not has_kinds or not isinstance(one.scale, OneOf):
        fields = ", ".join(f"{path}.{name}" for name in type(value).model_fields if name != "name")
        return f"{path} is a group of fields; vary {fields}{'; or its kind with OneOf' if has_kinds else ''}"
      return dataclasses.replace(one, path=path, sets="name", static=True)
    if is_complement and "complement" not in field.metadata:
      return f"unknown field {one.path!r}; {path} is not close to one: vary it as it is"
    sets = "complement" if is_complement else "value"
    return dataclasses.replace(one, path=path, sets=sets, static="static" in field.metadata)
  elsewhere = [path for path, *_ in leaves(config) if path.rpartition(".")[2] == last]
  if elsewhere:
    return f"unknown field {one.path!r}; did you mean {' or '.join(map(repr, elsewhere))}?"
  try:
    config.override({candidates[-1][0]: None})
  except ConfigError as error:
    return error.problems[0]
  return f"unknown field {one.path!r}"


def _is_group(config: Config, path: str) -> bool:
  found = find(config, path)
  return found is not None and isinstance(found[1], Settings)


def _bring_in(config: Config, path: str) -> Config:
  """Return the config with the group of a field brought in if it is absent."""
  head = path.rpartition(".")[0]
  found = find(config, head) if head else None
  if found is None or found[1] is not None:
    return config
  try:
    return config.override({head: {}})
  except ConfigError:
    return config


def _with(config: Config, one: Hyperparameter, value: Any) -> tuple[Config | None, list[str]]:
  """Return the config with a value, or why the value's own field does not accept it; other fields are not looked at."""
  try:
    return overrides.override(config, one.changes(value), lambda _: []), []
  except ConfigError as error:
    return None, error.problems


def _conflicts(hyperparameters: Sequence[Hyperparameter]) -> Iterator[str]:
  """Yield pairs of which each one undoes the other, in trials in which both exist."""
  known = {one.name: one for one in hyperparameters}

  def conditions(one: Hyperparameter) -> dict[str, Any]:
    if one.parent is None:
      return {}
    return {**conditions(known[one.parent[0]]), one.parent[0]: one.parent[1]}

  for one, other in itertools.combinations(hyperparameters, 2):
    first, second = conditions(one), conditions(other)
    if any(first[name] != second[name] for name in first.keys() & second.keys()):
      continue
    for feature, field, has in ((one, other, second), (other, one, first)):
      is_inside = f"{field.path}.".startswith(f"{feature.path}.")
      if feature.sets == "presence" and is_inside and feature.name not in has:
        yield f"{field.name!r} is set also where {feature.path} is left out; put it into the Optional"
    if one.path == other.path and "presence" not in (one.sets, other.sets):
      yield f"{one.name!r} and {other.name!r} both set {one.path}; vary one of them"
