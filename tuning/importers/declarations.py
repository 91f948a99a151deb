"""The `study.json` of a study as tables: what a user wrote down of it by hand. Of its `hyperparameters` alone, a file
that is given with another source.

  {"name": "rates", "goal": "Which rate?", "objective": {"metric": "validation/error", "mode": "min"},
   "hyperparameters": {
     "learning_rate": {"role": "nuisance", "scale": "log", "min": 1e-4, "max": 1e-1},
     "optimizer": {"role": "scientific", "values": ["adam", "nesterov"]},
     "beta": {"scale": "reverse_log", "parent": {"name": "optimizer", "value": "adam"}}}}

Everything may be left out: a role is then nuisance, a scale follows from `values`, or from the bounds and values of the
trials (see `inferred`), bounds are those of the trials, and the parent is none.
"""

import dataclasses
import json
import math
import pathlib
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from trialbook import files
from trialbook.errors import UserError
from trialbook.naming import nearest
from trialbook.tuning.importers import inferred, optional_scales
from trialbook.tuning.importers.source import SourceStudy, plain
from trialbook.tuning.space.scales import Discrete, Hyperparameter, OneOf, Quantity, Role, Scale, scale_from_json
from trialbook.tuning.study import Objective, Value

_SCALES = ("linear", "log", "reverse_log", "integer", "integer_log", "discrete", "categorical")
_KEYS = ("name", "goal", "objective", "hyperparameters", "format")
_FIELDS = ("role", "scale", "min", "max", "values", "parent", "path", "inferred", "sets", "static")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declared:
  """The contents of a `study.json`.

  Attributes:
    path: of the file.
    name: of the study; None: nothing is said.
    goal: in words; the same.
    objective: what trials are ranked by; the same.
    stored: hyperparameter -> its fields, of the right types.
  """

  path: pathlib.Path
  name: str | None = None
  goal: str | None = None
  objective: Objective | None = None
  stored: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

  def is_chosen(self, name: str) -> bool:
    """Return whether a hyperparameter is declared to have one of some values that are not all numbers."""
    fields = self.stored.get(name, {})
    return fields.get("scale") == "categorical" or ("values" in fields and not self.is_numeric(name))

  def is_numeric(self, name: str) -> bool:
    """Return whether a hyperparameter is declared to be a number."""
    fields = self.stored.get(name, {})
    values = fields.get("values", ())
    if "scale" in fields:
      return fields["scale"] != "categorical"
    return "min" in fields or "max" in fields or (bool(values) and all(map(_is_number, values)))

  def value(self, name: str, cell: Any) -> Any:
    """Return a cell as the declared value that is written so; otherwise as it is."""
    known = {_written(value): plain(value) for value in self.stored.get(name, {}).get("values", ())}
    return known.get(_written(cell), plain(cell))

  def hyperparameters(
    self, values: Mapping[str, Mapping[str, Any]], has_trials: bool, problems: list[str]
  ) -> dict[str, Hyperparameter]:
    """Return the declared hyperparameters, given each column's values by trial; add to `problems`."""
    found = {}
    for name, fields in self.stored.items():
      here = f"{self.path}, hyperparameters.{name}"
      fixed = fields.get("role") == "fixed"
      if has_trials and name not in values and not fixed:
        problems.append(f"{here}: is no column of the trials{nearest(name, values)}")
        continue
      parent = fields.get("parent")
      if parent is not None and parent["name"] not in (*values, *self.stored):
        problems.append(f"{here}.parent: {parent['name']!r}{nearest(parent['name'], values)}")
        continue
      had = list(dict.fromkeys(values.get(name, {}).values()))
      if (one := self._one(name, fields, had, here, problems)) is not None:
        found[name] = one
    return found

  def _one(
    self, name: str, fields: Mapping[str, Any], had: list[Any], here: str, problems: list[str]
  ) -> Hyperparameter | None:
    role: Role = fields.get("role", "nuisance")
    fields = _whole_bounds(fields, had)
    known = [fields[bound] for bound in ("min", "max") if bound in fields]
    kind = fields.get("scale")
    all_values = had
    if not self.is_chosen(name) and any(isinstance(value, int | float) for value in had):
      # What its scale cannot have means that it is switched off.
      above_zero = kind in ("log", "integer_log") or (kind is None and fields.get("min", 0) > 0)
      had = [value for value in had if value is not None and not (value == 0 and above_zero)]
    # Without zeros in the trials, a bound of 0 is one of a linear scale.
    may_be_off = not known or (kind is None and 0 in had and fields.get("min", 0) == 0)
    guess = optional_scales.guessed if may_be_off else inferred.hyperparameter
    guessed = guess(name, [*had, *known], role) if had or known else None
    starts_off = may_be_off and bool(known) and guessed is not None and optional_scales.is_off(0, guessed.scale)
    made_up = False
    scale: Scale | OneOf | None
    if "values" in fields:
      listed = [plain(value) for value in fields["values"]]
      is_numeric = kind != "categorical" and all(map(_is_number, listed))
      scale = Discrete(tuple(sorted(listed))) if is_numeric else OneOf(listed)
    elif kind == "categorical" or (kind == "discrete" and had):
      scale, made_up = OneOf(had) if kind == "categorical" else Discrete(tuple(sorted(had))), True
    elif kind is None or (guessed is not None and len(known) < 2 and len({*had, *known}) < 2):
      scale, made_up = guessed and guessed.scale, len(known) < 2
      if starts_off:
        made_up = True  # Zero is no bound of a logarithmic scale, and the smallest other value is one of the trials.
      elif not made_up and isinstance(scale, Quantity):
        scale = dataclasses.replace(scale, min=fields["min"], max=fields["max"])
      if guessed is not None and "role" not in fields:
        role = guessed.role
    else:
      numbers = [*had, *known]
      bounds = {"min": min(numbers, default=None), "max": max(numbers, default=None)} | {
        bound: fields[bound] for bound in ("min", "max") if bound in fields
      }
      if bounds["min"] is None:
        problems.append(f"{here}: a {kind} scale without trials needs min and max")
        return None
      scale, made_up = scale_from_json({"scale": kind, **bounds}), len(known) < 2
    if scale is None:
      return None
    if wrong := [] if isinstance(scale, Discrete) and len(scale.values) == 1 else scale.problems():
      problems += [f"{here}: {problem}" for problem in wrong]
      return None
    problems += [
      f"{here}: the trials have {value!r}, outside of {_range(scale)}" for value in all_values if _out(scale, value)
    ]
    parent = fields.get("parent")
    return Hyperparameter(
      name=name,
      path=fields.get("path", inferred.path_of(name)),
      scale=scale,
      role=role,
      parent=None if parent is None else (parent["name"], plain(parent["value"])),
      inferred=made_up or fields.get("inferred", False) is True,
    )


