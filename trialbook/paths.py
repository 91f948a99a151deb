"""Paths as people write them. Every path of a config, a command or a caller becomes a path here and nowhere else."""

import argparse
import os
import pathlib

from trialbook.errors import storable


class PathError(ValueError, argparse.ArgumentTypeError):
  """A text that is not a path; argparse shows the message as it is."""


def as_path(text: str | os.PathLike[str]) -> pathlib.Path:
  """Return the path that a text means: `~` is the home directory, `~name` that of another user.

  Raises:
    PathError: if the text is empty or not UTF-8, or the home directory is unknown.
  """
  if not os.fspath(text):
    raise PathError("is empty; name a file or a folder")
  if not _is_utf8(os.fspath(text)) or not _is_utf8(os.getcwd()):
    raise PathError(f"{os.fsencode(text)!r} is not UTF-8, or the current directory is not; rename the folder")
  try:
    return pathlib.Path(text).expanduser()
  except RuntimeError:
    home = os.fspath(text).partition("/")[0]
    raise PathError(f"the home directory {home} is not known on this machine; write the path out") from None


def _is_utf8(path: str) -> bool:
  """Return whether a path has only whole characters; records and libraries can hold no others."""
  return storable(path) == path
