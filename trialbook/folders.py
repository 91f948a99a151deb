"""Folders that are removed, moved or copied whole, in a file system or an object store."""

import contextlib
import pathlib
import shutil

from trialbook.object_store import StorePath

COMMITTED = "commit_success.txt"
"""The file that Orbax writes last into a checkpoint in an object store."""


def remove(folder: pathlib.Path) -> None:
  """Remove a folder with all that it holds; one that is not there, or cannot be removed, is left so."""
  if not isinstance(folder, StorePath):
    shutil.rmtree(folder, ignore_errors=True)
    return
  for path in reversed(_in_order(folder)):
    path.unlink(missing_ok=True)


def move(folder: pathlib.Path, target: pathlib.Path) -> None:
  """Give a folder another name, which no folder has; in an object store its objects are copied there, then removed."""
  if not isinstance(folder, StorePath):
    folder.rename(target)
    return
  copy(folder, target)
  remove(folder)


def copy(folder: pathlib.Path, target: pathlib.Path) -> None:
  """Copy a folder; where the target is in an object store, the files that describe the others are written last."""
  if not isinstance(folder, StorePath) and not isinstance(target, StorePath):
    shutil.copytree(folder, target, dirs_exist_ok=True)
    return
  for path in _in_order(folder):
    copy_file(path, target / path.relative_to(folder).as_posix())


def copy_file(path: pathlib.Path, target: pathlib.Path) -> None:
  """Copy a file, into a folder that is made if it is absent. Raises FileNotFoundError."""
  target.parent.mkdir(parents=True, exist_ok=True)
  if isinstance(path, StorePath) and isinstance(target, StorePath):
    path.copy_object(target)
  elif isinstance(path, StorePath):
    path.download(target)
  elif isinstance(target, StorePath):
    target.upload(path)
  else:
    shutil.copyfile(path, target)


def _in_order(folder: pathlib.Path) -> list[pathlib.Path]:
  """Return the files in a folder: last those that describe the others, and at the very end the mark of a checkpoint."""
  found: list[pathlib.Path] = []
  with contextlib.suppress(FileNotFoundError):
    found = list(folder.objects()) if isinstance(folder, StorePath) else [p for p in folder.rglob("*") if p.is_file()]
  return sorted(found, key=lambda path: (path.name == COMMITTED, path.suffix == ".json", path))
