"""What `warmup` found, and what follows from it (PB-82)."""

import dataclasses
import functools
import math
from typing import Any

from trialbook.trainer import Config
from trialbook.tuning.findings.wording import listed
from trialbook.tuning.procedures.against_baseline import SEEDS, Against, changed, confirmation
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.instability import Behaviour
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.loss_plots import loss_curves
from trialbook.tuning.procedures.rate_sweep import RATE, RateSweep, rate_of, rounded
from trialbook.tuning.results import Trial

FACTOR = 10.0
"""The playbook's multiple of the unstable learning rate that is the peak."""
SHORTEST = 10
"""Steps of the shortest warmup that is tried."""
LONGEST = 0.1
"""Share of `max_train_steps` that the longest warmup may have."""
POST = 2
"""Steps at the peak for each step of warmup."""
MORE_STEPS = 0.05
"""Share of `max_train_steps` above which more steps are suggested, to make up for the warmup."""


@dataclasses.dataclass(frozen=True)
class Tried:
  """A warmup that was tried.

  Attributes:
    steps: its length.
    trial: a short training with it, the first that broke if one did.
    went: how that training went.
    broken: number of short trainings with other seeds and this one that broke.
  """

  steps: int
  trial: Trial
  went: Behaviour
  broken: int

  @property
  def works(self) -> bool:
    """Return whether all trainings were stable."""
    return self.broken == 0


@dataclasses.dataclass(frozen=True)
class Compared:
  """A whole training with warmup: the warmup, the config, the comparison with the baseline, and how it went."""

  tried: Tried
  config: Config
  against: Against
  went: Behaviour


@dataclasses.dataclass(frozen=True)
class Found:
  """All that was found.

  Attributes:
    unstable: the smallest unstable learning rate.
    peak: of the warmups.
    factor: of the peak over the unstable one.
    rates: the sweep; None if the unstable learning rate was given.
    tried: warmups in short trainings, the shortest first.
    compared: whole trainings, of which the last one counts.
  """

  unstable: float
  peak: float
  factor: float
  rates: RateSweep | None
  tried: list[Tried]
  compared: list[Compared]

  @property
  def best(self) -> Trial | None:
    """Return the best training without warmup, of the sweep."""
    return None if self.rates is None else self.rates.best


def too_short(base: Config) -> Conclusion:
  steps = base.max_train_steps
  return Conclusion(
    procedure="warmup",
    id="PB-82",
    verdict=f"{steps:,} steps are too few: a warmup of at most {LONGEST:.0%} of them has fewer than {SHORTEST} steps.",
    numbers={"max_train_steps": steps},
    actions=[f"Train for at least {math.ceil(SHORTEST / LONGEST):,} steps: --set max_train_steps=1000."],
  )


def without_limit(lab: Lab, found: RateSweep) -> Conclusion:
  table = found.table(lab.ranked_by.metric)
  numbers: dict[str, Any] = {"rates": found.rates, "unstable_learning_rate": None}
  plots = {"rates": loss_curves(_by_rate(found), "Training loss by learning rate")}
  if found.best is None:
    return Conclusion(
      procedure="warmup",
      id="PB-82",
      verdict=f"No learning rate from {found.span} trains: none of {len(found.trials)} trials has a value.",
      numbers=numbers,
      table=table,
      plots=plots,
      actions=[
        "Look for a bug in the model, the data or the loss: `trialbook train --debug`.",
        f"Search smaller learning rates: --set {RATE}={rounded(found.rates[0] / 10):g}.",
      ],
    )
  return Conclusion(
    procedure="warmup",
    id="PB-82",
    verdict=f"No learning rate from {found.span} is unstable, so there is nothing that warmup would fix.",
    numbers=numbers | {"learning_rate": rate_of(found.best)},
    table=table,
    plots=plots,
    actions=[f"Search the learning rate around {rate_of(found.best):.3g}, or above {found.rates[-1]:.3g}."],
  )


def concluded(lab: Lab, base: Config, found: Found) -> Conclusion:
  make = functools.partial(
    Conclusion,
    procedure="warmup",
    id="PB-82",
    evidence=_evidence(lab, found),
    numbers=_numbers(base, found),
    table=_table(found),
    plots=_plots(found),
  )
  if not found.compared:
    steps = listed([f"{one.steps:,}" for one in found.tried], "or")
    return make(
      verdict=f"No warmup of {steps} steps makes a peak learning rate of {found.peak:.3g} stable. It is"
      f" {found.factor:g} times the smallest unstable one, {found.unstable:.3g}.",
      actions=_instead(base, found),
    )
  last = found.compared[-1]
  against, steps = last.against, last.tried.steps
  if last.went.is_unstable:
    return make(
      verdict=f"Warmups up to {steps:,} steps make a learning rate of {found.peak:.3g} stable in short trainings, but"
      f" the whole training breaks: {last.went.text}.",
      actions=_instead(base, found),
    )
  works = f"A warmup of {steps:,} steps makes a learning rate of {found.peak:.3g} stable"
  if not against.is_better:
    return make(verdict=f"{works}, but it is not better than the baseline.", actions=_instead(base, found))
  if not _beats_smaller_rates(found, against):
    assert found.best is not None
    rate = rate_of(found.best)
    return make(
      verdict=f"{works}, but a learning rate of {rate:.3g} without warmup is as good.",
      actions=[f"Take the smaller learning rate: --set {RATE}={rate:g}."],
    )
  value = (
    "the baseline has no value" if against.baseline.objective is None else f"{against.baseline.objective:.4g} without"
  )
  return make(
    verdict=f"Warm up for {steps:,} steps to a learning rate of {found.peak:.3g}, {found.factor:g} times the smallest"
    f" unstable one, {found.unstable:.3g}: {against.metric} is {against.candidate.objective:.4g}, and {value}.",
    changes={
      path: new
      for path, (_, new) in changed(lab.config, last.config).items()
      if path.startswith((RATE, "schedule.", "max_train_steps"))
    },
    actions=_next(lab, base, last.tried, found),
  )


