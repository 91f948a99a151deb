"""How the hosts of a job meet: the lead waits at the coordinator's address, and the others go to it.

Whoever reaches that port is a stranger until it has proved that it knows the job's secret. Strangers are greeted side
by side, each for a limited time, and dropped. Nothing that they send is parsed. They neither end a job nor delay it.

A host whose own config is wrong takes part, too: to end the job of the others, with its problem.
"""

import contextlib
import errno
import itertools
import selectors
import socket
import struct
import time
from collections.abc import Collection
from typing import NamedTuple

from absl import logging

from trialbook import errors
from trialbook.errors import TryAgainError, UserError
from trialbook.trainer.hosts import addresses
from trialbook.trainer.hosts.connection import REFUSED, Connection, ForgedError, Message, SecretsDifferError
from trialbook.trainer.hosts.secret import VARIABLE

_GREETING_SECONDS = 5.0
_RETRY_SECONDS = 0.1
_TICK_SECONDS = 60.0
# More than these are not greeted at once: a flood would take all file descriptors.
_STRANGERS = 256
_LOGGED_STRANGERS = 10
# How long a host that has to end the job waits for those that come later, to tell them.
_TELLING_SECONDS = 30.0
_PROBLEM_CHARACTERS = 10_000


class EndedByHostError(UserError):
  """Another host has found a mistake that ends the job.

  Attributes:
    host: its index.
  """

  def __init__(self, host: int, problem: str):
    self.host = host
    super().__init__(f"host {host} ended the job: {problem}")


class _End(NamedTuple):
  """Why a job ends before it has begun; `host`: whose mistake it is, None if nobody's in particular."""

  code: int
  reason: str
  host: int | None = None

  def error(self) -> UserError | TryAgainError:
    if self.code != errors.USER_MISTAKE:
      return TryAgainError(self.reason)
    return UserError(self.reason) if self.host is None else EndedByHostError(self.host, self.reason)


def meet(
  address: str, index: int, count: int, secret: bytes, seconds: float, problem: str | None = None
) -> dict[int, Connection]:
  """Return the connections of a host to the others: the lead's to all, and another's to the lead.

  Args:
    address: "host:port" of the lead.
    index: of this host.
    count: number of hosts.
    secret: of the job.
    seconds: how long hosts wait for each other.
    problem: a mistake of this host's, which ends the job on all hosts: this one raises it.

  Raises:
    UserError: if the port is taken, the secrets differ, or the hosts do not fit together; `EndedByHostError` if another
      host has a problem.
    TryAgainError: if hosts do not come in time; it names them.
  """
  if index:
    return _go_to_lead(address, index, count, secret, seconds, problem)
  with addresses.open_port(address) as listening:
    return _Lead(address, listening, count, secret, seconds, problem).wait_for_all()


