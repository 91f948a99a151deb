"""A study: one question, the hyperparameters that it varies with their roles, and how many trials (PB-10, PB-13)."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from trainer import Config, ConfigError, overrides
from trialbook.plugin import PluginError, import_attribute
from trialbook.settings import Settings, find
from tuning.bayesian import BayesianOptimization
from tuning.search import Grid, Halton, Listed, Uniform
from tuning.space import Hyperparameter, OneOf, Optional, Role, Scale, Space

Search = Halton | Uniform | Grid | Listed | BayesianOptimization
Value = Literal["best", "last", "smoothed"]


@dataclasses.dataclass(frozen=True)
class Objective:
  """What a study ranks its trials by (PB-15, PB-20).

  Attributes:
    metric: as it is logged, for example "validation/error".
    mode: which direction is better.
    value: of its values over the training: the best one (retrospective selection), the last one, or the last of the
      running median over five evaluations, which one lucky evaluation does not move.
  """

  metric: str
  mode: Literal["min", "max"]
  value: Value = "best"

  @property
  def sign(self) -> int:
    """Times which a smaller value is a better one."""
    return 1 if self.mode == "min" else -1


def Minimize(metric: str, value: Value = "best") -> Objective:
  """Smaller is better."""
  return Objective(metric, "min", value)


def Maximize(metric: str, value: Value = "best") -> Objective:
  """Larger is better."""
  return Objective(metric, "max", value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """One question, and the trials that answer it.

  Attributes:
    name: a word, also the name of its folder in a round.
    goal: the question, in words.
    objective: what trials are ranked by.
    config: of every trial, but for what the hyperparameters change.
    function: "module:name" of what a trial is instead of a training by `config`: called with the values by name, it
      returns a mapping from metrics to numbers, or raises `tuning.Infeasible`.
    scientific: whose effect is the question.
    nuisance: that must be tuned to answer it fairly.
    trials: how many; None: all that the search has (Grid, Listed).
    search: where the trials' values come from.
    cores_per_trial: CPU cores of each worker; the same number gives the same bits.
    devices_per_trial: devices that each trial trains on.
    max_attempts: after so many crashes a trial has failed.
  """

  name: str
  goal: str
  objective: Objective
  config: Config | None = None
  function: str | None = None
  scientific: Space = dataclasses.field(default_factory=dict)
  nuisance: Space = dataclasses.field(default_factory=dict)
  trials: int | None = None
  search: Search = dataclasses.field(default_factory=Halton)
  cores_per_trial: int = 1
  devices_per_trial: int = 1
  max_attempts: int = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Round:
  """Several studies under one goal, run and compared as one (PB-13).

  Attributes:
    name: a word.
    goal: what the comparison is to tell.
    studies: of one objective, each with a name of its own.
  """

  name: str
  goal: str
  studies: tuple[Study, ...]


def by_scientific_value(study: Study) -> Round:
  """One study for each value of the one scientific hyperparameter of `study`, each with all of its trials.

  Raises:
    ConfigError: if it has not exactly one, and that a `OneOf` or a `Discrete`.
  """
  items = list(study.scientific.items())
  if len(items) != 1 or not hasattr(items[0][1], "values"):
    raise ConfigError(f"study {study.name}: by_scientific_value needs one scientific hyperparameter with listed values")
  path, scale = items[0]
  studies = []
  for value in scale.values:  # pyright: ignore[reportAttributeAccessIssue]
    only = OneOf({value: scale.spaces[value]}) if isinstance(scale, OneOf) else OneOf([value])
    studies.append(dataclasses.replace(study, name=f"{study.name}_{value}", scientific={path: only}))
  return Round(name=study.name, goal=study.goal, studies=tuple(studies))


@dataclasses.dataclass(frozen=True)
class Checked:
  """A study's hyperparameters as a list, and what is wrong with it.

  Attributes:
    hyperparameters: parents before what is under them.
    problems: for the user; empty if it can be run.
  """

  hyperparameters: tuple[Hyperparameter, ...]
  problems: list[str]


def check(study: Study) -> Checked:
  """Flattens a study's spaces and finds everything that is wrong with it, without touching a device or a file."""
  problems = list(_own_problems(study))
  found: list[Hyperparameter] = []
  found += _Walk("scientific", problems).space(study.config, study.scientific, "scientific")
  found += _Walk("nuisance", problems).space(study.config, study.nuisance, "nuisance")
  names = [one.name for one in found]
  problems += [f"hyperparameter {name!r} is there twice" for name in dict.fromkeys(names) if names.count(name) > 1]
  paths = {(one.path, one.sets) for one in found if one.parent is None and one.sets != "presence"}
  for one in found:
    if one.parent is not None and (one.path, one.sets) in paths:
      problems.append(f"{one.name!r} sets {one.path}, which another hyperparameter sets always")
  if not problems:
    problems += study.search.problems(found)
  if not problems:
    count = None if isinstance(study.search, BayesianOptimization) else study.search.count(found)
    if study.trials is None and count is None:
      problems.append(f"trials: say how many; {type(study.search).__name__} has no end")
    elif study.trials is not None and count is not None and study.trials > count:
      problems.append(f"trials = {study.trials}: {type(study.search).__name__} has {count} points")
  if not found and not problems:
    problems.append("no hyperparameter is varied: fill `scientific` or `nuisance`")
  return Checked(tuple(found), [f"study {study.name}: {problem}" for problem in problems])


