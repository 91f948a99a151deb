"""What ends a process from outside of its loop: SIGTERM, silence; and that a run which it ended goes on unharmed."""

import concurrent.futures
import contextlib
import dataclasses
import json
import math
import os
import pathlib
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from forked import in_process, wait_for
from tiny import mlp

from trialbook import errors
from trialbook.errors import InfeasibleError, PreemptedError, TryAgainError, UserError, exit_code
from trialbook.launch.local import free_port
from trialbook.trainer import run
from trialbook.trainer.config import Job
from trialbook.trainer.hosts.channel import Channel
from trialbook.trainer.hosts.host_log import log
from trialbook.trainer.hosts.joining import Hosts
from trialbook.trainer.hosts.shutdown_guard import Guard

# SIGTERM, and the place to stop


def test_sigterm_stops_at_the_next_poll_and_at_all_that_follow():
  with Guard() as guard:
    assert [guard.poll() for _ in range(5)] == [False] * 5
    os.kill(os.getpid(), signal.SIGTERM)
    wait_for(lambda: guard.cause is not None)
    assert guard.cause == "received SIGTERM"
    assert [guard.poll() for _ in range(3)] == [True] * 3
    os.kill(os.getpid(), signal.SIGTERM)  # Another one changes nothing.
    assert guard.poll()


def test_sigterm_is_heard_while_the_main_thread_is_in_a_long_call_of_c():
  with Guard() as guard:
    guard.poll()
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
    heard = threading.Event()

    def listen() -> None:
      wait_for(lambda: guard.cause is not None)
      heard.set()

    threading.Thread(target=listen).start()
    numbers = np.random.default_rng(0).random(3_000_000)
    while not heard.is_set():
      np.sort(numbers)  # Python's own handlers wait until such a call is over.
    assert guard.poll()


def test_a_guard_that_is_not_entered_is_inert():
  handler, threads = signal.getsignal(signal.SIGTERM), set(threading.enumerate())
  guard = Guard(Job(step_seconds=0.01))
  guard.enter("step")
  time.sleep(0.05)
  assert [guard.poll() for _ in range(3)] == [False] * 3
  assert signal.getsignal(signal.SIGTERM) == handler
  assert set(threading.enumerate()) <= threads  # Fewer, if one of an earlier test has ended since.
  guard.record(0, "nowhere to be recorded")
  guard.leave(2, "is left to the caller")
  assert guard.hosts == Hosts()


def test_handler_wakeup_and_threads_are_as_before_afterwards():
  calls = []

  def handler(number: int, frame: object) -> None:
    calls.append(number)

  ours, theirs = socket.socketpair()
  ours.setblocking(False)
  before = signal.signal(signal.SIGTERM, handler)
  wakeup = signal.set_wakeup_fd(ours.fileno())
  threads = set(threading.enumerate())
  try:
    with Guard() as guard:
      guard.poll()
      os.kill(os.getpid(), signal.SIGTERM)
      wait_for(lambda: guard.cause is not None)
    assert calls == []
    assert signal.getsignal(signal.SIGTERM) is handler
    with pytest.raises(ZeroDivisionError), Guard():
      raise ZeroDivisionError
    assert signal.getsignal(signal.SIGTERM) is handler
    os.kill(os.getpid(), signal.SIGTERM)
    assert calls == [signal.SIGTERM]
    assert theirs.recv(1) == bytes([signal.SIGTERM])
    wait_for(lambda: set(threading.enumerate()) <= threads, 3)
  finally:
    assert signal.set_wakeup_fd(wakeup) == ours.fileno()
    signal.signal(signal.SIGTERM, before)
    ours.close()
    theirs.close()


def test_a_guard_in_another_thread_works_and_leaves_signals_alone():
  before = signal.getsignal(signal.SIGTERM)

  def work() -> list[object]:
    with Guard(Job(step_seconds=20)) as guard:
      guard.enter("step")
      return [*(guard.poll() for _ in range(3)), signal.getsignal(signal.SIGTERM)]

  with concurrent.futures.ThreadPoolExecutor(1) as thread:
    assert thread.submit(work).result() == [False, False, False, before]


class Pair:
  """Two guards that are two hosts, in one process."""

  def __init__(self, seconds: float = 20.0):
    address = f"127.0.0.1:{free_port()}"
    self.guards = [Guard(Job()) for _ in range(2)]
    self.exits: list[int] = []

    def join(index: int) -> Channel:
      return Channel(address, index, 2, self.guards[index]._hear, secret=b"a secret", seconds=20, silence=20)

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
      self.channels = list(threads.map(join, range(2)))
    for index, guard in enumerate(self.guards):
      guard.hosts = Hosts(index=index, count=2, patience=seconds, channel=self.channels[index])

  def close(self) -> None:
    connections = [connection for made in self.channels for connection in made._peers.values()]
    for made in self.channels:
      made.close()
    for connection in connections:
      connection.socket.shutdown(socket.SHUT_RDWR)
    wait_for(lambda: not any(thread.name == "channel" for thread in threading.enumerate()))
    for connection in connections:
      connection.socket.close()


