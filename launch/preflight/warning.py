"""Warnings about a compiled program that is probably not the one that was meant."""

import math

import jax
import jax.numpy as jnp

from trialbook.launch.preflight.chips import GIB, Topology
from trialbook.launch.preflight.records import Function, Group, Report
from trialbook.trainer.config import Config
from trialbook.trainer.program import Program

SHARE = 0.5
"""Share of the model that may be gathered outside of loops before a warning."""
REPLICATED_SHARE = 0.1
"""Share of a chip's memory that an optimizer state may take that is the same on all chips."""
FLOAT32_SHARE = 0.05
"""Share of the FLOPs in float32 of a program that computes in bfloat16."""
REPEATED = 1.5
"""Computed FLOPs relative to those that the program asks for."""
PADDING_SHARE = 0.2
"""Share of the arguments that may be padding."""
OUTPUTS = 2**28
"""Bytes of outputs of an evaluation that are worth keeping on a chip."""
SMALL = 2**20
"""Bytes of arrays that no warning is about."""


def warnings_of(report: Report, config: Config, program: Program, topology: Topology) -> list[str]:
  """Return the warnings about a program, each with its numbers and what to change."""
  found = [*_of_state(report, config, program), *_of_save(report), *_of_hosts(report), *_of_mesh(report)]
  step = report["functions"].get("train_step")
  if step is not None:
    found += [
      *_of_gathers(report, step, config, program),
      *_of_precision(step, config, topology),
      *_of_chips(report, step),
      *_of_padding(report),
      *_of_remat(report, config),
      *_of_predictions(report, config),
    ]
  return found


def _of_gathers(report: Report, step: Function, config: Config, program: Program) -> list[str]:
  found = []
  size = jnp.dtype(config.precision.compute_dtype).itemsize
  model = sum(math.prod(leaf.shape) * size for leaf in jax.tree.leaves(program.state_template["params"]))
  gathers = [group for group in step["collectives"] if group["kind"] == "all-gather"]
  outside = sum(group["bytes"] for group in gathers if not group["in_loop"])
  if outside > max(SHARE * model, SMALL) and config.mesh.fsdp > 1:
    found.append(
      f"all-gathers outside of loops make {outside / GIB:.2f} GiB, {outside / model:.0%} of the model in"
      f" {config.precision.compute_dtype}: temporaries grow with the model, however many chips share its state."
      " Gather each layer where it is used (a scanned stack with remat)"
    )
  rows = config.batch_size // config.gradient_accumulation
  own = {",".join(map(str, leaf.shape)) for leaf in jax.tree.leaves(program.state_template["params"])}
  batches = [
    group
    for group in gathers
    if group["largest"] > SMALL and _leading(group) == rows and group["shape"].partition("[")[2].rstrip("]") not in own
  ]
  found += [
    f"{group['shape']} is gathered over {group['axis']} ({group['place']}): every chip holds the whole batch."
    " Keep the first axis split over the replicas"
    for group in batches
  ]
  return found


def _leading(group: Group) -> int:
  sides = group["shape"].partition("[")[2].rstrip("]").split(",")
  return int(sides[0]) if sides[0] else 0


def _of_state(report: Report, config: Config, program: Program) -> list[str]:
  if report["chips"] == 1 or not report["memory"]["limit"]:
    return []
  whole = sum(
    math.prod(leaf.shape) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(program.state_template["opt_state"])
    if leaf.sharding.is_fully_replicated
  )
  if whole <= REPLICATED_SHARE * report["memory"]["limit"]:
    return []
  return [
    (
      f"{whole / GIB:.2f} GiB of optimizer state is the same on each of the {report['chips']} chips; mesh.fsdp"
      f" (now {config.mesh.fsdp}) splits it"
    )
  ]


def _of_precision(step: Function, config: Config, topology: Topology) -> list[str]:
  if not step["flops"]:
    return []
  share = step["float32_flops"] / step["flops"]
  if config.precision.compute_dtype == "bfloat16" and share > FLOAT32_SHARE:
    return [f"{share:.0%} of the FLOPs have float32 operands, though precision.compute_dtype is bfloat16"]
  if config.precision.compute_dtype == "float32" and topology.chip.platform == "tpu":
    passes = step["passes"] / step["flops"]
    return [
      (
        f"precision.compute_dtype is float32: a product takes {passes:.2g} passes of the matrix unit on average;"
        " precision.compute_dtype=bfloat16 takes one, with half the memory traffic"
      )
    ]
  return []


def _of_chips(report: Report, step: Function) -> list[str]:
  if not step["asked_flops"]:
    return []
  repeated = step["flops"] * report["chips"] / step["asked_flops"]
  if repeated <= REPEATED:
    return []
  return [
    (
      f"the chips compute {repeated:.2f} times the FLOPs that the program asks for: the same on several chips, which"
      " are as good as idle, or on padding"
    )
  ]


def _of_padding(report: Report) -> list[str]:
  memory = report["memory"]
  if memory["padding"] <= max(PADDING_SHARE * memory["arguments"], SMALL):
    return []
  return [
    (
      f"{memory['padding'] / GIB:.2f} GiB of the {memory['arguments'] / GIB:.2f} GiB of arguments is padding: the last"
      " two axes of an array in memory are multiples of 8 and 128"
    )
  ]


def _of_remat(report: Report, config: Config) -> list[str]:
  # Models of users have no such field.
  if config.mesh.fsdp == 1 or getattr(config.model, "remat", True):
    return []
  return [
    (
      f"model.remat is off with mesh.fsdp = {config.mesh.fsdp}: gathered layers are kept for the backward pass;"
      f" temporaries are {report['memory']['temporaries'] / GIB:.2f} GiB. Try model.remat=full"
    )
  ]


def _of_predictions(report: Report, config: Config) -> list[str]:
  kept = report["functions"]["eval_step"]["outputs"]
  if not config.evaluation.predictions or kept <= OUTPUTS:
    return []
  return [
    (
      f"evaluation.predictions = {config.evaluation.predictions} keeps outputs of {kept / GIB:.2f} GiB on every chip in"
      " an evaluation; 0 keeps none"
    )
  ]


def _of_save(report: Report) -> list[str]:
  save = report["save"]
  if not report["host"]["save"] or save["seconds"] <= save["grace_seconds"]:
    return []
  return [
    (
      f"a save takes {save['seconds']:.0f} s at an assumed {save['bytes_per_second'] / 1e9:.2g} GB/s a host"
      f" ({save['bytes'] / 1e9:.2f} GB), longer than the {save['grace_seconds']:.0f} s that a platform leaves"
      " after its warning: a preemption loses what was trained since the last checkpoint. Save more often,"
      " or split the state over more hosts (mesh.fsdp)"
    )
  ]


def _of_hosts(report: Report) -> list[str]:
  host = report["host"]
  need = host["batches"] + host["save"]
  if host["limit"] is None or need <= host["limit"] / 2:
    return []
  return [
    (
      f"a host needs {need / GIB:.1f} GiB for batches and the copy of a save, more than half of its"
      f" {host['limit'] / GIB:.0f} GiB"
    )
  ]


def _of_mesh(report: Report) -> list[str]:
  return [
    f"neighbours along {axis} are up to {hops} links apart: devices are not in the order of the interconnect"
    for axis, hops in report["hops"].items()
    if hops is not None and hops > 2
  ]
