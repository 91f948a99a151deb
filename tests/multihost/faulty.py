"""Jobs of real processes to which something is done, and what came of it."""

import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable

ROOT = pathlib.Path(__file__).resolve().parents[2]
MARK = "TRIALBOOK_TEST_FOLDER"
# Runs in each host's process, so it can tell what goes on there, and make one host fail from inside.
EXPERIMENT = """
import os, pathlib, sys
sys.path.insert(0, {tests!r})
import tiny
from trainer import checkpoints, metrics, program, train

here, host = pathlib.Path({folder!r}), os.environ.get("TRIALBOOK_HOST_INDEX", "0")

def tell(text):
  (here / f"phase_{{host}}").write_text(text)

def telling(function, phase):
  def call(*arguments, **named):
    tell(phase)
    if phase == "evaluating" and (here / f"raise_on_{{host}}").exists():
      (here / f"raise_on_{{host}}").unlink()
      raise ZeroDivisionError("a planted bug")
    result = function(*arguments, **named)
    tell("")
    return result
  return call

def step(self, number, values, before=metrics.Recorder.step):
  (here / f"step_{{host}}").write_text(str(number))
  before(self, number, values)

metrics.Recorder.step = step
train.evaluate = telling(train.evaluate, "evaluating")
program.Program.compile = telling(program.Program.compile, "compiling")
checkpoints.Saver.save = telling(checkpoints.Saver.save, "saving")

def get_config():
  return tiny.{model}(**{changes!r})
"""


class Job:
  """A training job in a folder, started again and again.

  Args:
    folder: of everything.
    model: name of a function in `tiny`.
    changes: to its config.
  """

  def __init__(self, folder: pathlib.Path, model: str, changes: dict):
    self.folder, self.workdir = folder, folder / "run"
    self._experiment = folder / "experiment.py"
    tests = str(ROOT / "tests" / "trainer")
    self._experiment.write_text(EXPERIMENT.format(tests=tests, folder=str(folder), model=model, changes=changes))

  def start(self, hosts: int = 2, devices: int = 1, *flags: str, max_restarts: int = 0) -> "Attempt":
    """Starts all hosts."""
    for path in self.folder.glob("phase_*"):
      path.unlink()
    command = [sys.executable, "-m", "launch", "local", f"--hosts={hosts}", f"--devices-per-host={devices}"]
    command += [
      f"--max-restarts={max_restarts}",
      "--first-delay=0.1",
      "--grace=6",
      "--kill-after=1",
      "--",
      "-m",
      "trainer",
    ]
    command += [f"--config={self._experiment}", f"--workdir={self.workdir}", *flags]
    log = (self.folder / "output.txt").open("w")
    process = subprocess.Popen(
      command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, MARK: str(self.folder)}
    )
    log.close()
    return Attempt(self, process, hosts)

  def newest(self) -> int:
    """Step of the newest checkpoint that is committed, or -1."""
    names = [path.name for path in (self.workdir / "checkpoints").glob("*")]
    return max((int(name) for name in names if name.isdigit()), default=-1)

  def step(self, host: int = 0) -> int:
    """The newest step that a host has dispatched."""
    text = self._read(f"step_{host}")
    return int(text) if text else 0

  def phase(self, host: int) -> str:
    """What a host is doing, beside steps."""
    return self._read(f"phase_{host}")

  def output(self) -> str:
    """What the attempt has printed so far."""
    return self._read("output.txt")

  def running(self) -> dict[int, int | None]:
    """Process ids of the job that are there now -> index of the host; None for the launcher's own."""
    found = {}
    for process in pathlib.Path("/proc").iterdir():
      try:
        environment = (process / "environ").read_bytes() if process.name.isdigit() else b""
        if f"{MARK}={self.folder}\0".encode() in environment and (process / "stat").read_text().split()[2] != "Z":
          index = re.search(rb"TRIALBOOK_HOST_INDEX=(\d+)\0", environment)
          found[int(process.name)] = int(index[1]) if index else None
      except OSError:
        continue
    return found

  def _read(self, name: str) -> str:
    try:
      return (self.folder / name).read_text()
    except FileNotFoundError:
      return ""


class Attempt:
  """One start of a job's processes."""

  def __init__(self, job: Job, process: subprocess.Popen, hosts: int):
    self.job, self.process, self._hosts = job, process, hosts

  def wait_for(self, condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Returns as soon as the condition holds; fails when the job ends first."""
    deadline = time.monotonic() + seconds
    while not condition():
      assert self.process.poll() is None, f"over too early:\n{self.job.output()}"
      assert time.monotonic() < deadline, f"waited in vain:\n{self.job.output()}"
      time.sleep(0.002)

  def wait_until_training(self, rng: random.Random, more: int = 15) -> None:
    """Returns some random steps after a checkpoint of this attempt was committed."""
    before = self.job.newest()
    self.wait_for(lambda: self.job.newest() > before)
    target = self.job.step() + rng.randrange(1, more)
    self.wait_for(lambda: self.job.step() >= target)

  def pid(self, host: int) -> int:
    """The process of a host."""
    return next(pid for pid, index in self.job.running().items() if index == host)

  def signal(self, host: int, number: signal.Signals) -> float:
    """Sends a signal to a host; returns when."""
    os.kill(self.pid(host), number)
    return time.monotonic()

  def seconds_until_gone(self, since: float) -> float:
    """Until no host is left (a stopped one is killed by the launcher)."""
    while any(index is not None for index in self.job.running().values()):
      assert time.monotonic() < since + 60, self.job.output()
      time.sleep(0.01)
    return time.monotonic() - since

  def end(self) -> int:
    """Waits for the launcher; nothing is left behind. Returns the job's exit code."""
    code = self.process.wait(timeout=240)
    assert not self.job.running()
    return code