def declared_in(path: pathlib.Path, studies: Sequence[SourceStudy]) -> list[SourceStudy]:
  """Return the studies with the roles, scales and bounds of hyperparameters that a file declares; each hyperparameter
  must be in at least one study.

  Raises:
    UserError: if there is no such file, or it says something else or contradicts the trials.
  """
  if not path.is_file():
    raise UserError(f"{path}: there is no such file")
  problems: list[str] = []
  declared = read_declared(path, problems)
  if said := [key for key in ("name", "goal", "objective") if getattr(declared, key) is not None]:
    problems.append(f"{path}: should have hyperparameters only; say {', '.join(f'--{key}' for key in said)}")
  columns = [_columns(study) for study in studies]
  everywhere = {name for values in columns for name in values}
  found = []
  for study, values in zip(studies, columns, strict=True):
    own: list[str] = []
    # One that only other studies have is none of this one's.
    here = {name: said for name, said in declared.stored.items() if name in values or name not in everywhere}
    hyperparameters = dataclasses.replace(declared, stored=here).hyperparameters(values, bool(study.trials), own)
    problems += [f"{study.place}: {problem}" if study.place else problem for problem in own]
    found.append(dataclasses.replace(study, hyperparameters={**study.hyperparameters, **hyperparameters}))
  if problems:
    raise UserError(problems)
  return found


def _columns(study: SourceStudy) -> dict[str, dict[str, Any]]:
  """Return the values of each hyperparameter, by trial."""
  values: dict[str, dict[str, Any]] = {}
  for trial in study.trials:
    for name, value in trial.values.items():
      values.setdefault(name, {})[trial.source] = plain(value)
  return values


def read_declared(path: pathlib.Path, problems: list[str]) -> Declared:
  """Return what a file declares; nothing if there is none. Add to `problems` what is wrong with it."""
  try:
    stored = files.read_json(path) or {}
  except UserError as error:
    problems += error.problems
    return Declared(path=path)
  try:
    json.dumps(stored, ensure_ascii=False).encode()
  except UnicodeEncodeError:
    problems.append(f"{path}: it has a character that is half of one (\\ud800 to \\udfff), which no file can hold")
    return Declared(path=path)
  problems += [f"{path}: unknown key {key!r}{nearest(key, _KEYS)}" for key in stored if key not in _KEYS]
  for key in ("name", "goal"):
    if not isinstance(stored.get(key, ""), str):
      problems.append(f"{path}, {key}: {stored[key]!r} should be a string")
      del stored[key]
  objective = _objective(path, stored["objective"], problems) if "objective" in stored else None
  hyperparameters = stored.get("hyperparameters", {})
  if not isinstance(hyperparameters, dict):
    problems.append(f"{path}, hyperparameters: should be an object: name -> role, scale, bounds or values")
    hyperparameters = {}
  fine = {}
  for name, fields in hyperparameters.items():
    wrong = _wrong_fields(fields)
    problems += [f"{path}, hyperparameters.{name}{problem}" for problem in wrong]
    if not wrong:
      fine[name] = fields
  return Declared(
    path=path,
    name=stored.get("name") or None,
    goal=stored.get("goal") or None,
    objective=objective,
    stored=fine,
  )


