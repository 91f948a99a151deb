"""Files that appear whole or not at all, JSON as records have it, and locks. Every room reads and writes by these.

A path decides where: in a file system, or in an object store (`gs://…`, trialbook/object_store.py).
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from trialbook import folders, object_store
from trialbook.errors import ConfigError, GoneError, UserError, storable
from trialbook.lease import Lease, is_held, wait_for_owner
from trialbook.object_store import StorePath

FORMAT = 1
"""Version of the layout and fields of runs and studies."""


@contextlib.contextmanager
def replacing_path(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yield an empty file that takes the place of `path` when it is complete: temporary file, fsync, rename, or upload.

  Readers see the old content or the new, whole. If several processes write it, the last one's stays.
  """
  if isinstance(path, StorePath):
    with tempfile.TemporaryDirectory(prefix="trialbook-upload-") as name:
      local = pathlib.Path(name) / path.name
      _make(local)
      yield local
      path.upload(local)
    return
  temporary = _beside(path, "new")
  try:
    _make(temporary)
    yield temporary
    with temporary.open("rb") as file:
      os.fsync(file.fileno())
    temporary.rename(path)
  finally:
    temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(path: pathlib.Path, mode: str = "w") -> Iterator[IO[Any]]:
  """Yield a file that takes the place of `path` when it is complete, as `replacing_path` does."""
  with replacing_path(path) as temporary:
    is_text = "b" not in mode
    encoding, errors = ("utf-8", "backslashreplace") if is_text else (None, None)
    with temporary.open(mode, encoding=encoding, errors=errors) as file:
      yield file


