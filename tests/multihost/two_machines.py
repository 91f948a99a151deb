"""Two machines on this one: network namespaces with a link between them, which can go down.

Needs root and Debian's package iproute2; the namespaces are gone after the `with`.
"""

import contextlib
import itertools
import os
import pathlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from forked import Forked

ADDRESSES = ("10.213.0.1", "10.213.0.2")
# Becomes a process on that machine, with its name and its /etc/hosts, and then what the arguments say.
_ENTER = """
import ctypes, os, runpy, socket
libc = ctypes.CDLL(None, use_errno=True)
new_net, new_mounts, new_names, private_and_below, bind = 0x40000000, 0x20000, 0x4000000, 0x44000, 0x1000
def do(result):
  if result:
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
do(libc.setns(os.open({namespace!r}, os.O_RDONLY), new_net))
do(libc.unshare(new_mounts | new_names))
do(libc.mount(b"none", b"/", None, private_and_below, None))
do(libc.mount({hosts!r}.encode(), b"/etc/hosts", None, bind, None))
socket.sethostname({name!r})
runpy.run_module("trialbook", run_name="__main__", alter_sys=True)
"""
_numbers = itertools.count()


def missing() -> str:
  """What this machine lacks for two; empty if nothing."""
  if shutil.which("ip") is None:
    return "no ip: apt-get install iproute2"
  if os.getuid():
    return "network namespaces need root"
  probe = f"probe{os.getpid()}"
  made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
  if made.returncode:
    return f"no network namespace can be made here: {made.stderr.strip()}"
  ip("netns", "delete", probe)
  return ""


def ip(*arguments: str) -> None:
  """Runs the program ip."""
  subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class TwoMachines:
  """The machines 0 and 1, each with an address of `ADDRESSES` and a loopback interface.

  Args:
    folder: for their files.
    hosts: /etc/hosts of each; default: each one's own name is 127.0.1.1, as on Debian, and that of the other is right.
  """

  def __init__(self, folder: pathlib.Path, hosts: Sequence[str] | None = None):
    self._namespaces = [f"tests{os.getpid()}-{next(_numbers)}" for _ in ADDRESSES]
    self.names = [f"machine{index}" for index in range(2)]
    self._files = [folder / f"hosts_{index}" for index in range(2)]
    for index, file in enumerate(self._files):
      own = f"127.0.0.1 localhost\n127.0.1.1 {self.names[index]}\n{ADDRESSES[1 - index]} {self.names[1 - index]}\n"
      file.write_text(own if hosts is None else hosts[index])

  def set_up(self) -> None:
    """Makes the namespaces and the link."""
    one, other = self._namespaces
    for namespace in (one, other):
      ip("netns", "add", namespace)
      ip("-n", namespace, "link", "set", "lo", "up")
    ip("-n", one, "link", "add", "lan", "type", "veth", "peer", "name", "lan", "netns", other)
    for namespace, address in zip(self._namespaces, ADDRESSES, strict=True):
      ip("-n", namespace, "address", "add", f"{address}/24", "dev", "lan")
    self.mend()

  def tear_down(self) -> None:
    """Removes everything."""
    for namespace in self._namespaces:
      with contextlib.suppress(subprocess.CalledProcessError):
        ip("netns", "delete", namespace)

  def cut(self) -> None:
    """Lets the machines vanish for each other."""
    ip("-n", self._namespaces[0], "link", "set", "lan", "down")

  def mend(self) -> None:
    """Lets the machines see each other; what is not on their network has a route, too."""
    for namespace, gateway in zip(self._namespaces, reversed(ADDRESSES), strict=True):
      ip("-n", namespace, "link", "set", "lan", "up")
      ip("-n", namespace, "route", "replace", "default", "via", gateway)

  def start(
    self, machine: int, arguments: Sequence[str], output: pathlib.Path, environment: Mapping[str, str]
  ) -> Forked:
    """Starts `trialbook ARGUMENTS` on a machine."""
    script = _ENTER.format(
      namespace=f"/run/netns/{self._namespaces[machine]}", hosts=str(self._files[machine]), name=self.names[machine]
    )
    return Forked(["-c", script, *arguments], output, environment=environment)


@contextlib.contextmanager
def two_machines(folder: pathlib.Path, hosts: Sequence[str] | None = None) -> Iterator[TwoMachines]:
  """Inside, two machines are there."""
  machines = TwoMachines(folder, hosts)
  try:
    machines.set_up()
    yield machines
  finally:
    machines.tear_down()
