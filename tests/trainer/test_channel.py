"""The connections between hosts: who is there, who is missing, who is gone, and what they tell each other."""

import concurrent.futures
import contextlib
import multiprocessing.connection
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from forked import PROCESSES, wait_for
from host_threads import SECRET, Hosts, hosts

from trialbook import errors
from trialbook.trainer.hosts import channel
from trialbook.trainer.hosts.channel import Channel

__all__ = ["hosts"]


def take_part(address: str, index: int, count: int, pipe: multiprocessing.connection.Connection) -> None:
  """A process that is a host: tells what it hears, and does what it is asked for."""
  made = Channel(address, index, count, pipe.send, secret=SECRET, seconds=20, silence=20)
  pipe.send("met")
  while (order := pipe.recv()) == "gather":
    pipe.send(made.gather("value", index, 20).result())
  if order == "leave":
    made.close()


class Process:
  """A host that is a process."""

  def __init__(self, address: str, index: int, count: int):
    self.pipe, theirs = PROCESSES.Pipe()
    self.process = PROCESSES.Process(target=take_part, args=(address, index, count, theirs))
    self.process.start()
    theirs.close()

  def hears(self, seconds: float = 20.0) -> Any:
    assert self.pipe.poll(seconds), "nothing came"
    return self.pipe.recv()

  def close(self) -> None:
    self.process.kill()
    self.process.join()
    self.process.close()
    self.pipe.close()


@contextlib.contextmanager
def processes(address: str, indices: list[int], count: int) -> Iterator[list[Process]]:
  started = [Process(address, index, count) for index in indices]
  try:
    yield started
  finally:
    for process in started:
      process.close()


# Values


def test_values_come_in_the_order_of_hosts_and_to_all(hosts: Hosts):
  channels = hosts.meet(4)
  futures = {index: channels[index].gather("value", {"from": index}, 20) for index in (2, 0, 3, 1)}
  for future in futures.values():
    assert future.result(20) == [{"from": index} for index in range(4)]


def test_two_gathers_of_one_name_do_not_mix(hosts: Hosts):
  channels = hosts.meet(3)
  # The last host is two gathers behind while the others give all of theirs.
  ahead = [[made.gather("value", [index, turn], 20) for turn in range(3)] for index, made in enumerate(channels[:2])]
  time.sleep(0.05)
  assert not any(future.done() for futures in ahead for future in futures)
  for turn in range(3):
    expected = [[index, turn] for index in range(3)]
    assert channels[2].gather("value", [2, turn], 20).result(20) == expected
    assert [futures[turn].result(20) for futures in ahead] == [expected] * 2


def test_gathers_of_several_names_may_be_under_way_in_any_order(hosts: Hosts):
  one, other = hosts.meet(2)
  first, second = one.gather("a", 1, 20), one.gather("b", 2, 20)
  assert other.gather("b", 20, 20).result(20) == [2, 20]
  assert other.gather("a", 10, 20).result(20) == [1, 10]
  assert (first.result(20), second.result(20)) == ([1, 10], [2, 20])


def test_values_of_megabytes_pass(hosts: Hosts):
  channels = hosts.meet(3)
  values = [chr(ord("a") + index) * 3_000_000 for index in range(3)]
  futures = [made.gather("value", values[index], 20) for index, made in enumerate(channels)]
  assert all(future.result(20) == values for future in futures)


def test_a_gather_that_one_host_does_not_join_ends_with_its_name(hosts: Hosts):
  channels = hosts.meet(4)
  started = time.monotonic()
  futures = [channels[index].gather("the plan", index, 0.3) for index in (0, 2)]
  wait_for(lambda: all(hosts.heard[index] for index in range(4)))
  assert 0.3 < time.monotonic() - started < 15
  for index in range(4):
    (heard,) = hosts.heard[index]
    assert (heard["kind"], heard["code"], heard["host"]) == (channel.END, errors.TRY_AGAIN, 1)
    assert heard["cause"] == "hosts 1, 3 did not reach 'the plan' in time"
  assert not any(future.done() for future in futures)


