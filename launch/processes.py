"""The process of one host: started in a session of its own, its output forwarded by lines, its end reported.

Linux only. Nothing outlives the launcher: it ends each host's process group, and where it is killed itself, the
kernel ends the hosts (PR_SET_PDEATHSIG) and a guard process their workers. Only a process that leaves its host's
group by its own `setsid` escapes.
"""

import contextlib
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, NamedTuple, TextIO

# Runs before the host's own program: `preexec_fn` would run Python between fork and exec of a process that may
# have threads. 1 is PR_SET_PDEATHSIG; if the launcher died before that, its death is seen by the parent's id.
_DIE_WITH_LAUNCHER = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
  sys.exit("the launcher is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
# Its input ends when the launcher does, however that happens.
_GUARD = """
import os, signal, sys
sys.stdin.buffer.read()
for group in sys.argv[1:]:
  try:
    os.killpg(int(group), signal.SIGKILL)
  except OSError:
    pass
"""
# Isolated and without site-packages: these two start in 20 ms and read nobody's modules.
_BARE_PYTHON = (sys.executable, "-I", "-S", "-c")
_DRAIN_SECONDS = 5.0


class HostEnd(NamedTuple):
  """The event that a host's process ended.

  Attributes:
    host: its index.
    returncode: as in `subprocess`: negative for a signal.
    time: seconds since the epoch.
  """

  host: int
  returncode: int
  time: float


def start_python(
  arguments: Sequence[str], environment: Mapping[str, str], output: int | IO[bytes] | None, inherited: Sequence[int]
) -> subprocess.Popen[bytes]:
  """Start this Python's interpreter in a session of its own; the kernel ends it with the thread that calls this.

  Args:
    arguments: of the interpreter.
    environment: the whole of it.
    output: where its standard output and error go, as `subprocess` takes it.
    inherited: file descriptors that it is given, under the same numbers.
  """
  return subprocess.Popen(
    [*_BARE_PYTHON, _DIE_WITH_LAUNCHER, str(os.getpid()), sys.executable, *arguments],
    stdin=subprocess.DEVNULL,
    stdout=output,
    stderr=output,
    env=environment,
    start_new_session=True,
    pass_fds=inherited,
  )


class HostProcess:
  """One host of a job on this machine.

  The thread that makes it must live as long as it: the kernel ends the host with that thread.

  Args:
    index: of the host.
    arguments: for this Python's interpreter, such as `["-m", "trialbook", "train"]`.
    environment: the whole of it.
    events: where its `HostEnd` is put.
    prefix: of each line of its output; if empty, it writes where this process does, to a terminal as to a terminal.
    log: a file that its output is appended to instead.
    inherited: file descriptors that it is given, under the same numbers.
  """

  def __init__(
    self,
    index: int,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    events: "queue.SimpleQueue[HostEnd | signal.Signals]",
    prefix: str = "",
    log: pathlib.Path | None = None,
    inherited: Sequence[int] = (),
  ):
    self.index = index
    pipe = subprocess.PIPE if prefix else None
    with contextlib.nullcontext(pipe) if log is None else log.open("ab") as output:
      self._process = start_python(arguments, environment, output, inherited)
    self._threads = [threading.Thread(target=self._report, args=(events,), daemon=True)]
    for source, sink in ((self._process.stdout, sys.stdout), (self._process.stderr, sys.stderr)):
      if source is not None:
        self._threads.append(threading.Thread(target=_forward, args=(source, sink, prefix), daemon=True))
    for thread in self._threads:
      thread.start()

  @property
  def group(self) -> int:
    """Return the id of its process group, which is that of the process."""
    return self._process.pid

  def send(self, number: signal.Signals) -> None:
    """Send a signal to the host's process, or SIGKILL to its whole group.

    The workers of a host are its own to end: a signal that asks it to save must not take its data away.
    """
    if number == signal.SIGKILL:
      self._kill_group()
    else:
      os.kill(self._process.pid, number)

  def close(self) -> None:
    """End whatever is left of the group, and return when its output is written."""
    self._kill_group()
    deadline = time.monotonic() + _DRAIN_SECONDS
    for thread in self._threads:
      thread.join(max(0.0, deadline - time.monotonic()))
    self._process.wait()

  def _kill_group(self) -> None:
    with contextlib.suppress(ProcessLookupError):
      os.killpg(self.group, signal.SIGKILL)

  def _report(self, events: "queue.SimpleQueue[HostEnd | signal.Signals]") -> None:
    # The process stays a zombie until `close`, so that its id, and the group's, cannot become somebody else's.
    end = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
    assert end is not None
    code = end.si_status if end.si_code == os.CLD_EXITED else -end.si_status
    events.put(HostEnd(self.index, code, time.time()))


@contextlib.contextmanager
def guarded(hosts: Sequence[HostProcess]) -> Iterator[None]:
  """Let the death of this process by SIGKILL end the groups of all hosts, while this is open."""
  guard = subprocess.Popen(
    [*_BARE_PYTHON, _GUARD, *(str(host.group) for host in hosts)],
    stdin=subprocess.PIPE,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    start_new_session=True,
  )
  try:
    yield
  finally:
    guard.kill()
    guard.communicate()


_writing = threading.Lock()


def _forward(source: IO[bytes], sink: TextIO, prefix: str) -> None:
  """Copy lines, each whole and with the prefix. Keep reading even if the output is closed: the job must not block."""
  with source:
    for line in source:
      write_line(sink, prefix + line.decode(errors="replace").removesuffix("\n"))


def write_line(sink: TextIO, text: str) -> None:
  """Write one line that no other line of a host or of the launcher interrupts."""
  with _writing, contextlib.suppress(OSError, ValueError):
    sink.write(text + "\n")
    sink.flush()
