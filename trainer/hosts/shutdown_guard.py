"""A guard of a process while it trains: it receives SIGTERM, watches the other hosts and the time, agrees, and exits.

Three things end a job from outside of its loop, and each must end all hosts alike, within seconds:

- *Preemption*: SIGTERM to any host. All hosts agree on the place in their common sequence of polls that the
  furthest of them has reached, continue to it, save, and exit with 75.
- *Failure*: an exception on one host, or its death. Its cause reaches all others, which exit with its code while
  their main threads hang in a collective.
- *Silence*: no progress for longer than a phase may take. The stacks of all threads are written, and the job
  ends with 75.

`os._exit` is the way out wherever there are other hosts: an ordinary exit waits for those that are gone.
"""

import contextlib
import faulthandler
import math
import os
import pathlib
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Literal

from trialbook import errors
from trialbook.errors import InfeasibleError, PreemptedError, PrunedError, UserError, exit_code, said
from trialbook.trainer.config import Job
from trialbook.trainer.hosts import joining
from trialbook.trainer.hosts.channel import END, end
from trialbook.trainer.hosts.connection import Message
from trialbook.trainer.hosts.host_log import EXITS, HostLog, write_exit
from trialbook.trainer.hosts.joining import AgreedError, Hosts, Place
from trialbook.trainer.hosts.meeting import EndedByHostError

Phase = Literal["joining", "start-up", "compilation", "step", "evaluation", "checkpoint"]

_STOP, _WHERE, _HERE = "stop", "where", "here"
# A host that has told of its failure may close its files for so long.
_CLOSING_SECONDS = 5.0
_LEAVING_SECONDS = 2.0
_NEWS_SECONDS = 1.0
_ANSWER_SECONDS = 1.0


