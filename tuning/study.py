"""A study: one question, the hyperparameters that it varies with their roles, and how many trials (PB-10, PB-13)."""

from __future__ import annotations

import dataclasses
import inspect
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from trialbook.errors import ConfigError
from trialbook.import_attribute import PluginError, import_attribute
from trialbook.metric_names import Mode
from trialbook.naming import nearest
from trialbook.trainer.evaluation_schedule import evaluated_splits
from trialbook.tuning import first_trial
from trialbook.tuning.early_stopping import QuantileStopping
from trialbook.tuning.search.bayesian import BayesianOptimization
from trialbook.tuning.search.grid import Grid
from trialbook.tuning.search.halton import Halton
from trialbook.tuning.search.listed import Listed
from trialbook.tuning.search.uniform import Uniform
from trialbook.tuning.space import binding
from trialbook.tuning.space.scales import Discrete, Hyperparameter, OneOf, Space

if TYPE_CHECKING:
  from trialbook.trainer import Config

Search = Halton | Uniform | Grid | Listed | BayesianOptimization
Value = Literal["best", "last", "smoothed"]


@dataclasses.dataclass(frozen=True)
class Objective:
  """The value that a study ranks its trials by (PB-15, PB-20).

  Attributes:
    metric: as it is logged, for example "validation/error".
    mode: which direction is better.
    value: of its values over the training: the best one (retrospective selection), the last one, or the last of the
      running median over five evaluations, which one lucky evaluation does not move.
  """

  metric: str
  mode: Mode
  value: Value = "best"

  @property
  def sign(self) -> int:
    """Return +1 to minimize, -1 to maximize; `sign * value` is always minimized."""
    return 1 if self.mode == "min" else -1


def Minimize(metric: str, value: Value = "best") -> Objective:
  """Return an objective of which smaller is better."""
  return Objective(metric, "min", value)


