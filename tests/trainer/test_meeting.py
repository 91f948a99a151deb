"""How hosts meet: who is missing, who is refused, and that strangers change nothing."""

import contextlib
import socket
import struct
import threading
import time

import pytest
from forked import wait_for
from host_threads import SECRET, Hosts, dial, greet, hosts
from other_job import jax_job

from trialbook.errors import TryAgainError, UserError
from trialbook.trainer.hosts import addresses, connection, meeting
from trialbook.trainer.hosts.connection import REFUSED, Connection

__all__ = ["hosts"]

BEGINNING = b"trialbook 1 " + b"0" * 32 + b"\n"
"""The first line of any host."""


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
  monkeypatch.setattr(meeting, "_GREETING_SECONDS", 0.3)
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


def test_two_processes_with_one_index_are_refused(hosts: Hosts, monkeypatch):
  monkeypatch.setattr(meeting, "_TELLING_SECONDS", 0.5)
  lead = hosts.start(0, 4)
  with dial(hosts.address) as one, dial(hosts.address) as another:
    waiting = [greet(one, 2, 4), greet(another, 2, 4)]
    with pytest.raises(UserError, match="two processes have the index 2 of 4 hosts"):
      lead.result(20)
    for connection in waiting:
      answers = [connection.next(time.monotonic() + 20) for _ in range(2)]
      reasons = [answer.get("reason") for answer in answers if answer is not None]
      assert "two processes have the index 2 of 4 hosts; give each its own index" in reasons


def test_a_host_that_was_told_of_another_count_is_refused(hosts: Hosts, monkeypatch):
  monkeypatch.setattr(meeting, "_TELLING_SECONDS", 0.5)
  futures = [hosts.start(0, 3), hosts.start(1, 4)]
  for future in futures:
    with pytest.raises(UserError, match="host 1 expects 4 hosts, host 0 expects 3"):
      future.result(20)


def test_a_host_that_was_started_again_while_others_are_awaited_takes_its_place(hosts: Hosts):
  lead = hosts.start(0, 3)
  with dial(hosts.address) as lost:
    greet(lost, 1, 3)
    time.sleep(0.1)
  others = [hosts.start(index, 3) for index in (1, 2)]
  channels = [future.result(20) for future in (lead, *others)]
  futures = [made.gather("value", None, 20) for made in channels]
  assert all(future.result(20) == [None] * 3 for future in futures)


def test_a_host_that_breaks_its_connection_before_all_are_there_is_lost_and_no_bug(hosts: Hosts):
  lead = hosts.start(0, 3, seconds=1.0)
  with dial(hosts.address) as lost:
    greet(lost, 1, 3)
    time.sleep(0.1)
    lost.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # Closing sends a reset.
  with dial(hosts.address) as other:
    greet(other, 2, 3)
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
    BEGINNING + REFUSED,
    BEGINNING + b"0" * 64 + b" {}\n",
    2 * BEGINNING,
  ],
  ids=[
    *("nothing", "HTTP", "TLS", "nested", "no line", "list", "text", "no index", "index is text", "huge number"),
    *("the lead's own refusal", "a proof of zeros", "begins twice"),
  ],
)
def test_a_client_that_is_none_of_ours_neither_ends_nor_blocks_the_lead(hosts: Hosts, sent: bytes):
  lead = hosts.start(0, 2)
  with dial(hosts.address) as foreign, contextlib.suppress(OSError):
    foreign.sendall(sent)
  started = time.monotonic()
  follower = hosts.start(1, 2)
  assert {lead.result(20), follower.result(20)} == set(hosts.channels.values())
  assert time.monotonic() - started < meeting._GREETING_SECONDS


@pytest.mark.parametrize("drips", [False, True], ids=["silent", "a byte now and then"])
def test_a_client_that_stays_blocks_the_lead_for_no_more_than_the_time_to_say_hello(hosts: Hosts, monkeypatch, drips):
  monkeypatch.setattr(meeting, "_GREETING_SECONDS", 0.4)
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


@pytest.mark.parametrize(
  "text",
  [b"{}", b'{"index": "1", "count": 2}', b'{"index": 1, "count": 2, "problem": []}', b'{"a": ' + b"[" * 60_000 + b"}"],
  ids=["empty", "index is text", "problem is a list", "nested"],
)
def test_a_greeting_that_is_none_does_not_end_the_lead_whoever_can_prove_it(hosts: Hosts, monkeypatch, text: bytes):
  lead = hosts.start(0, 2)
  with dial(hosts.address) as foreign:
    made = Connection(foreign, SECRET, leads=False)
    while not made.has_begun:
      assert made.receive() is not None
    monkeypatch.setattr(connection.json, "dumps", lambda _: text.decode())
    made.send({})
    monkeypatch.undo()
    assert made.next(time.monotonic() + 20) is None
  follower = hosts.start(1, 2)
  assert {lead.result(20), follower.result(20)} == set(hosts.channels.values())


def test_a_host_that_the_system_has_connected_to_itself_tries_again(hosts: Hosts, monkeypatch):
  dialed = []

  def dial_from_there(address, timeout, dial=socket.create_connection):
    # The system may choose this port, too, if nobody listens there.
    dialed.append(made := dial(address, timeout, source_address=None if dialed else address))
    return made

  monkeypatch.setattr(meeting.socket, "create_connection", dial_from_there)
  follower = hosts.start(1, 2)
  wait_for(lambda: bool(dialed))
  lead = hosts.start(0, 2)
  assert {lead.result(20), follower.result(20)} == set(hosts.channels.values())
  assert len(dialed) > 1


# The port


@pytest.mark.parametrize("where", ["127.0.0.1", "0.0.0.0", "::"])
def test_a_port_on_which_somebody_listens_is_refused(hosts: Hosts, where: str):
  family = socket.AF_INET6 if ":" in where else socket.AF_INET
  with socket.socket(family) as taken:
    # As jax's service does, which makes two of them share a port.
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    taken.bind((where, addresses.split(hosts.address)[1]))
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
    addresses.split(address)


@pytest.mark.slow
def test_the_port_of_another_job_is_refused_and_that_job_stays_well(hosts: Hosts):
  with jax_job(addresses.split(hosts.address)[1]) as is_well:
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
  with jax_job(addresses.split(hosts.address)[1]) as is_well:
    assert is_well()
    futures = [made.gather("value", index, 20) for index, made in enumerate(channels)]
    assert all(future.result(20) == [0, 1, 2] for future in futures)
