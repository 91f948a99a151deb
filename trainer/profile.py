"""The time of a run by what it went into; and, if it waited for data, the slow stage and what to change (PB-65).

  trialbook profile WORKDIR [--seconds=SECONDS]

The first part is what the run recorded in run.json and metrics.jsonl. Where that says that the run is input-bound, the
stages of its pipeline are measured here, one after the other, for about SECONDS. Exit codes as for
`trialbook train`. A trace of single steps is made by `trialbook train ... --profile=START:STOP`.
"""

import dataclasses
import math
import os
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Literal

import jax

from trialbook.errors import UserError
from trialbook.input_pipeline import load
from trialbook.trainer import sharding
from trialbook.trainer.bound_task import bind
from trialbook.trainer.config import Config
from trialbook.trainer.records import read_metrics, read_run, values_of
from trialbook.trainer.timing import NAMES
from trialbook.trainer.workdir.existing_run import stored_config

INPUT_BOUND = 0.2
"""Minimum share of the training loop's time spent waiting for data for which a run is called input-bound."""
NOTABLE = 0.3
"""Minimum share of a run's whole time that is remarked upon if it is not training."""
MEASURED_SECONDS = 8.0
_NO_TIMES = "run.json has no times yet (they are written when a run ends), so only the training loop is shown"

