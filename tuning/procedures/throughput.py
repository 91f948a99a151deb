"""Rules on the throughput of batch sizes: where it stops growing, and what limits it (PB-04)."""

import itertools
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from trialbook.trainer.profile import INPUT_BOUND
from trialbook.tuning.procedures.step_measurement import Measurement

STILL_GROWS = 1.1
"""Least factor of throughput for a doubling that counts as growth. Below it, a doubled batch buys less than a tenth of
what a doubling can buy, which is about as much as timings vary on machines that are not idle."""
PROPORTIONAL = 1.8
"""Least factor of throughput for a doubling that counts as doubling it."""
SYNCHRONISATION_BOUND = 0.2
"""Least share of a step, beyond what one device alone needs for its examples, for which several devices are called
bound by their exchange of data; as much as `INPUT_BOUND`."""


def largest_raising(fitting: Sequence[Measurement]) -> Measurement:
  """Return the largest of some sizes, in order, up to which each doubling raises throughput by `STILL_GROWS`."""
  best = fitting[0]
  for one in fitting[1:]:
    doublings = math.log2(one.batch_size / best.batch_size)
    if one.examples_per_second >= best.examples_per_second * STILL_GROWS**doublings:
      best = one
  return best


def proportional_until(fitting: Sequence[Measurement]) -> int | None:
  """Return the size up to which each doubling doubles throughput (`PROPORTIONAL`); None if the first does not."""
  reached = None
  for before, after in itertools.pairwise(fitting):
    if after.examples_per_second < before.examples_per_second * PROPORTIONAL:
      break
    reached = after.batch_size
  return reached


class Bottleneck(NamedTuple):
  """What limits the throughput of a size: its name, and the numbers that say so in a sentence."""

  name: Literal["input", "synchronisation", "compute"]
  sentence: str


def bottleneck(one: Measurement) -> Bottleneck:
  """Return the likely bottleneck of a size (PB-04)."""
  waits = f"At {one.batch_size:,}, the steps wait for data {one.waiting:.0%} of their time"
  if one.waiting >= INPUT_BOUND:
    could = one.examples_per_second / max(1 - one.waiting, 1e-9)
    more = f"; without that, the devices would reach {could:,.0f} examples/s" if one.waiting < 0.9 else ""
    return Bottleneck("input", f"{waits}: the input pipeline is the bottleneck{more}.")
  busy = (1 - one.waiting) * one.step_seconds
  if one.alone_seconds is not None:
    beyond = max(1 - one.alone_seconds / busy, 0.0)
    alone = f"one device alone needs {one.alone_seconds * 1e3:.3g} ms for its share"
    told = f"{waits}, and take {busy * 1e3:.3g} ms without that, while {alone}"
    if beyond >= SYNCHRONISATION_BOUND:
      return Bottleneck("synchronisation", f"{told}: {beyond:.0%} of a step is the exchange between devices.")
    return Bottleneck("compute", f"{told}: the devices' computation is the bottleneck.")
  unknown = " The exchange between devices that share CPU cores is not told apart from it." if one.devices > 1 else ""
  return Bottleneck("compute", f"{waits}: the devices' computation is the bottleneck.{unknown}")
