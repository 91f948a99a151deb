"""Messages between the hosts of a job, over one connection from each host to the lead.

jax's coordination service connects the same hosts, but it is not enough. It can be asked nothing before all
hosts are there. It aborts the process where a peer is lost, which it notices by a heartbeat after seconds or
minutes, and aborts the *healthy* job when somebody starts another on its port. Here the lead knows which host is
missing. The death of a process closes its connection, so it is noticed at once. A message from one host
reaches the others while their main threads wait in a collective.

The lead listens at the coordinator's address until all hosts are there (`meeting`). Then it closes the listening
socket, whose port jax's service takes over, and keeps the connections.
"""

import concurrent.futures
import contextlib
import math
import selectors
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from trialbook import errors
from trialbook.trainer.hosts import addresses
from trialbook.trainer.hosts.connection import ForgedError, Message
from trialbook.trainer.hosts.meeting import hosts, meet

END = "end"

_TICK_SECONDS = 0.25


class Channel:
  """The connections of one host: the lead's to all others, and another's to the lead.

  Args:
    address: "host:port" of the lead, the same for all hosts.
    index: of this host.
    count: number of hosts, at least 2.
    hear: called, in a thread of the channel's, with each message to all hosts.
    secret: of the job, the same for all hosts.
    seconds: how long hosts wait for each other here.
    silence: seconds after which a machine that does not even acknowledge packets counts as lost.

  Attributes:
    coordinator: address at which the lead listened, "host:port" with a number for the host.
    own_address: of this machine on the network that the hosts share, as a number.

  Raises:
    UserError, TryAgainError: as `meeting.meet`.
  """

  def __init__(
    self,
    address: str,
    index: int,
    count: int,
    hear: Callable[[Message], None],
    *,
    secret: bytes,
    seconds: float,
    silence: float,
  ):
    self._index, self._count, self._hear = index, count, hear
    self._state = threading.RLock()
    # All hosts hear messages in one order, so the lead passes on one at a time.
    self._telling = threading.RLock()
    self._names: Counter[str] = Counter()
    self._waiting: dict[str, concurrent.futures.Future[list[Any]]] = {}
    self._limited: set[str] = set()
    self._gathered: dict[str, tuple[float, str, dict[int, Any]]] = {}
    self._left: set[int] = set()
    self._closing = False
    self._peers = meet(address, index, count, secret, seconds)
    for connection in self._peers.values():
      connection.settle(silence)
    one = next(iter(self._peers.values())).socket
    self.own_address = str(one.getsockname()[0])
    lead = self.own_address if index == 0 else str(one.getpeername()[0])
    self.coordinator = addresses.join(lead, addresses.split(address)[1])
    threading.Thread(target=self._read, name="channel", daemon=True).start()

  def gather(self, name: str, value: Any, seconds: float) -> "concurrent.futures.Future[list[Any]]":
    """Return the values of all hosts, in their order, as soon as every host has given its value.

    All hosts gather the same names in the same order (of each name). If one does not within `seconds` (which may
    be infinite) after the first, the job ends with 75, and the missing hosts are named.
    """
    with self._state:
      self._names[name] += 1
      key = f"{name}#{self._names[name]}"
      future = self._waiting[key] = concurrent.futures.Future()
      if math.isfinite(seconds):
        self._limited.add(key)
        future.add_done_callback(lambda _: self._limited.discard(key))
    if self._index == 0:
      self._collect(0, key, value, seconds)
    else:
      self._send(0, {"kind": "value", "key": key, "value": value, "seconds": seconds})
    return future

  @property
  def is_waiting(self) -> bool:
    """Return whether this host waits for others, for which there is a limit of its own.

    For a wait without one, there is the limit of the phase.
    """
    return bool(self._limited)

  def tell(self, message: Message) -> None:
    """Send a message to all hosts, this one included; messages from the lead arrive in the same order everywhere."""
    if self._index == 0:
      self._tell_all(message)
    else:
      self._send(0, {"kind": "tell", "message": message})

  def close(self) -> None:
    """Leave the job; no other host takes it for a loss."""
    self._closing = True
    for peer in self._peers:
      self._send(peer, {"kind": "bye"})

  def wait_until_alone(self, seconds: float) -> None:
    """Wait on the lead until all others have left, or for `seconds`. jax's service ends with the lead."""
    deadline = time.monotonic() + seconds
    while self._index == 0 and len(self._left) < self._count - 1 and time.monotonic() < deadline:
      time.sleep(0.01)

  def _collect(self, host: int, key: str, value: Any, seconds: float) -> None:
    with self._state:
      name = key.rpartition("#")[0]
      _, _, values = self._gathered.setdefault(key, (time.monotonic() + seconds, name, {}))
      values[host] = value
      if len(values) < self._count:
        return
      self._gathered.pop(key)
      everyone = [values[index] for index in range(self._count)]
    for peer in self._peers:
      self._send(peer, {"kind": "values", "key": key, "values": everyone})
    self._waiting.pop(key).set_result(everyone)

  def _tell_all(self, message: Message) -> None:
    with self._telling:
      for peer in self._peers:
        self._send(peer, {"kind": "tell", "message": message})
      self._hear(message)

  def _send(self, peer: int, message: Message) -> None:
    # A peer that cannot be reached is found lost by the reading thread.
    with contextlib.suppress(OSError):
      self._peers[peer].send(message)

  def _read(self) -> None:
    with selectors.DefaultSelector() as selector:
      for index, connection in self._peers.items():
        selector.register(connection.socket, selectors.EVENT_READ, index)
        for message in connection.arrived:
          self._take(index, message)
      while selector.get_map():
        for key, _ in selector.select(_TICK_SECONDS):
          try:
            messages = self._peers[key.data].receive()
            for message in messages or ():
              self._take(key.data, message)
          except (KeyError, TypeError, ValueError, ForgedError):
            messages = None  # Not ours: as good as gone.
          if messages is None:
            selector.unregister(key.fileobj)
            self._lose(key.data)
        self._end_what_is_overdue()

  def _take(self, peer: int, message: Message) -> None:
    match message["kind"]:
      case "value":
        self._collect(peer, message["key"], message["value"], message["seconds"])
      case "values":
        self._waiting.pop(message["key"]).set_result(message["values"])
      case "tell" if self._index == 0:
        self._tell_all(message["message"])
      case "tell":
        self._hear(message["message"])
      case "bye":
        self._left.add(peer)

  def _lose(self, peer: int) -> None:
    expected = peer in self._left or self._closing
    self._left.add(peer)
    if not expected:
      lead = ", the lead," if peer == 0 else ""
      why = self._peers[peer].lost or "it sent what no host sends"
      lost = end(errors.TRY_AGAIN, f"host {peer}{lead} was lost: {why}", peer)
      # Who lost the lead can tell nobody.
      (self._tell_all if self._index == 0 else self._hear)(lost)

  def _end_what_is_overdue(self) -> None:
    with self._state:
      late = [key for key, (deadline, *_) in self._gathered.items() if time.monotonic() > deadline]
      overdue = [self._gathered.pop(key) for key in late]
    for _, name, values in overdue:
      missing = sorted(set(range(self._count)) - values.keys())
      self._tell_all(end(errors.TRY_AGAIN, f"{hosts(missing)} did not reach {name!r} in time", missing[0]))


def end(code: int, cause: str, host: int) -> Message:
  """Return the message that the job is over: every host exits with `code`, because of what happened to `host`."""
  return {"kind": END, "code": code, "cause": cause, "host": host, "time": time.time()}
