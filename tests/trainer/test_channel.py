"""The connections between hosts: who is there, who is missing, who is gone, and what they tell each other."""

import concurrent.futures
import contextlib
import json
import multiprocessing.connection
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from forked import PROCESSES, wait_for
from other_job import jax_job

from trialbook import errors
from trialbook.errors import TryAgainError, UserError
from trialbook.launch.local import free_port
from trialbook.trainer.hosts import channel
from trialbook.trainer.hosts.channel import Channel, Message


class Hosts:
  """Hosts that are threads of this process.

  Attributes:
    address: of the lead.
    heard: messages, by host.
    channels: of those that met, by host.
  """

  def __init__(self):
    self.address = f"127.0.0.1:{free_port()}"
    self.heard: dict[int, list[Message]] = {}
    self.channels: dict[int, Channel] = {}
    self._threads = concurrent.futures.ThreadPoolExecutor()

  def start(self, index: int, count: int, seconds: float = 10.0) -> concurrent.futures.Future[Channel]:
    """Begins to be a host; ends with its channel, or raises what that raises."""

    def join() -> Channel:
      heard = self.heard.setdefault(index, [])
      made = Channel(self.address, index, count, heard.append, seconds=seconds, silence=20)
      return self.channels.setdefault(index, made)

    return self._threads.submit(join)

  def meet(self, count: int) -> list[Channel]:
    """The channels of all hosts."""
    return [future.result() for future in [self.start(index, count) for index in range(count)]]

  def close(self) -> None:
    self._threads.shutdown()
    for made in self.channels.values():
      made.close()
    connections = [connection for made in self.channels.values() for connection in made._peers.values()]
    for connection in connections:
      with contextlib.suppress(OSError):
        connection.socket.shutdown(socket.SHUT_RDWR)
    wait_for(lambda: not any(thread.name == "channel" for thread in threading.enumerate()))
    for connection in connections:
      connection.socket.close()


@pytest.fixture
def hosts() -> Iterator[Hosts]:
  made = Hosts()
  yield made
  made.close()


def take_part(address: str, index: int, count: int, pipe: multiprocessing.connection.Connection) -> None:
  """A process that is a host: tells what it hears, and does what it is asked for."""
  made = Channel(address, index, count, pipe.send, seconds=20, silence=20)
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


def dial(address: str) -> socket.socket:
  """A connection to a lead that is there, or soon will be."""
  host, port = channel.split(address)
  deadline = time.monotonic() + 20
  while True:
    try:
      return socket.create_connection((host, port), timeout=20)
    except OSError:
      assert time.monotonic() < deadline, "no lead"
      time.sleep(0.01)


def hello(index: int, count: int) -> bytes:
  return json.dumps({"kind": "hello", "index": index, "count": count}).encode() + b"\n"


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


# The meeting


def test_hosts_that_never_come_are_named_to_all_who_came(hosts: Hosts):
  started = time.monotonic()
  futures = [hosts.start(index, 5, seconds=1.0) for index in (0, 1, 3)]
  for future in futures:
    with pytest.raises(TryAgainError, match=r"^hosts 2, 4 of 5 did not connect to 127\.0\.0\.1:\d+ within 1 s$"):
      future.result(20)
  assert 0.9 < time.monotonic() - started < 15


def test_a_lead_that_never_comes_is_named(hosts: Hosts):
  started = time.monotonic()
  with pytest.raises(TryAgainError, match=r"host 0, the lead, did not answer at 127\.0\.0\.1:\d+ within 0\.5 s"):
    hosts.start(1, 2, seconds=0.5).result(20)
  assert 0.4 < time.monotonic() - started < 15


@pytest.mark.slow
def test_a_lead_that_came_late_is_not_blamed_for_another_who_never_came(hosts: Hosts, monkeypatch):
  monkeypatch.setattr(channel, "_HELLO_SECONDS", 0.3)
  early = hosts.start(1, 3, seconds=2.0)
  time.sleep(0.6)
  lead = hosts.start(0, 3, seconds=2.0)
  for future in (lead, early):
    with pytest.raises(TryAgainError, match="host 2"):
      future.result(20)


def test_hosts_may_come_long_before_the_lead(hosts: Hosts):
  early = [hosts.start(index, 3) for index in (2, 1)]
  time.sleep(0.5)
  lead = hosts.start(0, 3).result(20)
  others = [future.result(20) for future in early]
  futures = [made.gather("value", None, 20) for made in (lead, *others)]
  assert all(future.result(20) == [None] * 3 for future in futures)


def test_two_processes_with_one_index_are_refused(hosts: Hosts):
  lead = hosts.start(0, 4)
  with dial(hosts.address) as one, dial(hosts.address) as another:
    one.sendall(hello(2, 4))
    another.sendall(hello(2, 4))
    with pytest.raises(UserError, match="two processes have the index 2 of 4 hosts"):
      lead.result(20)
    for made in (one, another):
      assert any("two processes have the index 2 of 4 hosts" in line for line in made.makefile())


def test_a_host_that_was_told_of_another_count_is_refused(hosts: Hosts):
  futures = [hosts.start(0, 3), hosts.start(1, 4)]
  for future in futures:
    with pytest.raises(UserError, match="host 1 expects 4 hosts, host 0 expects 3"):
      future.result(20)


