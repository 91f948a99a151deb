"""Python processes that start in milliseconds: forked from one that has imported everything and used no device.

`Forked(["-m", "trialbook", "train", ...], output)` is what `subprocess.Popen([sys.executable, "-m", "trialbook",
"train", ...])` would be, with an environment, a command line and a session of its own; so are the hosts and workers
that it starts.

All forked processes share one seed of Python's hashes, that of the process that they are forked from: where something
depends on the order of a set, they agree, and interpreters of users do not. Each promise of equal bits has one test at
least in which `New`, an interpreter that was not forked, takes part.
"""

import atexit
import contextlib
import ctypes
import multiprocessing
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
import types
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import forkserver, process, resource_tracker
from typing import IO, Any, NoReturn

import pytest

from trialbook.launch import processes

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Processes that start in milliseconds, because the one that they are forked from has imported jax already.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
  [
    "trialbook.trainer.train",
    "trialbook.trainer.summary",
    "sklearn.datasets",
    "trialbook.launch.local",
    "trialbook.tuning.importers.commands",
    "rich.live",
  ]
)
SECONDS = 240.0
# What others see of a process's environment has the room of that of the process from which all are forked.
os.environ.setdefault("ROOM_IN_PROC", 2048 * "x")
_PR_SET_PDEATHSIG = 1
_start_python = processes.start_python
# This file is imported before a process that was started by multiprocessing becomes another than the main one.
_MAIN_PROCESS = multiprocessing.current_process()


def wait_for(condition: Callable[[], object], seconds: float = SECONDS) -> None:
  """Return as soon as the condition holds; fail when it does not in time."""
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, "waited in vain"
    time.sleep(0.005)


class Forked:
  """A Python process.

  Args:
    arguments: of the interpreter, "-m" or "-c" first.
    output: a file for what it prints.
    errors: a file for what it prints to standard error, if that is another one.
    environment: the whole of it; default: this process's.
  """

  def __init__(
    self,
    arguments: Sequence[object],
    output: pathlib.Path,
    errors: pathlib.Path | None = None,
    environment: Mapping[str, str] | None = None,
  ):
    self._output = output
    for path in (output, errors or output):
      path.write_text("")
    environment = {**os.environ} if environment is None else {**environment}
    given = ([str(argument) for argument in arguments], environment, output, errors or output)
    # A daemon, as multiprocessing calls it: no test waits at its end for one that was left.
    self._process = PROCESSES.Process(target=_python, args=given, daemon=True)
    self._process.start()
    assert self._process.pid is not None
    self.pid = self._process.pid

  def poll(self) -> int | None:
    """Return its exit code, as `subprocess` gives it; None while it runs."""
    return self._process.exitcode

  def wait(self, seconds: float = SECONDS) -> int:
    """Return its exit code, once it has ended; fail, and end it, if that takes too long."""
    self._join(seconds)
    code = self.poll()
    if code is None:
      self.kill()
      pytest.fail(f"still there after {seconds:g} s: {self.text()}")
    return code

  def send(self, number: signal.Signals) -> None:
    """Send it a signal, if it is still there."""
    if self.poll() is None:
      os.kill(self.pid, number)

  def kill(self) -> None:
    """End it and wait for that."""
    self._process.kill()
    self._join()

  def text(self) -> str:
    """Return what it has printed."""
    return self._output.read_text()

  def _join(self, seconds: float | None = None) -> None:
    self._process.join(seconds)


class New(Forked):
  """As `Forked`, but a new interpreter, as users start it."""

  def __init__(self, arguments: Sequence[object], output: pathlib.Path, environment: Mapping[str, str] | None = None):
    self._output = output
    command = [sys.executable, *map(str, arguments)]
    with output.open("w") as file:
      self._started = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
      )
    self.pid = self._started.pid

  def poll(self) -> int | None:
    return self._started.poll()

  def kill(self) -> None:
    self._started.kill()
    self._join()

  def _join(self, seconds: float | None = None) -> None:
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._started.wait(seconds)


def python(
  arguments: Sequence[object], output: pathlib.Path, start: type[Forked] = Forked, **named: Any
) -> tuple[int, str]:
  """Run a Python process, `Forked` or `New`; return its exit code and what it printed."""
  process = start(arguments, output, **named)
  return process.wait(), process.text()


@contextlib.contextmanager
def ended(process: Forked) -> Iterator[Forked]:
  """Leave no process behind where the test in it fails."""
  try:
    yield process
  finally:
    process.kill()


def in_process(output: pathlib.Path, target: Callable[..., object], *arguments: object) -> int:
  """Call a function in the main thread of another process, whose output goes to a file; return its exit code."""
  process = PROCESSES.Process(target=_in_process, args=(output, target, arguments))
  process.start()
  process.join(SECONDS)
  if process.is_alive():
    process.kill()
    process.join()
    pytest.fail(f"still there: {output.read_text()}")
  assert process.exitcode is not None
  code = process.exitcode
  process.close()
  return code


def _in_process(output: pathlib.Path, target: Callable[..., object], arguments: tuple) -> None:
  file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(file, 1)
  os.dup2(file, 2)
  target(*arguments)


# What follows runs in the new process.


def _python(arguments: list[str], environment: dict[str, str], output: pathlib.Path, errors: pathlib.Path) -> NoReturn:
  files = [os.open(path, os.O_WRONLY | os.O_APPEND) for path in (output, errors)]
  _become(arguments, environment, files, os.getppid())


