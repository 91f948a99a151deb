"""How long to warm the learning rate up, and to which peak (PB-82).

The playbook ("How to apply learning rate warmup"): find `unstable_base_learning_rate`, the smallest that is unstable.
Sweep `warmup_steps` over orders of magnitude, up to a tenth of `max_train_steps`, with a peak of ten times that rate
and `post_warmup_steps = 2 * warmup_steps` at it. The shortest warmup that works is put before the existing schedule, so
that training is longer by it. The result is compared with the baseline by retrospective selection.
"""

import dataclasses
import math

from trialbook.errors import UserError
from trialbook.trainer import Config, prepend_warmup
from trialbook.tuning.procedures.against_baseline import SEEDS, compare, other_seeds
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.instability import behaviour
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.rate_sweep import MOST_WIDENED, PROBE, RATE, RateSweep, rate_of, rounded, sweep
from trialbook.tuning.procedures.warmup_conclusion import (
  FACTOR,
  LONGEST,
  POST,
  SHORTEST,
  Compared,
  Found,
  Tried,
  concluded,
  too_short,
  without_limit,
)
from trialbook.tuning.results import Trial

FINER = 3
"""Parts of the interval between a stable and an unstable learning rate: the smallest unstable one is then known to a
factor of 1.5."""
CLOSE = 1.5
"""Factor between two lengths of which one stands for both."""
WARMUP = "schedule.warmup_steps"


def run(lab: Lab, *, factor: float = FACTOR, unstable: float | None = None) -> Conclusion:
  """Find the shortest warmup that makes a much larger learning rate stable, and compare it with the baseline (PB-82).

  Args:
    lab: where the trainings run.
    factor: of the unstable learning rate, which is the peak: 10, or 100 to try more.
    unstable: the smallest learning rate that is unstable, if that is known; None: a sweep finds it.
  """
  if factor <= 1:
    raise UserError(f"--factor={factor:g}: the peak should be larger than the unstable learning rate")
  base = without_warmup(lab.config)
  if math.floor(LONGEST * base.max_train_steps) < SHORTEST:
    return lab.conclude(too_short(base))
  rates = _rates(lab, base, unstable)
  if isinstance(rates, Conclusion):
    return lab.conclude(rates)
  limit, reference, sweep_of = rates
  peak = rounded(factor * limit)
  tried = _warmups(lab, base, peak, factor, reference)
  compared: list[Compared] = []
  for one in tried:
    if not one.works:
      continue
    candidate = prepend_warmup(base.override({RATE: peak}), one.steps)
    name = f"comparison_{factor:g}" + (f"_{one.steps}" if compared else "")
    goal = f"Is training better with {one.steps:,} steps of warmup to a learning rate of {peak:g}?"
    against = compare(lab, name, candidate, goal, PROBE)
    stable = reference or (against.baseline if against.baseline.objective is not None else None)
    went = behaviour(against.candidate, candidate.max_train_steps, stable)
    if not went.is_unstable and against.is_better:
      seeds = other_seeds(lab, f"seeds_{factor:g}_{one.steps}", candidate, candidate.max_train_steps, stable, PROBE)
      broken = next((other for other in seeds if other.is_unstable), None)
      if broken is not None:
        went = dataclasses.replace(broken, text=f"with another seed, {broken.text}")
    compared.append(Compared(one, candidate, against, went))
    # The short training does not show all. If the whole one breaks, the next longer warmup is tried.
    if not went.is_unstable:
      break
  return lab.conclude(concluded(lab, base, Found(limit, peak, factor, sweep_of, tried, compared)))


LATER = (
  f"The sweep is widened until a learning rate is unstable, at most {MOST_WIDENED} times. Then short trainings with"
  f" warmups of {SHORTEST}, {10 * SHORTEST}, {100 * SHORTEST}, … steps, at most {LONGEST:.0%} of max_train_steps, and"
  " the comparison of the baseline with the shortest one that works."
)
"""What may be run after the first study."""