class Guard:
  """A watch over this process inside `with`; before that it knows no other hosts and does nothing.

  Args:
    job: the limits of each phase.

  Attributes:
    hosts: this process among those that train together.
    cause: why the job is to stop, once it is.
  """

  def __init__(self, job: Job | None = None):
    job = Job() if job is None else job
    self.hosts = Hosts()
    self.cause: str | None = None
    self._job = job
    self._log: HostLog | None = None
    # The phase, and what changes with each sign of progress in it.
    self._progress: tuple[Phase | None, object] = (None, None)
    self._about: int | None = None
    self._answers: dict[int, int] = {}
    # The polls passed so far are the same sequence on every host, so their number is a place all can agree on.
    self._gate = threading.Condition()
    self._passed, self._stop_at, self._closed = 0, None, False
    self._over = threading.Event()
    self._ending = threading.Lock()
    self._announced = False

  def join(
    self, place: Place | None = None, *, secret_file: pathlib.Path | None = None, open_job: bool = False
  ) -> Hosts:
    """Join the other hosts, from a place that is found if it is not given; see `joining.initialize`."""
    self.enter("joining")  # Which has limits of its own, and names who is missing.
    place = joining.find_place(self._job) if place is None else place
    known = {"secret_file": secret_file, "open_job": open_job}
    try:
      self._join(joining.initialize(self._job, place, self._hear, self._join, **known))
    except EndedByHostError as error:
      self._about = error.host
      raise
    self.enter("start-up")
    return self.hosts

  def report_problem(
    self, place: Place, problem: str, *, secret_file: pathlib.Path | None = None, open_job: bool = False
  ) -> None:
    """End the job on the other hosts before this one joins them; see `joining.report_problem`."""
    self.enter("joining")
    self._join(Hosts(index=place.index, count=place.count, found_by=place.found_by))
    self.record(errors.USER_MISTAKE, problem)
    joining.report_problem(self._job, place, problem, secret_file=secret_file, open_job=open_job)

  def _join(self, here: Hosts) -> None:
    self.hosts = here

  @contextlib.contextmanager
  def logging(self, folder: pathlib.Path) -> Iterator[None]:
    """Log to `folder`/host_i.log inside, and record how this host ends in host_i.exit.json."""
    self._log = HostLog(folder, self.hosts.index)
    try:
      yield
    except BaseException as error:
      self.record(exit_code(error), said(error))
      raise
    finally:
      self._log.close()

  def poll(self) -> bool:
    """Return whether to stop here. Call it once before each step, and before each batch of an evaluation.

    All hosts call it in the same sequence. While they agree on where to stop, it waits.
    """
    with self._gate:
      while self._closed and self._stop_at is None:
        self._gate.wait()
      if self._stop_at is not None and self._passed >= self._stop_at:
        return True
      self._passed += 1
      self._progress = (self._progress[0], self._passed)
      return False

  def enter(self, phase: Phase | None) -> None:
    """Begin a phase, which has its own time limit; compilation has none. None: no phase of a run."""
    self._progress = (phase, object())

  @contextlib.contextmanager
  def ending(self) -> Iterator[None]:
    """Report what is raised inside to the other hosts at once, before anything is closed."""
    try:
      yield
    except (InfeasibleError, PrunedError, PreemptedError, AgreedError):
      raise  # All hosts have come to it.
    except BaseException as error:
      if not isinstance(error, UserError | KeyboardInterrupt) and self.hosts.channel is not None:
        # Where a peer is lost, collectives fail, under many names, and the loss is the cause. Its news may come a
        # moment later; it ends this process.
        time.sleep(_NEWS_SECONDS)
      self._announce(exit_code(error), said(error))
      raise

  def leave(self, code: int, cause: str) -> None:
    """End this host's part of the job. With other hosts and a `code` that is not 0, the process exits here."""
    self._over.set()
    self.record(code, cause)
    if self.hosts.channel is not None and code:
      self._exit(code)
    elif self.hosts.channel is not None:
      self.hosts.channel.close()

  def __enter__(self) -> "Guard":
    self._start("watchdog", self._watch)
    if threading.current_thread() is threading.main_thread():
      # The handler of Python runs in the main thread, which may hang in a collective; a byte in a socket is
      # written by the handler of the system.
      self._wake, self._woken = socket.socketpair()
      self._wake.setblocking(False)
      self._handler_before = signal.signal(signal.SIGTERM, lambda number, frame: None)
      self._wakeup_before = signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
      self._start("signals", self._listen)
    else:
      self._wake = None
    return self

  def __exit__(self, *_: object) -> None:
    self._over.set()
    if self._wake is not None:
      signal.set_wakeup_fd(self._wakeup_before)
      if self._handler_before is not None:  # Else it was not installed from Python.
        signal.signal(signal.SIGTERM, self._handler_before)
      self._wake.close()

  def _start(self, name: str, target: Callable[[], None]) -> None:
    threading.Thread(target=target, name=name, daemon=True).start()

  def _listen(self) -> None:
    with self._woken:
      while received := self._woken.recv(64):
        if signal.SIGTERM in received:
          self._tell({"kind": _STOP, "host": self.hosts.index})

  def _tell(self, message: Message) -> None:
    if self.hosts.channel is None:
      self._hear(message)
    else:
      self.hosts.channel.tell(message)

  def _hear(self, message: Message) -> None:
    if message["kind"] == _STOP:
      self._agree_where_to_stop(message["host"])
    elif message["kind"] == _WHERE and self.hosts.channel is not None:
      answer = {"kind": _HERE, "host": self.hosts.index, "passed": self._passed}
      self._start("answer", lambda: self._tell(answer))
    elif message["kind"] == _HERE:
      self._answers[message["host"]] = message["passed"]
    elif message["kind"] == END and not self._announced:
      self._leave_now(message["code"], message["cause"], message["host"])

  def _agree_where_to_stop(self, host: int) -> None:
    with self._gate:
      if self._closed:
        return
      self._closed = True
      passed = self._passed
    self._about = host
    self.cause = f"host {host} received SIGTERM" if self.hosts.count > 1 else "received SIGTERM"
    self.hosts.gather(_STOP, passed).add_done_callback(lambda places: self._stop(max(places.result())))

  def _stop(self, place: int) -> None:
    if place == 0:
      self._leave_now(errors.TRY_AGAIN, f"{self.cause} before the first step; there is nothing to save", self._about)
      return
    with self._gate:
      self._stop_at = place
      self._gate.notify_all()

  def _limit(self, phase: Phase | None) -> float:
    """Return the seconds without progress that a phase may take."""
    job, several = self._job, self.hosts.count > 1
    match phase:
      case "start-up":
        return job.startup_seconds
      case "step":
        given, default = job.step_seconds, 600.0
      case "evaluation":
        given, default = job.evaluation_seconds, 600.0
      case "checkpoint":
        given, default = job.checkpoint_seconds, 1800.0
      case _:
        return math.inf
    return given if given is not None else default if several else math.inf

  def _watch(self) -> None:
    quiet, before, last = 0.0, time.monotonic(), self._progress
    while not self._over.wait(tick := min(1.0, self._limit(self._progress[0]) / 4)):
      then, before = before, time.monotonic()
      if self._progress != last or (self.hosts.channel is not None and self.hosts.channel.is_waiting):
        quiet, last = 0.0, self._progress
        continue
      # A process that was stopped as a whole (Ctrl-Z, a paused machine) has not been quiet in that time.
      quiet += min(before - then, 2 * tick)
      phase = last[0]
      if quiet > (limit := self._limit(phase)):
        about, whose = self._slowest()
        cause = f"no progress for {limit:g} s ({phase}{whose}); {self._write_stacks()}"
        self._announce(errors.TRY_AGAIN, cause, about, seconds=_LEAVING_SECONDS)
        self._leave_now(errors.TRY_AGAIN, cause, about)
        return

  def _slowest(self) -> tuple[int, str]:
    """Return the host that is behind, or does not even answer, and a description of it."""
    mine = self.hosts.index
    if self.hosts.channel is None:
      return mine, f", after {self._passed} steps and batches of this process"
    self._answers = {}
    self.hosts.channel.tell({"kind": _WHERE, "host": mine})
    time.sleep(_ANSWER_SECONDS)
    answers = {**self._answers, mine: self._passed}
    silent = sorted(set(range(self.hosts.count)) - answers.keys())
    if silent:
      return silent[0], f": host {', '.join(map(str, silent))} did not answer"
    behind = min(answers, key=lambda host: answers[host])
    ahead = max(answers.values())
    if answers[behind] == ahead:
      return mine, f", all hosts after {ahead} steps and batches"
    return behind, f": host {behind} is at {answers[behind]} steps and batches, others at {ahead}"

  def _write_stacks(self) -> str:
    if self._log is None:
      faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
      return "the stacks of all threads are above"
    with self._log.path.open("a") as file:
      faulthandler.dump_traceback(file=file, all_threads=True)
    return f"the stacks of all threads are in {self._log.shown}"

  def _announce(self, code: int, cause: str, about: int | None = None, seconds: float = _CLOSING_SECONDS) -> None:
    """Report the end to the others; from then on this process has `seconds` to close its files."""
    with self._ending:
      if self._announced:
        return
      self._announced = True
    self.record(code, cause, about)
    if self.hosts.channel is not None:
      self.hosts.channel.tell(end(code, cause, self.hosts.index if about is None else about))
      timer = threading.Timer(seconds, self._exit, [code])
      timer.daemon = True
      timer.start()

  def _leave_now(self, code: int, cause: str, about: int | None = None) -> None:
    """Exit while the main thread may hang.

    A thread of its own does it, because the caller's may be the one that receives the exits of other hosts.
    """

    def go() -> None:
      self.record(code, cause, about)
      whose = "" if about in (None, self.hosts.index) else f"host {about} ended the job: "
      with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"trialbook: exits with {code}: {whose}{cause}\n")
      self._exit(code)

    self._start("leaving", go)

  def record(self, code: int, cause: str, about: int | None = None) -> None:
    """Record how this host ends: in the workdir once it is open, before that where the launcher looks for it.

    Only the first time counts.

    Args:
      code: with which it leaves.
      cause: for a person.
      about: index of the host that the cause lies with; None: the one that SIGTERM came to, or else this one.
    """
    about = self._about if about is None else about
    about = self.hosts.index if about is None else about
    preempted = code == errors.TRY_AGAIN and self.cause is not None
    if self._log is not None:
      self._log.end(code, cause, about, preempted=preempted)
    elif folder := os.environ.get(EXITS):
      path = pathlib.Path(folder) / f"host_{self.hosts.index}.exit.json"
      write_exit(path, code, cause, about, preempted=preempted)

  def _exit(self, code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
      with contextlib.suppress(OSError, ValueError):
        stream.flush()
    if self.hosts.channel is not None:
      self.hosts.channel.close()
      self.hosts.channel.wait_until_alone(_LEAVING_SECONDS)
    os._exit(code)
