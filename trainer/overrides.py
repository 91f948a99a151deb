"""Changes to a config by dotted path, and every problem of a config told at once, in words.

There is one way to change a config: `override(config, {"optimizer.learning_rate": 0.3})`. The command line,
trials and tests all use it.
"""

import ast
import copy
import difflib
import json
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import pydantic

from trialbook.settings import Settings

C = TypeVar("C", bound=Settings)


class UserError(Exception):
  """A mistake of the user's: the command prints the problems and leaves with exit code 2."""

  def __init__(self, problems: str | Iterable[str]):
    self.problems = [problems] if isinstance(problems, str) else list(problems)
    super().__init__("\n".join(self.problems))


class ConfigError(UserError):
  """A config that cannot be run.

  Attributes:
    rest: where single fields failed, the config with those as they were before, so that what else is wrong with
      it can be told in the same breath; otherwise None.
  """

  def __init__(self, problems: str | Iterable[str], rest: Any = None):
    super().__init__(problems)
    self.rest = rest


def parse_assignments(assignments: Iterable[str]) -> dict[str, Any]:
  """`["a.b=0.1", "a.name=adam"]` -> `{"a.b": 0.1, "a.name": "adam"}`; a value that is no literal is a string.

  Raises:
    ConfigError: for an assignment without `=`, and for a path that is set twice.
  """
  words = {"true": True, "false": False, "none": None, "null": None}
  changes: dict[str, Any] = {}
  problems = []
  for assignment in assignments:
    path, equals, text = (part.strip() for part in assignment.partition("="))
    if not equals or not path:
      problems.append(f"--set {assignment}: write it as PATH=VALUE, for example --set optimizer.learning_rate=0.1")
      continue
    if path in changes:
      problems.append(f"--set {path} is given twice")
    try:
      changes[path] = words[text.lower()] if text.lower() in words else ast.literal_eval(text)
    except (ValueError, SyntaxError):
      changes[path] = text
  if problems:
    raise ConfigError(problems)
  return changes


def override(config: C, changes: Mapping[str, Any], cross_checks: Callable[[C], list[str]]) -> C:
  """A copy of `config` with `changes` (dotted path -> value) applied and everything checked.

  Setting a `name` to another kind replaces that subtree by the new kind's defaults, before its siblings are
  set. A path below an absent (None) subtree brings the subtree in.

  Raises:
    ConfigError: with all problems: unknown paths, wrong types, values out of range, cross-field checks.
  """
  before = config.model_dump(mode="json")
  tree = copy.deepcopy(before)
  problems = []
  # Names first, the outermost first: they decide what their siblings may be.
  for path in sorted(changes, key=lambda path: (path.rpartition(".")[2] != "name", path.count("."))):
    problems += _assign(tree, path, changes[path])
  kind = type(config)
  try:
    changed = kind.model_validate_json(_to_json(tree))
  except pydantic.ValidationError as error:
    problems += explain(error, kind, tree)
    # The cross-field checks see the failing fields as they were before, so that all is told at once.
    for entry in error.errors():
      _restore(tree, before, _path(kind, tree, entry["loc"]))
    try:
      changed = kind.model_validate_json(_to_json(tree))
    except pydantic.ValidationError:
      raise ConfigError(problems) from None
  problems += cross_checks(changed)
  if problems:
    raise ConfigError(problems, rest=changed)
  return changed


