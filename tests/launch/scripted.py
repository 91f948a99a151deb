"""Jobs whose hosts are a few lines of Python, and a look at what is running."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import pytest
from forked import ROOT, Forked

from trialbook.launch import Patience, Restarts, run_local

MARK = "TRIALBOOK_TEST_FOLDER"
PRELUDE = """
import json, os, pathlib, signal, subprocess, sys, time
host, attempt = int(os.environ["TRIALBOOK_HOST_INDEX"]), int(os.environ["TRIALBOOK_ATTEMPT"])
here = pathlib.Path(os.environ["TRIALBOOK_TEST_FOLDER"])
def cause(code, text, about=host, preempted=False):
  (here / "logs").mkdir(exist_ok=True)
  record = {"format": 1, "code": code, "cause": text, "time": time.time(), "host": about, "preempted": preempted}
  (here / "logs" / f"host_{host}.exit.json").write_text(json.dumps(record))
def commit(step):
  (here / "checkpoints" / str(step)).mkdir(parents=True)
def ready():
  (here / f"ready_{host}").write_text(str(os.getpid()))
def meet():
  ready()
  while not (here / f"ready_{1 - host}").exists():
    time.sleep(0.005)
"""


class Job:
  """A scripted job in a folder of its own, which every process of it has in its environment."""

  def __init__(self, folder: pathlib.Path):
    self.folder, self.said = folder, []

  def run(self, script: str, hosts: int = 2, *, environment: Mapping[str, str] | None = None, **changes) -> int:
    """Runs it in this process, without waits where nothing else is asked for."""
    settings = {
      "workdir": self.folder,
      "restarts": Restarts(first_delay=0.0),
      "patience": Patience(grace=0.3, kill_after=0.3),
      "say": self.said.append,
    }
    given = os.environ if environment is None else environment
    return run_local(
      ["-ISc", PRELUDE + script], hosts, environment={**given, MARK: str(self.folder)}, **{**settings, **changes}
    )

  def run_and_signal(self, script: str, *numbers: signal.Signals, hosts: int = 2, **changes) -> int:
    """`run`, in which this process gets signals when the hosts are ready, each once the last one was heard."""

    def send() -> None:
      self.wait_until_ready(hosts)
      for number in numbers:
        # Where nobody listens, the signal would end the tests.
        if callable(listener := signal.getsignal(number)) and listener is not signal.default_int_handler:
          said = len(self.said)
          os.kill(os.getpid(), number)
          wait_for(lambda said=said: len(self.said) > said)

    sender = threading.Thread(target=send)
    sender.start()
    try:
      return self.run(script, hosts, **changes)
    finally:
      sender.join()

  def start(self, script: str, *flags: str, hosts: int = 2) -> subprocess.Popen[str]:
    """Starts it by the command, in a new interpreter."""
    return subprocess.Popen(
      [sys.executable, *self._command(script, *flags, hosts=hosts)],
      cwd=ROOT,
      env={**os.environ, MARK: str(self.folder)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def fork(self, script: str, *flags: str, hosts: int = 2) -> Forked:
    """As `start`, without the imports of a new interpreter."""
    environment = {**os.environ, MARK: str(self.folder)}
    return Forked(self._command(script, *flags, hosts=hosts), self.folder / "output.txt", environment=environment)

  def _command(self, script: str, *flags: str, hosts: int) -> list[str]:
    command = ["-m", "trialbook", "launch", "local", f"--hosts={hosts}", f"--workdir={self.folder}", *flags]
    return [*command, "--", "-ISc", PRELUDE + script]

  def pid(self, host: int) -> int:
    """The process of a host that is ready; waits for it."""
    path = self.folder / f"ready_{host}"
    wait_for(lambda: path.exists() and path.read_text() != "")
    return int(path.read_text())

  def wait_until_ready(self, hosts: int = 2) -> None:
    """Returns when all hosts have set up what they do on a signal."""
    for host in range(hosts):
      self.pid(host)

  def running(self) -> dict[int, str]:
    """The job's processes that are there now."""
    return running(self.folder)


def running(folder: pathlib.Path) -> dict[int, str]:
  """Ids and command lines of the processes of a folder's job, whoever is their parent."""
  found = {}
  for process in pathlib.Path("/proc").iterdir():
    try:
      if process.name.isdigit() and f"{MARK}={folder}\0".encode() in (process / "environ").read_bytes():
        found[int(process.name)] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
    except OSError:
      continue
  return found


def hosts_of(folder: pathlib.Path) -> dict[int, int | None]:
  """The processes of a folder's job, as `running` -> index of the host; None for the launcher's own."""
  found = {}
  for pid in running(folder):
    try:
      index = re.search(rb"TRIALBOOK_HOST_INDEX=(\d+)\0", pathlib.Path(f"/proc/{pid}/environ").read_bytes())
      if pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        found[pid] = int(index[1]) if index else None
    except OSError:
      continue
  return found


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
  """Returns as soon as the condition holds; fails when it does not in time."""
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, "waited in vain"
    time.sleep(0.01)


@pytest.fixture(autouse=True)
def ended_afterwards(tmp_path: pathlib.Path) -> Iterator[None]:
  """Kill what a test left behind; for the `conftest.py` of a folder."""
  yield
  for pid in running(tmp_path):
    with contextlib.suppress(ProcessLookupError):
      os.kill(pid, signal.SIGKILL)
