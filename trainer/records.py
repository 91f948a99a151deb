"""What a run leaves in its workdir: JSON that is written whole or not at all, and one line a step."""

import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from trainer.overrides import UserError

FORMAT = 1
"""Version of the workdir's layout and fields."""


def jsonable(value: Any) -> Any:
  """The value with the numbers that JSON lacks as strings, "NaN", "Infinity", "-Infinity"; `float` reads them."""
  if isinstance(value, float) and not math.isfinite(value):
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
  if isinstance(value, Mapping):
    return {str(key): jsonable(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [jsonable(item) for item in value]
  return value


def write_json(path: pathlib.Path, value: Any) -> None:
  """Replaces a file atomically: temporary file, fsync, rename. Readers see the old content or the new, whole."""
  _replace(path, json.dumps(jsonable(value), indent=2, allow_nan=False) + "\n")


def replace_text(path: pathlib.Path, text: str) -> None:
  """Replaces a file as `write_json` does, also where several processes write it: the last one's stays, whole."""
  _replace(path, text, f".{os.getpid()}")


def _replace(path: pathlib.Path, text: str, writer: str = "") -> None:
  temporary = path.with_name(f".{path.name}{writer}.tmp")
  try:
    with temporary.open("w") as file:
      file.write(text)
      file.flush()
      os.fsync(file.fileno())
    temporary.rename(path)
  except OSError:
    temporary.unlink(missing_ok=True)
    raise


def read_json(path: pathlib.Path) -> dict[str, Any] | None:
  """The object in a file; None if there is no such file. Raises UserError, naming the file, if it is no JSON."""
  try:
    value = json.loads(path.read_text())
  except FileNotFoundError:
    return None
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{path} cannot be read: {error}") from None
  if not isinstance(value, dict):
    raise UserError(f"{path} cannot be read: it holds no JSON object")
  return value


def number(value: Any) -> Any:
  """The float that `jsonable` wrote as a string; anything else as it is."""
  return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """The objects of a JSON-lines file, in order; a last line that an interruption left unfinished is left out.

  Raises:
    UserError: naming file and line, if another line is no JSON.
  """
  lines = path.read_text(errors="replace").split("\n") if path.exists() else []
  values = []
  for number, line in enumerate(lines[:-1], start=1):
    try:
      values.append(json.loads(line))
    except ValueError as error:
      raise UserError(f"{path}, line {number} cannot be read: {error}") from None
  return values


def cut_lines(path: pathlib.Path, last_step: int) -> None:
  """Takes away all lines after those of `last_step`, atomically."""
  steps = [line["step"] for line in read_lines(path)]
  lines = path.read_text(errors="replace").split("\n")
  _replace(path, "".join(f"{line}\n" for line, step in zip(lines, steps, strict=False) if step <= last_step))


class StepLines:
  """Writes `metrics.jsonl`: an object a line, `step` in each, no step twice.

  The line of step *s* holds the metrics of the update that led to *s* and, where there was one, the evaluation
  after it.
  """

  def __init__(self, path: pathlib.Path, names: Iterable[str]):
    self._file = path.open("a")
    self._names = tuple(names)
    # float32 needs nine digits to come back the same; a format string is several times faster than json.dumps.
    fields = [f'"{name}": %.9g' for name in self._names]
    self._template = ", ".join(['{"step": %d', *fields])

  def write(self, step: int, row: Iterable[float], extra: Mapping[str, Any]) -> None:
    """One line: the metrics in the order of the names, then `extra`. Buffered until `flush` or `sync`."""
    row = tuple(row)
    if row and not all(map(math.isfinite, row)):
      extra, row = dict(zip(self._names, row, strict=True)) | dict(extra), ()
    line = self._template % (step, *row) if row else '{"step": %d' % step  # noqa: UP031
    rest = json.dumps(jsonable(extra), allow_nan=False)[1:-1] if extra else ""
    self._file.write(f"{line}, {rest}}}\n" if rest else f"{line}}}\n")

  def extend_last(self, extra: Mapping[str, Any]) -> None:
    """Adds to the last line of the file, atomically."""
    self.close()
    path = pathlib.Path(self._file.name)
    *lines, last, _ = path.read_text().split("\n")
    last = json.dumps(jsonable({**json.loads(last), **extra}), allow_nan=False)
    _replace(path, "".join(f"{line}\n" for line in [*lines, last]))
    self._file = path.open("a")

  def flush(self) -> None:
    """Hands what is buffered to the operating system."""
    self._file.flush()

  def sync(self) -> None:
    """Returns when all lines are on the disk."""
    self._file.flush()
    os.fsync(self._file.fileno())

  def close(self) -> None:
    """Syncs and closes the file."""
    self.sync()
    self._file.close()
