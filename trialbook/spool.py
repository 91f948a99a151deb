"""Files that grow. An object cannot, so in an object store they grow on this machine and are uploaded whole."""

import contextlib
import pathlib
import tempfile
import threading
from collections.abc import Iterable

from trialbook.errors import TryAgainError
from trialbook.object_store import StorePath

LOG_SECONDS = 30.0
"""Seconds between uploads of files that only people read, such as logs."""


class Spool:
  """A folder on this machine for files of `target` that grow: `target` itself, if that is in a file system.

  Args:
    target: the folder that the files belong to.
    names: of files that are there already and are continued.
    every_seconds: how often a thread uploads as well; what a killed process wrote after that is lost. None: never.

  Attributes:
    folder: where the files are written.
  """

  def __init__(self, target: pathlib.Path, names: Iterable[str] = (), every_seconds: float | None = None):
    self._target, self.folder = target, target
    self._uploaded: dict[pathlib.Path, tuple[int, int]] = {}
    self._lock, self._closed = threading.Lock(), threading.Event()
    self._temporary: tempfile.TemporaryDirectory[str] | None = None
    if not isinstance(target, StorePath):
      return
    self._temporary = tempfile.TemporaryDirectory(prefix="trialbook-spool-")
    self.folder = pathlib.Path(self._temporary.name)
    for name in names:
      with contextlib.suppress(FileNotFoundError):
        (self.folder / name).write_bytes((target / name).read_bytes())
        self._uploaded[self.folder / name] = _state(self.folder / name)
    if every_seconds is not None:
      threading.Thread(target=self._upload_every, args=(every_seconds,), daemon=True, name="spool").start()

  def upload(self) -> None:
    """Return when all that was written so far is in the store. Raises StoreLostError."""
    if self._temporary is None or not isinstance(self._target, StorePath):
      return
    with self._lock:
      for path in sorted(self.folder.rglob("*")):
        if path.is_file() and self._uploaded.get(path) != (state := _state(path)):
          (self._target / path.relative_to(self.folder).as_posix()).upload(path)
          self._uploaded[path] = state

  def close(self) -> None:
    """Upload what is left, and remove the files from this machine."""
    if self._temporary is None:
      return
    self._closed.set()
    try:
      self.upload()
    finally:
      self._temporary.cleanup()
      self._temporary = None

  def _upload_every(self, seconds: float) -> None:
    while not self._closed.wait(seconds):
      try:
        self.upload()
      except (TryAgainError, OSError) as error:
        from absl import logging

        logging.warning("%s is not uploaded for now: %s", self._target, error)


def _state(path: pathlib.Path) -> tuple[int, int]:
  status = path.stat()
  return status.st_size, status.st_mtime_ns
