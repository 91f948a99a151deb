"""A line is taken from whoever knows the secret, once, at its place, in its direction; anything else is refused."""

import contextlib
import socket
from collections.abc import Iterator

import pytest

from trialbook.trainer.hosts.connection import REFUSED, Connection, ForgedError, SecretsDifferError

SECRET = b"what both ends know"


class Ends:
  """Both ends of a connection, and what is between them: bytes that a test carries, or changes."""

  def __init__(self, stack: contextlib.ExitStack, secret: bytes = SECRET):
    self.lead, self._to_lead = self._end(stack, SECRET, leads=True)
    self.host, self._to_host = self._end(stack, secret, leads=False)
    self.carry()

  def _end(self, stack: contextlib.ExitStack, secret: bytes, *, leads: bool) -> tuple[Connection, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
      ours = stack.enter_context(socket.create_connection(listening.getsockname(), timeout=5))
      theirs = stack.enter_context(listening.accept()[0])
    theirs.settimeout(5)
    return Connection(ours, secret, leads=leads), theirs

  def carry(self) -> None:
    """Carries what both ends have said first."""
    for source, target in ((self._to_lead, self._to_host), (self._to_host, self._to_lead)):
      target.sendall(source.recv(2**16))
    assert self.lead.receive() == [] == self.host.receive()

  def said_by_host(self, message: dict) -> bytes:
    self.host.send(message)
    return self._to_host.recv(2**20)

  def lead_hears(self, data: bytes) -> list[dict] | None:
    self._to_lead.sendall(data)
    return self.lead.receive()


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
  with contextlib.ExitStack() as made:
    yield made


def test_messages_arrive_in_order_also_in_pieces(stack: contextlib.ExitStack):
  ends = Ends(stack)
  data = b"".join(ends.said_by_host({"number": number, "text": "a\nb é"}) for number in range(3))
  assert ends.lead_hears(data[:100]) == []
  assert ends.lead_hears(data[100:]) == [{"number": number, "text": "a\nb é"} for number in range(3)]


def test_a_line_is_refused_that_was_changed_repeated_moved_or_turned_around(stack: contextlib.ExitStack):
  first = Ends(stack).said_by_host({"code": 2})
  wrong = {"of another connection": first}
  ends = Ends(stack)
  line = ends.said_by_host({"code": 2})
  wrong["changed"] = line.replace(b"2}", b"0}")
  wrong["the second first"] = ends.said_by_host({"code": 2})
  ends.lead.send({"code": 2})
  wrong["its own"] = ends._to_lead.recv(2**16)
  for data in wrong.values():
    with pytest.raises(ForgedError):
      ends.lead_hears(data)
  assert ends.lead_hears(line) == [{"code": 2}]
  with pytest.raises(ForgedError):
    ends.lead_hears(line)


def test_an_end_that_does_not_know_the_secret_is_found_out_and_told(stack: contextlib.ExitStack):
  ends = Ends(stack, b"what one end believes")
  with pytest.raises(ForgedError):
    ends.lead_hears(ends.said_by_host({}))
  ends._to_host.sendall(REFUSED)
  with pytest.raises(SecretsDifferError):
    ends.host.receive()


@pytest.mark.parametrize("data", [b"{}\n", b"[" * 1000 + b"\n", b"\xff\n", b"\n", b"x" * 64 + b" []\n"])
def test_what_has_no_proof_ends_the_connection(stack: contextlib.ExitStack, data: bytes):
  ends = Ends(stack)
  assert ends.lead_hears(data) is None
  assert ends.lead.lost == "it sent what no host sends"


def test_a_line_without_an_end_ends_the_connection(stack: contextlib.ExitStack):
  ends = Ends(stack)
  answers = []
  for _ in range(100):
    if (answer := ends.lead_hears(b"x" * 1000)) is None:
      break
    answers.append(answer)
  assert len(answers) < 70
  assert ends.lead.lost == "it sent a line of more than 65,536 bytes"
