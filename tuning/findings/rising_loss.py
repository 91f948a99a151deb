"""Training losses that rise late (PB-28), which `convergence` and `optimization` look for.

The playbook ("Examining the training curves"): a training loss that rises is probably a bug. A bug makes it rise
everywhere. Where it rises in one region of the space only, as above some learning rate, optimization is the problem.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from trialbook.tuning.findings.finding import Finding, Severity, trial_numbers
from trialbook.tuning.findings.statistics.curve_trends import (
  Rise,
  complete,
  correlation,
  rise_after_best,
  thinned,
  training_losses,
)
from trialbook.tuning.findings.statistics.points import TriedPoint, feasible, points_of
from trialbook.tuning.findings.statistics.regions import Region, region_of
from trialbook.tuning.findings.wording import between, held_by, many, p_value, short
from trialbook.tuning.once import once
from trialbook.tuning.results import StudyResults, Trial

BEST = 5
"""Points, the best few, in one of which a rise is grave."""
RISES = 0.05
"""Share of the lowest training loss that a rise must reach: regularization and batches make it vary by less."""
RISES_OF_FALL = 0.01
"""Share of the loss's fall since the first evaluation that a rise must reach: a loss that is nearly 0 varies by much of
itself."""
CERTAIN = 0.01
"""Largest p of a rise, divided by the number of trials."""
FREQUENT = 0.1
"""Share of the points with a rising loss from which it is the study's problem and not that of some bad values."""
NEARLY_ALL = 0.9
"""Share of the points with a rising loss from which it rises everywhere: no region is left that it could be missing
from."""
LEAST = 12
"""Fewest training losses of a trial: fewer leave no line behind the best of their running mean."""
LATE = 0.5
"""Share of a training that its logged losses must reach for a late rise to be seen."""
POINTS = 200
"""Number of points to which a training loss that was logged at every step is thinned by medians: single spikes are not
a rise."""


@dataclasses.dataclass(frozen=True)
class Rises:
  """What rises in a study.

  Attributes:
    wrong: the trials whose training loss rises, the best first.
    looked_at: number of trials whose training loss was logged until late enough.
    points: number of their points.
    rising_points: number of points of which at least half of the trials rise.
    among_best: of these, the number among the best few points.
    region: where they lie.
    cause: "bug": everywhere; "region": an optimization problem there; "unclear": too few to say.
  """

  wrong: Sequence[tuple[Trial, Rise]]
  looked_at: int
  points: int
  rising_points: int
  among_best: int
  region: Region
  cause: Literal["bug", "region", "unclear"]

  @property
  def is_grave(self) -> bool:
    """Return whether rising training losses are more than those of some bad values."""
    if self.cause == "region":
      return self.among_best > 0
    # One point of many is no pattern, be it the best: its curve may rise by chance.
    return self.cause == "bug" or self.among_best > 1 or self.rising_points >= FREQUENT * self.points


@once
def late_enough(results: StudyResults) -> list[Trial]:
  """Return the complete trials whose training loss was logged often, and until late in training, the best first."""
  found = []
  for trial in complete(results):
    steps, _ = training_losses(results, trial)
    if len(steps) >= LEAST and steps[-1] >= LATE * max(trial.last_step, 1):
      found.append(trial)
  return found


