"""FLOPs of a program, and the bytes between the chip and its memory: as asked for by jax, and as compiled.

Only matrix products and convolutions count as FLOPs. The compiler's own cost analysis is not used, because it counts
the body of a loop once, however many times the loop runs.
"""

import collections
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trialbook.launch.preflight.hlo import ArrayType, Instruction, Module

_SIZES = re.compile(r"\b(\w+)=([\w\-]+(?:x[\w\-]+)*)")
_CONTRACTED = re.compile(r"\blhs_contracting_dims=\{([\d,]*)\}")
_PRECISION = re.compile(r"\boperand_precision=\{(\w+)")
_PASSES = {"highest": 6, "high": 3}
_LABELS = re.compile(r"\bdim_labels=([\w?]+)_([\w?]+)->([\w?]+)")
_NO_TRAFFIC = frozenset(
  (
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"),
    *("while", "conditional", "call", "iota", "opt-barrier", "domain"),
  )
)
_SLICES = ("dynamic-slice", "slice", "gather")


def asked_flops(jaxpr: Any) -> float:
  """Return the FLOPs of matrix products and convolutions of a traced function, over all chips.

  What is computed again in the backward pass (remat) is asked for, and counts. The body of a `while` whose length jax
  does not know counts once.
  """
  total = 0.0
  for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
      (contracted, _), _ = params["dimension_numbers"]
      shape = equation.invars[0].aval.shape
      total += 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
    elif name == "conv_general_dilated":
      total += _asked_by_convolution(equation)
    else:
      inside = [asked_flops(one) for value in params.values() for one in _jaxprs(value)]
      total += max(inside, default=0.0) if name == "cond" else _rounds(equation) * sum(inside)
  return total


def kernel_flops(jaxpr: Any) -> float:
  """Return the part of `asked_flops` in Pallas kernels, which a compiled program has as calls without FLOPs."""
  total = 0.0
  for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
    count = asked_flops if equation.primitive.name == "pallas_call" else kernel_flops
    inside = [count(one) for value in equation.params.values() for one in _jaxprs(value)]
    total += max(inside, default=0.0) if equation.primitive.name == "cond" else _rounds(equation) * sum(inside)
  return total


def _rounds(equation: Any) -> int:
  """Return how many times what is inside an equation runs, over all chips."""
  params = equation.params
  if equation.primitive.name == "shard_map":
    return params["mesh"].size
  if equation.primitive.name == "pallas_call":
    return math.prod(side for side in params["grid_mapping"].grid if isinstance(side, int))
  return params.get("length", 1)


def compiled_flops(module: Module) -> dict[tuple[str, int], float]:
  """Return the FLOPs of a chip in one execution, by the dtype of the first operand and the passes in bfloat16.

  The matrix unit of a TPU multiplies bfloat16. It makes a product of float32 in one pass, or in several for precision.
  """
  found: dict[tuple[str, int], float] = collections.defaultdict(float)
  for computation, times, instruction in module.running():
    if instruction.opcode in ("dot", "convolution"):
      left, right = module.operand_types(computation, instruction)
      if left and right:
        count = _dot if instruction.opcode == "dot" else _convolution
        precision = _PRECISION.search(instruction.attributes)
        passes = _PASSES.get(precision[1], 1) if precision and left[0].dtype == "f32" else 1
        found[left[0].dtype, passes] += times * count(instruction, left[0], right[0])
  return dict(found)


def traffic(module: Module) -> float:
  """Return the bytes that a chip reads from its memory and writes to it in one execution.

  Each instruction outside of fusions reads its operands and writes its results. Of an array from which it takes a
  slice, or which it updates in place, the slice counts.
  """
  total = 0.0
  for computation, times, instruction in module.running():
    if computation in module.fused or instruction.opcode in _NO_TRAFFIC or instruction.opcode.endswith("-done"):
      continue
    total += times * _moved(module, computation, instruction)
  return total


def _moved(module: Module, computation: str, instruction: Instruction) -> int:
  operands = module.operand_types(computation, instruction)
  if instruction.opcode in _SLICES:
    return 2 * _main(instruction.types)
  if instruction.opcode in ("dynamic-update-slice", "scatter"):
    update = operands[1 if instruction.opcode == "dynamic-update-slice" else -1]
    return 2 * _main(update)
  if instruction.opcode.endswith("-start"):
    # The results of a start are a tuple of operands, results and what the hardware needs.
    return sum(map(_main, operands)) + (_main(instruction.parts[1]) if len(instruction.parts) > 1 else 0)
  if instruction.opcode == "fusion" and (body := _body(module, instruction)):
    return _moved_by_fusion(instruction, operands, body)
  return _main(instruction.types) + sum(map(_main, operands))