def Maximize(metric: str, value: Value = "best") -> Objective:
  """Return an objective of which larger is better."""
  return Objective(metric, "max", value)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """One question, and the trials that answer it.

  Attributes:
    name: a word, also the name of its folder in a round.
    goal: the question, in words.
    objective: what trials are ranked by.
    config: of every trial, but for what the hyperparameters change.
    function: "module:name" of what a trial is instead of a training by `config`. Its parameters are the
      hyperparameters: it is called with the trial's values as keyword arguments, returns a mapping from metrics to
      numbers (or yields such mappings, a curve), or raises `trialbook.tuning.Infeasible`.
    scientific: whose effect is the question.
    nuisance: that must be tuned to answer it fairly.
    trials: how many; None: all that the search has (Grid, Listed).
    search: where the trials' values come from.
    cores_per_trial: CPU cores of each worker; the same number gives the same bits.
    devices_per_trial: devices that each trial trains on.
    max_attempts: number of crashes after which a trial has failed.
    stopping: the rule that ends trials early; None: each trial runs to its end.
    baseline: values of trial 0, by name of the hyperparameter; those that are not given are the config's, so {} is the
      config as it is. The search begins with trial 1. None: the search chooses trial 0, too.
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
  stopping: QuantileStopping | None = None
  baseline: Mapping[str, Any] | None = None


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
  """Return one study for each value of the one scientific hyperparameter of `study`, each with all of its trials.

  Raises:
    ConfigError: if it has not exactly one, and that a `OneOf` or a `Discrete`.
  """
  items = list(study.scientific.items())
  path, scale = items[0] if len(items) == 1 else ("", None)
  if not isinstance(scale, OneOf | Discrete):
    raise ConfigError(
      f"study {study.name}: by_scientific_value needs one scientific hyperparameter, a OneOf or a Discrete"
    )
  if study.baseline is not None:
    raise ConfigError(f"study {study.name}: its baseline has one of the values; give it to the study of that value")
  studies = []
  for value in scale.values:
    only = OneOf({value: scale.spaces[value]}) if isinstance(scale, OneOf) else OneOf([value])
    studies.append(dataclasses.replace(study, name=f"{study.name}_{value}", scientific={path: only}))
  return Round(name=study.name, goal=study.goal, studies=tuple(studies))


TRIAL_COLUMNS = ("trial", "state", "step", "seconds", "training_seconds", "attempts", "reason")
"""Columns of a table of trials beside the objective and the hyperparameters."""


@dataclasses.dataclass(frozen=True)
class Checked:
  """A study's hyperparameters as a list, and what is wrong with it.

  Attributes:
    hyperparameters: parents before what is under them.
    problems: for the user; empty if it can be run.
  """

  hyperparameters: tuple[Hyperparameter, ...]
  problems: list[str]


_TRIED_POINTS = 64
"""Points of the space that are tried to see whether the config accepts any. If it accepts one in ten, one of these is
accepted with 99.9 %."""


def check(study: Study) -> Checked:
  """Check a study: flatten its spaces and find everything that is wrong with it, without touching a device or a
  file."""
  wrong_types = list(_type_problems(study))
  if wrong_types:
    return Checked((), [f"study {study.name}: {problem}" for problem in wrong_types])
  problems = list(_own_problems(study))
  found, wrong = binding.flatten(study.config, {"scientific": study.scientific, "nuisance": study.nuisance})
  problems += wrong
  problems += [
    f"hyperparameter {one.name!r}: has the name of a column of trials.csv" for one in found if one.name in TRIAL_COLUMNS
  ]
  if study.objective.metric in (*TRIAL_COLUMNS, *(one.name for one in found)):
    problems.append(f"objective: {study.objective.metric!r} is the name of another column of trials.csv; rename it")
  if not problems:
    name = type(study.search).__name__
    problems += study.search.problems(found)
    if not isinstance(study.search, Grid | Listed):
      if study.trials is None:
        problems.append(f"`trials` is required: {name} is an infinite sequence")
    elif not problems and study.trials is not None and study.trials > (count := point_count(study, found)):
      problems.append(f"trials = {study.trials}: {name} has {count} points")
  if not problems and study.baseline is not None:
    problems += first_trial.problems(study.config, found, study.baseline)
  if study.stopping is not None:
    paths = [one.path for one in found]
    problems += [f"stopping: {problem}" for problem in study.stopping.problems(study.config, paths)]
  if not found and not problems:
    problems.append("no hyperparameter is varied: fill `scientific` or `nuisance`")
  if not problems and study.config is not None:
    problems += _never_accepted(study.config, found)
  if not problems and study.function is not None:
    problems += _never_called(study.function, found)
  return Checked(tuple(found), [f"study {study.name}: {problem}" for problem in problems])


def point_count(study: Study, hyperparameters: Sequence[Hyperparameter]) -> int:
  """Return the number of points of a search that has an end, and of the baseline."""
  assert isinstance(study.search, Grid | Listed)
  return study.search.count(hyperparameters) + (study.baseline is not None)


def _type_problems(study: Study) -> Iterator[str]:
  """Yield wrong types, with which nothing else can be checked."""
  expected = (
    ("objective", Objective, "an objective, for example Minimize('validation/error')"),
    ("search", Search, "a search, for example Halton(seed=0)"),
    ("scientific", Mapping, "a space, for example {'optimizer.learning_rate': Log(1e-4, 1.0)}"),
    ("nuisance", Mapping, "a space, for example {'optimizer.learning_rate': Log(1e-4, 1.0)}"),
    ("name", str, "a string"),
    ("goal", str, "a string"),
    ("function", str | None, "a string, module:name"),
    ("stopping", QuantileStopping | None, "a rule, for example QuantileStopping(quantile=0.5), or None"),
    ("baseline", Mapping | None, "values by name, for example {'optimizer.learning_rate': 0.1}, or None"),
  )
  for name, kind, text in expected:
    if not isinstance(getattr(study, name), kind):
      yield f"{name} = {getattr(study, name)!r}: should be {text}"
  if study.config is not None:
    from trialbook.trainer import Config  # It imports flax, which a study of a function does without.

    if not isinstance(study.config, Config):
      yield f"config = {study.config!r}: should be a trialbook.Config"
  for name in ("trials", "cores_per_trial", "devices_per_trial", "max_attempts"):
    value = getattr(study, name)
    if (value is not None or name != "trials") and (not isinstance(value, int) or isinstance(value, bool)):
      yield f"{name} = {value!r}: should be a whole number"


def _own_problems(study: Study) -> Iterator[str]:
  if not study.name.strip() or study.name[0] in ". " or any(not c.isprintable() or c in "/\\" for c in study.name):
    yield f"name = {study.name!r}: should be a name that a folder can have"
  if not study.goal.strip():
    yield "goal is empty: write down the question that the study answers (PB-10)"
  if (study.config is None) == (study.function is None):
    yield "set one of `config` (its trials are trainings) and `function`"
  if study.function is not None:
    yield from _function_problems(study.function)
  if study.config is not None:
    try:
      study.config.override({})
    except ConfigError as error:
      yield from (f"config: {problem}" for problem in error.problems)
  yield from _objective_problems(study.objective, study.config)
  for name in ("trials", "cores_per_trial", "devices_per_trial", "max_attempts"):
    value = getattr(study, name)
    if value is not None and value < 1:
      yield f"{name} = {value}: should be at least 1"


def _function_problems(function: str) -> Iterator[str]:
  if ":" not in function:
    yield f"function = {function!r}: write it as module:name"
    return
  try:
    found = import_attribute("function", function)
  except PluginError as error:
    yield str(error)
  else:
    if not callable(found):
      yield f"function {function!r}: is a {type(found).__name__} and cannot be called"


def _never_called(function: str, hyperparameters: list[Hyperparameter]) -> Iterator[str]:
  """Yield why a function does not take the hyperparameters of some trials as keyword arguments."""
  try:
    signature = inspect.signature(import_attribute("function", function))
  except (TypeError, ValueError):
    return  # It is written in C, and says nothing of its parameters.
  wrong: dict[str, str] = {}
  for values in Halton().points(hyperparameters, 0, _TRIED_POINTS):
    arguments = binding.changes(hyperparameters, values)
    try:
      signature.bind(**arguments)
    except TypeError as error:
      wrong.setdefault(str(error), ", ".join(f"{name}=..." for name in arguments))
  for reason, call in wrong.items():
    yield (
      f"function {function!r}: cannot be called with ({call}): {reason}; its parameters should be the"
      " hyperparameters, with a default for one that only some trials have, or **values"
    )


def _objective_problems(objective: Objective, config: Config | None) -> Iterator[str]:
  if objective.mode not in ("min", "max"):
    yield f"objective: mode = {objective.mode!r}: should be 'min' or 'max'"
  if objective.value not in typing.get_args(Value):
    yield f"objective: value = {objective.value!r}{nearest(str(objective.value), typing.get_args(Value))}"
  if not isinstance(objective.metric, str) or not objective.metric:
    yield f"objective: metric = {objective.metric!r}: should be a name such as 'validation/error'"
  elif config is not None:
    split, slash, name = objective.metric.partition("/")
    splits = evaluated_splits(config)
    if not slash or not name:
      yield f"objective: metric = {objective.metric!r}: should be SPLIT/NAME, for example 'validation/error'"
    elif split not in splits and not split.startswith("validation_"):
      yield (
        f"objective: metric = {objective.metric!r}: no evaluation during the training is of {split!r}"
        f"{nearest(split, splits)}"
      )


def _never_accepted(config: Config, hyperparameters: list[Hyperparameter]) -> Iterator[str]:
  """Yield parts of the space at no point of which there can be a run, because of other fields."""
  # By the condition under which hyperparameters exist.
  left = dict.fromkeys((one.parent for one in hyperparameters), "")
  conditions = {one.name: one.parent for one in hyperparameters}
  for values in Halton().points(hyperparameters, 0, _TRIED_POINTS):
    here = {conditions[name] for name in values} & left.keys()
    try:
      config.override(binding.changes(hyperparameters, values))
    except ConfigError as error:
      left |= {condition: left[condition] or error.problems[0] for condition in here}
    else:
      left = {condition: reason for condition, reason in left.items() if condition not in here}
      if not left:
        return
  for condition, reason in left.items():
    if reason and (condition is None or None not in left):
      where = f" where {condition[0]} is {condition[1]!r}" if condition else ""
      yield f"the config refuses every point of the space that was tried{where}, the first one for: {reason}"
