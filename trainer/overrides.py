"""Changes to a config by dotted path, and a report of every problem of a config at once, in words.

There is one way to change a config: `override(config, {"optimizer.learning_rate": 0.3})`. The command line,
trials and tests all use it.
"""

import ast
import copy
import dataclasses
import json
import math
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import pydantic

from trialbook.errors import ConfigError
from trialbook.naming import nearest
from trialbook.settings import Settings, kind_tag

C = TypeVar("C", bound=Settings)


@dataclasses.dataclass(frozen=True)
class Unreadable:
  """The value of an assignment that cannot be read; `override` reports it together with all other problems."""

  problem: str


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
  """Parse `["a.b=0.1", "a.name=adam"]` into `{"a.b": 0.1, "a.name": "adam"}`, changes for `override`.

  A value that is not a Python literal is a string. An assignment without `=`, or whose path is set twice, or whose
  value cannot be, such as `{[]: 1}`, becomes an `Unreadable`.
  """
  words = {"true": True, "false": False, "none": None, "null": None}
  changes: dict[str, Any] = {}
  for assignment in assignments:
    path, equals, text = (part.strip() for part in assignment.partition("="))
    if not equals or not path:
      problem = f"--set {assignment}: write it as PATH=VALUE, for example --set optimizer.learning_rate=0.1"
      changes[assignment] = Unreadable(problem)
    elif path in changes:
      changes[path] = Unreadable(f"--set {path} is given twice")
    else:
      changes[path] = words[text.lower()] if text.lower() in words else _literal(path, text)
  return changes


def override(config: C, changes: Mapping[str, Any], cross_checks: Callable[[C], list[str]]) -> C:
  """Return a copy of `config` with `changes` (dotted path -> value) applied and everything checked.

  Values are what JSON has, and beside that settings, tuples, and NumPy's or JAX's numbers and arrays; they are
  copied. A whole subtree is set before what is below it. Setting the `name` that chooses among kinds to another
  one replaces that subtree by the new kind's defaults, before its siblings are set. A path below an absent (None)
  subtree brings the subtree in; entries of tuples are numbered from 0.

  Raises:
    ConfigError: with all problems: unknown paths, wrong types, values out of range, cross-field checks.
  """
  before = config.model_dump(mode="json")
  tree = copy.deepcopy(before)
  kind = type(config)
  problems = []
  for path in sorted(changes, key=lambda path: (path.count("."), path.rpartition(".")[2] != "name")):
    try:
      _assign(kind, tree, path, _plain(path, changes[path]))
    except ConfigError as error:
      problems += error.problems
  try:
    changed = kind.model_validate_json(json.dumps(tree))
  except pydantic.ValidationError as error:
    problems += explain(error, kind)
    # The cross-field checks see the failing fields as they were before, so that all is told at once.
    for entry in error.errors():
      path, _ = _locate(kind, entry["loc"])
      _restore(tree, before, path[:-1] if entry["type"] == "missing" else path)
    try:
      changed = kind.model_validate_json(json.dumps(tree))
    except pydantic.ValidationError:
      raise ConfigError(problems) from None
  problems += cross_checks(changed)
  if problems:
    raise ConfigError(problems, rest=changed)
  return changed


