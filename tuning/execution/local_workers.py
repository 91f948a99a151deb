"""Workers of a study on this machine: processes that run trial after trial, each on cores of its own."""

import contextlib
import itertools
import json
import os
import pathlib
import queue
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection, Pipe
from typing import Any, NamedTuple

from trialbook.errors import TryAgainError, UserError
from trialbook.launch import slurm
from trialbook.launch.job_exit import describe
from trialbook.launch.processes import HostEnd, HostProcess, guarded
from trialbook.spool import LOG_SECONDS, Spool
from trialbook.tuning.execution.executor import Ended, InterruptedStudyError
from trialbook.tuning.execution.trial_states import Cost, StudyError
from trialbook.tuning.execution.worker import START
from trialbook.tuning.plan import PlannedTrial
from trialbook.tuning.records import read_jobs

# To save; a large model takes minutes, and a second signal does not wait.
_LEAVING_SECONDS = 600.0
_DEATHS_AT_START = 3


class _Message(NamedTuple):
  worker: "_Worker"
  content: Mapping[str, Any]


class LocalWorkers:
  """Worker processes: starts them, gives them trials, and notices when one is lost.

  Args:
    study: its folder.
    count: how many workers.
    cores: of each; if this machine has too few, they take turns.
    devices: of each.
    events: where signals to this process appear.
    in_order: whether trials start in the order of their numbers, because later ones are compared with earlier ones;
      else a worker prefers trials whose program it has.

  Raises:
    UserError: if the machine does not have that many cores or devices.
  """

  name = "local"

  def __init__(
    self,
    study: pathlib.Path,
    count: int,
    cores: int,
    devices: int,
    events: "queue.SimpleQueue[Any]",
    *,
    in_order: bool = False,
  ):
    self.count, self._in_order = count, in_order
    self.programs: dict[str, int] = {}
    self._study, self._events = study, events
    self._environments = [_environment(index, count, cores, devices) for index in range(count)]
    self._workers: dict[int, _Worker] = {}
    self._groups: dict[int, set[str]] = {index: set() for index in range(count)}
    self._deaths = 0
    self._stopping = False

  def __enter__(self) -> "LocalWorkers":
    return self

  def __exit__(self, *_: object) -> None:
    for worker in self._workers.values():
      worker.close()

  def adopt(self, unfinished: Sequence[int]) -> set[int]:
    """Return the empty set: workers die with their coordinator.

    Raises:
      UserError: if jobs of a cluster run some of them.
    """
    jobs = read_jobs(self._study)
    mine = [jobs[str(trial)] for trial in unfinished if str(trial) in jobs]
    try:
      running = [job for job, state in slurm.states(mine).items() if state.phase != "ended"] if mine else []
    except (UserError, slurm.SlurmUnavailableError):
      running = []  # Of a cluster that is not here.
    if running:
      raise UserError(
        f"jobs {', '.join(running)} of Slurm are still running trials of this study."
        " Cancel them with scancel, or use --executor=slurm"
      )
    return set()

  def prepare(self, wanted: int) -> None:
    """Start workers, as many as there are trials for, before they are given any."""
    for index in range(min(wanted, self.count)):
      if index not in self._workers:
        self._workers[index] = self._new(index)

  def _new(self, index: int) -> "_Worker":
    before = self.programs.get(f"worker {index}", 0)
    return _Worker(index, self._study, self._environments[index], self._events, before)

  def measure(self, planned: PlannedTrial) -> Cost | None:
    """Measure a few steps of a trial on the first worker, which keeps its program. Raise StudyError."""
    self.prepare(1)
    self._workers[0].send({"measure": dict(planned.changes)})
    while True:
      event = self._events.get()
      if isinstance(event, signal.Signals):
        self._events.put(event)
        raise InterruptedStudyError
      if isinstance(event, HostEnd):
        self._lost(event)
        if event.host == 0:
          return None  # What killed it will be seen with the trial.
      elif "problems" in event.content:
        raise StudyError(event.content["problems"])
      elif "cost" in event.content:
        self._groups[0].add(planned.group)
        return event.content["cost"]
      else:
        self._heard(event)

  def choose(self, pending: Sequence[PlannedTrial]) -> list[tuple[PlannedTrial, str]]:
    """Return which trials to start now, and where: one for each idle worker, if possible of a program that it has; the
    next one if trials start in order."""
    left, chosen = list(pending), []
    for index in range(self.count):
      worker = self._workers.get(index)
      if not left or (worker is not None and worker.trial is not None):
        continue
      others = set().union(*(groups for other, groups in self._groups.items() if other != index))
      own = self._groups[index]
      best = min(left, key=lambda one: (not self._in_order and (one.group not in own, one.group in others), one.trial))
      left.remove(best)
      # At once: the next worker must not choose the same program.
      self._groups[index].add(best.group)
      chosen.append((best, f"worker {index}"))
    return chosen

  def start(self, chosen: Sequence[tuple[PlannedTrial, str]]) -> None:
    """Give the trials to their workers."""
    for planned, where in chosen:
      index = int(where.rpartition(" ")[2])
      if index not in self._workers:
        self._workers[index] = self._new(index)
      self._workers[index].trial = planned.trial
      self._workers[index].send({"trial": planned.trial})

  def wait(self, seconds: float) -> list[Ended]:
    """Return what ended, once something does or `seconds` are over. Raise InterruptedStudyError after a signal."""
    try:
      event = self._events.get(timeout=seconds)
    except queue.Empty:
      return []
    if isinstance(event, signal.Signals):
      if self._stopping:
        return []
      raise InterruptedStudyError
    if isinstance(event, HostEnd):
      return self._lost(event)
    return self._heard(event)

  def stop(self) -> list[Ended]:
    """Ask all workers to save and exit, and wait for them. Another signal, or too long a wait, kills them."""
    self._stopping = True
    ended: list[Ended] = []
    busy = [worker for worker in self._workers.values() if worker.trial is not None]
    for worker in busy:
      worker.process.send(signal.SIGTERM)
    timer = threading.Timer(_LEAVING_SECONDS, self._events.put, [signal.SIGKILL])
    timer.daemon = True
    timer.start()
    while any(worker.trial is not None for worker in self._workers.values()):
      event = self._events.get()
      if isinstance(event, signal.Signals):
        for worker in self._workers.values():
          worker.process.send(signal.SIGKILL)
      elif isinstance(event, HostEnd):
        ended += [one._replace(stopped=True) for one in self._lost(event)]
      else:
        ended += [one._replace(stopped=True) for one in self._heard(event)]
    timer.cancel()
    return ended

  def _heard(self, message: _Message) -> list[Ended]:
    worker, content = message.worker, message.content
    if "ready" in content:
      worker.is_ready = True
      self._deaths = 0
    if "trial" not in content or self._workers.get(worker.process.index) is not worker:
      return []  # Of a worker that was lost since, with a trial that ended then.
    worker.trial = None
    if "programs" in content:
      self.programs[f"worker {worker.process.index}"] = worker.programs_before + content["programs"]
    return [Ended(content["trial"], lost=content.get("lost"), problems=tuple(content.get("problems", ())))]

  def _lost(self, end: HostEnd) -> list[Ended]:
    worker = self._workers.pop(end.host)
    worker.close()
    self._groups[end.host] = set()
    ended = [] if worker.trial is None else [Ended(worker.trial, lost=describe(end.returncode))]
    # What kills a worker from outside is none of its own mistakes, which the next one would make too.
    if worker.is_ready or self._stopping or end.returncode in (-signal.SIGKILL, -signal.SIGTERM):
      return ended
    self._deaths += 1
    if self._deaths < _DEATHS_AT_START:
      return ended
    problem = f"{self._deaths} workers, one after the other, died while they started; see {worker.log}"
    if not ended:
      raise StudyError(problem)
    return [ended[0]._replace(problems=(problem,))]


