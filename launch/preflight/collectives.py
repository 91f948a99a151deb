"""The collectives of a compiled program: kind, bytes, axes of the mesh, place in the model, and how often they run."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trialbook.launch.preflight.hlo import ArrayType, Instruction, Module

KINDS = (
  *("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "ragged-all-to-all"),
  *("collective-permute", "collective-broadcast"),
)
_LISTED = re.compile(r"\b(?:replica_groups|source_target_pairs)=\{((?:\{[\d,]*\},?)*)\}")
_IOTA = re.compile(r"\breplica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_MESH = re.compile(r"\breplica_groups=mesh\[([^\]]*)\](?:, device_ids=\(\[([\d,]+)\](?:T\(([\d,]+)\))?\))? \{([^}]*)\}")
_AXIS = re.compile(r"'([^']+)'(?:=(\d+)|:\((\d+)\)(\d+))?")
_SCATTERS = re.compile(r"all-reduce-scatter|reduce-scatter")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Collective:
  """A collective of a program.

  Attributes:
    kind: such as "all-gather".
    bytes: of a chip, in one execution: of what is gathered, or of what is reduced before it is scattered.
    largest, shape: bytes and type of the largest of its arrays.
    arrays: number of arrays that are combined in it.
    group: the partitions that take part, of the first group; of a permutation, the pair whose numbers are farthest
      apart, so that one which crosses slices is found.
    times: executions in one execution of the program.
    in_loop: whether a loop runs it.
    op_name: what jax calls the operation that needs it.
  """

  kind: str
  bytes: int
  largest: int
  shape: str
  arrays: int
  group: tuple[int, ...]
  times: int
  in_loop: bool
  op_name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Places:
  """Where the partitions of a program stand.

  Attributes:
    axes: sizes of the mesh's axes by name; partitions are numbered in this order, the last axis fastest.
    coordinates: of each partition in the interconnect; empty tuples where chips reach each other through a switch.
    slices: the slice, or the node, of each partition.
  """

  axes: Mapping[str, int]
  coordinates: Sequence[tuple[int, ...]]
  slices: Sequence[int]

  def axis(self, group: Sequence[int]) -> str:
    """Return the axes of the mesh along which a group lies, such as "fsdp" or "data+fsdp"."""
    places = np.array(np.unravel_index(list(group), tuple(self.axes.values())))
    moving = [name for name, along in zip(self.axes, places, strict=True) if len(set(along.tolist())) > 1]
    if math.prod(self.axes[name] for name in moving) != len(group):
      return f"part of {'+'.join(moving)}" if moving else "none"
    return "+".join(moving)

  def crossed(self, group: Sequence[int]) -> int:
    """Return over how many slices a group lies."""
    return len({self.slices[one] for one in group})

  def dimensions(self, group: Sequence[int]) -> int:
    """Return along how many dimensions of the interconnect a group lies; 0 if there are none."""
    coordinates = np.array([self.coordinates[one] for one in group])
    return sum(len(set(along)) > 1 for along in coordinates.T.tolist()) if coordinates.size else 0

  def hops(self, axis: str, shape: Sequence[int], is_ring: Sequence[bool]) -> int | None:
    """Return the largest number of links between neighbours along an axis of the mesh, inside of a slice.

    None: chips have no neighbours, or there is only one along the axis.

    Args:
      axis: of the mesh.
      shape: chips along each dimension of the interconnect.
      is_ring: whether the ends of each dimension are neighbours.
    """
    names = list(self.axes)
    ids = np.arange(math.prod(self.axes.values())).reshape(tuple(self.axes.values()))
    lines = np.moveaxis(ids, names.index(axis), -1).reshape(-1, self.axes[axis])
    largest = 0
    for line in lines.tolist():
      coordinates = np.array([self.coordinates[one] for one in line])
      moves = [len(set(along)) > 1 for along in coordinates.T.tolist()]
      closed = any(ring for ring, move in zip(is_ring, moves, strict=False) if move)
      # The way back from the end of a line that is no ring is no hop between neighbours.
      for one, other in zip(line, [*line[1:], line[0]] if closed else line[1:], strict=False):
        if one == other or not self.coordinates[one] or self.slices[one] != self.slices[other]:
          continue
        distance = 0
        for here, there, side, ring in zip(
          self.coordinates[one], self.coordinates[other], shape, is_ring, strict=False
        ):
          straight = abs(here - there)
          distance += min(straight, side - straight) if ring else straight
        largest = max(largest, distance)
    return largest or None


def collectives(module: Module, partitions: int) -> list[Collective]:
  """Return the collectives of a program, in the order of its text.

  An asynchronous one counts once, at its start. The compiler of TPUs fuses an all-reduce and the slice of each chip
  into one operation, which counts as the reduce-scatter that it is.
  """
  scattering = frozenset(_scattering(module))
  found = []
  for computation, times, instruction in module.running():
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
      continue
    arrays = _arrays(module, computation, instruction, kind)
    if kind == "all-reduce" and computation in scattering:
      kind = "reduce-scatter"
    largest = max(arrays, key=lambda one: one.bytes, default=ArrayType("f32", (0,)))
    found.append(
      Collective(
        kind=kind,
        bytes=sum(one.bytes for one in arrays),
        largest=largest.bytes,
        shape=str(largest),
        arrays=len(arrays),
        group=_group(instruction, partitions),
        times=times,
        in_loop=computation in module.loops,
        op_name=instruction.op_name,
      )
    )
  return found


def link_bytes(one: Collective, slices: int) -> tuple[float, float]:
  """Return the fewest bytes that a chip must receive in one execution: inside of a slice, and from other slices.

  A group of n chips in s slices is n/s chips wide in each. Between slices, each chip moves its share of the whole.
  """
  wide = max(1, len(one.group) // slices)
  if one.kind in ("collective-permute", "collective-broadcast"):
    return (0.0, float(one.bytes)) if slices > 1 else (float(one.bytes), 0.0)
  both_ways = 2 if one.kind == "all-reduce" else 1
  inside = both_ways * one.bytes * (wide - 1) / wide
  return inside, both_ways * one.bytes / wide * (slices - 1) / slices


def _arrays(module: Module, computation: str, instruction: Instruction, kind: str) -> tuple[ArrayType, ...]:
  """Return the arrays whose bytes count: what was gathered, or what is to be reduced."""
  operands = [one for types in module.operand_types(computation, instruction) for one in types]
  if kind == "reduce-scatter" and operands:
    return tuple(operands)
  if instruction.opcode == kind or kind == "all-reduce":
    return instruction.types
  # The start of an asynchronous operation: a tuple of operands, results, and what the hardware needs.
  return instruction.parts[1] if len(instruction.parts) > 1 else instruction.types


def _group(instruction: Instruction, partitions: int) -> tuple[int, ...]:
  """Return the first group of partitions, in any of the forms that HLO has for it."""
  if mesh := _MESH.search(instruction.attributes):
    return _along_axes(*mesh.groups())
  if iota := _IOTA.search(instruction.attributes):
    shape, reshaped, order = ([int(n) for n in text.split(",")] if text else [] for text in iota.groups())
    ids = np.arange(math.prod(reshaped)).reshape(reshaped)
    return tuple(int(one) for one in ids.transpose(order or None).reshape(shape)[0])
  if listed := _LISTED.search(instruction.attributes):
    groups = [[int(n) for n in text.split(",")] for text in re.findall(r"\{([\d,]+)\}", listed[1])]
    if groups and "source_target_pairs" in listed[0]:
      # Of the sends, the longest way along the mesh; one to itself moves nothing.
      return tuple(max(groups, key=lambda pair: (pair[0] != pair[-1], abs(pair[0] - pair[-1]))))
    if groups:
      return tuple(groups[0])
  return tuple(range(partitions))


def _along_axes(axes: str, reshaped: str | None, order: str | None, wanted: str) -> tuple[int, ...]:
  """Return the partitions along some axes of a mesh, such as `'a'=4,'b'=2`, `2,4`, `1,0` and `'a'`.

  The partitions 0, 1, … are reshaped and transposed first; `'a':(2)2` is the part of an axis of which 2 come before.
  """
  sizes = {name: int(size) for name, size, _, _ in _AXIS.findall(axes)}
  ids = np.arange(math.prod(sizes.values()))
  if reshaped:
    dimensions = [int(n) for n in reshaped.split(",")]
    ids = ids.reshape(dimensions).transpose([int(n) for n in order.split(",")] if order else None)
  ids = ids.reshape(tuple(sizes.values()))
  picked: list[Any] = [slice(0, 1)] * len(sizes)
  for name, _, before, size in _AXIS.findall(wanted):
    axis = list(sizes).index(name)
    step = sizes[name] // (int(before) * int(size)) if size else 1
    picked[axis] = slice(0, step * int(size) if size else None, step)
  return tuple(int(one) for one in ids[tuple(picked)].ravel())


def _scattering(module: Module) -> Iterator[str]:
  """Yield the computations of fusions that are a reduce-scatter."""
  for _, _, instruction in module.running():
    if instruction.opcode == "fusion":
      called = re.search(r"\bcalls=%?([\w.\-]+)", instruction.attributes)
      if called and _SCATTERS.search(called[1]):
        yield called[1]


@functools.lru_cache(maxsize=4096)
def place(op_name: str) -> str:
  """Return where in the step and the model an operation is, from what jax calls it.

  `jit(train_step)/transpose(jvp(while))/body/checkpoint/dot_general` is "backward: while/body/checkpoint/dot_general".
  """
  inside = re.sub(r"^jit\(\w+\)/(?:jit\(main\)/)?", "", op_name)
  phase = "backward" if "transpose(" in inside else "forward" if "jvp(" in inside else ""
  while (
    bare := re.sub(r"\b(?:transpose|jvp|vmap|jit|checkpoint|rematted_computation)\(([^()]*)\)", r"\1", inside)
  ) != (inside):
    inside = bare
  parts = [part for part in inside.split("/") if part and part not in ("closed_call", "body", "while", "checkpoint")]
  return f"{phase}: {'/'.join(parts)}".removeprefix(": ") or "unnamed"
