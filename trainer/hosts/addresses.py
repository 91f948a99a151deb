"""Addresses: where the lead listens, and what a machine is called on the network that the hosts share."""

import errno
import ipaddress
import socket

from trialbook.errors import UserError

# Addresses for documentation: nothing is there, and nothing is sent, but the system chooses the interface for it.
_SOMEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def split(address: str) -> tuple[str, int]:
  """Return host and port of "host:port". Raises UserError."""
  host, _, port = address.rpartition(":")
  if not (host and port.isdecimal() and int(port) < 2**16):
    raise UserError(f"the coordinator's address is {address!r}; it must be HOST:PORT")
  return host.strip("[]"), int(port)


def join(host: str, port: int) -> str:
  """Return "host:port", an IPv6 address in brackets."""
  return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def open_port(address: str) -> socket.socket:
  """Listen at the lead's address, and on no other interface of this machine.

  Many systems resolve a machine's own name to a loopback address, and a cloud's public addresses are on no interface.
  Then the interface of the default route is taken.

  Raises:
    UserError: if another process listens there, whose job ours would abort; or if the address is not this machine's.
  """
  host, port = split(address)
  for own in _own_addresses(host):
    try:
      # Without SO_REUSEPORT, which jax's service sets, so that two of them would share the port.
      family = socket.AF_INET6 if ":" in own else socket.AF_INET
      return socket.create_server((own, port), family=family, backlog=1024)
    except OSError as error:
      # Not an address of this machine, or of a family that it does not have.
      if error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        continue
      raise UserError(
        f"the coordinator's port {port} cannot be opened on this host, the lead ({own}): {error.strerror};"
        " another job may be using it; choose another port"
      ) from None
  raise UserError(
    f"the coordinator's address is {address}, but {host!r} is no address of this host, the lead, by which others reach"
    " it; give its address on the network of the hosts"
  )


def _own_addresses(host: str) -> list[str]:
  """Return the addresses to try, of this machine, which others call `host`."""
  try:
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
  except (OSError, UnicodeError) as error:
    raise UserError(f"the coordinator's name {host!r} cannot be resolved on this host, the lead: {error}") from None
  if host != "localhost" and not _is_literal(host):
    # "127.0.1.1 NAME" is Debian's line for a machine's own name; other machines have another address for it.
    found = [address for address in found if not ipaddress.ip_address(address).is_loopback]
  return [*found, *_addresses_outside()]


def _is_literal(host: str) -> bool:
  try:
    ipaddress.ip_address(host)
  except ValueError:
    return False
  return True


def _addresses_outside() -> list[str]:
  """Return the addresses that this machine uses towards machines that are not its neighbours."""
  found = []
  for family, somewhere in _SOMEWHERE:
    try:
      with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.connect((somewhere, 9))
        found.append(probe.getsockname()[0])
    except OSError:
      continue  # No such route.
  return found
