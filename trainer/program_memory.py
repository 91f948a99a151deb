"""Memory that a compiled program needs on each device, by the compiler's analysis."""

import dataclasses
import math
from typing import Any

import jax

from trialbook.trainer import sharding
from trialbook.trainer.config import Config
from trialbook.trainer.device_memory import available_bytes
from trialbook.trainer.program import Program

PREFETCHED = 3
"""Batches on the devices beside the one of the step: two that wait, and one that is being put there."""
PARTS = ("arguments", "temporaries", "outputs", "code", "batches", "save")
"""What a `Need` is made of."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Need:
  """Bytes on each device while a function runs.

  Attributes:
    train: whether the function is the train step, and not that of an evaluation.
    arguments: of the function, and the rest of the state if the function is given a part of it.
    temporaries: intermediate results.
    outputs: results that take no argument's place.
    code: the program itself.
    batches: that were made ahead.
    save: the copy of the state that is there while a checkpoint is written.
  """

  train: bool
  arguments: int
  temporaries: int
  outputs: int
  code: int
  batches: int
  save: int

  @property
  def total(self) -> int:
    """Return the sum of `PARTS`."""
    return sum(getattr(self, part) for part in PARTS)


def needed(program: Program, config: Config) -> Need | None:
  """Return what the train step or the evaluation step needs, whichever is more; None if the compiler does not say.

  `peak_memory_in_bytes` of the analysis leaves temporaries out on some platforms, so the parts are added up.
  """
  template = program.state_template
  weights = template.get("average", template)
  evaluated = {name: weights[name] for name in ("params", "variables")}
  rest = sharding.bytes_per_device(template) - sharding.bytes_per_device(evaluated)
  found = []
  for step, size, train in (
    (program.train_step, config.batch_size, True),
    (program.eval_step, config.evaluation.batch_size, False),
  ):
    memory: Any = step.memory_analysis()
    if memory is None:
      return None
    found.append(
      Need(
        train=train,
        arguments=memory.argument_size_in_bytes + (0 if train else rest),
        temporaries=memory.temp_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
        batches=PREFETCHED * batch_bytes(program, size, train=train),
        save=save_bytes(program, config),
      )
    )
  return max(found, key=lambda need: need.total)


def has_room_for_copy(program: Program, config: Config) -> bool:
  """Return whether a copy of the state fits on each device beside the training; True where that is not known.

  On CPU devices it does: the memory that a copy would be moved to is the same.
  """
  device = program.mesh.local_devices[0]
  if device.platform == "cpu":
    return True
  need, available = needed(program, config), available_bytes(device)
  return need is None or available is None or need.total <= available


def batch_bytes(program: Program, size: int, *, train: bool) -> int:
  """Return the bytes of each device's share of a batch of `size` examples."""
  spec = program.task.batch_spec(size, train=train).values()
  place = sharding.batch(program.mesh)
  return sum(math.prod(place.shard_shape(one.shape)) * one.dtype.itemsize for one in spec)


def save_bytes(program: Program, config: Config) -> int:
  """Return the bytes that a save adds on each device: a copy of the state, because the step donates its buffers."""
  return sharding.bytes_per_device(program.state_template) if config.checkpointing.every_evaluations > 0 else 0


def is_out_of_memory(error: Exception) -> bool:
  """Return whether a computation or a compilation failed for want of memory, on a device or on the host."""
  return is_out_of_device_memory(error) or isinstance(error, MemoryError)


def is_out_of_device_memory(error: BaseException) -> bool:
  """Return whether a device had no room for a program or its data."""
  # Where a computation's buffers are allocated when it is dispatched, the status is INTERNAL.
  words = ("RESOURCE_EXHAUSTED", "Out of memory")
  return isinstance(error, jax.errors.JaxRuntimeError) and any(word in str(error) for word in words)