class _Lead:
  """The lead, while it waits for all hosts."""

  def __init__(
    self, address: str, listening: socket.socket, count: int, secret: bytes, seconds: float, problem: str | None
  ):
    self._address, self._listening, self._count, self._secret = address, listening, count, secret
    self._seconds, self._deadline = seconds, time.monotonic() + seconds
    self._there: dict[int, Connection] = {}
    # Who has not greeted yet, until when it may, and its address; the oldest first.
    self._strangers: dict[Connection, tuple[float, str]] = {}
    self._dropped = self._forged = 0
    self._end: _End | None = None
    self._told: set[int] = set()
    self._selector = selectors.DefaultSelector()
    if problem is not None:
      self._end_with(_End(errors.USER_MISTAKE, problem, 0))

  def wait_for_all(self) -> dict[int, Connection]:
    """Return the connections to all other hosts, by index. Raises as `meet`."""
    self._listening.setblocking(False)
    self._selector.register(self._listening, selectors.EVENT_READ)
    try:
      while len(self._told if self._end else self._there) < self._count - 1:
        if (now := time.monotonic()) >= self._deadline:
          break
        oldest = [limit for limit, _ in itertools.islice(self._strangers.values(), 1)]
        until = min([self._deadline, now + _TICK_SECONDS, *oldest])
        for key, _ in self._selector.select(max(0.0, until - now)):
          if key.data is None:
            self._accept()
          else:
            self._hear(key.data)
        for stranger in [one for one, (limit, _) in self._strangers.items() if limit <= time.monotonic()]:
          self._drop(stranger, f"it did not greet within {_GREETING_SECONDS:g} s")
      if self._end is None and len(self._there) < self._count - 1:
        self._end_with(_End(errors.TRY_AGAIN, self._missing()))
      if self._end is not None:
        raise self._end.error()
    except BaseException:
      for made in self._there.values():
        made.close()
      raise
    finally:
      for stranger in [*self._strangers]:
        self._drop(stranger, "all hosts are there" if self._end is None else "the job has ended")
      self._selector.close()
      if self._dropped > _LOGGED_STRANGERS:
        logging.warning("%d strangers at the coordinator's port were dropped", self._dropped)
    for made in self._there.values():
      _send(made, {"kind": "welcome"})
    return self._there

  def _accept(self) -> None:
    try:
      made, peer = self._listening.accept()
    except OSError as error:
      if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
        self._drop_oldest()
        time.sleep(0.01)
      return
    made.setblocking(False)
    try:
      stranger = Connection(made, self._secret, leads=True)
    except OSError:
      made.close()
      return
    if len(self._strangers) >= _STRANGERS:
      self._drop_oldest()
    self._strangers[stranger] = (time.monotonic() + _GREETING_SECONDS, addresses.join(*peer[:2]))
    self._selector.register(made, selectors.EVENT_READ, stranger)

  def _hear(self, made: Connection) -> None:
    if made in self._strangers:
      try:
        messages = made.receive()
      except ForgedError:
        self._forged += 1
        _send_line(made, REFUSED)
        self._drop(made, f"it is a host with another secret ({VARIABLE} or --secret_file)")
      else:
        if messages is None:
          self._drop(made, made.lost)
        elif messages:
          self._greet(made, messages[0])
    elif made.socket.fileno() >= 0:
      # One that waits here says nothing: it is gone. It may be started again, and come again.
      self._selector.unregister(made.socket)
      for index in [index for index, known in self._there.items() if known is made]:
        self._there.pop(index).close()

  def _greet(self, made: Connection, hello: Message) -> None:
    index, count, problem = (hello.get(name) for name in ("index", "count", "problem"))
    if type(index) is not int or type(count) is not int or not isinstance(problem, str | None):
      self._drop(made, "it greeted as no host does")
      return
    del self._strangers[made]
    if self._end is None and problem is not None:
      self._end_with(_End(errors.USER_MISTAKE, problem, index))
    if self._end is None and (misfit := self._misfit(index, count)) is not None:
      self._end_with(_End(errors.USER_MISTAKE, misfit))
    if self._end is not None:
      self._refuse(index, made, self._end)
      return
    if index in self._there:
      self._selector.unregister(self._there[index].socket)
      self._there.pop(index).close()
    self._there[index] = made
    _send(made, {"kind": "wait", "seconds": self._deadline - time.monotonic()})

  def _misfit(self, index: int, count: int) -> str | None:
    if count != self._count:
      return f"host {index} expects {count} hosts, host 0 expects {self._count}; start all with the same number"
    if not 0 < index < count or (index in self._there and not _is_gone(self._there[index].socket)):
      return f"two processes have the index {index} of {count} hosts; give each its own index"
    return None

  def _end_with(self, end: _End) -> None:
    """End the job for those who are here, and from now on for those who come."""
    self._end = end
    self._deadline = min(self._deadline, time.monotonic() + _TELLING_SECONDS)
    for index, made in self._there.items():
      self._selector.unregister(made.socket)
      self._refuse(index, made, end)
    self._there = {}

  def _refuse(self, index: int, made: Connection, end: _End) -> None:
    self._told.add(index)
    _send(made, {"kind": "refused", **end._asdict()})
    if made.socket in self._selector.get_map():
      self._selector.unregister(made.socket)
    made.close()

  def _drop(self, stranger: Connection, reason: str) -> None:
    _, peer = self._strangers.pop(stranger)
    self._selector.unregister(stranger.socket)
    self._dropped += 1
    if self._dropped <= _LOGGED_STRANGERS:
      logging.warning("a stranger at the coordinator's port, %s, was dropped: %s", peer, reason)
    stranger.close()

  def _drop_oldest(self) -> None:
    if self._strangers:
      self._drop(next(iter(self._strangers)), "too many come at once")

  def _missing(self) -> str:
    missing = hosts(sorted(set(range(1, self._count)) - self._there.keys()))
    here = addresses.join(*self._listening.getsockname()[:2])
    where = self._address if here == self._address else f"{self._address} ({here})"
    reason = f"{missing} of {self._count} did not connect to {where} within {self._seconds:g} s"
    greetings = "1 greeting" if self._forged == 1 else f"{self._forged} greetings"
    return f"{reason}; {greetings} came with another secret" if self._forged else reason


