"""The base of every room's configuration: a frozen, typed record whose fields say what they change.

A field is one of three kinds, declared in its type:

- `Static[T]` changes the compiled program: shapes, names, whether a feature is there at all.
- `Traced[T]` is an argument of the compiled functions; changing it never recompiles. `Traced[T | None]`
  with the value None means that the feature is absent, and absence is static.
- `Host[T]` is never seen by the compiler: intervals, retention, the total number of steps.

`FilePath[str]`, inside one of them, names a file or a folder; `trialbook.paths.as_path` makes it a path.

`Complement[float]` is a traced field x that the compiled functions receive as `one_minus_x`, formed in
float64 on the host: 1 - float32(1 - 1e-6) is off by 1e-2.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

T = TypeVar("T")
S = TypeVar("S", bound="Settings")
Static = Annotated[T, "static"]
Traced = Annotated[T, "traced"]
Complement = Annotated[T, "traced", "complement"]
Host = Annotated[T, "host"]
FilePath = Annotated[T, "path"]

KINDS = ("static", "traced", "host")


class Settings(BaseModel):
  """A frozen record of settings; unknown keys and wrong types are errors."""

  model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

  @classmethod
  def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
    super().__pydantic_init_subclass__(**kwargs)
    for name, field in cls.model_fields.items():
      kinds = [kind for kind in KINDS if kind in field.metadata]
      if len(kinds) > 1 or (not kinds and not _is_subtree(field)):
        raise TypeError(
          f"{cls.__name__}.{name} must be declared as one of Static, Traced, Host; it is {kinds or 'none'}"
        )


def kind_tag(value: Any) -> str | None:
  """Return the kind that settings, as a mapping or a record, name; a plug-in's has one tag.

  For pydantic's `Discriminator`.
  """
  name = value.get("name") if isinstance(value, dict) else getattr(value, "name", None)
  return "module:Class" if isinstance(name, str) and ":" in name else name


def leaves(settings: Settings, prefix: str = "") -> Iterator[tuple[str, str, FieldInfo, Any]]:
  """Yield (dotted path, kind, field, value) for each leaf of a tree of settings, in order of declaration."""
  for name, field in type(settings).model_fields.items():
    value = getattr(settings, name)
    if isinstance(value, Settings):
      yield from leaves(value, f"{prefix}{name}.")
    elif _are_records(value):
      for index, record in enumerate(value):
        yield from leaves(record, f"{prefix}{name}.{index}.")
    else:
      # A subtree that is absent (None) is a static fact: the feature is not there.
      kind = next((kind for kind in KINDS if kind in field.metadata), "static")
      yield f"{prefix}{name}", kind, field, value


def find(settings: Settings, path: str) -> tuple[FieldInfo, Any] | None:
  """Return the field at a dotted path, and what it holds; None if there is none, or a group on the way is absent."""
  node: Any = settings
  field = None
  for step in path.split("."):
    if isinstance(node, tuple) and step.isdecimal() and int(step) < len(node):
      node = node[int(step)]
      continue
    if isinstance(node, dict):
      node = node.get(step)  # Keys are the user's; they are of the kind of the field that holds them.
      continue
    if not isinstance(node, Settings) or step not in type(node).model_fields:
      return None
    field, node = type(node).model_fields[step], getattr(node, step)
  return None if field is None else (field, node)


def flat(tree: Mapping[str, Any], separator: str = ".") -> dict[str, Any]:
  """Return the leaves of nested mappings by path, dotted by default; a mapping without entries has none."""
  found: dict[str, Any] = {}
  for name, value in tree.items():
    if isinstance(value, Mapping):
      found |= {f"{name}{separator}{path}": leaf for path, leaf in flat(value, separator).items()}
    else:
      found[str(name)] = value
  return found


def traced_values(settings: Settings) -> dict[str, np.ndarray]:
  """Return the traced fields as strongly typed host arrays, keyed by dotted path.

  Floats become float32, integers int32 (seeds, being unsigned, uint32), tuples arrays, dictionaries one entry
  a key; None (an absent feature) has no entry; `Complement` fields appear as `one_minus_<name>`.
  """
  values: dict[str, np.ndarray] = {}
  for path, kind, field, value in leaves(settings):
    if kind != "traced" or value is None:
      continue
    if "complement" in field.metadata:
      head, _, name = path.rpartition(".")
      path, value = f"{head}.one_minus_{name}" if head else f"one_minus_{name}", 1.0 - value
    items = {f"{path}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {path: value}
    values |= {key: _strongly_typed(key, item) for key, item in items.items()}
  return values


def _are_records(value: Any) -> bool:
  return isinstance(value, tuple) and bool(value) and isinstance(value[0], Settings)


def _strongly_typed(path: str, value: Any) -> np.ndarray:
  array = np.asarray(value)
  if path.rpartition(".")[2] == "seed":
    return array.astype(np.uint32)
  return array.astype(np.int32 if array.dtype.kind in "iub" else np.float32)


def _is_subtree(field: FieldInfo) -> bool:
  """Return whether a field holds further settings (a record, a union of them, perhaps None) and so has no kind."""

  def holds(annotation: Any) -> bool:
    if isinstance(annotation, type):
      return issubclass(annotation, Settings)
    return any(holds(argument) for argument in getattr(annotation, "__args__", ()))

  return holds(field.annotation)


def without_traced_numbers(settings: S) -> S:
  """Return a copy whose traced numbers are NaN and whose host fields are None, from which a program may be built.

  Reading a traced number while building a program would bake it in; a NaN in its place shows at once.
  None stays None, because absence is static.
  """
  changes: dict[str, Any] = {}
  for name, field in type(settings).model_fields.items():
    value = getattr(settings, name)
    if isinstance(value, Settings):
      changes[name] = without_traced_numbers(value)
    elif _are_records(value):
      changes[name] = tuple(map(without_traced_numbers, value))
    elif "host" in field.metadata:
      changes[name] = None
    elif "traced" in field.metadata and value is not None:
      if isinstance(value, dict):
        changes[name] = dict.fromkeys(value, float("nan"))
      else:
        changes[name] = (float("nan"),) * len(value) if isinstance(value, tuple) else float("nan")
  return settings.model_copy(update=changes)