def _objective(path: pathlib.Path, stored: Any, problems: list[str]) -> Objective | None:
  if not isinstance(stored, dict) or not isinstance(stored.get("metric"), str):
    problems.append(f'{path}, objective: should be as {{"metric": "validation/error", "mode": "min"}}')
    return None
  wrong = [
    f"{path}, objective.{key}: unknown key{nearest(key, ('metric', 'mode', 'value'))}"
    for key in stored
    if key not in ("metric", "mode", "value")
  ]
  for key, choices in (("mode", ("min", "max")), ("value", typing.get_args(Value))):
    if stored.get(key, choices[0] if key == "value" else None) not in choices:
      wrong.append(f"{path}, objective.{key}: {stored.get(key)!r} should be one of {', '.join(choices)}")
  problems += wrong
  return None if wrong else Objective(**stored)


def _wrong_fields(fields: Any) -> list[str]:
  """Return what is wrong with the declaration of one hyperparameter, on its own."""
  if not isinstance(fields, dict):
    return [': should be an object, for example {"role": "nuisance", "scale": "log", "min": 1e-4, "max": 0.1}']
  wrong = [f".{key}: unknown key{nearest(key, _FIELDS)}" for key in fields if key not in _FIELDS]
  for key, choices in (("role", typing.get_args(Role)), ("scale", _SCALES)):
    if key in fields and fields[key] not in choices:
      wrong.append(f".{key}: {fields[key]!r}{nearest(str(fields[key]), choices)}")
  if not isinstance(fields.get("path", ""), str):
    wrong.append(f".path: {fields['path']!r} should be a string")
  for key in ("min", "max"):
    if key in fields and not _is_number(fields[key]):
      wrong.append(f".{key}: {json.dumps(fields[key])} should be a finite number")
  if "values" in fields and (not isinstance(fields["values"], list) or not fields["values"]):
    wrong.append(".values: should be a list with a value at least")
  if "values" in fields and fields.get("scale") not in (None, "discrete", "categorical"):
    wrong.append(f".values: a {fields['scale']} scale has min and max instead")
  if isinstance(fields.get("scale"), str) and fields["scale"] in ("discrete", "categorical") and "min" in fields:
    wrong.append(f".min: a {fields['scale']} scale has values instead")
  parent = fields.get("parent")
  if parent is not None and not (isinstance(parent, dict) and set(parent) == {"name", "value"}):
    wrong.append('.parent: should be as {"name": "optimizer", "value": "adam"}')
  if not wrong and "min" in fields and "max" in fields and fields["min"] >= fields["max"]:
    wrong.append(f": min = {fields['min']} should be smaller than max = {fields['max']}")
  return wrong


def _whole_bounds(fields: Mapping[str, Any], had: Sequence[Any]) -> Mapping[str, Any]:
  """Return a declaration with bounds such as 16.0 as whole numbers, where its scale or all values of the trials are."""
  kind = fields.get("scale")
  are_whole = had and kind is None and all(isinstance(value, int) and not isinstance(value, bool) for value in had)
  if not are_whole and kind not in ("integer", "integer_log"):
    return fields
  bounds = {bound: fields[bound] for bound in ("min", "max") if bound in fields}
  return {**fields, **{bound: int(value) for bound, value in bounds.items() if value == int(value)}}


def _is_number(value: Any) -> bool:
  return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _written(value: Any) -> str:
  text = str(value)
  return text.lower() if text.lower() in ("true", "false") else text


def _out(scale: Any, value: Any) -> bool:
  if not isinstance(scale, OneOf) and optional_scales.is_off(value, scale):
    return False
  if isinstance(scale, Discrete | OneOf):
    return value not in scale.values
  return not scale.min <= value <= scale.max


def _range(scale: Any) -> str:
  if isinstance(scale, Discrete | OneOf):
    return ", ".join(map(str, scale.values))
  return f"{scale.min} to {scale.max}"