@contextlib.contextmanager
def replacing_folder(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Yield an empty folder that takes the place of `path`, and of all that it holds, when it is complete.

  Its files are synced to the disk before. Subfolders are not synced. An object store cannot replace a folder in one
  act: there its JSON files, which describe the others, are removed first and written last.
  """
  if isinstance(path, StorePath):
    with tempfile.TemporaryDirectory(prefix="trialbook-upload-") as name:
      yield pathlib.Path(name)
      folders.remove(path)
      folders.copy(pathlib.Path(name), path)
    return
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


def _make(path: pathlib.Path) -> None:
  """Make an empty file that was not there: a link that somebody has laid is removed, and never followed."""
  # What is there is of a process that was killed and had the same id, or not ours.
  path.unlink(missing_ok=True)
  os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o666))


def write_text(path: pathlib.Path, text: str) -> None:
  """Replace a file as `replacing` does."""
  with replacing(path) as file:
    file.write(text)


def write_json(path: pathlib.Path, value: Any) -> None:
  """Replace a file by a value as JSON, as `replacing` does."""
  write_text(path, json.dumps(jsonable(value), indent=2, allow_nan=False) + "\n")


def jsonable(value: Any) -> Any:
  """Return the value with what JSON lacks as strings: numbers as `float` reads them ("NaN", "Infinity", "-Infinity"),
  and halves of characters written out."""
  if isinstance(value, float) and not math.isfinite(value):
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
  if isinstance(value, str):
    return storable(value)
  if isinstance(value, Mapping):
    return {storable(str(key)): jsonable(item) for key, item in value.items()}
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


def may_write(folder: pathlib.Path) -> bool:
  """Return whether files may be written in a folder, as far as that is known without a try."""
  return isinstance(folder, StorePath) or os.access(folder, os.W_OK)


def check_reachable(folder: pathlib.Path) -> None:
  """Raise UserError if a folder is in an object store and nothing can be written there, and StoreLostError if the store
  answers with errors that pass. Other folders are not looked at."""
  if isinstance(folder, StorePath):
    object_store.check(folder)


@contextlib.contextmanager
def locked(path: pathlib.Path, what: str) -> Iterator[Callable[[], None]]:
  """Hold the lock of a file, which is created; it ends with the process, however that ends.

  In an object store it is a lease: of a process that was killed on another machine it ends a minute later.

  Args:
    path: of the lock file, which tells which process holds it.
    what: is locked, for the message.

  Yields:
    A check that this process holds it still, which raises ConfigError.

  Raises:
    ConfigError: if another process holds it.
  """
  if isinstance(path, StorePath):
    lease = Lease(path, what)
    lease.acquire()
    try:
      yield lease.check
    finally:
      lease.release()
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  try:
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW, 0o666)
  except OSError as error:
    if error.errno != errno.ELOOP:
      raise
    raise ConfigError(f"{path} is a link, which another may have laid; remove it") from None
  with open(descriptor, "a+") as file:
    _lock(file, what, fcntl.LOCK_EX)
    file.truncate(0)
    file.write(f"{os.getpid()} on {os.uname().nodename}")
    file.flush()
    yield lambda: None


def check_unlocked(path: pathlib.Path, what: str) -> None:
  """Raise ConfigError if a process holds the lock of `locked`. Several processes may look at the same time."""
  if isinstance(path, StorePath):
    wait_for_owner(path, what)
    return
  with contextlib.suppress(FileNotFoundError), open(os.open(path, os.O_RDONLY | os.O_NONBLOCK)) as file:
    _lock(file, what, fcntl.LOCK_SH)


def is_locked(path: pathlib.Path) -> bool:
  """Return whether a process holds the lock of `locked`."""
  if isinstance(path, StorePath):
    return is_held(path)
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


_SPACE = "what was saved before is intact. Free some space and rerun the same command"
_REMEDIES = {
  errno.ENOSPC: _SPACE,
  errno.EDQUOT: _SPACE,
  errno.EROFS: _SPACE,
  errno.EFBIG: "what was saved before is intact. Raise the limit of a file's size (ulimit -f), and rerun the command",
  errno.EMFILE: "what was saved before is intact. Raise the limit of open files (ulimit -n), and rerun the command",
  errno.EISDIR: "a file should be there. Move the folder away, and rerun the same command",
  errno.ENFILE: "what was saved before is intact. Close other programs, and rerun the same command",
}


def limit_problem(error: BaseException, what: str = "") -> str | None:
  """Return the problem and the remedy if an error stems from a limit of the disk or the process; otherwise None.

  Args:
    error: or what it was raised from.
    what: is written.
  """
  cause: BaseException | None = error
  while cause is not None and not (isinstance(cause, OSError) and cause.errno in _REMEDIES):
    cause = cause.__cause__
  if not isinstance(cause, OSError):
    return None
  named = what or cause.filename or "a file"
  if cause.errno == errno.EISDIR:
    named = cause.filename2 or cause.filename  # A rename has the other one first.
  return f"{named}: {cause.strerror}; {_REMEDIES[cause.errno or 0]}"


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
  """Turn a disk that is full, read-only or over its quota, or a limit of the process, into a UserError that names
  `what` is written."""
  try:
    yield
  except OSError as error:
    if (problem := limit_problem(error, what)) is None:
      raise
    raise UserError(problem) from error


@dataclasses.dataclass(frozen=True)
class Place:
  """A folder that is in use, which is known again wherever its name leads later.

  Attributes:
    path: of the folder.
    identity: device and inode; None in an object store, where folders are names.
    held: what `locked` yields, if this process has the folder's lock.
  """

  path: pathlib.Path
  identity: tuple[int, int] | None
  held: Callable[[], None] | None = None

  @classmethod
  def of(cls, path: pathlib.Path, held: Callable[[], None] | None = None) -> "Place":
    """Return the place of a folder, which is there."""
    if isinstance(path, StorePath):
      return cls(path, None, held)
    status = path.stat()
    return cls(path, (status.st_dev, status.st_ino), held)

  def check(self) -> None:
    """Raise GoneError if the folder was moved or deleted, also if there is another of its name.

    Raises ConfigError if another process has taken its lock, which can happen in an object store only.
    """
    if self.held is not None:
      self.held()
    if self.identity is None:
      return
    with contextlib.suppress(OSError):
      status = self.path.stat()
      if (status.st_dev, status.st_ino) == self.identity:
        return
    raise GoneError(
      f"{self.path}: the folder is gone: it was moved or deleted while it was used, and nothing was written in its"
      " place. Bring it back, and rerun the same command"
    )

  @contextlib.contextmanager
  def errors(self) -> Iterator[None]:
    """Raise GoneError in place of any error that the loss of the folder led to."""
    try:
      yield
    except (OSError, UserError):
      self.check()
      raise
