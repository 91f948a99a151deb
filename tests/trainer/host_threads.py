"""Hosts of a job that are threads of this process, and connections to their lead."""

import concurrent.futures
import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest
from forked import wait_for

from trialbook.launch.local import free_port
from trialbook.trainer.hosts import addresses
from trialbook.trainer.hosts.channel import Channel
from trialbook.trainer.hosts.connection import Connection, Message

SECRET = b"what the hosts of this job know"


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
      made = Channel(self.address, index, count, heard.append, secret=SECRET, seconds=seconds, silence=20)
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


def dial(address: str) -> socket.socket:
  """A connection to a lead that is there, or soon will be."""
  host, port = addresses.split(address)
  deadline = time.monotonic() + 20
  while True:
    try:
      return socket.create_connection((host, port), timeout=20)
    except OSError:
      assert time.monotonic() < deadline, "no lead"
      time.sleep(0.01)


def greet(made: socket.socket, index: int, count: int, secret: bytes = SECRET) -> Connection:
  """Greets the lead as a host does; returns the connection, which waits."""
  connection = Connection(made, secret, leads=False)
  while not connection.has_begun:
    assert connection.receive() is not None
  connection.send({"kind": "hello", "index": index, "count": count, "problem": None})
  return connection
