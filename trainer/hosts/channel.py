"""Messages between the hosts of a job, over one connection from each host to the lead.

jax's coordination service connects the same hosts, but it is not enough. It can be asked nothing before all
hosts are there. It aborts the process where a peer is lost, which it notices by a heartbeat after seconds or
minutes, and aborts the *healthy* job when somebody starts another on its port. Here the lead knows which host is
missing. The death of a process closes its connection, so it is noticed at once. A message from one host
reaches the others while their main threads wait in a collective.

The lead listens on the coordinator's port until all hosts are there. Then it closes the listening socket, whose
port jax's service takes over, and keeps the connections. A message is an object of JSON on one line.
"""

import concurrent.futures
import contextlib
import json
import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from trialbook import errors
from trialbook.errors import TryAgainError, UserError

Message = dict[str, Any]
END = "end"

_HELLO_SECONDS = 5.0
_RETRY_SECONDS = 0.1
_TICK_SECONDS = 0.25


class Channel:
  """The connections of one host: the lead's to all others, and another's to the lead.

  Args:
    address: "host:port" of the lead, the same for all hosts.
    index: of this host.
    count: number of hosts, at least 2.
    hear: called, in a thread of the channel's, with each message to all hosts.
    seconds: how long hosts wait for each other here.
    silence: seconds after which a machine that does not even acknowledge packets counts as lost.

  Raises:
    UserError: if the port is taken, or the hosts were given different numbers of hosts.
    TryAgainError: if hosts do not come in time; it names them.
  """

  def __init__(
    self, address: str, index: int, count: int, hear: Callable[[Message], None], *, seconds: float, silence: float
  ):
    self._index, self._count, self._hear = index, count, hear
    self._state = threading.RLock()
    # All hosts hear messages in one order, so the lead passes on one at a time.
    self._telling = threading.RLock()
    self._names: Counter[str] = Counter()
    self._waiting: dict[str, concurrent.futures.Future[list[Any]]] = {}
    self._gathered: dict[str, tuple[float, str, dict[int, Any]]] = {}
    self._left: set[int] = set()
    self._closing = False
    meet = self._wait_for_all if index == 0 else self._go_to_lead
    self._peers = {peer: _Connection(made, silence) for peer, made in meet(*split(address), seconds).items()}
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
    if self._index == 0:
      self._collect(0, key, value, seconds)
    else:
      self._send(0, {"kind": "value", "key": key, "value": value, "seconds": seconds})
    return future

  @property
  def is_waiting(self) -> bool:
    """Return whether this host waits for others, for which there is a limit of its own."""
    return bool(self._waiting)

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
      while selector.get_map():
        for key, _ in selector.select(_TICK_SECONDS):
          try:
            messages = self._peers[key.data].receive()
            for message in messages or ():
              self._take(key.data, message)
          except (KeyError, TypeError, ValueError):
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
      lost = end(errors.TRY_AGAIN, f"host {peer}{lead} was lost: its process is gone", peer)
      # Who lost the lead can tell nobody.
      (self._tell_all if self._index == 0 else self._hear)(lost)

  def _end_what_is_overdue(self) -> None:
    with self._state:
      late = [key for key, (deadline, *_) in self._gathered.items() if time.monotonic() > deadline]
      overdue = [self._gathered.pop(key) for key in late]
    for _, name, values in overdue:
      missing = sorted(set(range(self._count)) - values.keys())
      self._tell_all(end(errors.TRY_AGAIN, f"{_hosts(missing)} did not reach {name!r} in time", missing[0]))

  def _wait_for_all(self, host: str, port: int, seconds: float) -> dict[int, socket.socket]:
    deadline, there = time.monotonic() + seconds, {}
    with open_port(port) as listening, contextlib.ExitStack() as on_failure:
      on_failure.callback(lambda: [made.close() for made in there.values()])
      while True:
        # One that is gone may be started again, and come again, while others are awaited.
        for index in [index for index, made in there.items() if _is_gone(made)]:
          there.pop(index).close()
        if len(there) == self._count - 1:
          break
        listening.settimeout(max(0.0, deadline - time.monotonic()))
        try:
          made, _ = listening.accept()
        except (TimeoutError, BlockingIOError):
          missing = _hosts(sorted(set(range(1, self._count)) - there.keys()))
          reason = f"{missing} of {self._count} did not connect to {host}:{port} within {seconds:g} s"
          _refuse(there.values(), errors.TRY_AGAIN, reason)
          raise TryAgainError(reason) from None
        hello = _greeting(made)
        if hello is None:
          made.close()  # Not one of ours.
          continue
        problem = self._misfit(hello, there)
        if problem is not None:
          with made:
            _refuse([*there.values(), made], errors.USER_MISTAKE, problem)
          raise UserError(problem)
        if lost := there.get(hello["index"]):
          lost.close()
        there[hello["index"]] = made
        _say([made], {"kind": "wait", "seconds": deadline - time.monotonic()})
      on_failure.pop_all()
    _say(there.values(), {"kind": "welcome"})
    return there

  def _misfit(self, hello: Message, there: Mapping[int, Any]) -> str | None:
    index, count = hello["index"], hello["count"]
    if count != self._count:
      return f"host {index} expects {count} hosts, host 0 expects {self._count}; start all with the same number"
    if not 0 < index < count or (index in there and not _is_gone(there[index])):
      return f"two processes have the index {index} of {count} hosts; give each its own index"
    return None

  def _go_to_lead(self, host: str, port: int, seconds: float) -> dict[int, socket.socket]:
    deadline = time.monotonic() + seconds
    hello = json.dumps({"kind": "hello", "index": self._index, "count": self._count}).encode() + b"\n"
    while time.monotonic() < deadline:
      try:
        made = socket.create_connection(
          (host, port), timeout=max(0.1, min(_HELLO_SECONDS, deadline - time.monotonic()))
        )
      except OSError:
        time.sleep(_RETRY_SECONDS)
        continue
      with contextlib.suppress(OSError):
        made.sendall(hello)
        # If the lead is gone, the connection ends. One that came later than this host waits for longer.
        answer = _line(made, deadline - time.monotonic() + _HELLO_SECONDS)
        if answer is not None and answer.get("kind") == "wait":
          answer = _line(made, answer["seconds"] + _HELLO_SECONDS)
        if answer is not None and answer.get("kind") == "welcome":
          return {0: made}
        if answer is not None and answer.get("kind") == "refused":
          made.close()
          raise (UserError if answer["code"] == errors.USER_MISTAKE else TryAgainError)(answer["reason"])
      made.close()
      time.sleep(_RETRY_SECONDS)
    raise TryAgainError(f"host 0, the lead, did not answer at {host}:{port} within {seconds:g} s")


