"""Programs that are called and waited for, with a limit, and given up when somebody wants no answer any more."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO

Interrupted = Callable[[], bool]
"""Returns whether what is under way is to be given up."""

_TICK_SECONDS = 0.1


class GivenUpError(Exception):
  """Somebody wanted no answer any more."""


def never() -> bool:
  """Return False: what is under way is never given up."""
  return False


def call(
  command: Sequence[str],
  seconds: float,
  interrupted: Interrupted = never,
  *,
  sent: bytes = b"",
  environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
  """Run a program in a session of its own, so that Ctrl-C on the terminal does not reach it, and return its end.

  Args:
    command: the program and its arguments.
    seconds: how long it may take.
    interrupted: asked ten times a second.
    sent: its input.
    environment: the whole of it; None: that of this process.

  Raises:
    TimeoutError: if it took longer; it is killed, with what it has started.
    GivenUpError: if it was interrupted; it is killed, with what it has started.
  """
  process = subprocess.Popen(
    command,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    env=environment,
    start_new_session=True,
  )
  # `communicate` loses input that is still to be written when it times out.
  pipe, process.stdin = process.stdin, None
  assert pipe is not None
  threading.Thread(target=_write, args=(pipe, sent), daemon=True).start()
  deadline = time.monotonic() + seconds
  while True:
    try:
      output, error = process.communicate(timeout=_TICK_SECONDS)
      return subprocess.CompletedProcess(command, process.returncode, output, error)
    except subprocess.TimeoutExpired:
      given_up = interrupted()
      if not given_up and time.monotonic() < deadline:
        continue
      with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
      process.communicate()
      if given_up:
        raise GivenUpError from None
      raise TimeoutError from None


def _write(pipe: IO[bytes], sent: bytes) -> None:
  """Write all input, unless the program ends before."""
  with contextlib.suppress(BrokenPipeError), pipe:
    pipe.write(sent)
