"""One launcher for each job: whoever follows it keeps a file beating, which another launcher looks at first.

A lock of the file system would not reach other machines, and the clocks of two machines differ. So the newcomer waits
for the next beat, by its own clock.
"""

import contextlib
import os
import pathlib
import secrets
import threading
import time
from collections.abc import Callable, Iterator

from trialbook import files
from trialbook.errors import UserError

BEAT_SECONDS = 10.0
_SILENT_BEATS = 3.5
_LOOK_SECONDS = 0.5


@contextlib.contextmanager
def leased(
  path: pathlib.Path, what: str, taken_over: Callable[[], None], beat_seconds: float = BEAT_SECONDS
) -> Iterator[None]:
  """Be the only launcher of a job inside.

  Args:
    path: of the file.
    what: is followed, for the message.
    taken_over: called when another launcher has taken the job over, since this one seemed to be gone.
    beat_seconds: between two beats; all launchers of a job have the same.

  Raises:
    UserError: if another launcher is there.
  """
  path.parent.mkdir(parents=True, exist_ok=True)
  _wait_for_silence(path, what, _SILENT_BEATS * beat_seconds)
  mine, closed = secrets.token_hex(8), threading.Event()
  _beat(path, mine, 0)

  def keep_beating() -> None:
    number = 0
    while not closed.wait(beat_seconds):
      if (found := _read(path)) is not None and found.get("launcher") != mine:
        taken_over()
        return
      number += 1
      # A store that is away for a while is no reason to end.
      with contextlib.suppress(OSError):
        _beat(path, mine, number)

  beating = threading.Thread(target=keep_beating, daemon=True)
  beating.start()
  try:
    yield
  finally:
    closed.set()
    beating.join()
    if (found := _read(path)) is not None and found.get("launcher") == mine:
      path.unlink(missing_ok=True)


def _wait_for_silence(path: pathlib.Path, what: str, seconds: float) -> None:
  first, deadline = _read(path), time.monotonic() + seconds
  while first is not None and _may_live(first) and time.monotonic() < deadline:
    time.sleep(_LOOK_SECONDS)
    now = _read(path)
    if now is not None and now != first:
      raise UserError(
        f"{what} is followed by process {now.get('process')} on {now.get('machine')}; end that launcher first, with"
        " SIGTERM, which leaves the job alone"
      )
    if now is None:
      return


def _may_live(found: dict[str, object]) -> bool:
  """Return False only if the launcher was a process of this machine that is gone."""
  if found.get("machine") != os.uname().nodename:
    return True
  try:
    os.kill(int(str(found.get("process"))), 0)
  except ProcessLookupError:
    return False
  except (ValueError, OSError):
    pass
  return True


def _beat(path: pathlib.Path, mine: str, number: int) -> None:
  who = {"launcher": mine, "process": os.getpid(), "machine": os.uname().nodename, "beat": number}
  files.write_json(path, {"format": files.FORMAT, **who})


def _read(path: pathlib.Path) -> dict[str, object] | None:
  try:
    return files.read_json(path)
  except UserError:
    return None