def test_messages_reach_all_hosts_in_one_order(hosts: Hosts):
  channels = hosts.meet(4)
  start, number = threading.Barrier(4), 200

  def tell(index: int) -> None:
    start.wait()
    for turn in range(number):
      channels[index].tell({"kind": "news", "from": index, "turn": turn})

  interval = sys.getswitchinterval()
  sys.setswitchinterval(1e-5)  # Threads take turns often, so that those who do not wait for each other collide.
  try:
    with concurrent.futures.ThreadPoolExecutor() as threads:
      list(threads.map(tell, range(4)))
    wait_for(lambda: all(len(heard) == 4 * number for heard in hosts.heard.values()))
  finally:
    sys.setswitchinterval(interval)
  for index in range(4):
    assert [m["turn"] for m in hosts.heard[0] if m["from"] == index] == list(range(number))
    assert hosts.heard[index] == hosts.heard[0]


# Losses


@pytest.mark.slow
def test_a_process_that_is_killed_is_heard_of_by_all_others_at_once_and_named(hosts: Hosts):
  with processes(hosts.address, [1, 2, 3], 4) as others:
    lead = hosts.start(0, 4).result(60)
    assert [other.hears() for other in others] == ["met"] * 3
    for other in others:
      other.pipe.send("gather")
    assert lead.gather("value", 0, 20).result(20) == [0, 1, 2, 3]
    assert [other.hears() for other in others] == [[0, 1, 2, 3]] * 3
    others[1].process.kill()
    started = time.monotonic()
    wait_for(lambda: hosts.heard[0], 5)
    heard = [hosts.heard[0][0], others[0].hears(5), others[2].hears(5)]
    assert time.monotonic() - started < 5  # By its connection, and not by its silence of 20 s.
    for message in heard:
      assert (message["kind"], message["code"], message["host"]) == (channel.END, errors.TRY_AGAIN, 2)
      assert message["cause"] == "host 2 was lost: its process is gone"


@pytest.mark.slow
def test_a_lead_that_is_killed_is_heard_of_by_all_others_at_once_and_named(hosts: Hosts):
  with processes(hosts.address, [0], 3) as (lead,):
    for future in [hosts.start(index, 3) for index in (1, 2)]:
      future.result(60)
    assert lead.hears() == "met"
    lead.process.kill()
    started = time.monotonic()
    wait_for(lambda: hosts.heard[1] and hosts.heard[2], 5)
    assert time.monotonic() - started < 5  # By its connection, and not by its silence of 20 s.
    for index in (1, 2):
      (message,) = hosts.heard[index]
      assert (message["code"], message["host"]) == (errors.TRY_AGAIN, 0)
      assert message["cause"] == "host 0, the lead, was lost: its process is gone"


@pytest.mark.slow
def test_a_process_that_says_goodbye_is_not_taken_for_lost(hosts: Hosts):
  with processes(hosts.address, [1, 2], 3) as others:
    lead = hosts.start(0, 3).result(60)
    assert [other.hears() for other in others] == ["met"] * 2
    others[0].pipe.send("leave")
    others[0].process.join(20)
    lead.wait_until_alone(0.5)
    assert hosts.heard[0] == []
    assert not others[1].pipe.poll()
    # Nor is one that is lost later hidden by it.
    others[1].process.kill()
    wait_for(lambda: hosts.heard[0], 5)
    assert [message["host"] for message in hosts.heard[0]] == [2]


def test_the_lead_waits_for_the_others_to_leave_first(hosts: Hosts):
  lead, one, other = hosts.meet(3)
  started = time.monotonic()
  lead.wait_until_alone(0.2)
  assert time.monotonic() - started >= 0.2
  for made in (one, other):
    threading.Timer(0.3, made.close).start()
  lead.close()
  started = time.monotonic()
  lead.wait_until_alone(20)
  assert 0.2 < time.monotonic() - started < 5
  assert not any(hosts.heard.values())
