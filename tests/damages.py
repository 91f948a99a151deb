"""Damages of the records of runs and studies, and the commands that read them: what must never give a traceback or,
unnoticed, another result."""

import dataclasses
import json
import os
import pathlib
import random
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent / "old_records"
DEEP = 100_000
FOREIGN = {"name": "left-pad", "version": "1.3.0", "private": True, "dependencies": {"a": ["^1", None]}}
"""The file of another program."""


@dataclasses.dataclass(frozen=True)
class Damage:
  """A way in which a file can be damaged.

  Attributes:
    name: what was done.
    path: of the file, from the folder of all records.
    apply: damages the file at a path.
    shows: whether a reader can see it. An optional field that is missing, or a value that is lost from one that may be
      null, leaves a record that could have been written.
  """

  name: str
  path: pathlib.PurePath
  apply: Callable[[pathlib.Path], None]
  shows: bool = True

  def __str__(self) -> str:
    return f"{self.path}: {self.name}"


def damages(root: pathlib.Path, path: pathlib.Path) -> Iterator[Damage]:
  """Yield damages of a record: of its text, and of each of its fields."""
  inside, text = path.relative_to(root), path.read_text()
  is_lines = path.suffix == ".jsonl"

  def damage(name: str, content: str | bytes, *, shows: bool = True) -> Damage:
    return Damage(name, inside, lambda path: _write(path, content), shows)

  yield damage("emptied", "")
  yield damage("cut in half", text[: len(text) // 2] + ("\n" if is_lines else ""))
  yield damage("nested", "[" * DEEP + "\n")
  yield damage("a deep object", '{"format": 1, "a": ' + "[" * DEEP + "]" * DEEP + "}\n")
  yield damage("foreign", json.dumps(FOREIGN) + "\n")
  yield damage("not UTF-8", b"\xff\xfe" + text.encode())
  for value in (None, 5, "x", [], {}, [{}], True):
    yield damage(f"{json.dumps(value)} in its place", json.dumps(value) + "\n")
  yield Damage("a folder in its place", inside, _as_folder)
  yield Damage("a pipe in its place", inside, _as_pipe)
  if is_lines:
    yield from (damage(name, content) for name, content in _line_damages(text))
    return
  stored = json.loads(text)
  yield damage("of another version", json.dumps({**stored, "format": 99}))
  for name, value in stored.items():
    without = {key: one for key, one in stored.items() if key != name}
    yield damage(f"without {name}", json.dumps(without), shows=False)
    yield damage(f"{name} = null", json.dumps({**stored, name: None}), shows=False)
    for other in _others(value):
      yield damage(f"{name} = {json.dumps(other)}", json.dumps({**stored, name: other}))
    for what, other in _extremes(value):
      yield damage(f"{name} {what}", json.dumps({**stored, name: other}), shows=False)
  yield from (damage(name, json.dumps(content)) for name, content in _inner(stored))


def of_text(root: pathlib.Path, path: pathlib.Path) -> Iterator[Damage]:
  """Yield damages of a file of another program: of its text, its lines, and the cells of a table."""
  inside, text = path.relative_to(root), path.read_text()
  lines = text.splitlines(keepends=True)
  middle, last = len(lines) // 2, len(lines) - 1
  cells = lines[middle].rstrip("\n").split(",")
  contents: dict[str, str | bytes] = {
    "emptied": "",
    "cut in half": text[: len(text) // 2],
    "nested": "[" * DEEP,
    "foreign": json.dumps(FOREIGN),
    "not UTF-8": b"\xff\xfe" + text.encode(),
    "zeros": bytes(len(text)),
    "a quote without an end": text.replace(lines[middle], '"' + lines[middle]),
    "a long cell": text.replace(lines[middle], "x" * 200_000 + lines[middle]),
    "without its first line": "".join(lines[1:]),
    "its first line doubled": "".join([*lines[:1], *lines]),
    "its last line cut": text[: -len(lines[last]) // 2],
  }
  for number in range(len(cells)):
    for cell in ("", "x", "1e300", "-1", "nan", str(10**30), "\x1b[2J", "=1+1"):
      changed = ",".join([*cells[:number], cell, *cells[number + 1 :]]) + "\n"
      contents[f"cell {number + 1} of line {middle + 1} is {cell!r}"] = "".join(
        [*lines[:middle], changed, *lines[middle + 1 :]]
      )
  for name, content in contents.items():
    yield Damage(name, inside, lambda path, content=content: _write(path, content), shows=False)
  yield Damage("a folder in its place", inside, _as_folder)


def of_bytes(root: pathlib.Path, path: pathlib.Path, count: int = 20) -> Iterator[Damage]:
  """Yield damages of a file that is no text: what is cut, and bytes that are changed somewhere."""
  inside, content = path.relative_to(root), path.read_bytes()
  rng = random.Random(str(inside))
  contents = {"emptied": b"", "cut in half": content[: len(content) // 2], "zeros": bytes(len(content))}
  contents["cut at its end"] = content[:-1]
  for _ in range(count if content else 0):
    start, length = rng.randrange(len(content)), rng.choice((1, 16, 500))
    new = rng.randbytes(length)
    contents[f"{length} bytes at {start} changed"] = (content[:start] + new + content[start + length :])[: len(content)]
  for name, changed in contents.items():
    yield Damage(name, inside, lambda path, changed=changed: _write(path, changed))
  yield Damage("deleted", inside, lambda path: path.unlink())
  yield Damage("a folder in its place", inside, _as_folder)


def _write(path: pathlib.Path, content: str | bytes) -> None:
  path.write_bytes(content.encode() if isinstance(content, str) else content)


def _as_folder(path: pathlib.Path) -> None:
  path.unlink()
  path.mkdir()


def _as_pipe(path: pathlib.Path) -> None:
  path.unlink()
  os.mkfifo(path)


def _line_damages(text: str) -> Iterator[tuple[str, str]]:
  """Yield logs with a line that is another one, missing, doubled or moved."""
  lines = text.splitlines()
  middle, last = len(lines) // 2, len(lines) - 1
  changed = json.loads(lines[middle])
  metric = next(name for name in changed if name != "step")
  others = [None, 5, "x", [], {}, *({**changed, "step": step} for step in ("3", True, -1, None, 1.5))]
  others += [{**changed, metric: value} for value in (None, "x", {}, True, [1, 2])]
  for number in (0, middle, last):
    new = {f"line {number + 1} is {json.dumps(one)[-30:]}": [json.dumps(one)] for one in others}
    new |= {f"line {number + 1} deleted": [], f"line {number + 1} doubled": [lines[number]] * 2}
    new |= {f"line {number + 1} nested": ["[" * DEEP], f"line {number + 1} cut": [lines[number][:-1]]}
    for name, here in new.items():
      yield name, "".join(f"{line}\n" for line in [*lines[:number], *here, *lines[number + 1 :]])
  swapped = [*lines[: middle - 1], lines[middle], lines[middle - 1], *lines[middle + 1 :]]
  yield "two lines swapped", "".join(f"{line}\n" for line in swapped)


def _others(value: Any) -> Iterator[Any]:
  """Yield values of other types than a field's."""
  if not isinstance(value, str) and value is not None:
    yield "x"
  if isinstance(value, bool | str) or value is None:
    yield -1
  if not isinstance(value, list):
    yield [{}]
  if not isinstance(value, dict):
    yield {"a": None}


def _extremes(value: Any) -> Iterator[tuple[str, Any]]:
  """Yield values of a field's type that nobody writes."""
  if isinstance(value, int | float) and not isinstance(value, bool):
    yield from (("= -1e300", -1e300), ("= 1e300", 1e300)) if isinstance(value, float) else (("= 1e30", 10**30),)
    yield "negative", -1 - value
  if isinstance(value, str):
    yield "= an escape sequence", "\x1b[2J\u202e"
    yield "emptied", ""
    yield "of 100,000 characters", "x" * 100_000
  if isinstance(value, list | dict):
    yield "emptied", type(value)()
  if isinstance(value, list):
    yield "doubled", 2 * value
  if isinstance(value, dict):
    yield from ((f"without {key}", {name: one for name, one in value.items() if name != key}) for key in value)


def _inner(stored: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
  """Yield records with an entry of a field of another type."""
  for name, value in stored.items():
    if isinstance(value, dict):
      for key, inside in value.items():
        for other in ([None], {"a": {}}):
          if type(inside) is not type(other):
            yield f"{name}.{key} = {json.dumps(other)}", {**stored, name: {**value, key: other}}
    if isinstance(value, list) and value:
      for other in (None, [[]], {}):
        yield f"{name}.0 = {json.dumps(other)}", {**stored, name: [other, *value[1:]]}


class Opened:
  """Notes which files are opened below a folder while it is active."""

  def __init__(self):
    self._paths: set[str] | None = None
    sys.addaudithook(self._hook)

  def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
    if self._paths is not None and event == "open" and isinstance(arguments[0], str | bytes):
      self._paths.add(str(pathlib.Path(arguments[0].decode() if isinstance(arguments[0], bytes) else arguments[0])))

  def during(self, function: Callable[[], Any]) -> tuple[Any, set[str]]:
    """Return what a function returns, and the absolute paths of the files that it opened."""
    self._paths = set()
    try:
      result = function()
      return result, {str(pathlib.Path(path).absolute()) for path in self._paths}
    finally:
      self._paths = None
