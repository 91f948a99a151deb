"""What each host writes for itself in a workdir: `logs/host_i.log`, and `logs/host_i.exit.json` at its end."""

import logging
import pathlib
import threading
import time

from trainer import records

log = logging.getLogger("trialbook")
"""What a run has to say for its own log file; on the console a person sees progress instead."""
log.setLevel(logging.INFO)
log.propagate = False
log.addHandler(logging.NullHandler())


class HostLog:
  """The files of one host. Warnings of all libraries go to the log too.

  Args:
    folder: made if absent.
    host: index of this host.

  Attributes:
    path: of the log.
  """

  def __init__(self, folder: pathlib.Path, host: int):
    folder.mkdir(exist_ok=True)
    self.path = folder / f"host_{host}.log"
    self._exit = folder / f"host_{host}.exit.json"
    self._exit.unlink(missing_ok=True)
    self._ended, self._lock = False, threading.Lock()
    self._handler = logging.FileHandler(self.path)
    self._handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(self._handler)
    logging.getLogger().addHandler(self._handler)

  def end(self, code: int, cause: str, about: int) -> None:
    """Records the host's end, for a cause that is about a host; only the first one counts."""
    with self._lock:
      if self._ended:
        return
      self._ended = True
    log.info("leaves with %d: %s", code, cause)
    try:
      value = {"format": records.FORMAT, "code": code, "cause": cause, "time": time.time(), "host": about}
      records.write_json(self._exit, value)
    except OSError as error:
      log.warning("could not write %s: %s", self._exit, error)

  def close(self) -> None:
    """Takes the file out of logging."""
    for logger in (log, logging.getLogger()):
      logger.removeHandler(self._handler)
    self._handler.close()
