"""Files that each host writes for itself in a workdir: `logs/host_i.log`, and `logs/host_i.exit.json` at its end."""

import contextlib
import logging
import pathlib
import threading
import time
from collections.abc import Iterator

from trialbook import files
from trialbook.errors import TryAgainError
from trialbook.spool import LOG_SECONDS, Spool

log = logging.getLogger("trialbook")
"""Messages of a run for its own log file; the console shows progress instead."""
log.setLevel(logging.INFO)
log.propagate = False
log.addHandler(logging.NullHandler())


EXITS = "TRIALBOOK_EXITS"
"""Environment variable: a folder for `host_i.exit.json` while there is none in a workdir."""


def write_exit(path: pathlib.Path, code: int, cause: str, about: int, *, preempted: bool) -> None:
  """Record that a host exits with `code`, for a cause that lies with the host `about`; whether that got SIGTERM."""
  value = {"format": files.FORMAT, "code": code, "cause": cause, "time": time.time(), "host": about}
  value["preempted"] = preempted
  try:
    files.write_json(path, value)
  except (TryAgainError, OSError) as error:
    log.warning("could not write %s: %s", path, error)


class HostLog:
  """The files of one host. Warnings of all libraries go to the log too.

  Args:
    folder: made if absent.
    host: index of this host.

  Attributes:
    path: of the log, where it is written.
    shown: where it is found.
  """

  def __init__(self, folder: pathlib.Path, host: int):
    folder.mkdir(exist_ok=True)
    name = f"host_{host}.log"
    self._spool = Spool(folder, [name], LOG_SECONDS)
    self.path, self.shown = self._spool.folder / name, folder / name
    self._exit = folder / f"host_{host}.exit.json"
    self._exit.unlink(missing_ok=True)
    self._closed = False
    self._ended, self._lock = False, threading.Lock()
    self._handler = logging.FileHandler(self.path)
    self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(self._handler)
    logging.getLogger().addHandler(self._handler)

  def end(self, code: int, cause: str, about: int, *, preempted: bool) -> None:
    """Record the host's end as `write_exit` does; only the first one counts."""
    with self._lock:
      if self._ended:
        return
      self._ended = True
    with self._open():
      log.info("exits with %d: %s", code, cause)
    self._upload()
    write_exit(self._exit, code, cause, about, preempted=preempted)

  @contextlib.contextmanager
  def _open(self) -> Iterator[None]:
    """Keep the file in logging inside, also for messages after `close`: a run ends when its files are closed."""
    if not self._closed:
      yield
      return
    log.addHandler(self._handler)
    try:
      yield
    finally:
      log.removeHandler(self._handler)
      self._handler.close()

  def close(self) -> None:
    """Take the file out of logging."""
    self._closed = True
    for logger in (log, logging.getLogger()):
      logger.removeHandler(self._handler)
    self._handler.close()
    self._upload()

  def _upload(self) -> None:
    """Upload the log, if it is for a store; one that does not answer must not keep the host from its end."""
    with contextlib.suppress(TryAgainError, OSError):
      self._spool.upload()
