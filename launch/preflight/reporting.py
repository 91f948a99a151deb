"""The report of a compiled program: memory, FLOPs, collectives, the least times of a step, and warnings."""

import collections
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import jax
import numpy as np

from trialbook import files
from trialbook.launch.preflight import costs, hlo
from trialbook.launch.preflight.chips import GIB, Topology
from trialbook.launch.preflight.collectives import Places, collectives, link_bytes, place
from trialbook.launch.preflight.records import Bounds, Function, Group, Host, Memory, Report, Save
from trialbook.launch.preflight.warning import warnings_of
from trialbook.trainer import program_memory, sharding
from trialbook.trainer.checkpoints.array_names import flatten
from trialbook.trainer.config import Config
from trialbook.trainer.program import Program

asked_flops = costs.asked_flops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
  """A program that was made for a topology.

  Attributes:
    config: with every derived number explicit.
    topology: the chips.
    program: compiled, unless the compiler found no room.
    places: where its partitions stand.
    asked_flops: FLOPs of each function over all chips, as the program asks for them.
  """

  config: Config
  topology: Topology
  program: Program
  places: Places
  asked_flops: Mapping[str, float]
  kernel_flops: Mapping[str, float]

  @property
  def functions(self) -> dict[str, jax.stages.Compiled]:
    """Return the functions that were compiled, by name."""
    return {name: getattr(self.program, name) for name in self.asked_flops if hasattr(self.program, name)}


def report(made: Made, memory: Memory, *, speed: float, grace: float) -> Report:
  """Return the report, without what only the caller knows.

  Args:
    made: the program.
    memory: as `memory` returns it, or as the compiler's refusal says.
    speed: assumed bytes/s at which a host saves.
    grace: seconds from the platform's warning to the end of the machine.
  """
  topology, program, config = made.topology, made.program, made.config
  complete = len(made.functions) == len(made.asked_flops)
  functions = {name: _function(made, name, one) for name, one in made.functions.items()} if complete else {}
  hops = {
    axis: made.places.hops(axis, topology.shape, [topology.is_ring(index) for index in range(len(topology.shape))])
    for axis, size in made.places.axes.items()
    if size > 1
  }
  written = _written_by_a_host(made)
  verdict, reason = _verdict(made, memory, complete)
  saves = config.checkpointing.every_evaluations > 0
  found: Report = {
    "format": files.FORMAT,
    "config": "",
    "changes": {},
    "topology": str(topology),
    "chip": topology.kind,
    "chips": topology.chips,
    "hosts": topology.hosts,
    "mesh": dict(made.places.axes),
    "hops": hops,
    "parameters": sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(program.state_template["params"])),
    "batch_size": config.batch_size,
    "batch_unit": 1,
    "verdict": verdict,
    "reason": reason,
    "largest_allocations": [],
    "memory": memory,
    "functions": functions,
    "bounds": _bounds(made, functions["train_step"]) if complete else None,
    "save": Save(bytes=written, bytes_per_second=speed, seconds=written / speed, grace_seconds=grace),
    "host": Host(
      batches=(program_memory.PREFETCHED + 1)
      * topology.chips_per_host
      * program_memory.batch_bytes(program, config.batch_size, train=True),
      save=written if saves else 0,
      limit=topology.chip.host_bytes,
    ),
    "warnings": [],
    "notes": [*_notes(topology), *_notes_on_saves(config, memory, verdict)],
    "trace_seconds": 0.0,
    "compile_seconds": 0.0,
    "compiler": {},
  }
  found["warnings"] = warnings_of(found, config, program, topology)
  return found


