"""A study's record as a study again, and a study as a Python file that a person can edit and run."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from trialbook import files
from trialbook.tuning.procedures.conclusion import write_config
from trialbook.tuning.records import StudyRecord
from trialbook.tuning.space.scales import Hyperparameter, OneOf, Optional, Role, Scale
from trialbook.tuning.study import Search, Study


def spaces_of(hyperparameters: Iterable[Hyperparameter]) -> dict[Role, dict[str, Any]]:
  """Return the search spaces, by role, that have these hyperparameters, as `binding.flatten` takes them."""
  known = list(hyperparameters)
  found: dict[Role, dict[str, Any]] = {"scientific": {}, "nuisance": {}}
  for one in known:
    if one.parent is None and one.role != "fixed":
      found[one.role][_key(one)] = _scale(one, known)
  return found


def _key(one: Hyperparameter) -> str:
  return one.name.removesuffix(".present") if one.sets == "presence" else one.name


def _scale(one: Hyperparameter, known: list[Hyperparameter]) -> Any:
  """Return the scale of a hyperparameter with all that is under it."""
  below = [child for child in known if child.parent is not None and child.parent[0] == one.name]
  if one.sets == "presence":
    name = _key(one)
    alone = next((child for child in below if child.name == name), None)
    if alone is not None:
      return Optional(_scale(alone, known))
    return Optional({_key(child).removeprefix(f"{name}."): _scale(child, known) for child in below})
  if not isinstance(one.scale, OneOf) or not below:
    return one.scale
  spaces = {}
  for value in one.scale.values:
    inside = [child for child in below if child.parent is not None and _same(child.parent[1], value)]
    spaces[value] = {_key(child).removeprefix(f"{one.name}.{value}."): _scale(child, known) for child in inside}
  return OneOf(spaces)


def _same(first: Any, second: Any) -> bool:
  return first == second and isinstance(first, bool) == isinstance(second, bool)


def study_of(
  record: StudyRecord,
  search: Search,
  *,
  scales: Mapping[str, Scale | OneOf] | None = None,
  fixed: Mapping[str, Any] | None = None,
  changes: Mapping[str, Any] | None = None,
  **fields: Any,
) -> Study:
  """Return a study like a recorded one.

  Args:
    record: of the earlier study.
    search: of the new one.
    scales: of hyperparameters, by name, instead of their own.
    fixed: hyperparameters that are not varied any more, each with its value, which the config gets.
    changes: of the config besides.
    **fields: of the study, such as its name, goal and number of trials.
  """
  known = [Hyperparameter.from_json(name, stored) for name, stored in record.hyperparameters.items()]
  new, config_changes = [], dict(changes or {})
  for one in known:
    if fixed is not None and one.name in fixed:
      config_changes |= one.changes(fixed[one.name])
    else:
      new.append(dataclasses.replace(one, scale=(scales or {}).get(one.name, one.scale)))
  spaces = spaces_of(new)
  config = record.config
  if config is not None and config_changes:
    config = config.override(config_changes)
  return Study(
    **{
      "name": record.name,
      "goal": record.goal,
      "objective": record.objective,
      "config": config,
      "function": record.function,
      "scientific": spaces["scientific"],
      "nuisance": spaces["nuisance"],
      "trials": record.trials,
      "search": search,
      "cores_per_trial": record.cores_per_trial,
      "devices_per_trial": record.devices_per_trial,
      "max_attempts": record.max_attempts,
      **fields,
    }
  )


def write_study_file(study: Study, folder: pathlib.Path, why: Iterable[str]) -> pathlib.Path:
  """Write a study as `study.py`, with its config as `config.json` beside it, and return the file.

  Args:
    study: without conditions that cannot be written as source, as those of `study_of` are.
    folder: made if absent.
    why: sentences for the file's docstring.
  """
  folder.mkdir(parents=True, exist_ok=True)
  if study.config is not None:
    write_config(study.config, folder)
  path = folder / "study.py"
  files.write_text(path, source(study, why))
  return path


def source(study: Study, why: Iterable[str]) -> str:
  """Return a study as a Python file."""
  lines = [f'"""{_plain(study.goal)}', "", *(f"- {_plain(sentence)}" for sentence in why), '"""', ""]
  lines += ["import pathlib", ""] if study.config is not None else []
  lines += ["from trialbook import load_config"] if study.config is not None else []
  body = [
    f"    name={study.name!r},",
    f"    goal={study.goal!r},",
    f"    objective={study.objective!r},",
    *(
      ['    config=load_config(pathlib.Path(__file__).parent / "config.json"),']
      if study.config is not None
      else [f"    function={study.function!r},"]
    ),
    *_space("scientific", study.scientific),
    *_space("nuisance", study.nuisance),
    f"    trials={study.trials!r},",
    f"    search={study.search!r},",
    *([] if study.baseline is None else [f"    baseline={dict(study.baseline)!r},"]),
    *(
      f"    {name}={value!r},"
      for name in ("cores_per_trial", "devices_per_trial", "max_attempts")
      if (value := getattr(study, name)) != Study.__dataclass_fields__[name].default
    ),
  ]
  text = "\n".join(body)
  words = ("BayesianOptimization", "Discrete", "Grid", "Halton", "Integer", "Linear", "Listed", "Log", "Objective")
  words += ("OneOf", "Optional", "ReverseLog", "Uniform")
  used = [word for word in words if f"{word}(" in text]
  lines += [f"from trialbook.tuning import {', '.join(sorted([*used, 'Study']))}", "", ""]
  return "\n".join([*lines, "def get_study() -> Study:", "  return Study(", text, "  )", ""])


def _space(role: str, space: Mapping[str, Any]) -> list[str]:
  if not space:
    return []
  return [f"    {role}={{", *(f"      {name!r}: {scale!r}," for name, scale in space.items()), "    },"]


def _plain(text: str) -> str:
  return text.replace("\\", "\\\\").replace('"""', "'''")
