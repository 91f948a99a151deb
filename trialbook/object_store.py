"""Paths in Google Cloud Storage, `gs://bucket/name`, with the methods of `pathlib.Path` that a store can offer.

A store has objects and no folders: a folder is there as soon as something is in it. An object appears whole or not at
all, and a request sees all that was written before it. The client of the store is imported when a path is first used.
"""

import contextlib
import dataclasses
import errno
import fnmatch
import io
import os
import pathlib
import stat
import uuid
from collections.abc import Generator, Iterator
from typing import IO, Any, NoReturn, Self

from trialbook.errors import UserError
from trialbook.store_client import TIMEOUT, ChangedObjectError, client, request

SCHEME = "gs://"


class StorePath(pathlib.PosixPath):
  """A path `gs://bucket/name`.

  What `pathlib.Path` does with the file system is done in the store here, or refused: nothing is left to be done on
  this machine, where the same name would be a folder called `gs:`.
  """

  def __str__(self) -> str:
    parts = self.parts
    # A part of a path, as `relative_to` returns it, has no scheme.
    return f"{SCHEME}{'/'.join(parts[1:])}" if parts[:1] == ("gs:",) else super().__str__()

  def __fspath__(self) -> str:
    return str(self)

  def __repr__(self) -> str:
    return f"StorePath({str(self)!r})"

  @property
  def bucket(self) -> str:
    """Return the name of the bucket."""
    return self.parts[1]

  @property
  def key(self) -> str:
    """Return the name in the bucket, without the bucket; empty for the bucket itself."""
    return "/".join(self.parts[2:])

  @property
  def parent(self) -> Self:
    """Return the folder that holds it; of a bucket, the bucket."""
    return self if len(self.parts) <= 2 else super().parent

  @property
  def parents(self) -> tuple[Self, ...]:  # type: ignore[override]
    """Return the folders above it, up to the bucket."""
    found, path = [], self
    while path.parent != path:
      path = path.parent
      found.append(path)
    return tuple(found)

  def is_absolute(self) -> bool:
    """Return True."""
    return True

  def as_uri(self) -> str:
    """Return the path as it is written."""
    return str(self)

  def absolute(self) -> Self:
    """Return the path itself."""
    return self

  def resolve(self, strict: bool = False) -> Self:
    """Return the path itself: a store has no links."""
    return self

  def expanduser(self) -> Self:
    """Return the path itself."""
    return self

  def samefile(self, other_path: str | os.PathLike[str]) -> bool:
    """Return whether the other path has the same text."""
    return str(self) == os.fspath(other_path)

  def exists(self, **_: Any) -> bool:
    """Return whether there is such an object, or a folder with anything in it."""
    return self.is_file() or self.is_dir()

  def is_file(self, **_: Any) -> bool:
    """Return whether there is such an object."""
    if not self.key:
      return False
    with request(self) as options:
      return _blob(self).exists(**options)

  def is_dir(self, **_: Any) -> bool:
    """Return whether anything is in the folder; a bucket is there if it exists."""
    try:
      with request(self) as options:
        found = client().list_blobs(self.bucket, prefix=_prefix(self), max_results=1, **options)
        return next(iter(found), None) is not None or not self.key
    except FileNotFoundError:
      return False  # The bucket.

  def _never(self) -> bool:
    """Return False: a store has files and folders only."""
    return False

  is_symlink = is_mount = is_socket = is_fifo = is_block_device = is_char_device = is_junction = _never

  def stat(self, **_: Any) -> os.stat_result:
    """Return mode, size and time of change; the generation of an object stands for its inode."""
    blob = _blob(self) if self.key else None
    try:
      if blob is None:
        raise FileNotFoundError
      with request(self) as options:
        blob.reload(**options)
    except FileNotFoundError:
      if not self.is_dir():
        raise _absent(self) from None
      return os.stat_result((stat.S_IFDIR | 0o755, 0, 0, 1, 0, 0, 0, 0, 0, 0))
    changed = int(blob.updated.timestamp())
    times = {"st_mtime_ns": int(blob.updated.timestamp() * 1e9)}
    return os.stat_result(
      (stat.S_IFREG | 0o644, blob.generation, 0, 1, 0, 0, blob.size, changed, changed, changed), times
    )

  lstat = stat

  def iterdir(self) -> Generator[Self, None, None]:
    """Yield what is in the folder, by name; nothing if there is no folder."""
    yield from (child for child, _ in self._children())

  def _children(self) -> list[tuple[Self, bool]]:
    """Return what is in the folder, and whether each is a folder."""
    prefix = _prefix(self)
    with request(self) as options:
      listing = client().list_blobs(self.bucket, prefix=prefix, delimiter="/", **options)
      names = [(blob.name, False) for blob in listing]
      names += [(folder.rstrip("/"), True) for folder in listing.prefixes]
    # Tools that draw folders leave an object with the folder's name and a slash.
    return [(self / name[len(prefix) :], is_folder) for name, is_folder in sorted(names) if name != prefix]

  def glob(self, pattern: str, **_: Any) -> Iterator[Self]:  # type: ignore[override]
    """Yield what matches a pattern of names and `*`, `?` or `[…]`, without `**`."""
    if "**" in pattern:
      _refuse(self, "glob with **")
    head, _slash, rest = pattern.partition("/")
    if not any(letter in head for letter in "*?["):
      child = self / head
      if rest:
        yield from child.glob(rest)
      elif child.exists():
        yield child
      return
    for child, is_folder in self._children():
      if fnmatch.fnmatchcase(child.name, head):
        if not rest:
          yield child
        elif is_folder:
          yield from child.glob(rest)

  def rglob(self, pattern: str, **_: Any) -> Iterator[Self]:  # type: ignore[override]
    """Yield the objects in the folder, at any depth, whose names match a pattern."""
    return (path for path in self.objects() if fnmatch.fnmatchcase(path.name, pattern))

  def objects(self) -> list[Self]:
    """Return the objects in the folder, at any depth, in order."""
    prefix = _prefix(self)
    with request(self) as options:
      names = [blob.name for blob in client().list_blobs(self.bucket, prefix=prefix, **options)]
    return [self / name[len(prefix) :] for name in names if not name.endswith("/")]

  def read_bytes(self) -> bytes:
    """Return the content. Raises FileNotFoundError."""
    with request(self) as options:
      return _blob(self).download_as_bytes(**options)

  def write_bytes(self, data: Any, *, generation: int | None = None) -> int:
    """Replace the content, whole or not at all, and return its length.

    Args:
      data: the bytes.
      generation: what must be there: 0 for nothing, or the generation of an object; None: anything.

    Raises:
      ChangedObjectError: if something else is there.
    """
    content = bytes(data)
    with request(self) as options:
      _blob(self).upload_from_string(
        content, content_type="application/octet-stream", if_generation_match=generation, **options
      )
    return len(content)

  def upload(self, source: pathlib.Path) -> None:
    """Replace the content by that of a file on this machine, whole or not at all."""
    with source.open("rb") as file, request(self) as options:
      size = os.fstat(file.fileno()).st_size
      # `size`: what is appended to the file meanwhile is left to the next upload.
      _blob(self).upload_from_file(file, size=size, content_type="application/octet-stream", **options)

  def download(self, target: pathlib.Path) -> None:
    """Write the content to a file on this machine."""
    with request(self) as options:
      _blob(self).download_to_filename(os.fspath(target), **options)

  def open(  # type: ignore[override]
    self,
    mode: str = "r",
    buffering: int = -1,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
  ) -> IO[Any]:
    """Open the content, which is read when it is opened, or uploaded when it is closed without an exception."""
    kind = mode.replace("b", "").replace("t", "")
    if kind not in ("r", "w", "a"):
      _refuse(self, f"open with mode {mode!r}")
    if kind == "r":
      raw = io.BytesIO(self.read_bytes())
      return raw if "b" in mode else io.TextIOWrapper(raw, encoding or "utf-8", errors, newline)
    before = b""
    if kind == "a":
      with contextlib.suppress(FileNotFoundError):
        before = self.read_bytes()
    upload = _Upload(self, before)
    return upload if "b" in mode else _TextUpload(upload, encoding or "utf-8", errors, newline)

  def touch(self, mode: int = 0o666, exist_ok: bool = True) -> None:
    """Make an empty object if there is none. Raises FileExistsError if there is one and `exist_ok` is false."""
    try:
      self.write_bytes(b"", generation=0)
    except ChangedObjectError:
      if not exist_ok:
        raise FileExistsError(errno.EEXIST, "the object exists", str(self)) from None

  def mkdir(self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
    """Do nothing: a folder is there as soon as something is in it. Raises FileExistsError as `pathlib.Path.mkdir`."""
    if self.is_file() or (not exist_ok and self.is_dir()):
      raise FileExistsError(errno.EEXIST, "it exists", str(self))

  def rmdir(self) -> None:
    """Do nothing, if the folder is empty; otherwise raise OSError."""
    if self.is_dir():
      raise OSError(errno.ENOTEMPTY, "the folder is not empty", str(self))

  def unlink(self, missing_ok: bool = False) -> None:
    """Remove the object. Raises FileNotFoundError."""
    try:
      with request(self) as options:
        _blob(self).delete(**options)
    except FileNotFoundError:
      if not missing_ok:
        raise

  def rename(self, target: str | os.PathLike[str]) -> Self:
    """Copy the object in the store, then remove it here: other than in a file system, not in one act."""
    copied = self.copy_object(type(self)(target))
    self.unlink()
    return copied

  replace = rename

  def copy_object(self, target: Self) -> Self:
    """Copy the object to another place in the store, without a way through this machine."""
    token = None
    while True:
      with request(self) as options:
        token, _, _ = _blob(target).rewrite(_blob(self), token=token, **options)
      if token is None:
        return target

  def _unsupported(self, *_: Any, **__: Any) -> NoReturn:
    """Raise OSError: a store has no owners, rights or links."""
    _refuse(self, "this")

  chmod = lchmod = owner = group = readlink = symlink_to = hardlink_to = link_to = walk = _unsupported


class _Upload(io.BytesIO):
  """A file that is uploaded when it is closed; after an exception in its `with` it is dropped."""

  def __init__(self, path: StorePath, before: bytes):
    super().__init__()
    self.write(before)
    self.path: StorePath | None = path

  def close(self) -> None:
    path, self.path = self.path, None
    if path is not None:
      path.write_bytes(self.getvalue())
    super().close()

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    if kind is not None:
      self.path = None
    self.close()


class _TextUpload(io.TextIOWrapper):
  """The same for text."""

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    if kind is not None:
      self.buffer.path = None  # type: ignore[attr-defined]
    self.close()


def check(folder: StorePath, patience: float | None = None) -> None:
  """Write an object into a folder and remove it, to see whether that can be done.

  Args:
    folder: need not be there yet.
    patience: as `request` has it.

  Raises:
    UserError: if it cannot: there is no such bucket, no right to write, no connection, no package or no credentials.
    StoreLostError: if the store answers, but with errors that pass.
  """
  probe = folder / f".probe-{uuid.uuid4().hex}"
  try:
    with request(probe, patience) as options:
      _blob(probe).upload_from_string(b"", **options)
    probe.unlink(missing_ok=True)
  except FileNotFoundError:
    raise UserError(f"{folder}: there is no bucket {folder.bucket!r}; create it, or name another") from None
  except OSError as error:
    raise UserError(
      f"{folder} cannot be written: {error.strerror}; the account needs the role storage.objectUser on the bucket"
    ) from None


def now() -> float:
  """Return the time by the store's clock, in seconds since the epoch, to the second: no other clock is asked."""
  import email.utils

  import requests

  answer = requests.head(client().api_endpoint, timeout=TIMEOUT)
  return email.utils.parsedate_to_datetime(answer.headers["Date"]).timestamp()


@dataclasses.dataclass(frozen=True)
class Version:
  """What an object holds.

  Attributes:
    content: the bytes.
    generation: number of this content among all that the object has had.
    written: when, in seconds since the epoch, by the store's clock.
  """

  content: bytes
  generation: int
  written: float


def read_version(path: StorePath) -> Version | None:
  """Return what an object holds now; None if there is none."""
  while True:
    blob = _blob(path)
    try:
      with request(path) as options:
        blob.reload(**options)
        content = blob.download_as_bytes(if_generation_match=blob.generation, **options)
    except FileNotFoundError:
      return None
    except ChangedObjectError:
      continue  # Between the two requests.
    return Version(content, blob.generation, blob.updated.timestamp())


def write_version(path: StorePath, content: bytes, generation: int) -> int:
  """Replace an object if it has a generation (0: if there is none), and return the new one.

  An answer that was lost does no harm: content that is there already counts as written.

  Raises:
    ChangedObjectError: if it has another.
  """
  blob = _blob(path)
  try:
    with request(path) as options:
      blob.upload_from_string(content, if_generation_match=generation, **options)
    return blob.generation
  except ChangedObjectError:
    there = read_version(path)
    if there is None or there.content != content:
      raise
    return there.generation


def remove_version(path: StorePath, generation: int) -> None:
  """Remove an object if it has a generation still."""
  with contextlib.suppress(FileNotFoundError, ChangedObjectError), request(path) as options:
    _blob(path).delete(if_generation_match=generation, **options)


def _blob(path: StorePath) -> Any:
  return client().bucket(path.bucket).blob(path.key)


def _prefix(folder: StorePath) -> str:
  return f"{folder.key}/" if folder.key else ""


def _absent(path: StorePath) -> FileNotFoundError:
  return FileNotFoundError(errno.ENOENT, "there is no such object", str(path))


def _refuse(path: StorePath, what: str) -> NoReturn:
  raise OSError(errno.ENOTSUP, f"an object store does not support {what}", str(path))