def end(code: int, cause: str, host: int) -> Message:
  """Return the message that the job is over: every host exits with `code`, because of what happened to `host`."""
  return {"kind": END, "code": code, "cause": cause, "host": host, "time": time.time()}


def split(address: str) -> tuple[str, int]:
  """Return host and port of "host:port". Raises UserError."""
  host, _, port = address.rpartition(":")
  if not (host and port.isdecimal() and int(port) < 2**16):
    raise UserError(f"the coordinator's address is {address!r}; it must be HOST:PORT")
  return host.strip("[]"), int(port)


def open_port(port: int) -> socket.socket:
  """Listen on a port of this host. Raises UserError if another process does: ours would abort its job."""
  try:
    # Without SO_REUSEPORT, which jax's service sets, so that two of them would share the port.
    if socket.has_dualstack_ipv6():
      return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024)
    return socket.create_server(("", port), backlog=1024)
  except OSError as error:
    raise UserError(
      f"the coordinator's port {port} cannot be opened on this host, the lead: {error.strerror};"
      " another job may be using it; choose another port"
    ) from None


class _Connection:
  """Lines of JSON, in both directions; may be written to from several threads."""

  def __init__(self, made: socket.socket, silence: float):
    self.socket, self._buffer, self._writing = made, b"", threading.Lock()
    made.settimeout(None)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # The kernel of the other machine answers for its process, so this notices the loss of a machine.
    probes, interval = 4, max(1, round(silence / 5))
    for option, value in (
      ("TCP_KEEPIDLE", interval),
      ("TCP_KEEPINTVL", interval),
      ("TCP_KEEPCNT", probes),
      ("TCP_USER_TIMEOUT", round(1000 * silence)),
    ):
      if hasattr(socket, option):
        made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

  def send(self, message: Message) -> None:
    data = json.dumps(message).encode() + b"\n"
    with self._writing:
      self.socket.sendall(data)

  def receive(self) -> list[Message] | None:
    """Return what has arrived, once something has; None when nothing more will arrive."""
    try:
      data = self.socket.recv(2**16)
    except OSError:
      data = b""
    if not data:
      return None
    *lines, self._buffer = (self._buffer + data).split(b"\n")
    return [json.loads(line) for line in lines]


def _hosts(indices: list[int]) -> str:
  shown = ", ".join(map(str, indices[:20])) + (f" and {len(indices) - 20} more" if len(indices) > 20 else "")
  return f"host {shown}" if len(indices) == 1 else f"hosts {shown}"


def _line(made: socket.socket, seconds: float) -> Message | None:
  """Return the first line that arrives within `seconds`, if it is a message; read no byte more. Raises OSError."""
  deadline, data = time.monotonic() + seconds, b""
  while not data.endswith(b"\n") and len(data) < 2**16:
    made.settimeout(max(0.001, deadline - time.monotonic()))
    received = made.recv(1)
    if not received:
      return None
    data += received
  try:
    message = json.loads(data)
  except (ValueError, RecursionError):
    return None
  return message if isinstance(message, dict) else None


def _greeting(made: socket.socket) -> Message | None:
  try:
    hello = _line(made, _HELLO_SECONDS)
  except OSError:
    return None
  ours = (
    hello is not None
    and hello.get("kind") == "hello"
    and all(isinstance(hello.get(k), int) for k in ("index", "count"))
  )
  return hello if ours else None


def _refuse(connections: Iterable[socket.socket], code: int, reason: str) -> None:
  _say(connections, {"kind": "refused", "code": code, "reason": reason})


def _say(connections: Iterable[socket.socket], message: Message) -> None:
  data = json.dumps(message).encode() + b"\n"
  for made in connections:
    # One that cannot be reached will be found lost.
    with contextlib.suppress(OSError):
      made.sendall(data)


def _is_gone(made: socket.socket) -> bool:
  """Return whether the other end has closed the connection; it sends nothing while it waits."""
  made.setblocking(False)
  try:
    return made.recv(1, socket.MSG_PEEK) == b""
  except BlockingIOError:
    return False
  except OSError:
    return True