def _go_to_lead(
  address: str, index: int, count: int, secret: bytes, seconds: float, problem: str | None
) -> dict[int, Connection]:
  deadline = time.monotonic() + (seconds if problem is None else min(seconds, _TELLING_SECONDS))
  hello = {"kind": "hello", "index": index, "count": count, "problem": problem and problem[:_PROBLEM_CHARACTERS]}
  while (now := time.monotonic()) < deadline:
    try:
      made = socket.create_connection(
        addresses.split(address), timeout=max(0.1, min(_GREETING_SECONDS, deadline - now))
      )
    except OSError:
      time.sleep(_RETRY_SECONDS)
      continue
    connection, answer = None, None
    try:
      if made.getsockname() == made.getpeername():
        # The system may choose the lead's port for this end, if both are on one machine and nobody listens yet. With
        # a reset the port is free again at once.
        made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionError("connected to itself")
      connection = Connection(made, secret, leads=False)
      answer = _ask(connection, hello)
    except (SecretsDifferError, ForgedError):
      made.close()
      raise UserError(
        f"the secrets differ: that of this host, {index}, is not that of the lead at {address}; give every host the"
        f" same one, by {VARIABLE} or --secret_file"
      ) from None
    except OSError:
      pass  # It has gone, or is no lead.
    if connection is not None and answer is not None and answer["kind"] == "welcome":
      return {0: connection}
    made.close()
    if answer is not None and answer["kind"] == "refused":
      raise _End(answer["code"], answer["reason"], answer["host"]).error()
    time.sleep(_RETRY_SECONDS)
  if problem is not None:
    raise UserError(problem)
  raise TryAgainError(f"host 0, the lead, did not answer at {address} within {seconds:g} s")


def _ask(connection: Connection, hello: Message) -> Message | None:
  """Return the lead's answer to a greeting; None if there is no lead, or it goes away."""
  until = time.monotonic() + _GREETING_SECONDS
  while not connection.has_begun:
    connection.socket.settimeout(max(0.001, until - time.monotonic()))
    if connection.receive() is None:
      return None
  connection.send(hello)
  answer = connection.next(time.monotonic() + _GREETING_SECONDS)
  if answer is not None and answer["kind"] == "wait":
    # A lead that came later than this host waits for longer.
    answer = connection.next(time.monotonic() + answer["seconds"] + _GREETING_SECONDS)
  return answer


def hosts(indices: Collection[int]) -> str:
  """Return a list of hosts in words."""
  indices = list(indices)
  shown = ", ".join(map(str, indices[:20])) + (f" and {len(indices) - 20} more" if len(indices) > 20 else "")
  return f"host {shown}" if len(indices) == 1 else f"hosts {shown}"


def _send(made: Connection, message: Message) -> None:
  # One that cannot be reached will be found lost.
  with contextlib.suppress(OSError):
    made.send(message)


def _send_line(made: Connection, line: bytes) -> None:
  with contextlib.suppress(OSError):
    made.socket.sendall(line)


def _is_gone(made: socket.socket) -> bool:
  """Return whether the other end has closed the connection; it sends nothing while it waits."""
  try:
    return made.recv(1, socket.MSG_PEEK) == b""
  except BlockingIOError:
    return False
  except OSError:
    return True
