"""Speed and memory of the training steps of one batch size: compiled first, and run only if they fit (PB-03).

Each size is measured in a process of its own (`in_fresh_process`). What an allocator keeps, the peak of a process's
memory, and a process that is killed for its memory then concern one size alone.
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import queue
import resource
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NotRequired

import jax
import numpy as np
import pydantic
from typing_extensions import TypedDict

from trialbook import files
from trialbook.errors import UserError
from trialbook.launch.job_exit import describe
from trialbook.launch.processes import HostProcess, guarded
from trialbook.record import Count, Kind, stored
from trialbook.trainer import Config, Guard, Programs, sharding
from trialbook.trainer.device_memory import available_bytes
from trialbook.trainer.loop import advance
from trialbook.trainer.profile import INPUT_BOUND
from trialbook.trainer.profile import measure as measure_pipeline
from trialbook.trainer.program_memory import is_out_of_memory, needed
from trialbook.trainer.start_or_resume import Compiled, OpenRun, compile_run, open_run
from trialbook.trainer.train_step import program_settings
from trialbook.trainer.workdir.existing_run import stored_config
from trialbook.tuning.execution import local_workers

WARM_STEPS = 5
"""Steps that do not count: in the first ones the pipeline and the devices start."""
BLOCKS, MOST_SECONDS = 5, 20.0
"""Fewest blocks of steps that are timed, and the seconds for which more are until the fastest agree."""
FASTEST = 3
"""Fastest blocks that count. What else runs on a machine only adds time: the fastest are the least disturbed."""
AGREE = 0.05
"""Largest difference of the fastest blocks, relative to their median, at which they agree: half of what counts as
growth of throughput."""
BLOCK_SECONDS, BLOCK_STEPS = 0.5, 4
"""Shortest block: long beside the wait for the devices at its end, and longer than the batches that were made ahead."""
PIPELINE_SECONDS = 2.0
"""Seconds in which the stages of an input pipeline are measured, if the steps wait for it."""
_NEVER = 2**30
"""Steps of a run that is left long before."""

START = """
import json, os, sys
sys.path[:] = json.loads(os.environ.pop("TRIALBOOK_PATH"))
from trialbook.tuning.procedures.step_measurement import main
sys.exit(main())
"""
"""The program of the process; the folder of the measurement is its argument."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
  """The speed and the memory of one batch size.

  Attributes:
    batch_size: examples of a step, over all devices.
    fits: whether steps of this size were run.
    reason: why it does not fit, in words.
    refused: whether no run can have this size, as one larger than the training set.
    needed_bytes: on each device, by the compiler's analysis; None if there is none.
    limit_bytes: memory that a device has for it.
    peak_bytes: measured peak, of a device, or of the process if the devices are CPUs.
    block_seconds: seconds of a step, in each block of steps.
    waiting: share of the time of the fastest blocks in which the loop waited for data.
    alone_seconds: seconds of a step on one device alone with its share of the batch, without the pipeline; None if
      there is only one, or it would say nothing, as devices that share the cores of a CPU.
    pipeline_seconds: of each stage of the input pipeline for a batch, if the steps wait for it.
    compile_seconds: of tracing and compiling.
    seconds: of the whole measurement.
    steps: that were run.
    platform, device_kind, devices: that it was measured on.
    memory_bytes: limit that the user gave; None: that of the devices.
  """

  batch_size: int
  fits: bool
  reason: str = ""
  refused: bool = False
  needed_bytes: int | None = None
  limit_bytes: int | None = None
  peak_bytes: int | None = None
  block_seconds: tuple[float, ...] = ()
  waiting: float = 0.0
  alone_seconds: float | None = None
  pipeline_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
  compile_seconds: float = 0.0
  seconds: float = 0.0
  steps: int = 0
  platform: str = ""
  device_kind: str = ""
  devices: int = 1
  memory_bytes: int | None = None

  @property
  def step_seconds(self) -> float:
    """Return the seconds of a step, the median of the fastest blocks."""
    return statistics.median(sorted(self.block_seconds)[:FASTEST])

  @property
  def examples_per_second(self) -> float:
    """Return the throughput."""
    return self.batch_size / self.step_seconds

  @property
  def spread(self) -> float:
    """Return the difference of the fastest blocks, see `spread`."""
    return spread(self.block_seconds)


