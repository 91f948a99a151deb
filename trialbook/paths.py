"""Paths as people write them. Every path of a config, a command or a caller becomes a path here and nowhere else."""

import argparse
import os
import pathlib
import re

from trialbook.errors import storable
from trialbook.object_store import SCHEME, StorePath


class PathError(ValueError, argparse.ArgumentTypeError):
  """A text that is not a path; argparse shows the message as it is."""


def as_path(text: str | os.PathLike[str]) -> pathlib.Path:
  """Return the path that a text means: `~` is the home directory, `~name` that of another user.

  `gs://bucket/name` is a path in an object store (`trialbook.object_store.StorePath`).

  Raises:
    PathError: if the text is empty or not UTF-8, names another kind of store, or the home directory is unknown.
  """
  if not os.fspath(text):
    raise PathError("is empty; name a file or a folder")
  if not _is_utf8(os.fspath(text)) or not _is_utf8(os.getcwd()):
    raise PathError(f"{os.fsencode(text)!r} is not UTF-8, or the current directory is not; rename the folder")
  if scheme := _SCHEME.match(os.fspath(text)):
    return _in_store(os.fspath(text), scheme[0])
  try:
    return pathlib.Path(text).expanduser()
  except RuntimeError:
    home = os.fspath(text).partition("/")[0]
    raise PathError(f"the home directory {home} is not known on this machine; write the path out") from None


def as_local_path(text: str | os.PathLike[str]) -> pathlib.Path:
  """Return the path that a text means, as `as_path`, of what must be in a file system.

  Raises:
    PathError: as `as_path`, and if it is in an object store.
  """
  path = as_path(text)
  if isinstance(path, StorePath):
    raise PathError(f"{path} is in an object store, where this cannot be; copy it to this machine and name the copy")
  return path


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/+")


def _in_store(text: str, scheme: str) -> StorePath:
  path = StorePath(text)
  if scheme != SCHEME or not text.removeprefix(SCHEME) or ".." in path.parts:
    raise PathError(
      f"{text} is not a path in a file system, nor gs://BUCKET/NAME; to use another object store, mount it and name the"
      " path"
    )
  return path


def _is_utf8(path: str) -> bool:
  """Return whether a path has only whole characters; records and libraries can hold no others."""
  return storable(path) == path
