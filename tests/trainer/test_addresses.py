"""Where the lead listens, whatever its machine resolves its own name to."""

import socket

import pytest

from trialbook.errors import UserError
from trialbook.trainer.hosts import addresses

DOCUMENTATION = "203.0.113.7"  # An address of nobody.


def resolve(monkeypatch, **found: str) -> None:
  """Lets this machine resolve names to addresses, as its /etc/hosts would."""
  genuine = socket.getaddrinfo

  def answer(host, *arguments, **named):
    return genuine(found.get(host, host), *arguments, **named)

  monkeypatch.setattr(socket, "getaddrinfo", answer)


def listens_at(address: str) -> str:
  with addresses.open_port(address) as listening:
    return listening.getsockname()[0]


def test_it_listens_at_the_address_that_is_given_and_nowhere_else():
  assert listens_at("127.0.0.1:0") == "127.0.0.1"
  assert listens_at("127.0.0.3:0") == "127.0.0.3"
  assert listens_at("localhost:0") in ("127.0.0.1", "::1")


@pytest.mark.parametrize("name", ["debian", "cloud"])
def test_a_name_that_is_loopback_here_or_an_address_of_no_interface_is_the_interface_to_others(monkeypatch, name: str):
  resolve(monkeypatch, debian="127.0.1.1", cloud=DOCUMENTATION)
  monkeypatch.setattr(addresses, "_addresses_outside", lambda: ["127.0.0.9"])
  assert listens_at(f"{name}:0") == "127.0.0.9"


@pytest.mark.parametrize("address", ["debian:1234", f"{DOCUMENTATION}:1234"])
def test_without_an_interface_to_others_the_address_is_refused(monkeypatch, address: str):
  resolve(monkeypatch, debian="127.0.1.1")
  monkeypatch.setattr(addresses, "_addresses_outside", list)
  with pytest.raises(UserError, match="is no address of this host, the lead, by which others reach it"):
    addresses.open_port(address)


def test_a_name_that_does_not_exist_is_named():
  with pytest.raises(UserError, match=r"the coordinator's name 'no-such-host\.invalid' cannot be resolved"):
    addresses.open_port("no-such-host.invalid:1234")


def test_addresses_with_colons_are_in_brackets():
  assert addresses.join("::1", 5) == "[::1]:5"
  assert addresses.split(addresses.join("::1", 5)) == ("::1", 5)
