"""Memory of a device: what there is for a program."""

import contextlib
import pathlib
from collections.abc import Iterator

import jax

HOST_SHARE = 0.8
"""Share of the free memory of a machine that CPU devices may take. The rest is for what no analysis of a program
counts, and taking the last of it may end other processes."""


def available_bytes(device: jax.Device) -> int | None:
  """Return the bytes that a device has for a program; CPU devices share what the machine has free. None if unknown."""
  stats = device.memory_stats() or {}
  if "bytes_limit" in stats:
    return int(stats["bytes_limit"])
  if device.platform != "cpu":
    return None
  free = [*_free_of_machine(), *_free_of_container()]
  return int(HOST_SHARE * min(free) / jax.local_device_count()) if free else None


def _free_of_machine() -> Iterator[int]:
  with contextlib.suppress(OSError, ValueError, IndexError):
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
      if line.startswith("MemAvailable:"):
        yield int(line.split()[1]) * 1024


def _free_of_container() -> Iterator[int]:
  """Yield what the memory limit of a container leaves, if there is one: control groups of version 2, then 1."""
  root = pathlib.Path("/sys/fs/cgroup")
  for limit, used, stat in (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
  ):
    with contextlib.suppress(OSError, ValueError, KeyError):
      counts = dict(line.split() for line in (root / stat).read_text().splitlines())
      # Files that were read and can be dropped are counted as used. A limit of "max" is no number: there is none.
      droppable = int(counts["inactive_file"])
      yield int((root / limit).read_text()) - int((root / used).read_text()) + droppable