def _moved_by_fusion(
  fusion: Instruction, operands: Sequence[tuple[ArrayType, ...]], body: Mapping[str, Instruction]
) -> int:
  users: dict[str, list[Instruction]] = collections.defaultdict(list)
  for instruction in body.values():
    for name in instruction.operands:
      users[name].append(instruction)
  parameters = {int(one.literal): one for one in body.values() if one.opcode == "parameter" and one.literal.isdecimal()}
  updates = {one.name: one for one in body.values() if one.opcode == "dynamic-update-slice"}
  total = 0
  for index, types in enumerate(operands):
    uses = users[parameters[index].name] if index in parameters else []
    if uses and all(use.opcode in _SLICES for use in uses):
      total += min(_main(types), sum(use.bytes for use in uses))
    elif not (uses and all(use.name in updates and use.operands[0] == parameters[index].name for use in uses)):
      total += _main(types)
  roots = [one for one in body.values() if one.is_root]
  results = (
    [body[name] for name in roots[0].operands if name in body] if roots and roots[0].opcode == "tuple" else roots
  )
  written = [body[one.operands[1]].bytes if one.name in updates else one.bytes for one in results]
  return total + (sum(written) if _main(fusion.types) else 0)


def _body(module: Module, fusion: Instruction) -> Mapping[str, Instruction] | None:
  found = re.search(r"\bcalls=%?([\w.\-]+)", fusion.attributes)
  return module.computations.get(found[1]) if found else None


def _main(types: Sequence[ArrayType]) -> int:
  return sum(one.bytes for one in types if one.is_in_main_memory)


def _dot(dot: Instruction, left: ArrayType, right: ArrayType) -> float:
  found = _CONTRACTED.search(dot.attributes)
  contracted = [int(axis) for axis in found[1].split(",") if axis] if found else []
  return 2.0 * math.prod(dot.types[0].shape) * math.prod(left.shape[axis] for axis in contracted)


def _convolution(convolution: Instruction, left: ArrayType, right: ArrayType) -> float:
  labels = _LABELS.search(convolution.attributes)
  if labels is None:
    return 0.0
  of_left, of_right, of_out = labels.groups()
  # The window has an entry for each spatial dimension; a product of matrices has none.
  written = re.search(r"\bwindow=\{([^}]*)\}", convolution.attributes)
  window = dict(_SIZES.findall(written[1])) if written else {}
  out = convolution.types[0].shape
  taps = 1
  for dimension in range(len(of_left) - 2):
    digit = str(dimension)

    def entry(name: str, default: str, dimension: int = dimension) -> str:
      return window[name].split("x")[dimension] if name in window else default

    low, _, _ = entry("pad", "0_0").partition("_")
    taps *= _taps(
      left.shape[of_left.index(digit)],
      out[of_out.index(digit)],
      right.shape[of_right.index(digit)],
      int(entry("stride", "1")),
      int(low),
      int(entry("lhs_dilate", "1")),
      int(entry("rhs_dilate", "1")),
    )
  groups = {
    name: int(found[1]) if (found := re.search(rf"\b{name}=(\d+)", convolution.attributes)) else 1
    for name in ("feature_group_count", "batch_group_count")
  }
  features = left.shape[of_left.index("f")] // groups["feature_group_count"]
  batch = left.shape[of_left.index("b")] // groups["batch_group_count"]
  return 2.0 * features * batch * out[of_out.index("f")] * taps


def _asked_by_convolution(equation: Any) -> float:
  params, (left, right) = equation.params, (one.aval.shape for one in equation.invars)
  out, numbers = equation.outvars[0].aval.shape, params["dimension_numbers"]
  taps = 1
  for place in range(len(left) - 2):
    taps *= _taps(
      left[numbers.lhs_spec[2 + place]],
      out[numbers.out_spec[2 + place]],
      right[numbers.rhs_spec[2 + place]],
      params["window_strides"][place],
      params["padding"][place][0],
      params["lhs_dilation"][place],
      params["rhs_dilation"][place],
    )
  features = left[numbers.lhs_spec[1]] // params["feature_group_count"]
  batch = left[numbers.lhs_spec[0]] // params["batch_group_count"]
  return 2.0 * features * batch * out[numbers.out_spec[1]] * taps


def _taps(size: int, out: int, window: int, stride: int, pad: int, dilation: int, window_dilation: int) -> int:
  """Return how many pairs of a place in the result and one in the window meet an input, along one dimension.

  Padding, and the zeros between inputs that are spread out (as in the gradient of a strided convolution), are none.
  """
  places = np.arange(out)[:, None] * stride + np.arange(window) * window_dilation - pad
  return int(np.sum((places >= 0) & (places <= (size - 1) * dilation) & (places % dilation == 0)))


def _jaxprs(value: Any) -> Iterator[Any]:
  if hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns"):
    yield value
  elif isinstance(value, list | tuple):
    for one in value:
      yield from _jaxprs(one)