def test_a_host_that_was_started_again_while_others_are_awaited_takes_its_place(hosts: Hosts):
  lead = hosts.start(0, 3)
  with dial(hosts.address) as lost:
    lost.sendall(hello(1, 3))
    time.sleep(0.1)
  others = [hosts.start(index, 3) for index in (1, 2)]
  channels = [future.result(20) for future in (lead, *others)]
  futures = [made.gather("value", None, 20) for made in channels]
  assert all(future.result(20) == [None] * 3 for future in futures)


def test_a_host_that_breaks_its_connection_before_all_are_there_is_lost_and_no_bug(hosts: Hosts):
  lead = hosts.start(0, 3, seconds=1.0)
  with dial(hosts.address) as lost:
    lost.sendall(hello(1, 3))
    time.sleep(0.1)
    lost.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # Closing sends a reset.
  with dial(hosts.address) as other:
    other.sendall(hello(2, 3))
    with contextlib.suppress(TryAgainError):
      lead.result(20)
      wait_for(lambda: any(message["host"] == 1 for message in hosts.heard[0]), 2)


@pytest.mark.parametrize(
  "sent",
  [
    b"",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\xfe\xff\n",
    b"[" * 60_000 + b"\n",
    b"x" * 100_000,
    b"[1, 2]\n",
    b'"hello"\n',
    b'{"kind": "hello"}\n',
    b'{"kind": "hello", "index": "1", "count": 2}\n',
    b"1" * 10_000 + b"\n",
  ],
  ids=["nothing", "HTTP", "TLS", "nested", "no line", "list", "text", "no index", "index is text", "huge number"],
)
def test_a_client_that_is_none_of_ours_neither_ends_nor_blocks_the_lead(hosts: Hosts, sent: bytes):
  lead = hosts.start(0, 2)
  with dial(hosts.address) as foreign, contextlib.suppress(OSError):
    foreign.sendall(sent)
  started = time.monotonic()
  follower = hosts.start(1, 2)
  assert {lead.result(20), follower.result(20)} == set(hosts.channels.values())
  assert time.monotonic() - started < channel._HELLO_SECONDS


@pytest.mark.parametrize("drips", [False, True], ids=["silent", "a byte now and then"])
def test_a_client_that_stays_blocks_the_lead_for_no_more_than_the_time_to_say_hello(hosts: Hosts, monkeypatch, drips):
  monkeypatch.setattr(channel, "_HELLO_SECONDS", 0.4)
  lead = hosts.start(0, 2)
  over = threading.Event()
  with dial(hosts.address) as foreign:

    def drip() -> None:
      while drips and not over.wait(0.1):
        with contextlib.suppress(OSError):
          foreign.sendall(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    limit = threading.Timer(20.0, over.set)
    limit.start()
    started = time.monotonic()
    follower = hosts.start(1, 2)
    lead.result(20)
    follower.result(20)
    took = time.monotonic() - started
    limit.cancel()
    over.set()
    dripping.join()
  assert took < 4


# The port


@pytest.mark.parametrize("where", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_port_on_which_somebody_listens_is_refused(hosts: Hosts, where: str):
  family = socket.AF_INET6 if ":" in where else socket.AF_INET
  with socket.socket(family) as taken:
    # As jax's service does, which makes two of them share a port.
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind((where, channel.split(hosts.address)[1]))
    taken.listen()
    with pytest.raises(UserError, match=r"the coordinator's port \d+ cannot be opened .*choose another port"):
      hosts.start(0, 2).result(20)


def test_a_machine_without_ipv6_can_lead(hosts: Hosts, monkeypatch):
  # What such a machine answers.
  monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
  monkeypatch.setattr(socket, "has_ipv6", False)
  assert len(hosts.meet(2)) == 2


@pytest.mark.parametrize("address", ["", "host", "host:", ":123", "host:port", "host:70000", "host:-1"])
def test_an_address_that_is_none_is_refused(address: str):
  with pytest.raises(UserError, match="HOST:PORT"):
    channel.split(address)


@pytest.mark.slow
def test_the_port_of_another_job_is_refused_and_that_job_stays_well(hosts: Hosts):
  with jax_job(channel.split(hosts.address)[1]) as is_well:
    assert is_well()
    with pytest.raises(UserError, match=r"the coordinator's port \d+ cannot be opened"):
      hosts.start(0, 2).result(20)
    # One that takes that job's service for its lead does no harm to it either.
    with pytest.raises(TryAgainError, match="host 0, the lead"):
      hosts.start(1, 2, seconds=1.0).result(20)
    time.sleep(0.5)
    assert is_well()


@pytest.mark.slow
def test_jax_takes_the_port_over_when_all_are_there_and_the_connections_stay(hosts: Hosts):
  channels = hosts.meet(3)
  with jax_job(channel.split(hosts.address)[1]) as is_well:
    assert is_well()
    futures = [made.gather("value", index, 20) for index, made in enumerate(channels)]
    assert all(future.result(20) == [0, 1, 2] for future in futures)


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
