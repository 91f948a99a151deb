"""The largest batch size that still raises throughput (PB-03, PB-04, PB-05).

The playbook ("Choosing the batch size"): double the batch until memory ends. While the devices are not saturated, a
doubling doubles the examples per second. Where throughput stops growing, a larger batch buys nothing. The batch size is
not tuned for validation quality, since with a tuned optimizer all sizes reach the same.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

from trialbook import files
from trialbook.errors import UserError
from trialbook.progress import duration
from trialbook.trainer import Config
from trialbook.trainer.profile import Spent, remedies
from trialbook.tuning.procedures import drawing
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.measurement_record import UNSURE, MeasurementRecord
from trialbook.tuning.procedures.step_measurement import (
  BLOCK_SECONDS,
  BLOCKS,
  MOST_SECONDS,
  Machine,
  Measure,
  Measurement,
  in_fresh_process,
  sized,
)
from trialbook.tuning.procedures.throughput import (
  PROPORTIONAL,
  STILL_GROWS,
  Bottleneck,
  bottleneck,
  largest_raising,
  proportional_until,
)

START = 16
"""First batch size: small enough to fit nearly always, and far below what saturates an accelerator."""
PATIENCE = 2
"""Doublings in a row without growth after which the search ends: one alone may be a size that the hardware dislikes."""
LATER = ""
"""All sizes are in `preview`."""

End = Literal["saturation", "memory", "refused", "largest"]
"""The reason why no larger size is recommended."""


def run(
  lab: Lab,
  *,
  smallest: int | None = None,
  largest: int | None = None,
  memory: float | None = None,
  devices: int = 1,
  cores: int | None = None,
  measure: Measure = in_fresh_process,
) -> Conclusion:
  """Find the largest batch size that still raises throughput.

  Args:
    lab: where the measurements are recorded; those that are there are not repeated.
    smallest: first size; None: `START`. It is rounded up to what devices and virtual batches divide.
    largest: no size above it is measured; None: until growth, memory or the training set ends.
    memory: GB of each device; None: what it has.
    devices: that share a batch.
    cores: CPU cores; None: those of a trial.
    measure: measures a size.

  Raises:
    UserError: if the config cannot be run, or the folder holds measurements of another one.
  """
  machine = Machine(
    cores=cores or lab.cores_per_trial, devices=devices, memory_bytes=None if memory is None else round(memory * 1e9)
  )
  step = unit(lab.config, devices)
  first = first_size(step, smallest)
  if largest is not None and largest < first:
    raise UserError(f"--largest={largest} is below the first size, {first}; sizes are doubled from there")
  lab.folder.mkdir(parents=True, exist_ok=True)
  with files.locked(lab.folder / ".lock", str(lab.folder)):
    record = MeasurementRecord(lab, machine, measure)
    _search(record, first, step, largest)
    found = list(record.used.values())
    steps, seconds = sum(one.steps for one in found), sum(one.seconds for one in found)
    lab.costs.append(f"{len(found)} batch sizes, {steps:,} steps, {duration(seconds)} with compilation")
    return lab.conclude(conclusion(lab.config, found, largest))


def preview(lab: Lab, *, smallest: int | None = None, devices: int = 1, **_: Any) -> list[str]:
  """Return what would be measured, and what it costs."""
  first = first_size(unit(lab.config, devices), smallest)
  sizes = f"{first:,}, {2 * first:,}, {4 * first:,} … on {_many(devices, 'device')}"
  seconds = f"{duration(BLOCKS * BLOCK_SECONDS)}, and for up to {duration(MOST_SECONDS)} if timings vary"
  return [
    f"Batch sizes {sizes}, each in a fresh process.",
    f"A size is compiled and, if it fits by the compiler's analysis, run for about {seconds}.",
    f"The search ends with the memory, with the training set, or after {PATIENCE} doublings without growth.",
    f"A doubling that raises throughput by less than {STILL_GROWS - 1:.0%} is no growth.",
  ]


def unit(config: Config, devices: int) -> int:
  """Return a size whose multiples all devices, parts of an accumulated batch and virtual batches divide."""
  return devices * config.gradient_accumulation * (getattr(config.model, "virtual_batch_size", None) or 1)


def first_size(step: int, smallest: int | None) -> int:
  """Return the first size to measure, a multiple of `step`."""
  if smallest is not None:
    return -(-smallest // step) * step
  return step * 2 ** max(0, math.ceil(math.log2(START / step)))


def _search(record: MeasurementRecord, first: int, step: int, largest: int | None) -> None:
  """Measure doubled sizes until nothing is gained, and halved ones while the smallest is the best or nothing fits."""

  def fitting() -> list[Measurement]:
    return [one for one in record.used.values() if one.fits]

  size = first
  while record.measured(size).fits:
    if size >= 2**PATIENCE * largest_raising(fitting()).batch_size or (largest is not None and 2 * size > largest):
      break
    size *= 2
  size = first
  while size % (2 * step) == 0 and not (fitting() and largest_raising(fitting()) is not fitting()[0]):
    size //= 2
    record.measured(size)


def conclusion(config: Config, found: Sequence[Measurement], largest: int | None = None) -> Conclusion:
  """Return what follows from measurements of a config, in order of their sizes."""
  fitting = [one for one in found if one.fits]
  if not fitting:
    return _nothing_fits(config, found)
  best = largest_raising(fitting)
  deciding = [one for one in fitting if one.batch_size >= best.batch_size / 2]
  spread = max(one.spread for one in deciding)
  if spread >= UNSURE and len(fitting) > 1:
    return _unsure(found, fitting, best, spread)
  beyond = [one for one in found if one.batch_size > best.batch_size]
  end: End = "largest"
  if beyond:
    end = "saturation" if beyond[0].fits else "refused" if beyond[0].refused else "memory"
  changes = {path: value for path, value in sized(config, best.batch_size).items() if value != _present(config, path)}
  slow = bottleneck(beyond[0] if end == "saturation" else best)
  doubled = proportional_until(fitting)
  numbers = {
    "batch_size": best.batch_size,
    "examples_per_second": best.examples_per_second,
    "step_seconds": best.step_seconds,
    "waiting": best.waiting,
    "needed_bytes": best.needed_bytes,
    "limit_bytes": best.limit_bytes,
    "end": end,
    "saturates_at": best.batch_size if end == "saturation" else None,
    "proportional_until": doubled,
    "bottleneck": slow.name if end == "saturation" or slow.name == "input" else None,
    "largest_that_fits": fitting[-1].batch_size,
  }
  return Conclusion(
    procedure="batch-size",
    id="PB-05",
    verdict=_verdict(best, beyond, end, largest),
    evidence=_evidence(fitting, best, end, slow, doubled),
    changes=changes,
    numbers=numbers,
    actions=_actions(config, best, changes, end, slow, beyond),
    table=_table(found),
    plots={"throughput": _picture(fitting, best)} if len(fitting) > 1 else {},
  )


def _nothing_fits(config: Config, found: Sequence[Measurement]) -> Conclusion:
  first = found[0]
  actions = [
    "Use a smaller model, or precision.compute_dtype=bfloat16, which halves the activations.",
    "Use more devices, and mesh.fsdp to split parameters and optimizer state over them.",
    "If one example at a time still does not fit, there is nothing that a batch size can do.",
  ]
  if config.gradient_accumulation == 1:
    actions.insert(2, "gradient_accumulation takes a batch in parts: less memory, and no throughput gained (PB-08).")
  return Conclusion(
    procedure="batch-size",
    id="PB-05",
    verdict=f"No batch size can be run: {first.batch_size:,} is the smallest that was tried, and it cannot, because"
    f" {first.reason}.",
    numbers={"sizes": [one.batch_size for one in found]},
    actions=["Put that right, and run this again."] if first.refused else actions,
    table=_table(found),
  )


def _unsure(
  found: Sequence[Measurement], fitting: Sequence[Measurement], best: Measurement, spread: float
) -> Conclusion:
  return Conclusion(
    procedure="batch-size",
    id="PB-05",
    verdict=f"Where throughput stops growing is not known: at the sizes that decide, even the fastest blocks of steps"
    f" differ by up to {spread:.0%}, and growth of {STILL_GROWS - 1:.0%} is looked for.",
    evidence=[f"By these timings it would be batch size {best.batch_size:,}. {fitting[-1].batch_size:,} fits."],
    numbers={"spread": spread, "largest_that_fits": fitting[-1].batch_size},
    actions=[
      "Run the same again while nothing else runs on the machine. Only the sizes whose timings vary are measured again."
    ],
    table=_table(found),
    plots={"throughput": _picture(fitting, best)},
  )


def _verdict(best: Measurement, beyond: Sequence[Measurement], end: End, largest: int | None) -> str:
  told = f"{best.batch_size:,} ({best.examples_per_second:,.0f} examples/s)"
  if end == "saturation":
    factor = beyond[0].examples_per_second / best.examples_per_second
    return f"Throughput saturates at batch size {told}: {beyond[0].batch_size:,} has {factor:.2f} times as much."
  if end == "memory":
    return f"Batch size {told} is the largest that fits. {beyond[0].batch_size:,} does not, because {beyond[0].reason}."
  if end == "refused":
    return f"Batch size {told} is the largest that can be run: {beyond[0].reason}."
  return f"Throughput still grows at batch size {told}, the largest that was allowed (--largest={largest})."


def _evidence(
  fitting: Sequence[Measurement], best: Measurement, end: End, slow: Bottleneck, doubled: int | None
) -> list[str]:
  evidence = []
  if best is not fitting[0]:
    factor = best.examples_per_second / fitting[0].examples_per_second
    doublings = math.log2(best.batch_size / fitting[0].batch_size)
    evidence.append(
      f"From {fitting[0].batch_size:,} to {best.batch_size:,}, throughput grows by a factor of {factor:.3g}, which is"
      f" {factor ** (1 / doublings):.2f} for each doubling; less than {STILL_GROWS} does not count."
    )
  told = f"up to {doubled:,}" if doubled else f"nowhere from {fitting[0].batch_size:,} on"
  evidence.append(f"A doubled batch doubles throughput (by {PROPORTIONAL} at least) {told}.")
  if end == "saturation" or slow.name == "input":
    evidence.append(slow.sentence)
  if best.needed_bytes is not None and best.limit_bytes is not None:
    share = best.needed_bytes / best.limit_bytes
    evidence.append(
      f"By the compiler's analysis, {best.batch_size:,} needs {_bytes(best.needed_bytes)} of the"
      f" {_bytes(best.limit_bytes)} of a device ({share:.2g})."
    )
  return evidence


def _actions(
  config: Config, best: Measurement, changes: dict[str, Any], end: End, slow: Bottleneck, beyond: Sequence[Measurement]
) -> list[str]:
  actions = []
  limiting = beyond[0] if end == "saturation" else best
  if slow.name == "input":
    pays = " and run this again in another folder: larger batches may then pay" if end == "saturation" else ""
    actions.append(f"Make the input pipeline faster{pays}.")
    if limiting.pipeline_seconds:
      spent = Spent(
        times={}, step_seconds=limiting.step_seconds, waiting=limiting.waiting, platform=limiting.platform or "cpu"
      )
      actions += [f"Input pipeline: {text}." for text in remedies(config, limiting.pipeline_seconds, spent)]
  if end == "saturation" and slow.name == "synchronisation":
    actions.append("Fewer devices, or a faster connection between them, lose less time.")
  if end == "largest":
    actions.append("Allow larger sizes (--largest) to see where throughput stops growing.")
  if "batch_size" in changes:
    actions += [
      "Tune the optimizer (learning rate and momentum first) and the regularization again at the new size.",
      "Larger batches may want stronger regularization.",
      "Set max_train_steps again (trialbook tune max-steps): another batch size needs another number of steps.",
    ]
    if getattr(config.model, "normalization", None) == "batch" and _virtual(config) is None:
      actions.append(
        f"Batch normalization uses the whole batch, so the model changes with it. model.virtual_batch_size="
        f"{config.batch_size} would keep its statistics as they were."
      )
  if config.gradient_accumulation > 1:
    actions.append(
      f"gradient_accumulation = {config.gradient_accumulation} buys no throughput (PB-08); without it, each size needs"
      " more memory."
    )
  return actions


def _table(found: Sequence[Measurement]) -> list[dict[str, Any]]:
  rows, before = [], None
  for one in found:
    growth = None
    if one.fits and before is not None:
      growth = one.examples_per_second / before.examples_per_second
    rows.append(
      {
        "batch size": one.batch_size,
        "fits": "yes" if one.fits else "no",
        "ms a step": one.step_seconds * 1e3 if one.fits else None,
        "examples/s": round(one.examples_per_second) if one.fits else None,
        "growth": growth,
        "waiting for data": f"{one.waiting:.0%}" if one.fits else None,
        "needed": None if one.needed_bytes is None else _bytes(one.needed_bytes),
        ("peak of the process" if one.platform == "cpu" else "peak"): one.peak_bytes and _bytes(one.peak_bytes),
        "compiled in s": one.compile_seconds or None,
      }
    )
    before = one if one.fits else before
  return rows


def _picture(fitting: Sequence[Measurement], best: Measurement) -> dict[str, Any]:
  first = fitting[0]
  perfect = first.examples_per_second / first.batch_size
  data = [
    {
      "size": one.batch_size,
      "measured": one.examples_per_second,
      "perfect": perfect * one.batch_size,
      "best": one is best,
    }
    for one in fitting
  ]
  base = alt.Chart(drawing.rows(data))
  x = alt.X("size:Q", title="batch size", scale=alt.Scale(type="log", base=2))
  y = alt.Scale(type="log")
  line = base.mark_line(strokeDash=[4, 3], color="#8a93a3").encode(x=x, y=alt.Y("perfect:Q", scale=y))
  curve = base.mark_line(point=True).encode(x=x, y=alt.Y("measured:Q", title="examples a second", scale=y))
  ring = base.transform_filter("datum.best").mark_point(size=220, color="#d7263d").encode(x=x, y=alt.Y("measured:Q"))
  return drawing.specification(line, curve, ring, title="Throughput. Dashed: doubled by each doubling")


def _present(config: Config, path: str) -> int:
  return config.batch_size if path == "batch_size" else config.evaluation.batch_size


def _virtual(config: Config) -> int | None:
  return getattr(config.model, "virtual_batch_size", None)


def _bytes(count: int) -> str:
  return f"{count / 1e9:.3g} GB" if count >= 1e8 else f"{count / 1e6:.3g} MB"


def _many(count: int, what: str) -> str:
  return f"{count} {what}{'' if count == 1 else 's'}"