class _Worker:
  """One process, and what it is doing. `programs_before`: programs that earlier workers of its index compiled."""

  def __init__(
    self,
    index: int,
    study: pathlib.Path,
    environment: Mapping[str, str],
    events: "queue.SimpleQueue[Any]",
    programs_before: int,
  ):
    self.log = study / "logs" / f"worker_{index}.log"
    self.log.parent.mkdir(exist_ok=True)
    self._spool = Spool(self.log.parent, [self.log.name], LOG_SECONDS)
    self.trial: int | None = None
    self.is_ready = False
    self.programs_before = programs_before
    self._talk, theirs = Pipe()
    self._closing = contextlib.ExitStack()
    number = theirs.fileno()
    self.process = HostProcess(
      index,
      ["-c", START, str(study), str(number)],
      environment,
      events,
      log=self._spool.folder / self.log.name,
      inherited=[number],
    )
    theirs.close()
    self._closing.enter_context(guarded([self.process]))
    threading.Thread(target=_listen, args=(self, self._talk, events), daemon=True).start()

  def send(self, task: Mapping[str, Any]) -> None:
    """Send a task to the process; one that is gone is noticed elsewhere."""
    with contextlib.suppress(OSError):
      self._talk.send(task)

  def close(self) -> None:
    """End the process and all of its children."""
    self.process.close()
    self._closing.close()
    with contextlib.suppress(TryAgainError):  # What people read must not keep the study from its end.
      self._spool.close()


def _listen(worker: _Worker, talk: Connection, events: "queue.SimpleQueue[Any]") -> None:
  with contextlib.suppress(EOFError, OSError):
    while True:
      events.put(_Message(worker, talk.recv()))


def _environment(index: int, count: int, cores: int, devices: int) -> dict[str, str]:
  available = sorted(os.sched_getaffinity(0))
  if cores > len(available):
    raise UserError(f"cores_per_trial = {cores}: this machine lets us use {len(available)}")
  own = [available[(index * cores + offset) % len(available)] for offset in range(cores)]
  environment = {
    **os.environ,
    "TRIALBOOK_CORES": ",".join(map(str, own)),
    "TRIALBOOK_LOCAL_DEVICES": str(devices),
    "TRIALBOOK_PATH": json.dumps([path or os.getcwd() for path in sys.path]),
    "PYTHONUNBUFFERED": "1",
  }
  gpus = _gpus()
  if gpus and os.environ.get("JAX_PLATFORMS", "cuda") != "cpu":
    if count * devices > len(gpus):
      raise UserError(f"{count} workers with {devices} devices each: this machine has {len(gpus)} GPUs")
    environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[index * devices : (index + 1) * devices])
  return environment


def _gpus() -> list[str]:
  """Return indices or ids of the NVIDIA GPUs that this process may use."""
  named = os.environ.get("CUDA_VISIBLE_DEVICES")
  if named is not None:
    # Behind a name that is none, CUDA sees nothing.
    names = [name.strip() for name in named.split(",")]
    return list(itertools.takewhile(lambda name: name and name != "NoDevFiles" and not name.startswith("-"), names))
  folder = pathlib.Path("/proc/driver/nvidia/gpus")
  return [str(index) for index, _ in enumerate(folder.iterdir())] if folder.is_dir() else []