@stored
class StoredMeasurement(TypedDict):
  """A `Measurement` in a record; what it did not measure is left out."""

  batch_size: Count
  fits: bool
  reason: NotRequired[str]
  refused: NotRequired[bool]
  needed_bytes: NotRequired[Count | None]
  limit_bytes: NotRequired[Count | None]
  peak_bytes: NotRequired[Count | None]
  block_seconds: NotRequired[tuple[float, ...]]
  waiting: NotRequired[float]
  alone_seconds: NotRequired[float | None]
  pipeline_seconds: NotRequired[dict[str, float]]
  compile_seconds: NotRequired[float]
  seconds: NotRequired[float]
  steps: NotRequired[Count]
  platform: NotRequired[str]
  device_kind: NotRequired[str]
  devices: NotRequired[Count]
  memory_bytes: NotRequired[Count | None]


def _timed(found: StoredMeasurement) -> StoredMeasurement:
  if found["fits"] and (len(blocks := found.get("block_seconds", ())) < FASTEST or min(blocks) <= 0):
    raise ValueError(f"an object whose block_seconds are {FASTEST} times above 0 at least, as it fits")
  return found


MEASUREMENT: Kind[StoredMeasurement] = Kind(
  Annotated[StoredMeasurement, pydantic.AfterValidator(_timed)],  # type: ignore[arg-type]
  "Remove the file to measure again",
  version=None,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
  """What a measurement may use: CPU cores, devices, and bytes of each device (None: all that it has)."""

  cores: int = 1
  devices: int = 1
  memory_bytes: int | None = None


def spread(block_seconds: Sequence[float]) -> float:
  """Return the difference between the slowest and the fastest of the fastest blocks, relative to their median."""
  fastest = sorted(block_seconds)[:FASTEST]
  return (fastest[-1] - fastest[0]) / statistics.median(fastest)


Measure = Callable[[Config, int, Machine, pathlib.Path], Measurement]
"""Measures a batch size of a config; logs go into the folder."""


def sized(config: Config, batch_size: int) -> dict[str, Any]:
  """Return the changes that give a config a batch size; evaluation takes as many examples at least (PB-66)."""
  larger = batch_size > config.evaluation.batch_size
  return {"batch_size": batch_size, **({"evaluation.batch_size": batch_size} if larger else {})}


def in_fresh_process(config: Config, batch_size: int, machine: Machine, folder: pathlib.Path) -> Measurement:
  """Measure a batch size in a process that ends with the measurement, whatever ends it.

  Raises:
    UserError: if the config cannot be run, or the process fails otherwise than for its memory.
  """
  with tempfile.TemporaryDirectory(prefix="trialbook-batch-size-") as name:
    inside = pathlib.Path(name)
    files.write_json(inside / "config.json", {"format": files.FORMAT, **config.model_dump(mode="json")})
    files.write_json(inside / "task.json", {"batch_size": batch_size, **dataclasses.asdict(machine)})
    log = folder / "logs" / f"batch_size_{batch_size}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = local_workers._environment(0, 1, machine.cores, machine.devices)
    events: queue.SimpleQueue[Any] = queue.SimpleQueue()
    process = HostProcess(0, ["-c", START, name], environment, events, log=log)
    try:
      with guarded([process]):
        code = events.get().returncode
    finally:
      process.close()
    refused = files.read_json(inside / "problems.json")
    found = MEASUREMENT.read(inside / "found.json")
  if refused is not None:
    raise UserError(refused["problems"])
  if found is not None:
    return from_json(found)
  if code == -signal.SIGKILL:
    return Measurement(
      batch_size=batch_size,
      fits=False,
      reason="its process was killed, as the system does where the machine's memory ends",
      memory_bytes=machine.memory_bytes,
    )
  raise UserError(f"batch_size = {batch_size}: its measurement failed ({describe(code)}); see {log}")


def from_json(found: StoredMeasurement) -> Measurement:
  """Return the measurement that a record holds."""
  fields: dict[str, Any] = {name: found[name] for name in Measurement.__dataclass_fields__.keys() & found.keys()}
  return Measurement(**fields)


def main() -> int:
  """Measure what the folder that is this process's argument asks for, and write `found.json` there."""
  folder = pathlib.Path(sys.argv[1])
  if cores := os.environ.get("TRIALBOOK_CORES"):
    # Before anything counts them: XLA cuts reductions by the number of cores that it sees.
    os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
  jax.config.update("jax_num_cpu_devices", int(os.environ["TRIALBOOK_LOCAL_DEVICES"]))
  task = files.read_json(folder / "task.json") or {}
  size = task.pop("batch_size")
  try:
    found = dataclasses.asdict(measure(stored_config(folder), size, Machine(**task)))
  except UserError as error:
    files.write_json(folder / "problems.json", {"problems": error.problems})
    return 0
  files.write_json(folder / "found.json", found)
  return 0


def measure(config: Config, batch_size: int, machine: Machine) -> Measurement:
  """Measure a batch size in this process, on all of its devices.

  Raises:
    UserError: if the config cannot be run at any size.
  """
  started = time.perf_counter()
  facts: dict[str, Any] = {"batch_size": batch_size, "memory_bytes": machine.memory_bytes}

  def found(**more: Any) -> Measurement:
    return Measurement(**{**facts, **more, "seconds": time.perf_counter() - started})

  config = _measured(config, batch_size)
  with tempfile.TemporaryDirectory(prefix="trialbook-steps-") as name, contextlib.ExitStack() as closing:
    workdir = pathlib.Path(name) / "run"
    try:
      compiled = _compiled(config, workdir, closing)
    except UserError as error:
      if not all("batch_size" in problem for problem in error.problems):
        raise
      return found(fits=False, refused=True, reason="; ".join(error.problems))
    except Exception as error:
      if not is_out_of_memory(error):
        raise
      return found(fits=False, reason=f"the compiler finds no room for it: {str(error).splitlines()[0]}")
    device = jax.local_devices()[0]
    facts |= {"platform": device.platform, "device_kind": device.device_kind, "devices": compiled.program.mesh.size}
    facts["compile_seconds"] = compiled.program.seconds
    need = needed(compiled.program, config)
    facts["needed_bytes"] = total = None if need is None else need.total
    facts["limit_bytes"] = limit = machine.memory_bytes or available_bytes(device)
    if total is not None and limit is not None and total > limit:
      reason = f"it needs {total / 1e9:.3g} GB of each device by the compiler's analysis, and there are"
      return found(fits=False, reason=f"{reason} {limit / 1e9:.3g} GB; it was not run")
    try:
      with open_run(compiled, range(0)) as opened:
        blocks, waiting, steps = _timed(opened)
      peak = _peak_bytes(device)
      alone = _alone(compiled)
    except Exception as error:
      if not is_out_of_memory(error):
        raise
      return found(fits=False, reason=f"its steps ran out of memory: {str(error).splitlines()[0]}")
    # A run that waits for its data is measured at their source, too.
    stages = measure_pipeline(config, PIPELINE_SECONDS)[0] if waiting >= INPUT_BOUND else {}
    return found(
      fits=True,
      peak_bytes=peak,
      block_seconds=tuple(blocks),
      waiting=waiting,
      alone_seconds=alone,
      pipeline_seconds=stages,
      steps=steps,
    )


def _measured(config: Config, batch_size: int) -> Config:
  """Return a config whose steps cost what those of the given one do. With a learning rate of 0 none can diverge."""
  return config.override(
    {
      **sized(config, batch_size),
      "optimizer.learning_rate": 0.0,
      "max_train_steps": _NEVER,
      "evaluation.every_steps": _NEVER,
      "logging.tensorboard": False,
      "logging.writers": (),
      "export": False,
    }
  )


def _compiled(config: Config, workdir: pathlib.Path, closing: contextlib.ExitStack) -> Compiled:
  compiled = compile_run(
    config,
    workdir,
    programs=Programs(),
    progress=False,
    fork=None,
    guard=Guard(),
    data_of=None,
    closing=closing,
  )
  assert compiled is not None, "a workdir that is new holds no finished run"
  return compiled


def _timed(run: OpenRun) -> tuple[list[float], float, int]:
  """Return seconds of a step in each block, the share of waiting for data in the fastest ones, and the last step."""
  recorder = run.loop.recorder

  def steps(count: int) -> tuple[float, float]:
    """Make steps; return the seconds of all, and those in which they waited for data."""
    waited, started = recorder.times()["wait_for_data"], time.perf_counter()
    run.step, run.state = advance(run.loop, run.state, run.step, run.step + count)
    recorder.drain()
    return time.perf_counter() - started, recorder.times()["wait_for_data"] - waited

  steps(WARM_STEPS)
  count = max(BLOCK_STEPS, math.ceil(BLOCK_SECONDS * BLOCK_STEPS / max(steps(BLOCK_STEPS)[0], 1e-6)))
  timed: list[tuple[float, float]] = []
  end = time.perf_counter() + MOST_SECONDS
  while len(timed) < BLOCKS or (spread([one for one, _ in timed]) > AGREE and time.perf_counter() < end):
    timed.append(steps(count))
  fastest = sorted(timed)[:FASTEST]
  waiting = sum(waited for _, waited in fastest) / sum(seconds for seconds, _ in fastest)
  return [seconds / count for seconds, _ in timed], waiting, run.step


def _alone(compiled: Compiled) -> float | None:
  """Return the seconds of a step on one device with its share of the batch; see `Measurement.alone_seconds`."""
  program, config = compiled.program, compiled.config
  shares_cores = program.mesh.devices.flat[0].platform == "cpu"
  if program.mesh.size == 1 or config.mesh.fsdp * config.mesh.tensor > 1 or shares_cores:
    return None
  share = config.batch_size // program.mesh.size
  try:
    return time_alone(compiled, share)
  except UserError:
    return None  # Ghost batch normalization over several devices has no share of one.


def time_alone(compiled: Compiled, share: int) -> float:
  """Return the seconds of a step on the first device with `share` examples, which are there already."""
  mesh = sharding.make_mesh(devices=jax.local_devices()[:1])
  config = compiled.config.override({"batch_size": share, "evaluation.batch_size": share})
  program = Programs().get(config, compiled.program.task, compiled.dataset.info, mesh)
  program.compile()
  settings = sharding.put_replicated(mesh, program_settings(config))
  examples = {path: array[:share] for path, array in compiled.dataset.train_batch(0).items()}
  batch = sharding.put_batch(mesh, examples, paths=program.task.train_paths)
  state = program.init(settings)

  def steps(count: int) -> float:
    nonlocal state
    started = time.perf_counter()
    for _ in range(count):
      state, _ = program.train_step(state, settings, batch)
    np.asarray(state["step"])
    return (time.perf_counter() - started) / count

  steps(WARM_STEPS)
  count = max(BLOCK_STEPS, math.ceil(BLOCK_SECONDS / max(steps(BLOCK_STEPS), 1e-6)))
  return statistics.median(sorted(steps(count) for _ in range(BLOCKS))[:FASTEST])


def _peak_bytes(device: jax.Device) -> int | None:
  """Return the largest memory in use so far: of the device if it counts, of the process if the device is a CPU."""
  stats = device.memory_stats() or {}
  if "peak_bytes_in_use" in stats:
    return int(stats["peak_bytes_in_use"])
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 if device.platform == "cpu" else None