def memory(made: Made) -> Memory:
  """Return what a compiled program needs on each chip.

  Of a GPU only what follows from shapes is known without one, since its compiler chooses the temporaries.
  """
  program, config = made.program, made.config
  state = sharding.bytes_per_device(program.state_template)
  batch = program_memory.batch_bytes(program, config.batch_size, train=True)
  evaluated = program_memory.batch_bytes(program, config.evaluation.batch_size, train=False)
  need = program_memory.needed(program, config) if made.topology.chip.platform != "gpu" else None
  if need is None:
    need = program_memory.Need(
      train=True,
      arguments=state + batch,
      temporaries=0,
      outputs=0,
      code=0,
      batches=program_memory.PREFETCHED * batch,
      save=program_memory.save_bytes(program, config),
    )
  limit = made.topology.chip.usable_bytes
  if limit is not None and need.total > limit:
    # Without room for a copy, a save reads the state from the chips while the training waits.
    need = dataclasses.replace(need, save=0)
  return Memory(
    **{part: getattr(need, part) for part in program_memory.PARTS},
    padding=max(0, need.arguments - state - (batch if need.train else evaluated)),
    peak=need.total,
    limit=limit,
    known=made.topology.chip.platform != "gpu",
    state=state,
  )


def too_large(memory: Memory) -> str:
  """Return why a program does not fit."""
  limit = memory["limit"]
  needs = f"a chip needs {memory['peak'] / GIB:.2f} GiB"
  return needs if limit is None else f"{needs} and has {limit / GIB:.2f} GiB"


def _verdict(made: Made, memory: Memory, complete: bool) -> tuple[Literal["fits", "does not fit", "not known"], str]:
  limit = memory["limit"]
  if not complete or (limit is not None and memory["peak"] > limit):
    return "does not fit", too_large(memory)
  if limit is None:
    return "not known", f"{made.topology.kind} has no fixed memory"
  if not memory["known"]:
    return (
      "not known",
      "without a GPU, only the state and the batches are known, and they fit; temporaries are not known",
    )
  return "fits", ""


def _notes(topology: Topology) -> list[str]:
  if topology.chip.platform == "tpu":
    return []
  what = "the CPU compiler stands in for that of GPUs" if topology.chip.platform == "gpu" else "compiled for CPUs"
  return [
    f"{what}: FLOPs follow from the program, and hold; collectives and memory traffic show how the program is split,"
    " but a GPU's compiler combines and fuses otherwise; temporaries, kernels and times of a GPU are not known"
    if topology.chip.platform == "gpu"
    else f"{what}: no time is bounded, since the machine's speed is not known"
  ]


def _notes_on_saves(config: Config, memory: Memory, verdict: str) -> list[str]:
  if verdict != "fits" or memory["save"] or config.checkpointing.every_evaluations == 0:
    return []
  return ["there is no room for a copy of the state, so the training waits while a save reads the state from the chips"]


def _function(made: Made, name: str, compiled: jax.stages.Compiled) -> Function:
  module = hlo.parse(compiled.as_text() or "")
  flops = costs.compiled_flops(module)
  if kernels := made.kernel_flops[name]:
    # Of splash attention, which makes one pass.
    flops["bf16", 1] = flops.get(("bf16", 1), 0.0) + kernels / made.program.mesh.size
  analysis: Any = compiled.memory_analysis()
  return Function(
    flops=sum(flops.values()),
    passes=sum(count * passes for (_, passes), count in flops.items()),
    asked_flops=made.asked_flops[name],
    float32_flops=sum(count for (dtype, _), count in flops.items() if dtype == "f32"),
    traffic=costs.traffic(module),
    arguments=0 if analysis is None else analysis.argument_size_in_bytes,
    temporaries=0 if analysis is None else analysis.temp_size_in_bytes,
    outputs=0 if analysis is None else analysis.output_size_in_bytes,
    collectives=_groups(made, module),
  )