def _fork(
  arguments: Sequence[str], environment: Mapping[str, str], output: int | IO[bytes] | None, inherited: Sequence[int]
) -> Any:
  """Do what `launch.processes.start_python` does; what is isolated from the environment has nothing to share."""
  if arguments[0] not in ("-m", "-c"):
    return _start_python(arguments, environment, output, inherited)
  pipes = [os.pipe(), os.pipe()] if output == subprocess.PIPE else []
  files = [write for _, write in pipes]
  if not files:
    files = [1, 2] if output is None else [output if isinstance(output, int) else output.fileno()] * 2
  parent = os.getpid()
  if not (pid := os.fork()):
    _become(arguments, environment, files, parent, inherited)
  for _, write in pipes:
    os.close(write)
  stdout, stderr = [os.fdopen(read, "rb") for read, _ in pipes] or [None, None]
  return types.SimpleNamespace(pid=pid, stdout=stdout, stderr=stderr, wait=lambda: os.waitpid(pid, 0))


def _become(
  arguments: Sequence[str],
  environment: Mapping[str, str],
  files: Sequence[int],
  parent: int,
  inherited: Sequence[int] = (),
) -> NoReturn:
  """Do what a new interpreter would, in this process, whatever that one was forked for."""
  code = 1
  try:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
      os._exit(1)
    os.setsid()
    _keep_only(files, inherited)
    _forget_parent()
    _set_environment(arguments, environment)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD):
      signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    code = _run(arguments)
    threading._shutdown()  # pyright: ignore[reportAttributeAccessIssue]
    atexit._run_exitfuncs()
  except BaseException:
    traceback.print_exc()
  finally:
    for stream in (sys.stdout, sys.stderr):
      with contextlib.suppress(Exception):
        stream.flush()
    os._exit(code)


def _keep_only(files: Sequence[int], inherited: Sequence[int]) -> None:
  """Keep the standard streams and what is inherited, as an exec leaves them."""
  # At numbers above those of the streams, which they are copied to.
  output, errors = (os.dup(file) for file in files)
  for number, file in enumerate((os.open(os.devnull, os.O_RDONLY), output, errors)):
    os.dup2(file, number)
  for name in os.listdir("/proc/self/fd"):
    if int(name) > 2 and int(name) not in inherited:
      with contextlib.suppress(OSError):
        os.close(int(name))


def _forget_parent() -> None:
  """Make this process one that Python's multiprocessing has not started."""
  process._current_process, process._parent_process = _MAIN_PROCESS, None  # pyright: ignore[reportAttributeAccessIssue]
  _MAIN_PROCESS.name = "MainProcess"
  resource_tracker._resource_tracker.__init__()
  forkserver._forkserver.__init__()
  # What the parent removes at its end, such as its temporary folders, is not this process's to remove.
  weakref.finalize._registry.clear()  # pyright: ignore[reportAttributeAccessIssue]
  multiprocessing.set_start_method(None, force=True)


def _set_environment(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
  """Set everything that an interpreter takes from its environment and its arguments, and from chance."""
  import jax
  import numpy as np
  from jax._src import xla_bridge

  assert not xla_bridge.backends_are_initialized()
  for name in environment.keys() | os.environ.keys():
    if name.lower() in jax.config.values and environment.get(name) != os.environ.get(name):
      raise NotImplementedError(f"jax has read another {name} already: start a new interpreter")
  np.random.seed()  # noqa: NPY002
  os.environ.clear()
  os.environ.update(environment)
  _show_in_proc(
    [sys.executable, *arguments], [f"{name}={environment[name]}" for name in sorted(environment, key=_is_not_ours)]
  )
  # Programs of tests are small: they would all be left out, and compiled by each process again.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
  os.chdir(ROOT)
  installed = [path for path in sys.path if path.startswith((sys.prefix, sys.base_prefix))]
  sys.path[:] = [os.getcwd(), *filter(None, environment.get("PYTHONPATH", "").split(":")), *installed]
  sys.orig_argv = [sys.executable, *arguments]
  sys.argv = [arguments[0] if arguments[0] == "-c" else arguments[1], *arguments[2:]]
  sys.stdout = os.fdopen(1, "w", buffering=1 if "PYTHONUNBUFFERED" in environment else -1, closefd=False)
  processes.start_python = _fork


def _is_not_ours(name: str) -> bool:
  return not name.startswith("TRIALBOOK_")


def _show_in_proc(arguments: Sequence[str], environment: Sequence[str]) -> None:
  """Make /proc/PID/cmdline and /proc/PID/environ those of the new process; of a long one, the beginning."""
  fields = pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()
  for place, words in ((45, arguments), (47, environment)):
    start, end = int(fields[place]), int(fields[place + 1])
    text = b"\0".join(map(os.fsencode, words))[: end - start - 1]
    # Tests find the processes of a job by these.
    ours = [os.fsencode(word) for word in words if word.startswith("TRIALBOOK_")]
    assert place != 47 or text.split(b"\0")[: len(ours)] == ours, "no room in /proc for the variables of a job"
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, text, len(text))


def _run(arguments: Sequence[str]) -> int:
  try:
    if arguments[0] == "-m":
      runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
      assert arguments[0] == "-c", arguments
      main = sys.modules["__main__"] = types.ModuleType("__main__")
      exec(compile(arguments[1], "<string>", "exec"), main.__dict__)
  except SystemExit as leaving:
    if leaving.code is None or isinstance(leaving.code, int):
      return leaving.code or 0
    sys.stderr.write(f"{leaving.code}\n")
    return 1
  return 0