def explain(error: pydantic.ValidationError, kind: type[Settings], tree: Mapping[str, Any]) -> list[str]:
  """Pydantic's errors as sentences: the path, the value, what would be right, the nearest known names."""
  sentences = []
  for entry in error.errors():
    path = _path(kind, tree, entry["loc"])
    dotted, context = ".".join(path), entry.get("ctx", {})
    if entry["type"] == "extra_forbidden":
      known = sorted(_class_at(kind, tree, path[:-1]).model_fields)
      sentences.append(f"unknown field {dotted!r}{nearest(path[-1], known)}")
    elif entry["type"] in ("union_tag_invalid", "union_tag_not_found"):
      known = re.findall(r"'([^']+)'", context.get("expected_tags", "")) or [context.get("expected_tags", "")]
      name = context.get("tag", entry["input"].get("name") if isinstance(entry["input"], dict) else entry["input"])
      sentences.append(f"unknown {path[-1]} {name!r}{nearest(str(name), known)}")
    else:
      message = entry["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
      shown = "is missing" if entry["type"] == "missing" else f"= {entry['input']!r}: should be {message}"
      sentences.append(f"{dotted} {shown}")
  return sentences


def nearest(name: str, known: Iterable[str]) -> str:
  """`; did you mean 'adam'? available: adam, sgd` for an error about a name."""
  known = sorted(known)
  close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
  guess = f"; did you mean {close[0]!r}?" if close else ";"
  return f"{guess} available: {', '.join(known)}"


def _assign(tree: dict[str, Any], path: str, value: Any) -> list[str]:
  *parents, name = path.split(".")
  node: Any = tree
  for depth, parent in enumerate(parents):
    if isinstance(node, list):
      if not parent.isdigit() or int(parent) >= len(node):
        return [f"unknown field {path!r}: {'.'.join(parents[:depth])!r} has {len(node)} entries, counted from 0"]
      node = node[int(parent)]
    else:
      if node.get(parent) is None:
        node[parent] = {}
      node = node[parent]
    if not isinstance(node, dict | list):
      return [f"unknown field {path!r}: {'.'.join(parents[: depth + 1])!r} has no fields"]
  if isinstance(node, list):
    return [f"unknown field {path!r}: name a field of an entry of {'.'.join(parents)!r}"]
  if name == "name" and node.get("name") != value:
    node.clear()
  node[name] = value
  return []


def _restore(tree: dict[str, Any], before: Any, path: tuple[str, ...]) -> None:
  """Puts back the field at a path, of an entry of a tuple the whole field; one that was not there is taken away."""
  for position, name in enumerate(path):
    child = tree.get(name)
    if position == len(path) - 1 or not isinstance(child, dict):
      if isinstance(before, dict) and name in before:
        tree[name] = before[name]
      else:
        tree.pop(name, None)
      return
    tree, before = child, before.get(name) if isinstance(before, dict) else None


def _to_json(tree: Mapping[str, Any]) -> str:
  def unknown(value: Any) -> Any:
    if isinstance(value, Settings):
      return value.model_dump(mode="json")
    if hasattr(value, "item"):
      return value.item()
    return repr(value)

  return json.dumps(tree, default=unknown)


def _path(kind: type[Settings], tree: Any, loc: tuple[str | int, ...]) -> tuple[str, ...]:
  """Pydantic's location without the tags of unions, which are no part of a path."""
  path: list[str] = []
  for position, step in enumerate(loc):
    here = _class_at(kind, tree, tuple(path)) if path else kind
    if here is None or step in here.model_fields or position == len(loc) - 1:
      path.append(str(step))
  return tuple(path)


def _class_at(kind: type[Settings], tree: Any, path: tuple[str, ...]) -> Any:
  """The class of settings at a path of a tree, chosen among a union's by the `name` there; None for a leaf."""
  for name in path:
    field = kind.model_fields.get(name)
    tree = tree.get(name) if isinstance(tree, dict) else None
    if field is None:
      return None
    candidates = list(_settings_classes(field.annotation))
    if not candidates:
      return None
    named = [c for c in candidates if isinstance(tree, dict) and _accepts_name(c, tree.get("name"))]
    kind = (named or candidates)[0]
  return kind


def _accepts_name(kind: type[Settings], name: Any) -> bool:
  field = kind.model_fields.get("name")
  return field is not None and name in typing.get_args(field.annotation)


def _settings_classes(annotation: Any) -> Iterable[type[Settings]]:
  if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
    if issubclass(annotation, Settings):
      yield annotation
  else:
    for argument in typing.get_args(annotation):
      yield from _settings_classes(argument)