def _groups(made: Made, module: hlo.Module) -> list[Group]:
  """Return the collectives of a program, those of one kind, axis and place together, the largest first."""
  chip, places = made.topology.chip, made.places
  found: dict[Any, Group] = {}
  for one in collectives(module, made.program.mesh.size):
    if len(set(one.group)) < 2:
      continue
    crossed = places.crossed(one.group)
    inside, between = link_bytes(one, crossed)
    dimensions = places.dimensions(one.group)
    ici = chip.ici_bandwidth
    if ici is not None and chip.torus:
      ici *= dimensions / chip.torus
    seconds = _seconds(inside, ici), _seconds(between, chip.dcn_bandwidth)
    key = (one.kind, places.axis(one.group), place(one.op_name), one.in_loop, crossed > 1)
    group = found.setdefault(
      key,
      Group(
        kind=one.kind,
        axis=key[1],
        place=key[2],
        instructions=0,
        executions=0,
        arrays=0,
        bytes=0,
        largest=0,
        shape="",
        in_loop=one.in_loop,
        network="dcn" if crossed > 1 else "ici",
        ici_seconds=0.0,
        dcn_seconds=0.0,
      ),
    )
    group["instructions"] += 1
    group["executions"] += one.times
    group["arrays"] += one.arrays
    group["bytes"] += one.times * one.bytes
    if one.largest > group["largest"]:
      group["largest"], group["shape"] = one.largest, one.shape
    for field, more in zip(("ici_seconds", "dcn_seconds"), seconds, strict=True):
      known = group[field]
      group[field] = None if known is None or more is None else known + one.times * more
  return sorted(found.values(), key=lambda group: -group["bytes"])


def _seconds(amount: float, speed: float | None) -> float | None:
  if amount == 0:
    return 0.0
  return None if not speed else amount / speed


def _bounds(made: Made, step: Function) -> Bounds:
  chip = made.topology.chip

  def of_network(field: str) -> float | None:
    seconds = [group[field] for group in step["collectives"]]
    return None if any(one is None for one in seconds) else float(sum(seconds))

  intensity = step["flops"] / step["traffic"] if step["traffic"] else 0.0
  if chip.flops is None or chip.hbm_bandwidth is None:
    return Bounds(
      compute=None,
      memory=None,
      ici=None,
      dcn=None,
      step=None,
      intensity=intensity,
      utilisation=None,
      examples_per_second=None,
    )
  compute, memory = step["passes"] / chip.flops, step["traffic"] / chip.hbm_bandwidth
  ici, dcn = of_network("ici_seconds"), of_network("dcn_seconds")
  largest = max(compute, memory, ici or 0.0, dcn or 0.0)
  return Bounds(
    compute=compute,
    memory=memory,
    ici=ici,
    dcn=dcn,
    step=largest,
    intensity=intensity,
    utilisation=step["asked_flops"] / made.topology.chips / chip.flops / largest if largest else None,
    examples_per_second=made.config.batch_size / largest if largest else None,
  )


def _written_by_a_host(made: Made) -> int:
  """Return the bytes that the host writes which writes most: of each part of an array, its first copy writes."""
  per_host: collections.Counter[int] = collections.Counter()
  first_copies: dict[Any, np.ndarray] = {}
  devices = list(made.program.mesh.devices.flat)
  host = _hosts(made, devices)
  for leaf in flatten(made.program.state_template).values():
    key = leaf.shape, str(leaf.sharding.spec)
    if key not in first_copies:
      seen, first = set(), []
      for device, index in leaf.sharding.devices_indices_map(leaf.shape).items():
        part = tuple((one.start, one.stop) for one in index)
        first += [] if part in seen else [host[device]]
        seen.add(part)
      first_copies[key] = np.bincount(first)
    size = math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for index, count in enumerate(first_copies[key].tolist()):
      per_host[index] += count * size
  return max(per_host.values(), default=0)


def _hosts(made: Made, devices: list[Any]) -> dict[Any, int]:
  """Return the host of each device; those of a TPU are known to it."""
  if made.topology.chip.platform == "tpu":
    known = {index: place for place, index in enumerate(sorted({device.process_index for device in devices}))}
    return {device: known[device.process_index] for device in devices}
  return {device: place // made.topology.chips_per_host for place, device in enumerate(devices)}