def _beats_smaller_rates(found: Found, against: Against) -> bool:
  """Return whether warmup is better than the best learning rate without it."""
  value, best = against.candidate.objective, None if found.best is None else found.best.objective
  if value is None or best is None or found.rates is None:
    return value is not None
  return found.rates.sign * value < found.rates.sign * best


def _numbers(base: Config, found: Found) -> dict[str, Any]:
  numbers: dict[str, Any] = {
    "unstable_learning_rate": found.unstable,
    "peak_learning_rate": found.peak,
    "factor": found.factor,
    "tried": [one.steps for one in found.tried],
    "working": [one.steps for one in found.tried if one.works],
  }
  if found.compared:
    last = found.compared[-1]
    numbers |= {
      "warmup_steps": last.tried.steps,
      "max_train_steps": last.config.max_train_steps,
      "share": last.tried.steps / base.max_train_steps,
      "value": last.against.candidate.objective,
      "baseline": last.against.baseline.objective,
      "without_warmup": None if found.best is None else found.best.objective,
    }
  return numbers


def _table(found: Found) -> list[dict[str, Any]]:
  return [
    {
      "warmup steps": one.steps,
      "steps": (1 + POST) * one.steps,
      "peak": found.peak,
      "broken": f"{one.broken} of {SEEDS} seeds",
      "seen": one.went.text,
    }
    for one in found.tried
  ]


def _evidence(lab: Lab, found: Found) -> list[str]:
  lines = []
  if found.rates is not None:
    limit = found.rates.smallest_unstable()
    if limit is not None:
      trial, went = limit
      lines.append(f"At a learning rate of {rate_of(trial):.3g}, without warmup, {went.text}.")
  else:
    lines.append(f"{found.unstable:.3g} was given as the smallest unstable learning rate.")
  if lab.config.schedule.warmup_steps:
    lines.append(f"The {lab.config.schedule.warmup_steps:,} steps of warmup that the config has were taken away first.")
  lines.append(
    f"{sum(one.works for one in found.tried)} of {len(found.tried)} warmups work at a peak of {found.peak:.3g}, each"
    f" followed by {POST} times as many steps at the peak, with {SEEDS} seeds."
  )
  lines += [
    f"{one.tried.steps:,} steps of warmup work in the short training, but not in the whole one: {one.went.text}."
    for one in found.compared
    if one.went.is_unstable
  ]
  if found.compared:
    last = found.compared[-1]
    lines += [last.against.text, last.against.caveat]
    if last.against.is_better and not last.went.is_unstable:
      lines.append(f"With {SEEDS - 1} other seeds, training with this warmup is stable as well.")
  if found.best is not None and found.best.objective is not None:
    rate = rate_of(found.best)
    lines.append(f"Of the learning rates without warmup, {rate:.3g} is the best, with {found.best.objective:.4g}.")
  return lines


def _instead(base: Config, found: Found) -> list[str]:
  """Return what to try if no warmup is recommended."""
  lines = ["Clip gradients: `trialbook tune clip` helps with some initializations that warmup cannot mend."]
  if not found.compared:
    more = 10 * base.max_train_steps
    lines.append(f"Train longer, so that a longer warmup is possible: --set max_train_steps={more}.")
  if found.factor > FACTOR:
    lines.append(f"Try a lower peak: --factor={FACTOR:g}.")
  return [*lines, "Look at the architecture: `trialbook tune stability` says what it lacks (PB-84)."]


def _next(lab: Lab, base: Config, one: Tried, found: Found) -> list[str]:
  lines = []
  share = one.steps / base.max_train_steps
  if share > MORE_STEPS:
    more = rounded(one.steps / MORE_STEPS)
    lines.append(
      f"The warmup takes {share:.0%} of max_train_steps. Train longer, to make up for it: about"
      f" --set max_train_steps={more:.0f}, with the decay extended as well."
    )
  lines.append(confirmation(lab.folder))
  if found.factor < 100:
    lines.append(f"A still larger peak may be possible: --factor={10 * found.factor:g} in the same folder.")
  lines.append("Search the learning rate again, around the new one.")
  return lines


def _by_rate(found: RateSweep) -> dict[str, Trial]:
  return {f"{rate:.3g}": trial for rate, trial in zip(found.rates, found.trials, strict=True)}


def _plots(found: Found) -> dict[str, Any]:
  plots = {
    "warmups": loss_curves({f"{one.steps:,} steps": one.trial for one in found.tried}, f"Warmup to {found.peak:.3g}")
  }
  if found.rates is not None:
    plots["rates"] = loss_curves(_by_rate(found.rates), "Training loss by learning rate, without warmup")
  if found.compared:
    last = found.compared[-1]
    name = f"{last.tried.steps:,} steps of warmup to {found.peak:.3g}"
    pair = {"baseline": last.against.baseline, name: last.against.candidate}
    plots["comparison"] = loss_curves(pair, "Training loss of the baseline and with warmup")
  return plots
