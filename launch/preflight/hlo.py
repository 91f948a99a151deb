"""The text of a compiled program: its computations, how many times each runs in a step, and the shapes of its arrays.

The text is what `jax.stages.Compiled.as_text` returns. Imports no jax, so that saved texts can be read anywhere.
"""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Iterable, Iterator, Mapping

BITS = {
  "pred": 8,
  "s4": 4,
  "u4": 4,
  "s8": 8,
  "u8": 8,
  "s16": 16,
  "u16": 16,
  "bf16": 16,
  "f16": 16,
  "s32": 32,
  "u32": 32,
  "f32": 32,
  "s64": 64,
  "u64": 64,
  "f64": 64,
  "c64": 64,
  "c128": 128,
}
"""Bits of an element by dtype; those of small floats are in their names, such as f8e4m3fn."""
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<= ]*)\](?:\{([^{}]*)\})?")
_NAMED = re.compile(r"^(ROOT )?%?([\w.\-]+) = ")
_OPCODE = re.compile(r"([\w\-]+)\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_TILE = re.compile(r":T\((\d+(?:,\d+)*)\)")
_CALLED = re.compile(r"\b(calls|body|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations|calls)=\{([^}]*)\}")
_CONDITION = re.compile(r"\bcondition=%?([\w.\-]+)")
_BODY = re.compile(r"\bbody=%?([\w.\-]+)")
_INDEX = re.compile(r"\bindex=(\d+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class ArrayType:
  """The type of one array.

  Attributes:
    dtype: as HLO names it, such as "bf16".
    shape: its dimensions.
    layout: what stands in braces, such as "1,0:T(8,128)(2,1)S(1)".
  """

  dtype: str
  shape: tuple[int, ...]
  layout: str = ""

  def __str__(self) -> str:
    return f"{self.dtype}[{','.join(map(str, self.shape))}]"

  @property
  def bits(self) -> int:
    """Return the bits of an element; 0 for what is no data, such as a token."""
    if self.dtype in BITS:
      return BITS[self.dtype]
    small = re.fullmatch(r"f(\d+)e\d\w*", self.dtype)
    return int(small[1]) if small else 0

  @property
  def bytes(self) -> int:
    """Return its bytes without padding."""
    return math.prod(self.shape) * self.bits // 8

  @property
  def padded_bytes(self) -> int:
    """Return its bytes in memory: the dimensions that lie together are multiples of the first tile."""
    tile = _TILE.search(self.layout)
    if tile is None or not self.shape:
      return self.bytes
    order = [int(index) for index in self.layout.partition(":")[0].split(",") if index]
    sides, padded = [int(side) for side in tile[1].split(",")][::-1], list(self.shape)
    for index, side in zip(order, sides, strict=False):
      padded[index] = -(-padded[index] // side) * side
    return math.prod(padded) * self.bits // 8

  @property
  def is_in_main_memory(self) -> bool:
    """Return whether it lies in the memory of the chip, and in no memory on the chip."""
    return "S(" not in self.layout or "S(0)" in self.layout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Instruction:
  """One instruction.

  Attributes:
    name: without the percent sign.
    types: of its results; several if it is a tuple.
    parts: the types of a tuple's members, a list for each, since members may be tuples.
    opcode: such as "all-reduce".
    operands: names of its operands, in order.
    attributes: what stands after the operands.
    literal: what stands between the parentheses.
    is_root: whether it is the result of its computation.
  """

  name: str
  types: tuple[ArrayType, ...]
  parts: tuple[tuple[ArrayType, ...], ...]
  opcode: str
  operands: tuple[str, ...]
  attributes: str
  literal: str
  is_root: bool

  @property
  def bytes(self) -> int:
    """Return the bytes of its results."""
    return sum(one.bytes for one in self.types)

  @property
  def op_name(self) -> str:
    """Return what jax calls the operation that it was made from; "" if it has no name."""
    found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
    return found[1] if found else ""


@dataclasses.dataclass(frozen=True)
class Module:
  """A program: its computations by name, in order, each a mapping of instructions by name.

  Attributes:
    computations: all of them.
    entry: name of the one that the program begins with.
    trips: how many times each runs in one execution of the program; 0 for scalar functions of reductions.
  """

  computations: Mapping[str, Mapping[str, Instruction]]
  entry: str

  @functools.cached_property
  def trips(self) -> Mapping[str, int]:
    """Return how many times each computation runs."""
    runs: collections.Counter[str] = collections.Counter({self.entry: 1})
    # A computation stands before those that call it, so all callers of one are counted before it is.
    for name in reversed(list(self.computations)):
      if runs[name]:
        for called, times in self._calls(name):
          runs[called] += runs[name] * times
    return runs

  @functools.cached_property
  def loops(self) -> frozenset[str]:
    """Return the names of the computations that a loop runs, also indirectly."""
    found: set[str] = set()
    for name in reversed(list(self.computations)):
      for instruction in self.computations[name].values():
        inside = name in found or instruction.opcode == "while"
        found.update(called for called, _ in _called(instruction) if inside)
    return frozenset(found)

  @functools.cached_property
  def fused(self) -> frozenset[str]:
    """Return the names of the computations inside of fusions, whose values do not go through memory."""
    found: set[str] = set()
    for name in reversed(list(self.computations)):
      for instruction in self.computations[name].values():
        if name in found or instruction.opcode == "fusion":
          found.update(called for called, _ in _called(instruction))
    return frozenset(found)

  def running(self) -> Iterator[tuple[str, int, Instruction]]:
    """Yield each instruction with the name of its computation and how many times it runs."""
    for name, instructions in self.computations.items():
      if times := self.trips.get(name, 0):
        for instruction in instructions.values():
          yield name, times, instruction

  def operand_types(self, computation: str, instruction: Instruction) -> list[tuple[ArrayType, ...]]:
    """Return the types of each operand."""
    known = self.computations[computation]
    return [known[name].types if name in known else () for name in instruction.operands]

  def _calls(self, name: str) -> Iterator[tuple[str, int]]:
    for instruction in self.computations[name].values():
      times = self._trip_count(instruction) if instruction.opcode == "while" else 1
      for called, is_scalar in _called(instruction):
        if not is_scalar:
          yield called, times

  def _trip_count(self, loop: Instruction) -> int:
    """Return how many times a loop runs, as the compiler wrote it, or from its condition `i < limit` and `i += step`.

    It is 1 if neither is there. The loops of jax and of the compiler begin with 0.
    """
    if known := _TRIPS.search(loop.attributes):
      return int(known[1])
    condition, body = _CONDITION.search(loop.attributes), _BODY.search(loop.attributes)
    if condition is None or body is None:
      return 1
    limits = self._constants(condition[1])
    counters = [
      int(found[1])
      for one in self.computations.get(condition[1], {}).values()
      if one.opcode == "get-tuple-element" and (found := _INDEX.search(one.attributes))
    ]
    steps = [step for counter in counters if (step := self._step(body[1], counter))]
    return math.ceil(max(limits, default=1) / steps[0]) if steps else max(limits, default=1)

  def _step(self, body: str, counter: int) -> int:
    """Return by how much a loop's body increases a member of the tuple that it carries; 0: it cannot be seen."""
    instructions = self.computations.get(body, {})
    root = next((one for one in instructions.values() if one.is_root), None)
    if root is None or root.opcode != "tuple" or counter >= len(root.operands):
      return 0
    name, total = root.operands[counter], 0
    while (one := instructions.get(name)) is not None and one.opcode in ("add", "copy", "bitcast"):
      added = [instructions[other] for other in one.operands if other in instructions]
      constants = [other for other in added if other.opcode == "constant" and other.literal.isdecimal()]
      total += sum(int(other.literal) for other in constants)
      rest = [other.name for other in added if other not in constants]
      if len(rest) != 1:
        return 0
      name = rest[0]
    return total

  def _constants(self, computation: str) -> list[int]:
    found = []
    for instruction in self.computations.get(computation, {}).values():
      if instruction.opcode == "constant" and instruction.literal.isdecimal():
        found.append(int(instruction.literal))
      for called, _ in _called(instruction):
        found += self._constants(called)
    return found


def parse(text: str) -> Module:
  """Return the program that a text describes.

  Raises:
    ValueError: it has no entry.
  """
  computations: dict[str, dict[str, Instruction]] = {}
  entry, current = "", None
  for line in text.splitlines():
    line = line.strip()
    if current is None:
      if found := _COMPUTATION.match(line):
        current = computations.setdefault(found[2], {})
        entry = found[2] if found[1] else entry
    elif line == "}":  # Attributes of a kernel may go over lines that begin so.
      current = None
    elif instruction := _instruction(line):
      current[instruction.name] = instruction
  if not entry:
    raise ValueError("the text has no ENTRY computation")
  return Module(computations, entry)


def array_types(text: str) -> tuple[ArrayType, ...]:
  """Return the types of all arrays in the text of a type."""
  found = []
  for dtype, shape, layout in _ARRAY.findall(text):
    sides = tuple(int(side.strip(" <=")) for side in shape.split(",") if side.strip(" <="))
    found.append(ArrayType(dtype, sides, layout))
  return tuple(found)


def _instruction(line: str) -> Instruction | None:
  named = _NAMED.match(line)
  if named is None:
    return None
  rest = re.sub(r"/\*.*?\*/", "", line[named.end() :])
  end = _closing(rest, 0) if rest.startswith("(") else rest.find(" ")
  written = rest[:end]
  opcode = _OPCODE.match(rest[end:].lstrip())
  if opcode is None:
    return None
  first = rest.index(opcode[0], end) + len(opcode[0]) - 1
  last = _closing(rest, first)
  inside = rest[first + 1 : last - 1]
  parts = _members(written) if written.startswith("(") else (written,)
  return Instruction(
    name=named[2],
    types=array_types(written),
    parts=tuple(array_types(part) for part in parts),
    opcode=opcode[1],
    operands=tuple(name.split("%")[-1].split(" ")[-1] for name in _split(inside)),
    attributes=rest[last:],
    literal=inside,
    is_root=named[1] is not None,
  )


def _closing(text: str, start: int) -> int:
  """Return the place after the parenthesis that closes the one at `start`, outside of quotes."""
  depth, quoted, place = 0, False, start
  while place < len(text):
    letter = text[place]
    if quoted and letter == "\\":
      place += 1
    elif letter == '"':
      quoted = not quoted
    elif not quoted:
      depth += (letter == "(") - (letter == ")")
      if depth == 0:
        return place + 1
    place += 1
  return len(text)


def _members(written: str) -> Iterable[str]:
  return _split(written[1:-1])


def _split(text: str) -> list[str]:
  """Return the parts between commas that are in no parentheses, brackets or braces."""
  parts, depth, start = [], 0, 0
  for place, letter in enumerate(text):
    depth += (letter in "([{") - (letter in ")]}")
    if letter == "," and depth == 0:
      parts.append(text[start:place].strip())
      start = place + 1
  return [*parts, last] if (last := text[start:].strip()) else parts


def _called(instruction: Instruction) -> Iterator[tuple[str, bool]]:
  """Yield the computations that an instruction runs, and whether they are functions of scalars.

  The end of an asynchronous operation names what its start has run.
  """
  if instruction.opcode.endswith(("-done", "-update")):
    return
  for key, name in _CALLED.findall(instruction.attributes):
    yield name, key == "to_apply" and instruction.opcode != "call"
  for names in _BRANCHES.findall(instruction.attributes):
    for name in names.split(","):
      yield name.strip().removeprefix("%"), False