@contextlib.contextmanager
def pair() -> Iterator[tuple[Guard, Guard]]:
  made = Pair()
  for guard in made.guards:
    # A failure would end the tests.
    object.__setattr__(guard, "_exit", made.exits.append)
  try:
    yield made.guards[0], made.guards[1]
    assert made.exits == []
  finally:
    made.close()


@pytest.mark.parametrize("places", [(5, 2), (2, 5), (4, 4), (0, 3)])
@pytest.mark.parametrize("signalled", [0, 1])
def test_hosts_stop_where_the_furthest_of_them_was_whoever_got_the_signal(places: tuple[int, int], signalled: int):
  with pair() as guards:
    for guard, place in zip(guards, places, strict=True):
      assert not any(guard.poll() for _ in range(place))
    with guards[signalled]:
      os.kill(os.getpid(), signal.SIGTERM)
      wait_for(lambda: all(guard._stop_at is not None for guard in guards))
    for guard, place in zip(guards, places, strict=True):
      assert guard.cause == f"host {signalled} received SIGTERM"
      assert [guard.poll() for _ in range(max(places) - place)] == [False] * (max(places) - place)
      assert guard.poll()


def test_hosts_that_go_on_polling_all_stop_at_the_same_place():
  rng = random.Random(0)
  for _ in range(10):
    with pair() as guards:
      pauses = [rng.uniform(0, 0.002) for _ in guards]
      begun = threading.Barrier(3)

      def steps(index: int, guards=guards, pauses=pauses, begun=begun) -> int:
        passed = 0
        while not guards[index].poll():
          passed += 1
          if passed == 1:
            begun.wait()
          time.sleep(pauses[index])
        return passed

      with concurrent.futures.ThreadPoolExecutor(2) as threads, guards[rng.randrange(2)]:
        running = [threads.submit(steps, index) for index in range(2)]
        begun.wait()
        time.sleep(rng.uniform(0, 0.02))
        os.kill(os.getpid(), signal.SIGTERM)
        first, second = (future.result(20) for future in running)
      assert first == second > 0


def test_while_hosts_agree_a_poll_waits():
  with pair() as (one, other), concurrent.futures.ThreadPoolExecutor(1) as thread:
    one.poll()
    agreement: concurrent.futures.Future[list[int]] = concurrent.futures.Future()
    one.hosts = dataclasses.replace(one.hosts, channel=None)
    object.__setattr__(one.hosts, "gather", lambda name, value: agreement)
    one._hear({"kind": "stop", "host": 1})
    polling = thread.submit(one.poll)
    time.sleep(0.1)
    assert not polling.done()
    agreement.set_result([1, 2])
    assert polling.result(20) is False
    assert one.poll()
    assert not other.poll()


def _terminated_before_the_first_poll(folder: pathlib.Path) -> None:
  with Guard(Job()) as guard, guard.logging(folder / "logs"):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


@pytest.mark.slow
def test_sigterm_before_the_first_poll_leaves_with_75_at_once(tmp_path: pathlib.Path):
  started = time.monotonic()
  assert in_process(tmp_path / "output", _terminated_before_the_first_poll, tmp_path) == errors.TRY_AGAIN
  assert time.monotonic() - started < 40
  cause = "received SIGTERM before the first step; there is nothing to save"
  assert (tmp_path / "output").read_text() == f"trialbook: exits with 75: {cause}\n"
  record = json.loads((tmp_path / "logs" / "host_0.exit.json").read_text())
  assert (record["code"], record["cause"], record["host"]) == (errors.TRY_AGAIN, cause, 0)


# Silence


def _hang(folder: pathlib.Path | None, phase: str) -> None:
  def wait_in_a_thread_of_its_own() -> None:
    time.sleep(60)

  threading.Thread(target=wait_in_a_thread_of_its_own, daemon=True).start()
  limits = {"startup_seconds": 30.0, "step_seconds": 30.0, "evaluation_seconds": 30.0, "checkpoint_seconds": 30.0}
  limits[{"start-up": "startup_seconds"}.get(phase, f"{phase}_seconds")] = 1.5
  with Guard(Job.model_validate(limits)) as guard, contextlib.ExitStack() as stack:
    if folder is not None:
      stack.enter_context(guard.logging(folder))
    guard.enter("compilation")
    time.sleep(2.0)
    sys.stderr.write("compiled\n")
    guard.enter(phase)  # pyright: ignore[reportArgumentType]
    for _ in range(6):  # As long as there is progress, the limit is for each step.
      time.sleep(0.3)
      guard.poll()
    sys.stderr.write("stepped\n")
    time.sleep(60)