def _own_problems(study: Study) -> Iterator[str]:
  if not study.name or not all(letter.isprintable() and letter not in "/\\" for letter in study.name):
    yield f"name = {study.name!r}: should be a name that a folder can have"
  if not study.goal.strip():
    yield "goal is empty: write down the question that the study answers (PB-10)"
  if (study.config is None) == (study.function is None):
    yield "set one of `config` (its trials are trainings) and `function`"
  if study.function is not None:
    if ":" not in study.function:
      yield f"function = {study.function!r}: write it as module:name"
    else:
      try:
        import_attribute("function", study.function)
      except PluginError as error:
        yield str(error)
  if not study.objective.metric:
    yield "objective: the metric is empty; for example Minimize('validation/error')"
  if study.trials is not None and study.trials < 1:
    yield f"trials = {study.trials}: should be at least 1"
  for name in ("cores_per_trial", "devices_per_trial", "max_attempts"):
    if getattr(study, name) < 1:
      yield f"{name} = {getattr(study, name)}: should be at least 1"


class _Walk:
  """Through the spaces of one role; `problems` takes what is wrong."""

  def __init__(self, argument: str, problems: list[str]):
    self._argument, self._problems = argument, problems

  def space(
    self, config: Config | None, space: Space, role: Role, parent: Hyperparameter | None = None, value: Any = None
  ) -> list[Hyperparameter]:
    """The hyperparameters of a space under a value of a parent, which `config` has already."""
    found: list[Hyperparameter] = []
    for key, scale in space.items():
      # Under a group of fields names are relative to it; a function knows names, and no groups.
      relative = parent is not None and parent.sets in ("name", "presence") and _is_group(config, parent.path)
      path = f"{parent.path}.{key}" if parent is not None and relative else key
      name = key if parent is None else f"{parent.path}.{value}.{key}"
      if parent is not None and parent.sets == "presence":
        name = path
      found += self._one(config, path, name, scale, role, None if parent is None else (parent.name, value))
    return found

  def _one(
    self, config: Config | None, path: str, name: str, scale: Any, role: Role, parent: tuple[str, Any] | None
  ) -> list[Hyperparameter]:
    where = f"{self._argument}[{name!r}]"
    if isinstance(scale, Optional):
      return self._optional(config, path, name, scale, role, parent)
    if not all(hasattr(scale, part) for part in ("at", "unit", "problems", "as_json")):
      self._problems.append(f"{where} = {scale!r}: should be a scale such as Log(1e-4, 1.0) or OneOf(['a', 'b'])")
      return []
    if found := scale.problems():
      self._problems += [f"{where}: {problem}" for problem in found]
      return []
    one = Hyperparameter(name=name, path=path, scale=scale, role=role, parent=parent)
    if config is not None:
      located = _locate(config, one)
      if isinstance(located, str):
        self._problems.append(f"{where}: {located}")
        return []
      one = located
    if not isinstance(scale, OneOf):
      if config is not None:
        for end in _ends(scale):
          self._problems += _field_problems(config, one, end, where)[0]
      return [one]
    below: list[Hyperparameter] = []
    refusals = []
    for value, space in scale.spaces.items():
      inside = config
      if config is not None:
        wrong, inside = _field_problems(config, one, value, where)
        self._problems += wrong
        refusals.append([] if wrong else _cross_problems(config, one, value))
      if inside is not None or config is None:
        # What stands under a scientific value has to be tuned for it.
        below += self.space(inside, space, "nuisance", one, value)
    if refusals and all(refusals):
      self._problems += [f"{where}: no value can be: {'; '.join(problems)}" for problems in refusals]
    return [one, *below]

  def _optional(
    self, config: Config | None, path: str, name: str, scale: Optional, role: Role, parent: tuple[str, Any] | None
  ) -> list[Hyperparameter]:
    where = f"{self._argument}[{name!r}]"
    if config is None:
      self._problems.append(f"{where}: Optional is for fields of a config; a function can have OneOf([False, True])")
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
    self._problems += [f"{where}: cannot be left out: {p}" for p in _field_problems(config, presence, False, where)[0]]
    if isinstance(scale.inside, Mapping):
      if not scale.inside:
        self._problems.append(f"{where}: Optional needs a scale, or the space of the group's fields")
      first = next(iter(scale.inside), "")
      with_group = _with_field(config, f"{path}.{first}", scale.inside.get(first))
      return [presence, *self.space(with_group, scale.inside, "nuisance", presence, True)]
    return [presence, *self._one(config, path, name, scale.inside, "nuisance", (presence.name, True))]


