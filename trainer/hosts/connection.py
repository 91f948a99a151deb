"""A connection between two hosts: lines of JSON, each with a proof that its sender knows the secret of the job.

Each end begins with a random number, drawn for this connection alone. The proof of a line is an HMAC of its text and
its place in the order of lines. The key of the HMAC is derived from the secret, both numbers and the direction. So a
recorded line is of no use on another connection, in the other direction or at another place. The secret itself is never
sent. A line is parsed only after its proof has been checked. Lines are not encrypted.
"""

import hmac
import json
import re
import secrets
import socket
import threading
import time
from typing import Any

Message = dict[str, Any]

REFUSED = b"trialbook: the secrets differ\n"
"""The answer to a greeting of a host that has another secret, which no proof could be given for."""

_BEGINNING = re.compile(rb"trialbook 1 ([0-9a-f]{32})")
_SEALED = re.compile(rb"([0-9a-f]{64}) (\{.*\})", re.DOTALL)
_NOT_OURS = "it sent what no host sends"
_GREETING_BYTES = 2**16
# What all hosts gather about their configs may be long, but not without an end.
_LINE_BYTES = 2**28


class ForgedError(Exception):
  """A line has a proof, and it is not that of somebody who knows the secret."""


class SecretsDifferError(Exception):
  """The other end says that this one does not know the secret."""


class Connection:
  """One end of a connection; may be written to from several threads.

  Args:
    made: connected; the caller chooses whether it blocks.
    secret: of the job.
    leads: whether this is the lead's end.

  Attributes:
    socket: the one given.
    lost: why nothing more can be received, once that is so.
    arrived: messages that have come together with the one that `next` returned.
  """

  def __init__(self, made: socket.socket, secret: bytes, *, leads: bool):
    self.socket, self.lost = made, ""
    self._secret, self._leads = secret, leads
    self._drawn = secrets.token_hex(16).encode()
    self._keys: tuple[bytes, bytes] | None = None
    self._sent = self._received = 0
    self._buffer, self._limit = bytearray(), _GREETING_BYTES
    self.arrived: list[Message] = []
    self._writing = threading.Lock()
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.sendall(b"trialbook 1 " + self._drawn + b"\n")

  def send(self, message: Message) -> None:
    """Send a message, once the other end has begun. Raises OSError."""
    text = json.dumps(message).encode()
    assert self._keys is not None
    with self._writing:
      line = _proof(self._keys[0], self._sent, text) + b" " + text + b"\n"
      self._sent += 1
      self.socket.sendall(line)

  def receive(self) -> list[Message] | None:
    """Return what has arrived, once something has; None when nothing more will arrive, for the reason `lost`.

    Raises:
      ForgedError: if the other end does not know the secret.
      SecretsDifferError: if the lead says so of this host, before anything else.
    """
    try:
      data = self.socket.recv(2**16)
    except ConnectionError:
      data = b""
    except OSError as error:
      self.lost = f"its machine does not answer ({error.strerror or error})"
      return None
    if not data:
      self.lost = "its process is gone"
      return None
    self._buffer += data
    messages = []
    if b"\n" in data:
      *lines, self._buffer = self._buffer.split(b"\n")
      for line in lines:
        if self._keys is None:
          self._begin(bytes(line))
        elif (message := self._open(bytes(line))) is not None:
          messages.append(message)
        if self.lost:
          return None
    if len(self._buffer) > self._limit:
      self.lost = f"it sent a line of more than {self._limit:,} bytes"
      return None
    return messages

  def next(self, deadline: float) -> Message | None:
    """Return the next message; None if there is none until `deadline` (monotonic).

    Raises:
      ForgedError, SecretsDifferError: as `receive`.
    """
    while not self.arrived and (left := deadline - time.monotonic()) > 0:
      self.socket.settimeout(left)
      messages = self.receive()
      if messages is None:
        return None
      self.arrived += messages
    return self.arrived.pop(0) if self.arrived else None

  @property
  def has_begun(self) -> bool:
    """Return whether the other end is one of ours, by its first line."""
    return self._keys is not None

  def settle(self, silence: float) -> None:
    """Prepare for a long life: blocking, with long lines, lost if the other machine is silent for `silence` seconds."""
    self._limit = _LINE_BYTES
    made = self.socket
    made.settimeout(None)
    # The kernel of the other machine answers for its process, so this notices the loss of a machine.
    interval, limit = max(1, round(silence / 5)), max(1, round(silence))
    for option, value in (
      ("TCP_KEEPIDLE", interval),
      ("TCP_KEEPINTVL", interval),
      ("TCP_KEEPCNT", max(1, limit // interval - 1)),
      ("TCP_USER_TIMEOUT", 1000 * limit),
    ):
      if hasattr(socket, option):
        made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

  def close(self) -> None:
    """Close the socket."""
    self.socket.close()

  def _begin(self, line: bytes) -> None:
    match = _BEGINNING.fullmatch(line)
    if match is None:
      self.lost = _NOT_OURS
      return
    ours, theirs = self._drawn, match[1]
    both = ours + theirs if self._leads else theirs + ours
    keys = [hmac.digest(self._secret, direction + both, "sha256") for direction in (b"lead", b"host")]
    self._keys = (keys[0], keys[1]) if self._leads else (keys[1], keys[0])

  def _open(self, line: bytes) -> Message | None:
    # Nobody proves it, so only a host that has had no answer believes it; a stranger may send it to the lead.
    if line + b"\n" == REFUSED and not self._leads and not self._received:
      raise SecretsDifferError
    assert self._keys is not None
    match = _SEALED.fullmatch(line)
    if match is None:
      self.lost = _NOT_OURS
      return None
    if not hmac.compare_digest(match[1], _proof(self._keys[1], self._received, match[2])):
      raise ForgedError
    self._received += 1
    try:
      return json.loads(match[2])
    except (ValueError, RecursionError):  # In an open job everyone can give a proof.
      self.lost = _NOT_OURS
      return None


def _proof(key: bytes, place: int, text: bytes) -> bytes:
  return hmac.digest(key, place.to_bytes(8) + text, "sha256").hex().encode()