def explain(error: pydantic.ValidationError, kind: type[Settings]) -> list[str]:
  """Return Pydantic's errors as sentences: the path, the value, what would be right, the nearest known names."""
  sentences = []
  for entry in error.errors():
    path, kinds = _locate(kind, entry["loc"])
    dotted, value = ".".join(path), entry["input"]
    if entry["type"] == "extra_forbidden":
      _, parent = _locate(kind, entry["loc"][:-1])
      sentences.append(f"unknown field {dotted!r}{nearest(path[-1], next(iter(parent.values())).model_fields)}")
    elif entry["type"] == "union_tag_invalid":
      tag = entry.get("ctx", {})["tag"]
      sentences.append(f"unknown {path[-1]} {tag!r}{nearest(tag, kinds)}")
    elif entry["type"] == "union_tag_not_found" and isinstance(value, dict):
      sentences.append(f"{dotted}.name is missing{nearest('', kinds)}")
    elif entry["type"] == "missing":
      sentences.append(f"{dotted} is missing")
    elif kinds and entry["type"] != "tuple_type" and not isinstance(value, dict | Settings):
      sentences.append(f"{dotted} = {value!r}: is a group of fields{_how_to_set(dotted, str(value), kinds)}")
    else:
      message = entry["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
      sentences.append(f"{dotted} = {value!r}: should be {message}")
  return sentences


def _how_to_set(group: str, value: str, kinds: Mapping[str, type[Settings]]) -> str:
  if value in kinds:
    return f"; did you mean {group}.name={value}?"
  if len(kinds) > 1:
    return f"; set {group}.name{nearest(value, kinds)}"
  return f": {', '.join(f'{group}.{name}' for kind in kinds.values() for name in kind.model_fields)}"


def _literal(path: str, text: str) -> Any:
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text
  except (TypeError, MemoryError, RecursionError) as error:
    return Unreadable(f"{path} = {text}: is not a value ({error or type(error).__name__})")


def _plain(path: str, value: Any) -> Any:
  """Return a copy of a value in JSON's types. Raises ConfigError for what JSON has not."""
  if isinstance(value, Unreadable):
    raise ConfigError(value.problem)
  if isinstance(value, Settings):
    return value.model_dump(mode="json")
  if hasattr(value, "tolist"):
    value = value.tolist()
  if isinstance(value, list | tuple):
    return [_plain(f"{path}.{index}", entry) for index, entry in enumerate(value)]
  if isinstance(value, Mapping):
    if wrong := [key for key in value if not isinstance(key, str)]:
      raise ConfigError(f"{path} has the key {wrong[0]!r}: keys should be strings")
    return {key: _plain(f"{path}.{key}", entry) for key, entry in value.items()}
  if isinstance(value, float) and not math.isfinite(value):
    raise ConfigError(f"{path} = {value!r}: should be a finite number")
  if value is None or isinstance(value, bool | int | float | str):
    return value
  raise ConfigError(f"{path} = {value!r}: is a {type(value).__name__}; {_VALUES}")


_VALUES = "should be a number, a string, True, False, None, a tuple, or a dict with strings as keys"


def _assign(kind: type[Settings], tree: dict[str, Any], path: str, value: Any) -> None:
  """Set a value in a tree of JSON that describes a `kind`. Raises ConfigError if there is no such place."""
  steps = path.split(".")
  if "" in steps:
    raise ConfigError(f"unknown field {path!r}: a name is missing between its dots")
  node: Any = tree
  kinds: Mapping[str, type[Settings]] = {"": kind}
  for depth, step in enumerate(steps[:-1]):
    key = _key(node, steps, depth)
    if isinstance(node, dict):
      if node.get(key) is None:
        node[key] = {}
      kinds = _kinds_below(_chosen(kinds, node), step)
    node = node[key]
  key = _key(node, steps, len(steps) - 1)
  # The name that chooses among kinds of settings; elsewhere `name` is a key like any other.
  if key == "name" and len(kinds) > 1 and node.get("name") != value:
    node.clear()
  node[key] = value


def _key(node: Any, steps: Sequence[str], depth: int) -> str | int:
  """Return the step of a path as a key of the node that it is taken from. Raises ConfigError if it leads nowhere."""
  step, path, here = steps[depth], ".".join(steps), ".".join(steps[:depth])
  if isinstance(node, dict):
    return step
  if not isinstance(node, list):
    raise ConfigError(f"unknown field {path!r}: {here!r} has no fields")
  if not step.isdecimal() or int(step) >= len(node):
    raise ConfigError(f"unknown field {path!r}: {here!r} has {len(node)} entries, counted from 0")
  return int(step)


def _restore(tree: dict[str, Any], before: Any, path: Sequence[str]) -> None:
  """Restore the field at a path from `before`, or the whole field if the path is inside a tuple.

  A field that was not there is removed.
  """
  for position, name in enumerate(path):
    child = tree.get(name)
    if position == len(path) - 1 or not isinstance(child, dict):
      if isinstance(before, dict) and name in before:
        tree[name] = before[name]
      else:
        tree.pop(name, None)
      return
    tree, before = child, before.get(name) if isinstance(before, dict) else None


def _locate(kind: type[Settings], loc: tuple[str | int, ...]) -> tuple[list[str], Mapping[str, type[Settings]]]:
  """Return Pydantic's location as a path, without the tags of unions, and the kinds of settings that may be there."""
  path: list[str] = []
  kinds: Mapping[str, type[Settings]] = {"": kind}
  for step in loc:
    if isinstance(step, str) and len(kinds) > 1:
      kinds = {step: kinds[step]}
      continue
    path.append(str(step))
    if isinstance(step, str):
      kinds = _kinds_below(next(iter(kinds.values()), None), step)
  return path, kinds


def _chosen(kinds: Mapping[str, type[Settings]], node: Mapping[str, Any]) -> type[Settings] | None:
  if len(kinds) == 1:
    return next(iter(kinds.values()))
  return kinds.get(str(kind_tag(node)))


def _kinds_below(kind: type[Settings] | None, name: str) -> Mapping[str, type[Settings]]:
  """Return the kinds of settings that a field can hold, by tag; none if it is a leaf or unknown."""
  field = kind.model_fields.get(name) if kind else None
  return dict(_kinds(field.annotation, None)) if field else {}


def _kinds(annotation: Any, tag: str | None) -> Iterator[tuple[str, type[Settings]]]:
  if isinstance(annotation, type) and issubclass(annotation, Settings):
    name = annotation.model_fields.get("name")
    names = (tag,) if tag else typing.get_args(name.annotation) if name else ()
    yield from ((known, annotation) for known in names or (annotation.__name__,))
  arguments = typing.get_args(annotation)
  tag = next((argument.tag for argument in arguments if isinstance(argument, pydantic.Tag)), None)
  for argument in arguments:
    yield from _kinds(argument, tag)
