"""Records: the JSON files of runs and studies. Each kind has a type, and is read through it or not at all.

A type is a `TypedDict`. Its keys are checked by pydantic, strictly; keys that it does not name are kept, so that a
record can be written back whole.
"""

import contextlib
import dataclasses
import functools
import os
import pathlib
import reprlib
import stat
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Generic, TypeVar

import pydantic
import pydantic_core

from trialbook import files
from trialbook.errors import ConfigError, UserError
from trialbook.object_store import StorePath

T = TypeVar("T")

Count = Annotated[int, pydantic.Field(ge=0)]
"""A number of something, or a step."""
Format = Annotated[int, pydantic.Field(ge=1)]
"""Version of a record."""

_PROBLEMS = 3


stored = pydantic.with_config(pydantic.ConfigDict(strict=True, extra="allow"))
"""Decorator of the types of records."""


@dataclasses.dataclass(frozen=True)
class Kind(Generic[T]):
  """A kind of record.

  Attributes:
    type: the `TypedDict` of the record, or of a line.
    remedy: what to do about one that cannot be read, for the end of a message.
    version: the newest format that this version of the project reads; None: it has no `format`.
  """

  type: type[T]
  remedy: str
  version: int | None = files.FORMAT

  @functools.cached_property
  def _one(self) -> pydantic.TypeAdapter[T]:
    return pydantic.TypeAdapter(self.type)

  @functools.cached_property
  def _many(self) -> pydantic.TypeAdapter[list[T]]:
    return pydantic.TypeAdapter(list[self.type])

  def read(self, path: pathlib.Path) -> T | None:
    """Return the record in a file; None if there is no such file.

    Raises:
      UserError: naming file, field and remedy, if it cannot be read.
      ConfigError: if a newer version of the project wrote it.
    """
    content = self._bytes(path)
    if content is None:
      return None
    try:
      record = self._one.validate_json(content, strict=True)
    except pydantic.ValidationError as error:
      self._check_version(path, _format(content))
      raise self.error(path, sentences(error)) from None
    self._check_version(path, record.get("format"))  # type: ignore[attr-defined]
    return record

  def lines(self, path: pathlib.Path) -> list[T]:
    """Return the records of a JSON-lines file, in order, without a last line that an interruption left unfinished.

    The list is empty if there is no such file.

    Raises:
      UserError: naming file, line, field and remedy, if another line cannot be read.
    """
    whole, _, _ = (self._bytes(path) or b"").rpartition(b"\n")
    if not whole:
      return []
    lines = whole.split(b"\n")
    with contextlib.suppress(pydantic.ValidationError):
      # All lines at once, because that is several times faster than one by one.
      records = self._many.validate_json(b"[" + b",".join(lines) + b"]", strict=True)
      if len(records) == len(lines):
        return records
    return [self._line(path, number, line) for number, line in enumerate(lines, start=1)]

  def _line(self, path: pathlib.Path, number: int, line: bytes) -> T:
    try:
      return self._one.validate_json(line, strict=True)
    except pydantic.ValidationError as error:
      raise self.error(path, sentences(error), number) from None

  def check(self, path: pathlib.Path, line: int, value: Any) -> T:
    """Return a line of a file whose lines are of several kinds, read before as any object. Raises UserError."""
    return self._line(path, line, pydantic_core.to_json(value))

  def error(self, path: pathlib.Path, problems: Iterable[str], line: int | None = None) -> UserError:
    """Return the error for a record that cannot be used: the place, what is wrong there, and the remedy."""
    place = f"{os.fspath(path)}, line {line}" if line else os.fspath(path)
    return UserError(f"{place} cannot be read: {'; '.join(problems)}. {self.remedy}")

  def _bytes(self, path: pathlib.Path) -> bytes | None:
    try:
      if isinstance(path, StorePath):
        return path.read_bytes()
      # Without waiting, if it is a pipe.
      with open(os.open(os.fspath(path), os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
          raise self.error(path, ["it is a pipe or a device"])
        return file.read()
    except FileNotFoundError:
      return None
    except MemoryError:
      raise self.error(path, ["it is larger than the memory"]) from None
    except OSError as error:
      raise self.error(path, [error.strerror or str(error)]) from None

  def _check_version(self, path: pathlib.Path, version: Any) -> None:
    if self.version is not None and type(version) is int and version > self.version:
      raise ConfigError(
        f"{os.fspath(path)} has format {version}, made by a newer version of trialbook;"
        f" this one reads up to {self.version}. Install that version"
      )


def sentences(error: pydantic.ValidationError) -> list[str]:
  """Return what is wrong with a record, a sentence for each of the first fields."""
  wanted: dict[str, list[str]] = {}
  for entry in error.errors():
    place = ".".join(str(step) for step in entry["loc"] if not _is_tag(step))
    message = entry["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    if entry["type"] == "json_invalid":
      return [message]
    is_there = entry["type"] != "missing"
    what = f"{place or 'the record'} is {shown(entry['input'])}, and should be" if is_there else f"{place} is missing"
    # Each member of a union says what it would take.
    wanted.setdefault(what, []).extend([message] if is_there else [])
  return [f"{what} {' or '.join(messages)}".strip() for what, messages in wanted.items()][:_PROBLEMS]


def shown(value: Any) -> str:
  """Return a value for a message, shortened."""
  return _SHORT.repr(value)


def check_steps(kind: Kind[Any], path: pathlib.Path, steps: Sequence[int], first: int | None) -> None:
  """Raise UserError if a line of a log was removed, doubled or moved.

  Args:
    kind: of the lines.
    path: of the log.
    steps: of its lines.
    first: the step of the first line, if every step has a line; None: steps only increase.
  """
  if not steps:
    return
  if first is not None and steps == list(range(first, first + len(steps))):
    return
  before: int | None = None if first is None else first - 1
  for line, step in enumerate(steps, start=1):
    if before is not None and (step <= before or (first is not None and step != before + 1)):
      wanted = f"{before + 1}" if first is not None else f"more than {before}"
      raise kind.error(path, [f"step is {step}, and should be {wanted}: a line was removed, doubled or moved"], line)
    before = step


_SHORT = reprlib.Repr()
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlevel = 80, 80, 2


def _is_tag(step: str | int) -> bool:
  """Return whether a step of pydantic's location names the member of a union, which no record has as a key."""
  return isinstance(step, str) and (step.endswith("]") or step in _MEMBERS)


_MEMBERS = frozenset(("float", "int", "str", "bool", "nullable"))


def _format(content: bytes) -> Any:
  """Return the `format` of a record that is not of its type."""
  try:
    found = pydantic_core.from_json(content)
  except ValueError:
    return None
  return found.get("format") if isinstance(found, dict) else None