@once
def rising(results: StudyResults) -> list[tuple[Trial, Rise]]:
  """Return the complete trials whose training loss rises after the best of its running mean, the best trial first.

  A loss rises if it does so with certainty `CERTAIN` over all trials, by `RISES` of its lowest and by `RISES_OF_FALL`
  of its fall.
  """
  curves = [(trial, *thinned(*training_losses(results, trial), POINTS)) for trial in late_enough(results)]
  shared = correlation((steps, losses) for _, steps, losses in curves)
  found = []
  for trial, steps, losses in curves:
    rise = rise_after_best(steps, losses, shared)
    if rise is None or rise.p >= CERTAIN / len(curves):
      continue
    fall = float(np.max(losses[: max(len(losses) // 10, 1)])) - rise.level
    if rise.amount >= max(RISES * abs(rise.level), RISES_OF_FALL * fall):
      found.append((trial, rise))
  return found


def judged(results: StudyResults, wrong: Sequence[tuple[Trial, Rise]]) -> Rises:
  """Return where training losses rise, and what that says of the cause; `wrong` is what `rising` found, not empty."""
  looked_at = {trial.trial for trial in late_enough(results)}
  hit = {trial.trial for trial, _ in wrong}
  points = [point for point in points_of(results) if looked_at & set(point.trials)]
  bad = [2 * len(hit & set(point.trials)) >= len(looked_at & set(point.trials)) for point in points]
  best = {number for point in feasible(points)[:BEST] for number in point.trials}
  found = region_of(results, points, bad)
  if sum(bad) >= NEARLY_ALL * len(points) or found.kind == "everywhere":
    cause = "bug"
  elif found.kind in ("axis", "corner", "interval", "together") or (
    found.kind == "point" and _is_one_point(points, hit)
  ):
    cause = "region"
  else:
    cause = "unclear"
  among_best = sum(is_bad and bool(best & set(point.trials)) for point, is_bad in zip(points, bad, strict=True))
  return Rises(wrong, len(looked_at), len(points), sum(bad), among_best, found, cause)


def _is_one_point(points: Sequence[TriedPoint], hit: set[int]) -> bool:
  """Return whether several rising trials are all retrains of one point."""
  return len(hit) > 1 and any(hit <= set(point.trials) for point in points)


def finding(results: StudyResults, wrong: Sequence[tuple[Trial, Rise]]) -> Finding:
  """Return the finding of `convergence` on what `rising` found; `wrong` is not empty."""
  seen = judged(results, wrong)
  first, rise = wrong[0]
  count = f"Training loss rises late in {len(wrong)} of {many(seen.looked_at, 'trial')}"
  where = place(seen.region)
  severity: Severity
  if seen.cause == "bug":
    severity = "problem" if seen.points > 1 or seen.looked_at > 1 else "warning"
    title = f"{count}: probably a bug"
    action = (
      "Look for a bug first: data that change during training, a schedule that rises, regularization that grows."
      " Then try a smaller learning rate."
    )
  elif seen.cause == "region":
    severity = "warning" if seen.among_best else "note"
    title = f"{count}, {where}: an optimization problem there, not a bug"
    action = (
      "The best trials are among them, so fix this first: try warmup, gradient clipping, then a smaller learning rate"
      " (PB-84)."
      if seen.among_best
      else "None of the best trials is among them, so nothing has to be done. If the best trials lie next to that"
      " region, more stable training might reach further (PB-80)."
    )
  elif seen.is_grave:
    severity = "warning"
    title = f"{count}: a bug, or a learning rate that is too large for them"
    action = (
      "Compare their learning rates with those of the other trials. If these do not explain it, look for a bug: data"
      " that change during training, a schedule that rises, regularization that grows."
    )
  else:
    severity = "note"
    title = f"{count}{', one of them among the best' if seen.among_best else ', none of them among the best'}"
    action = "Look at their curves and learning rates. Large ones may be unstable (PB-80)."
  return Finding(
    id="PB-28",
    question="convergence",
    severity=severity,
    title=title,
    why=f"After its best, at step {rise.step:,}, a line through the training loss of trial {first.trial} rises by"
    f" {short(rise.amount)} ({between(rise.low, rise.high)}) from {short(rise.level)}."
    f" Over points: it rises at {seen.rising_points} of {seen.points}, {seen.among_best} of them among the best"
    f" {min(BEST, seen.points)}. {_how_known(seen)}",
    trials=trial_numbers([trial for trial, _ in wrong]),
    numbers={
      "count": len(wrong),
      "trials": seen.looked_at,
      "points": seen.points,
      "rising_points": seen.rising_points,
      "among_best": seen.among_best,
      "cause": seen.cause,
      "amount": rise.amount,
      "low": rise.low,
      "high": rise.high,
    },
    action=action,
    plot="curves",
  )


def place(found: Region) -> str:
  """Return a region for a title: "all of them with learning_rate above 0.1"."""
  if (held := held_by(found)) is not None:
    return held
  return "all of them at one point" if found.kind == "point" else "close to each other in the space"


def _how_known(seen: Rises) -> str:
  if seen.cause == "bug":
    return "Training lowers the loss that it minimizes, and no region of the space is free of this."
  if seen.cause == "region":
    certainty = "" if seen.region.kind == "point" else f" ({p_value(seen.region.p)} for the region)"
    return f"A bug would make it rise everywhere{certainty}."
  return f"They are too few, or too scattered, to see a region ({p_value(seen.region.p)} for the best cut)."