def _ends(scale: Scale) -> list[Any]:
  values = getattr(scale, "values", None)
  return list(values) if values is not None else [scale.min, scale.max]  # pyright: ignore[reportAttributeAccessIssue]


def _is_group(config: Config | None, path: str) -> bool:
  if config is None:
    return False
  found = find(config, path)
  return found is not None and isinstance(found[1], Settings)


def _locate(config: Config, one: Hyperparameter) -> Hyperparameter | str:
  """The hyperparameter with how it enters the config; or what is wrong with its path."""
  head, dot, last = one.path.rpartition(".")
  candidates = [(one.path, False)]
  if last.startswith("one_minus_"):
    candidates.append((f"{head}{dot}{last.removeprefix('one_minus_')}", True))
  for path, complement in candidates:
    inside = _with_field(config, path, None)
    found = find(inside, path)
    if found is None:
      continue
    field, value = found
    if isinstance(value, Settings):
      if "name" not in type(value).model_fields or not isinstance(one.scale, OneOf):
        return f"{path} is a group of fields; vary its fields, or its name with OneOf"
      return dataclasses.replace(one, path=path, sets="name", static=True)
    if complement and "complement" not in field.metadata:
      return f"unknown field {one.path!r}; {path} is not close to one: vary it as it is"
    kind = "complement" if complement else "value"
    return dataclasses.replace(one, path=path, sets=kind, static="static" in field.metadata)
  try:
    config.override({candidates[-1][0]: None})
  except ConfigError as error:
    return error.problems[0]
  return f"unknown field {one.path!r}"


def _with_field(config: Config, path: str, scale: Any) -> Config:
  """The config with the group of a field brought in where it is absent."""
  head = path.rpartition(".")[0]
  if not head or find(config, path) is not None:
    return config
  found = find(config, head)
  if found is None or found[1] is not None:
    return config
  try:
    return config.override({head: {}})
  except ConfigError:
    return config


def _field_problems(config: Config, one: Hyperparameter, value: Any, where: str) -> tuple[list[str], Config | None]:
  """Whether the field of its own accepts a value, and the config with it; other fields are not looked at."""
  try:
    return [], overrides.override(config, one.changes(value), lambda _: [])
  except ConfigError as error:
    return [f"{where}: {problem}" for problem in error.problems], None


def _cross_problems(config: Config, one: Hyperparameter, value: Any) -> list[str]:
  """Why no run can have a value, for what other fields are."""
  try:
    config.override(one.changes(value))
  except ConfigError as error:
    return error.problems
  return []
