"""Memory of a device: what a program needs, by the compiler's analysis, and what there is."""

import contextlib
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import jax

from trialbook.trainer import sharding
from trialbook.trainer.config import Config
from trialbook.trainer.program import Program

PREFETCHED = 3
"""Batches on the devices beside the one of the step: two that wait, and one that is being put there."""
HOST_SHARE = 0.8
"""Share of the free memory of a machine that CPU devices may take. The rest is for what no analysis of a program
counts, and taking the last of it may end other processes."""


def has_room_for_copy(program: Program, config: Config) -> bool:
  """Return whether a copy of the state fits on each device beside the training; True where that is not known.

  On CPU devices it does: the memory that a copy would be moved to is the same.
  """
  device = program.mesh.local_devices[0]
  if device.platform == "cpu":
    return True
  needed, available = needed_bytes(program, config), available_bytes(device)
  return needed is None or available is None or needed <= available


def needed_bytes(program: Program, config: Config) -> int | None:
  """Return the bytes that training and evaluation need on each device; None if the compiler does not say.

  `peak_memory_in_bytes` of the analysis leaves temporaries out on some platforms, so the parts are added up. Beside
  the program's own there are the batches that were made ahead and, while a checkpoint is written, a copy of the state.
  """
  state = sharding.bytes_per_device(program.state_template)
  copies = 1 if config.checkpointing.every_evaluations > 0 else 0
  found = []
  for step, size, train in (
    (program.train_step, config.batch_size, True),
    (program.eval_step, config.evaluation.batch_size, False),
  ):
    memory: Any = step.memory_analysis()
    if memory is None:
      return None
    spec = program.task.batch_spec(size, train=train).values()
    batch = sum(math.prod(one.shape) * one.dtype.itemsize for one in spec) // sharding.replicas(program.mesh)
    own = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    # An evaluation is given a part of the state, and the rest stays where it is.
    found.append(own + memory.generated_code_size_in_bytes + (1 + copies) * state + (1 + PREFETCHED) * batch)
  return max(found)


def available_bytes(device: jax.Device) -> int | None:
  """Return the bytes that a device has for a program; CPU devices share what the machine has free. None if unknown."""
  stats = device.memory_stats() or {}
  if "bytes_limit" in stats:
    return int(stats["bytes_limit"])
  if device.platform != "cpu":
    return None
  free = [*_free_of_machine(), *_free_of_container()]
  return int(HOST_SHARE * min(free) / jax.local_device_count()) if free else None


def is_out_of_memory(error: Exception) -> bool:
  """Return whether a computation or a compilation failed for want of memory."""
  words = ("RESOURCE_EXHAUSTED", "Out of memory")
  failed = isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error) for word in words)
  return failed or isinstance(error, MemoryError)


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