def without_warmup(config: Config) -> Config:
  """Return a config without the warmup that it has: what follows it stays, and training is shorter by it."""
  resolved = config.resolved()
  steps = resolved.schedule.warmup_steps
  if not steps:
    return resolved
  return resolved.override({WARMUP: 0, "max_train_steps": max(config.max_train_steps - steps, 1)})


def lengths(max_train_steps: int) -> list[int]:
  """Return the lengths of warmup that are tried: orders of magnitude, and the longest that there may be."""
  longest = math.floor(LONGEST * max_train_steps)
  found = [SHORTEST * 10**power for power in range(9) if SHORTEST * 10**power * CLOSE < longest]
  return [*found, longest] if longest >= SHORTEST else []


def _rates(lab: Lab, base: Config, unstable: float | None) -> tuple[float, Trial | None, RateSweep | None] | Conclusion:
  """Return the smallest unstable learning rate, a stable training, and the sweep; or a conclusion if there is none."""
  if unstable is not None:
    return unstable, None, None
  found = sweep(lab, config=base, changes={}, is_enough=lambda rates: rates.smallest_unstable() is not None)
  first = found.smallest_unstable()
  if found.best is None or first is None:
    return without_limit(lab, found)
  limit = first[0]
  below = [rate for rate in found.rates if rate < rate_of(limit)]
  if below:
    low, high = below[-1], rate_of(limit)
    between = [rounded(low * (high / low) ** (part / FINER)) for part in range(1, FINER)]
    goal = "Which learning rate is the smallest that is unstable?"
    lab.sweep("rates_between", goal, RATE, between, config=base, changes=PROBE)
    studies = [study for name, study in lab.results.items() if name.startswith("rates_")]
    found = RateSweep.of(studies, base.max_train_steps)
    limit = (found.smallest_unstable() or first)[0]
  return rate_of(limit), found.reference, found


def _warmups(lab: Lab, base: Config, peak: float, factor: float, reference: Trial | None) -> list[Tried]:
  """Return short trainings with warmup to the peak, the shortest first."""
  config = base.override({RATE: peak, "schedule": {"name": "constant"}})
  wanted = lengths(base.max_train_steps)
  tried = _trained(lab, config, f"warmups_{factor:g}", wanted, reference)
  # Between the longest that breaks and the shortest that works, an order of magnitude apart, is a shorter one perhaps.
  works = next((at for at, one in enumerate(tried) if one.works), None)
  if works:
    between = round(math.sqrt(tried[works - 1].steps * tried[works].steps))
    if between > CLOSE * tried[works - 1].steps:
      tried += _trained(lab, config, f"warmups_{factor:g}_between", [between], reference)
  return sorted(tried, key=lambda one: one.steps)


def _trained(lab: Lab, config: Config, name: str, steps: list[int], reference: Trial | None) -> list[Tried]:
  # Whether a training breaks depends on its seed near the limit.
  seeds = [config.seed + more for more in range(SEEDS)]
  results = lab.points(
    name,
    "Which warmup makes the peak learning rate stable?",
    [{WARMUP: each, "max_train_steps": (1 + POST) * each, "seed": seed} for each in steps for seed in seeds],
    config=config,
    # These show by their training loss whether they are stable; they are too different in length to be compared.
    changes={**PROBE, "evaluation.every_steps": (1 + POST) * steps[-1], "checkpointing.every_evaluations": 0},
  )
  tried = []
  for at, each in enumerate(steps):
    trials = results.trials[at * SEEDS : (at + 1) * SEEDS]
    went = [
      behaviour(trial, (1 + POST) * each, reference, same_batches=seed == config.seed)
      for seed, trial in zip(seeds, trials, strict=True)
    ]
    broken = [one for one in went if one.kind != "stable"]
    shown = went.index(broken[0]) if broken else 0
    tried.append(Tried(each, trials[shown], went[shown], len(broken)))
  return tried