Bound = Literal["input", "dispatch", "compute"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spent:
  """The time of the newest process of a run, by what it went into, as recorded.

  Attributes:
    times: seconds by name, see `trialbook.trainer.timing.NAMES`, and `total`; empty if the run has not come to an end.
    step_seconds: of the training loop, for a step, waiting included.
    waiting: share of these in which it waited for data.
    platform: kind of the devices, "cpu", "gpu" or "tpu".
  """

  times: Mapping[str, float]
  step_seconds: float
  waiting: float
  platform: str

  @property
  def busy_seconds(self) -> float:
    """Return the seconds of a step without waiting for data."""
    return (1 - self.waiting) * self.step_seconds

  @property
  def bound(self) -> Bound:
    """Return what limits the speed: the pipeline, the host that starts the steps, or the devices."""
    if self.waiting >= INPUT_BOUND:
      return "input"
    # On CPUs a short step is computed while it is dispatched, so the two cannot be told apart.
    dispatch, device = (self.times.get(name, 0.0) for name in ("dispatch", "wait_for_device"))
    return "dispatch" if self.platform != "cpu" and dispatch > device else "compute"


def read_spent(workdir: pathlib.Path) -> Spent:
  """Return what a run recorded of its time.

  The first block of steps is left out where there are more: the pipeline and the devices start in it.

  Raises:
    UserError: if there is no run, or it has not recorded a block of steps yet.
  """
  config, record = stored_config(workdir), read_run(workdir)
  blocks: list[tuple[int, float, float]] = []
  steps = 0
  for line in map(values_of, read_metrics(workdir)):
    steps += "train/loss" in line
    if "data_wait_fraction" in line:
      seconds = steps * config.batch_size / max(line["examples_per_second"], 1e-9)
      blocks.append((steps, seconds, seconds * line["data_wait_fraction"]))
      steps = 0
  if not blocks:
    raise UserError(f"{workdir / 'metrics.jsonl'} has no timings yet; they are written every logging.every_steps steps")
  steps, seconds, waited = map(sum, zip(*(blocks[1:] or blocks), strict=True))
  return Spent(
    times={} if record is None else record.get("times", {}),
    step_seconds=seconds / steps,
    waiting=waited / seconds,
    platform="cpu" if record is None else record.get("platform", "cpu"),
  )


def verdict(spent: Spent) -> str:
  """Return what a run is bound by, with the numbers that say so."""
  waits = f"the training loop waits for data {spent.waiting:.0%} of its time"
  step = f"a step takes {_ms(spent.step_seconds)}"
  if spent.bound == "input":
    return f"input-bound: {waits}; {step}, of which {_ms(spent.busy_seconds)} are not waiting"
  loop = sum(spent.times.get(name, 0.0) for name in ("wait_for_data", "dispatch", "wait_for_device"))
  shares = {name: spent.times.get(name, 0.0) / loop if loop else 0.0 for name in ("dispatch", "wait_for_device")}
  told = f"{waits}; {step}"
  if loop:
    told += f"; dispatch takes {shares['dispatch']:.0%}, and waiting for the devices {shares['wait_for_device']:.0%}"
  if spent.bound == "dispatch":
    return f"dispatch-bound: {told}. The devices finish before the next step starts, so a larger batch is cheap."
  return f"compute-bound: {told}"


def measure(config: Config, seconds: float = MEASURED_SECONDS) -> tuple[dict[str, float], int]:
  """Make batches of a config's pipeline in this process, one after the other, for about `seconds`.

  Returns:
    Seconds for a global batch by stage (read, decode, augment, transfer), and over how many batches they are a mean.

  Raises:
    DataError: if the data cannot be read.
  """
  devices = jax.local_devices()
  mesh = sharding.make_mesh(devices=devices if config.batch_size % len(devices) == 0 else devices[:1])
  totals: dict[str, float] = {}
  folded = config.fold_validation
  with load(config.dataset, seed=config.seed, batch_size=config.batch_size, fold_validation=folded) as dataset:
    dataset.keep(bind(config.task.build(config.dataset), dataset.info, config.task.name).dataset_paths)
    # Batches that the run has not seen; the first opens files and imports what decodes them, and does not count.
    first = config.max_train_steps
    jax.block_until_ready(sharding.put_batch(mesh, dataset.timed_batch(first)[0]))
    count, end = 0, time.perf_counter() + seconds
    while count < 3 or time.perf_counter() < end:
      count += 1
      batch, taken = dataset.timed_batch(first + count)
      started = time.perf_counter()
      jax.block_until_ready(sharding.put_batch(mesh, batch))
      taken["transfer"] = time.perf_counter() - started
      totals = {name: totals.get(name, 0.0) + value for name, value in taken.items()}
  return {name: total / count for name, total in totals.items()}, count


def remedies(config: Config, stages: Mapping[str, float], spent: Spent) -> list[str]:
  """Return what to change about the slowest stage of a pipeline, the most effective first."""
  slowest, dataset = max(stages, key=lambda name: stages[name]), config.dataset
  found = []
  if slowest != "transfer" and hasattr(dataset, "workers"):
    making = sum(value for name, value in stages.items() if name != "transfer")
    needed, cores = max(math.ceil(making / max(spent.busy_seconds, 1e-9)), 1), _cores()
    workers, advised = getattr(dataset, "workers", 0), min(needed, cores)
    more = f"dataset.workers={advised} (it is {workers})"
    change = more if advised > workers else f"more cores for dataset.workers={workers}"
    found.append(
      f"{change}: this many processes make batches in parallel; to keep up with a step of"
      f" {_ms(spent.busy_seconds)} it takes {needed}, and this machine has {cores} cores"
    )
  if slowest in ("read", "decode") and "decode" in stages and hasattr(dataset, "in_memory"):
    found.append("dataset.in_memory=true: all examples are decoded once, at the start, if they fit into memory")
  match slowest:
    case "read" if "decode" in stages:
      found.append(
        "put the files on a local disk instead of a network file system, or store fewer bytes in each record"
      )
    case "read":
      found.append("use smaller examples; if a function of your own reads them, let it do less for each")
    case "decode":
      found.append(
        "store the examples already decoded (trialbook.input_pipeline.write_array_record), or use smaller ones"
      )
    case "augment":
      found.append("dataset.augmentation: use fewer kinds; those that are off cost nothing")
    case "transfer":
      found.append(
        "use smaller examples; uint8 images, normalized on the device, take a quarter of the bytes of float32"
      )
  return found


def describe(workdir: pathlib.Path, seconds: float = MEASURED_SECONDS) -> list[str]:
  """Return all that the command prints, line by line. Raises UserError and DataError as `read_spent` and `measure`."""
  config, spent = stored_config(workdir), read_spent(workdir)
  lines = _table_of_times(spent.times) if spent.times else [_NO_TIMES]
  lines += ["", verdict(spent), *_beside_training(config, spent.times)]
  if spent.bound != "input":
    return lines
  stages, count = measure(config, seconds)
  whole, slowest = sum(stages.values()), max(stages, key=lambda name: stages[name])
  rows = [(name, _ms(value), f"{value / whole:.0%}") for name, value in stages.items()]
  lines += ["", f"the pipeline, measured now over {count} batches of {config.batch_size}, all in one process:"]
  lines += _table([("stage", "a batch", "share"), *rows, ("all", _ms(whole), "100%")])
  lines += ["", f"the slowest stage is {slowest}: {_ms(stages[slowest])} of {_ms(whole)} for a batch; what to change:"]
  lines += [f"  - {remedy}" for remedy in remedies(config, stages, spent)]
  if whole < spent.busy_seconds:
    lines.append(
      f"measured alone, a batch takes {_ms(whole)}, less than a step ({_ms(spent.busy_seconds)}). During the run,"
      " other processes or the step itself probably took the pipeline's cores."
    )
  return lines


def _beside_training(config: Config, times: Mapping[str, float]) -> list[str]:
  """Return remarks on what takes much of a run and is not training."""
  evaluation, checkpointing = config.evaluation, config.checkpointing
  changes = {
    "start_up": "most of it reads the dataset; its share falls in a longer run",
    "compilation": f"with compilation_cache (it is {config.compilation_cache!r}) the next run skips it",
    "evaluation": f"increase evaluation.every_steps (it is {evaluation.every_steps}), or reduce"
    f" evaluation.validation_examples (it is {evaluation.validation_examples})",
    "checkpoint": f"increase checkpointing.every_evaluations (it is {checkpointing.every_evaluations})",
  }
  shares = {name: times.get(name, 0.0) / max(times.get("total", 0.0), 1e-9) for name in changes}
  return [
    f"{NAMES[name]} takes {share:.0%} of the run: {changes[name]}" for name, share in shares.items() if share >= NOTABLE
  ]


def _table_of_times(times: Mapping[str, float]) -> list[str]:
  total = max(times["total"], 1e-9)
  known = {words: times[name] for name, words in NAMES.items() if name in times}
  known["everything else"] = max(total - sum(known.values()), 0.0)
  rows = [(words, f"{value:,.2f}", f"{value / total:.0%}") for words, value in known.items()]
  return _table([("time", "seconds", "share"), *rows, ("total", f"{total:,.2f}", "100%")])


def _table(rows: Sequence[tuple[str, str, str]]) -> list[str]:
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [f"  {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}" for row in rows]


def _ms(seconds: float) -> str:
  return f"{seconds * 1e3:,.3g} ms" if seconds < 1 else f"{seconds:,.3g} s"


def _cores() -> int:
  return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
