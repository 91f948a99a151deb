"""The process that compiles: it makes the program of a config for chips that are not here, and reports what it is.

The compiler of TPUs and its environment belong to a whole process, so each config is compiled in one of its own.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from trialbook import files
from trialbook.errors import DataError, UserError
from trialbook.launch.preflight import costs, reporting
from trialbook.launch.preflight.chips import Topology, parse_topology
from trialbook.launch.preflight.collectives import Places
from trialbook.launch.preflight.records import Memory, Report
from trialbook.launch.preflight.request import Request
from trialbook.paths import as_path
from trialbook.trainer import checks, config_files, overrides, program_memory, sharding
from trialbook.trainer.declared import declared
from trialbook.trainer.program import Program, Programs

_USED = tuple(
  re.compile(form.replace("#", r"([\d.]+[KMGT]?)"))
  for form in (
    r"Used # of # hbm",
    r"\(#\) exceeds available HBM \(#\)",
    r"Hbm usage: #,.* exceeding available bytes: #",
  )
)
"""The forms in which the compiler of TPUs says what a program needs and what there is."""
_ALLOCATION = re.compile(r"\d+\. Size: (\S+)\n(?:\s+Operator: op_name=\"([^\"]*)\".*\n)?\s+Shape: (\S+)")
_MOST_ALLOCATIONS = 5
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def main() -> None:
  """Compile what the first argument asks for; write messages, one JSON object a line, to a file descriptor.

  A message is {"phase": text}, or at the end {"report": report} or {"problems": [text]}.
  """
  fields = json.loads(sys.argv[1])
  with os.fdopen(fields.pop("messages"), "w") as messages:

    def say(**message: Any) -> None:
      messages.write(json.dumps(files.jsonable(message)) + "\n")
      messages.flush()

    try:
      say(report=examine(Request(**fields), lambda text: say(phase=text)))
    except UserError as error:
      say(problems=error.problems)
    except DataError as error:
      say(problems=str(error).splitlines())


def examine(request: Request, enter: Callable[[str], None]) -> Report:
  """Return the report of a config on a topology.

  Args:
    request: what to compile.
    enter: is called with the name of each phase.

  Raises:
    UserError: with all problems of the config, of the mesh, or of its program; nothing was compiled.
  """
  enter("checking the config")
  topology = parse_topology(request.topology, request.slices)
  config = config_files.load_config(request.config)
  changes = overrides.parse_assignments(request.assignments) | dict(request.changes)
  config = config.override(changes)
  info, task = declared(config, None if request.info_from is None else as_path(request.info_from))
  mesh = sharding.make_mesh(config.mesh, _devices(topology))
  unit = mesh.size // sharding.batch(mesh).shard_shape((mesh.size,))[0] * config.gradient_accumulation
  if request.batch_units is not None:
    config = config.override({"batch_size": request.batch_units * unit})
  checks.check_divisible(config, mesh)
  config = config.resolved()
  enter("tracing")
  program = Programs().get(config, task, info, mesh)
  trace_seconds, traced = program.seconds, program.traced
  enter(f"compiling for {topology.chips} chips")
  started = time.perf_counter()
  refusal = ""
  try:
    program.compile()
  except Exception as error:
    if not program_memory.is_out_of_memory(error):
      raise
    # They are set in order, once all have ended.
    failed = next(name for name in traced if not hasattr(program, name))
    refusal = f"{failed}: {error}"
  compile_seconds = time.perf_counter() - started
  enter("reading the compiled program")
  made = reporting.Made(
    config=config,
    topology=topology,
    program=program,
    places=_places(topology, mesh),
    asked_flops={name: reporting.asked_flops(one.jaxpr) for name, one in traced.items()},
    kernel_flops={name: costs.kernel_flops(one.jaxpr) for name, one in traced.items()},
  )
  memory = _refused_memory(made, refusal) if refusal else reporting.memory(made)
  report = reporting.report(
    made,
    memory,
    speed=request.bytes_per_second,
    grace=request.grace_seconds,
  )
  report["config"], report["batch_unit"] = request.config, unit
  report["changes"] = {path: str(value) for path, value in changes.items()}
  report["trace_seconds"], report["compile_seconds"] = trace_seconds, compile_seconds
  report["compiler"] = _compiler(topology)
  if refusal:
    # Another version of the compiler may say it in other words.
    understood = any(form.search(refusal) for form in _USED)
    report["reason"] = reporting.too_large(memory) if understood else refusal.splitlines()[0]
    report["largest_allocations"] = [
      f"{size} {shape} {name or ''}".strip() for size, name, shape in _ALLOCATION.findall(refusal)
    ][:_MOST_ALLOCATIONS]
  return report


def _devices(topology: Topology) -> list[Any]:
  if topology.chip.platform != "tpu":
    # It cannot be set once jax has started, as in a test, which has as many.
    if jax.config.values["jax_num_cpu_devices"] != topology.chips:
      jax.config.update("jax_num_cpu_devices", topology.chips)
    return jax.devices("cpu")
  more: dict[str, Any] = {}
  if topology.slices > 1 or topology.kind == "v4":
    # A chip of v4 would be two devices otherwise, which it is not where jax runs on it.
    chip = "megacore" if topology.chip.torus == 3 else "default"
    more = {"num_slices": topology.slices, "chip_config_name": chip, "chips_per_host_bounds": (2, 2, 1)}
  try:
    return list(topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **more).devices)
  except Exception as error:
    raise UserError(f"--topology={topology.name}: libtpu does not know it: {str(error).splitlines()[0]}") from error


def _places(topology: Topology, mesh: Mesh) -> Places:
  devices = list(mesh.devices.flat)
  if topology.chip.platform == "tpu":
    coordinates = [tuple(device.coords[: len(topology.shape)]) for device in devices]
    slices = [getattr(device, "slice_index", 0) or 0 for device in devices]
  else:
    coordinates = [() for _ in devices]
    slices = [index // topology.chips_per_host for index in range(len(devices))]
  return Places(axes=dict(mesh.shape), coordinates=coordinates, slices=slices)


def _refused_memory(made: reporting.Made, refusal: str) -> Memory:
  """Return the memory of a program that the compiler found no room for, by its message and the shapes of its arrays."""
  program: Program = made.program
  state = sharding.bytes_per_device(program.state_template)
  arguments = state + program_memory.batch_bytes(program, made.config.batch_size, train=True)
  peak, limit = arguments, made.topology.chip.usable_bytes
  if used := next(filter(None, (form.search(refusal) for form in _USED)), None):
    peak, limit = (int(float(one.rstrip("KMGT")) * _UNITS[one.lstrip("0123456789.")]) for one in used.groups())
  return Memory(
    arguments=arguments,
    padding=0,
    temporaries=max(0, peak - arguments),
    outputs=0,
    code=0,
    batches=0,
    save=0,
    peak=peak,
    limit=limit,
    known=True,
    state=state,
  )


def _compiler(topology: Topology) -> dict[str, str]:
  import importlib.metadata

  names = ["jax", "jaxlib", *(["libtpu"] if topology.chip.platform == "tpu" else [])]
  return {name: importlib.metadata.version(name) for name in names}