@pytest.mark.slow
def test_a_phase_without_progress_leaves_with_75_and_the_stacks_of_all_threads(tmp_path: pathlib.Path):
  def hang(phase: str) -> int:
    # The last one has no log file yet.
    folder = None if phase == "start-up" else tmp_path / f"logs {phase}"
    return in_process(tmp_path / f"{phase}.txt", _hang, folder, phase)

  phases = ("step", "evaluation", "checkpoint", "start-up")
  started = time.monotonic()
  with concurrent.futures.ThreadPoolExecutor() as threads:
    assert list(threads.map(hang, phases)) == [errors.TRY_AGAIN] * len(phases)
  assert time.monotonic() - started < 60
  for phase in phases:
    output = (tmp_path / f"{phase}.txt").read_text()
    assert output.startswith("compiled\nstepped\n")
    cause = f"no progress for 1.5 s ({phase}, after 6 steps and batches of this process)"
    assert f"trialbook: exits with 75: {cause}" in output
    stacks = output
    if phase != "start-up":
      record = json.loads((tmp_path / f"logs {phase}" / "host_0.exit.json").read_text())
      assert record["code"] == errors.TRY_AGAIN
      assert record["cause"].startswith(cause)
      assert record["cause"].endswith(str(tmp_path / f"logs {phase}" / "host_0.log"))
      stacks = (tmp_path / f"logs {phase}" / "host_0.log").read_text()
    assert "in _hang" in stacks
    assert "in wait_in_a_thread_of_its_own" in stacks


def test_the_missing_host_is_named_and_not_the_one_that_waits_for_it(tmp_path: pathlib.Path):
  assert in_process(tmp_path / "output", _wait_in_vain) == errors.TRY_AGAIN
  output = (tmp_path / "output").read_text()
  assert "host 1 did not reach 'the plan' in time" in output
  assert "no progress" not in output


def _wait_in_vain() -> None:
  made = Pair(seconds=1.0)
  lead = made.guards[0]
  lead._job = Job(startup_seconds=lead.hosts.patience)  # As they are by default, the same setting being both.
  with lead:
    lead.enter("start-up")
    time.sleep(0.2)  # What a host does before it waits, such as loading data.
    lead.hosts.barrier("the plan")


def test_a_wait_without_a_limit_of_its_own_has_that_of_the_phase(tmp_path: pathlib.Path):
  assert in_process(tmp_path / "output", _wait_for_ever) == errors.TRY_AGAIN
  assert "no progress for 1 s (step" in (tmp_path / "output").read_text()


def _wait_for_ever() -> None:
  made = Pair()
  lead = made.guards[0]
  lead._job = Job(step_seconds=1.0)
  with lead:
    lead.enter("step")
    lead.hosts.exchange("the time of the next checkpoint", 1.0, math.inf)


# Records


def test_the_end_says_code_cause_time_and_host_and_only_the_first_cause_counts(tmp_path: pathlib.Path):
  for host, error in enumerate([UserError("first"), TryAgainError("first"), ZeroDivisionError("first")]):
    guard, started = Guard(), time.time()
    guard.hosts = Hosts(index=host, count=3)
    with guard.logging(tmp_path):
      guard.record(exit_code(error), f"{type(error).__name__}: {error}")
      guard.record(0, "second")
    record = json.loads((tmp_path / f"host_{host}.exit.json").read_text())
    assert record.keys() == {"format", "code", "cause", "time", "host", "preempted"}
    assert (record["code"], record["host"]) == ([2, 75, 1][host], host)
    assert record["cause"] == f"{type(error).__name__}: first"
    assert started <= record["time"] <= time.time()
    assert (tmp_path / f"host_{host}.log").read_text().count("exits with") == 1


def test_an_exception_is_recorded_and_an_earlier_end_is_not_left_there(tmp_path: pathlib.Path):
  before = list(log.handlers)
  with pytest.raises(ZeroDivisionError), Guard().logging(tmp_path):
    raise ZeroDivisionError("a bug")
  path = tmp_path / "host_0.exit.json"
  assert json.loads(path.read_text())["cause"] == "ZeroDivisionError: a bug"
  with Guard().logging(tmp_path):
    assert not path.exists()
  assert log.handlers == before


def test_exit_codes():
  errors = [UserError("x"), TryAgainError(), PreemptedError(), InfeasibleError("x", 1), KeyboardInterrupt(), OSError()]
  assert [exit_code(error) for error in errors] == [2, 75, 75, 3, 130, 1]


def test_the_log_of_a_run_ends_with_how_it_left(tmp_path: pathlib.Path):
  with Guard() as guard:
    run(mlp(max_train_steps=10), tmp_path / "run", guard=guard)
  record = json.loads((tmp_path / "run" / "logs" / "host_0.exit.json").read_text())
  assert (record["code"], record["cause"]) == (0, "complete")
  assert "exits with 0: complete" in (tmp_path / "run" / "logs" / "host_0.log").read_text()
