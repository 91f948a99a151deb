"""Jobs of real processes to which something is done, and what came of it."""

import os
import pathlib
import signal
import time
from collections.abc import Callable

from forked import Forked, wait_for
from held import Hold, write_experiment
from scripted import MARK, hosts_of

from trialbook.launch.supervisor import newest_step


class Job:
  """A training job in a folder, started again and again; `hold` says where its hosts wait.

  Args:
    folder: of everything.
    model: name of a function in `tiny`.
    changes: to its config.
  """

  def __init__(self, folder: pathlib.Path, model: str, changes: dict):
    self.folder, self.workdir, self.hold = folder, folder / "run", Hold(folder)
    self._experiment = write_experiment(folder, model, changes)
    self._output = folder / "output.txt"

  def start(
    self,
    hosts: int = 2,
    devices: int = 1,
    *flags: str,
    max_restarts: int = 0,
    grace: float = 60,
    by: type[Forked] = Forked,
  ) -> "Attempt":
    """Starts all hosts, with more flags of the trainer; `by` `Forked` or `New` processes."""
    command = ["-m", "trialbook", "launch", "local", f"--hosts={hosts}", f"--devices_per_host={devices}"]
    command += [
      f"--max_preemptions={max_restarts}",
      f"--max_failures={max_restarts}",
      "--first_delay=0.1",
      f"--grace={grace}",
      "--kill_after=1",
    ]
    command += ["--", "-m", "trialbook", "train", f"--config={self._experiment}", f"--workdir={self.workdir}", *flags]
    return Attempt(self, by(command, self._output, environment={**os.environ, MARK: str(self.folder)}))

  def newest(self) -> int:
    """Step of the newest checkpoint that is committed, or -1."""
    return newest_step(self.workdir)

  def output(self) -> str:
    """What the attempt has printed so far."""
    return self._output.read_text()

  def running(self) -> dict[int, int | None]:
    """Process ids of the job that are there now -> index of the host; None for the launcher's own."""
    return hosts_of(self.folder)


class Attempt:
  """One start of a job's processes."""

  def __init__(self, job: Job, process: Forked):
    self.job, self._process = job, process

  def wait_for(self, condition: Callable[[], object]) -> None:
    """Returns as soon as the condition holds; fails when the job ends first."""
    wait_for(lambda: self._process.poll() is not None or condition())
    assert condition(), f"over too early:\n{self.job.output()}"

  def held(self) -> int:
    """Returns the step at which a host waits at the place that is held, once it does."""
    steps: list[int] = []

    def look() -> bool:
      steps[:] = self.job.hold.waiting().values()
      return bool(steps)

    self.wait_for(look)
    return max(steps)

  def pid(self, host: int) -> int:
    """The process of a host."""
    return next(pid for pid, index in self.job.running().items() if index == host)

  def signal(self, host: int, number: signal.Signals) -> float:
    """Sends a signal to a host; returns when."""
    os.kill(self.pid(host), number)
    return time.monotonic()

  def seconds_until_gone(self, since: float) -> float:
    """Until no host is left (a stopped one is killed by the launcher)."""
    wait_for(lambda: all(index is None for index in self.job.running().values()))
    return time.monotonic() - since

  def end(self) -> int:
    """Waits for the launcher; nothing is left behind. Returns the job's exit code."""
    code = self._process.wait()
    assert not self.job.running()
    return code
