"""Files that appear whole or not at all, JSON as records have it, and locks. Every room reads and writes by these."""

import contextlib
import errno
import fcntl
import json
import math
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import IO, Any

from trialbook.errors import ConfigError, UserError

FORMAT = 1
"""Version of the layout and fields of runs and studies."""


@contextlib.contextmanager
def replacing_path(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yield where to write a file that then takes the place of `path`: temporary file, fsync, rename.

  Readers see the old content or the new, whole. If several processes write it, the last one's stays.
  """
  temporary = _beside(path, "new")
  try:
    yield temporary
    with temporary.open("rb") as file:
      os.fsync(file.fileno())
    temporary.rename(path)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: pathlib.Path, mode: str = "w") -> Iterator[IO[Any]]:
  """Yield a file that takes the place of `path` when it is complete, as `replacing_path` does."""
  with replacing_path(path) as temporary, temporary.open(mode) as file:
    yield file


@contextlib.contextmanager
def replacing_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yield an empty folder that takes the place of `path`, and of all that it holds, when it is complete.

  Its files are synced to the disk before. Subfolders are not synced.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  staging, former = _beside(path, "new"), _beside(path, "old")
  for left in (staging, former):
    # Of a process that was killed and had the same id, as in a container that was started again.
    shutil.rmtree(left, ignore_errors=True)
  try:
    staging.mkdir()
    yield staging
    for inside in staging.iterdir():
      with inside.open("rb") as file:
        os.fsync(file.fileno())
    with contextlib.suppress(FileNotFoundError):
      path.rename(former)
    try:
      staging.rename(path)
    except OSError:
      with contextlib.suppress(FileNotFoundError):
        former.rename(path)
      raise
    shutil.rmtree(former, ignore_errors=True)
  finally:
    shutil.rmtree(staging, ignore_errors=True)


def _beside(path: pathlib.Path, what: str) -> pathlib.Path:
  """Return a hidden path on the same file system, where a rename is atomic, that no other process uses."""
  return path.with_name(f".{path.name}.{what}.{os.getpid()}")


def write_text(path: pathlib.Path, text: str) -> None:
  """Replace a file as `replacing` does."""
  with replacing(path) as file:
    file.write(text)


def write_json(path: pathlib.Path, value: Any) -> None:
  """Replace a file by a value as JSON, as `replacing` does."""
  write_text(path, json.dumps(jsonable(value), indent=2, allow_nan=False) + "\n")


def jsonable(value: Any) -> Any:
  """Return the value with the numbers that JSON lacks as strings that `float` reads: "NaN", "Infinity", "-Infinity"."""
  if isinstance(value, float) and not math.isfinite(value):
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
  if isinstance(value, Mapping):
    return {str(key): jsonable(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [jsonable(item) for item in value]
  return value


def number(value: Any) -> Any:
  """Return the float that `jsonable` wrote as a string; anything else as it is."""
  return float(value) if value in ("NaN", "Infinity", "-Infinity") else value


def read_json(path: pathlib.Path) -> dict[str, Any] | None:
  """Return the object in a file; None if there is no such file.

  Raises:
    UserError: naming the file, if it holds no JSON object.
  """
  try:
    value = json.loads(path.read_text())
  except FileNotFoundError:
    return None
  except (OSError, ValueError, RecursionError) as error:
    raise UserError(f"{path} cannot be read: {error}") from None
  if not isinstance(value, dict):
    raise UserError(f"{path} cannot be read: it holds no JSON object")
  return value


def read_json_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Return the objects of a JSON-lines file, in order, without a last line that an interruption left unfinished.

  Raises:
    UserError: naming file and line, if another line is not JSON.
  """
  lines = path.read_text(errors="replace").split("\n") if path.exists() else []
  values = []
  for count, line in enumerate(lines[:-1], start=1):
    try:
      values.append(json.loads(line))
    except ValueError as error:
      raise UserError(f"{path}, line {count} cannot be read: {error}") from None
  return values


def check_format(path: pathlib.Path, version: Any) -> None:
  """Raise UserError if a newer version of the project wrote the file."""
  if not isinstance(version, int) or version > FORMAT:
    raise ConfigError(
      f"{path} has format {version}, made by a newer version of trialbook; this one reads up to {FORMAT}"
    )


@contextlib.contextmanager
def locked(path: pathlib.Path, what: str) -> Iterator[None]:
  """Hold the lock of a file, which is created; it ends with the process, however that ends.

  Args:
    path: of the lock file, which tells which process holds it.
    what: is locked, for the message.

  Raises:
    ConfigError: if another process holds it.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  with path.open("a+") as file:
    _lock(file, what, fcntl.LOCK_EX)
    file.truncate(0)
    file.write(f"{os.getpid()} on {os.uname().nodename}")
    file.flush()
    yield


def check_unlocked(path: pathlib.Path, what: str) -> None:
  """Raise ConfigError if a process holds the lock of `locked`. Several processes may look at the same time."""
  with contextlib.suppress(FileNotFoundError), path.open() as file:
    _lock(file, what, fcntl.LOCK_SH)


def is_locked(path: pathlib.Path) -> bool:
  """Return whether a process holds the lock of `locked`."""
  try:
    check_unlocked(path, "")
  except ConfigError:
    return True
  return False


def _lock(file: IO[str], what: str, kind: int) -> None:
  try:
    fcntl.flock(file, kind | fcntl.LOCK_NB)
  except BlockingIOError:
    file.seek(0)
    raise ConfigError(f"{what} is in use by process {file.read().strip() or 'unknown'}") from None


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
  """Turn a disk that is full, read-only or over its quota into a UserError that names `what` is written."""
  try:
    yield
  except OSError as error:
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
      raise
    raise UserError(
      f"{what}: {error.strerror}; what was saved before is intact. Free some space and rerun the same command"
    ) from error
