"""The folders of checkpoints: which of them are whole, and how they are made ready, removed, set aside and copied.

In a file system a folder gets a step's name by a rename when everything is in it. An object store has no rename: there
a checkpoint is whole once it holds the object that Orbax writes last, and is no checkpoint as soon as that is removed.
"""

import errno
import os
import pathlib
import resource
import shutil

from trialbook import folders
from trialbook.folders import COMMITTED
from trialbook.naming import step_of
from trialbook.object_store import StorePath

_FILES = 8
"""Files that a save opens at the same time. Where there is no room for them, Orbax's threads would wait for ever."""
_LEFTOVERS = (".removed", ".incomplete")


def saved_steps(folder: pathlib.Path) -> list[int]:
  """Return the steps that have a checkpoint, in order; folders with other names are none."""
  if isinstance(folder, StorePath):
    names = [path.name for path in folder.iterdir() if step_of(path.name) is not None and (path / COMMITTED).is_file()]
  else:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
  return sorted(step for name in names if (step := step_of(name)) is not None)


def make_ready(folder: pathlib.Path) -> None:
  """Make the folder of checkpoints, if it is absent, and remove from it what interruptions left."""
  folder.mkdir(exist_ok=True)
  whole = set(map(str, saved_steps(folder))) if isinstance(folder, StorePath) else set()
  for path in list(folder.iterdir()):
    half = isinstance(folder, StorePath) and step_of(path.name) is not None and path.name not in whole
    if half or path.name.endswith(_LEFTOVERS) or ".orbax-checkpoint-tmp" in path.name:
      folders.remove(path)


def remove(path: pathlib.Path) -> None:
  """Remove a checkpoint, so that an interruption leaves no half of one under a step's name. Raises OSError."""
  if isinstance(path, StorePath):
    folders.remove(path)
    return
  doomed = path.with_name(f"{path.name}.removed")
  path.rename(doomed)
  shutil.rmtree(doomed)


def set_aside_after(folder: pathlib.Path, step: int) -> None:
  """Rename the checkpoints of later steps, which could not be read: the run continues from `step` without them."""
  for later in saved_steps(folder):
    if later > step:
      damaged = folder / f"{later}.damaged"
      folders.remove(damaged)
      folders.move(folder / str(later), damaged)


def copy(path: pathlib.Path, folder: pathlib.Path) -> None:
  """Copy a checkpoint into the folder of another run's; it is there once it is whole."""
  folder.mkdir(exist_ok=True)
  if isinstance(folder, StorePath):
    folders.copy(path, folder / path.name)
    # A checkpoint in a file system need not have it.
    (folder / path.name / COMMITTED).touch()
    return
  incomplete = folder / f"{path.name}.incomplete"
  folders.remove(incomplete)
  folders.copy(path, incomplete)
  incomplete.rename(folder / path.name)


def check_room(folder: pathlib.Path, num_bytes: int) -> None:
  """Raise OSError if a checkpoint of this size does not fit. Orbax would report that only as a long stack trace."""
  most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
  opened = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
  if most != resource.RLIM_INFINITY and most - opened < _FILES:
    told = f"a checkpoint needs {_FILES}, but {opened} of {most} are open"
    raise OSError(errno.EMFILE, f"Too many open files: {told}")
  if isinstance(folder, StorePath):
    return
  largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
  # Orbax may write all arrays into one file of up to 2 GB.
  if largest != resource.RLIM_INFINITY and largest < (needed := min(num_bytes + 2**16, 2**31)):
    told = f"a checkpoint needs files of {needed / 1e6:,.2f} MB, but the limit is {largest / 1e6:,.2f} MB"
    raise OSError(errno.EFBIG, f"File too large: {told}")
  needed, free = num_bytes + 2**20, shutil.disk_usage(folder).free
  if free < needed:
    text = f"No space left on device: a checkpoint needs {needed / 1e6:,.0f} MB, but only {free / 1e6:,.0f} MB are free"
    raise OSError(errno.ENOSPC, text)
