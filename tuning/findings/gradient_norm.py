"""Outliers among gradient norms, and clipping that goes too far (PB-81, PB-83).

The playbook ("How do I debug and mitigate optimization failures?"): log the norm of the full gradient, and look at it
against the step: outliers call for clipping, at the 90th percentile of the norms; where more than half of the updates
are clipped, it is the learning rate that should be smaller.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from trialbook.tuning.findings.finding import Finding, finding_of, trial_numbers
from trialbook.tuning.findings.settings_in_use import is_varied, proposed, setting
from trialbook.tuning.findings.statistics.curve_trends import complete, share_interval
from trialbook.tuning.findings.statistics.points import points_of
from trialbook.tuning.findings.statistics.regions import region_of
from trialbook.tuning.findings.wording import between, held_by, many, short
from trialbook.tuning.once import once
from trialbook.tuning.results import StudyResults, Trial

_outlier_finding = finding_of("PB-81", "gradient_norm")
_clipping_finding = finding_of("PB-83", "gradient_norm")

METRIC, CLIPPED = "grad_norm", "clip_fraction"
"""The metrics as runs log them; the norm is the one before clipping."""
NEIGHBOURS = 15
"""Logged norms whose median an outlier is compared with: wide beside a spike, narrow beside warmup and decay."""
LEAST = 2 * NEIGHBOURS
"""Logged norms of a trial: of fewer, a neighbourhood would be the whole training."""
MOST_TRIALS = 300
"""Number of trials that are looked at, the best: what they do not show is rare."""
DEVIATIONS = 5.0
"""Robust standard deviations of the logarithm beyond which a norm is an outlier: normal noise is there once in three
million norms, heavier-tailed noise seldom."""
FACTOR = 3.0
"""Multiple of its neighbours that an outlier must reach as well: a smaller update does no harm."""
RECURRENT = 2
"""Outliers in a trial, that is: one may be a single bad batch."""
FREQUENT, LEAST_TRIALS = 0.1, 2
"""Share and number of the complete trials with outliers from which they are reported."""
MANY, TOP = 0.25, 0.25
"""Share of the complete trials with outliers from which on they are the study's fault; and so they are if one of the
best trials, by this share, has them. Else they are those of some bad values."""
THRESHOLD = 0.9
"""The playbook's percentile of the norms, for clipping."""
COVERED = 0.5
"""Share of a training that the logged norms must reach: of the first hundred of a hundred thousand steps, the absence
of outliers says nothing about the others."""
BEGINNING = 0.1
"""Share of a training in which warmup would help: it is seldom longer (PB-82)."""
AGGRESSIVE = 0.5
"""Share of clipped updates that the playbook calls extremely aggressive."""


@dataclasses.dataclass(frozen=True)
class Outliers:
  """The values of one trial's curve that are far above their neighbours.

  Attributes:
    trial: whose.
    steps: at which they are.
    logged: the number of values looked at.
    largest: factor over the median of the neighbours.
    last: step of the last value that was logged.
    length: steps of the training.
  """

  trial: Trial
  steps: tuple[int, ...]
  logged: int
  largest: float
  last: int
  length: int


def find(results: StudyResults) -> list[Finding]:
  """Return the findings on outliers and on clipping (PB-81, PB-83).

  Outliers: `DEVIATIONS` and `FACTOR` above the median of `NEIGHBOURS`, on a log scale, `RECURRENT` of them in a trial,
  in `FREQUENT` of the complete trials. Clipping: the mean share of clipped updates of a trial.
  """
  found = []
  seen = looked_at(results, METRIC)
  if not seen:
    found.append(
      _outlier_finding(
        severity="cannot_tell",
        title="Unknown whether gradients have outliers: their norms were not logged",
        why=f"No complete trial logged {LEAST} values of {METRIC}.",
        action=f"Log the L2 norm of the full gradient, before clipping, as {METRIC} at every step.",
      )
    )
  else:
    found.append(_of_norms(results, seen))
  if (clipped := _clipping(results)) is not None:
    found.append(clipped)
  return found


@once
def looked_at(results: StudyResults, metric: str, until: float = 1.0) -> list[Outliers]:
  """Return `outliers_of` the complete trials that logged the metric, the best first, at most `MOST_TRIALS`."""
  trials = complete(results)[:MOST_TRIALS]
  seen = (outliers_of(trial, metric, until, results.length(trial)) for trial in trials)
  return [one for one in seen if one is not None]


def is_beginning_only(seen: Sequence[Outliers]) -> bool:
  """Return whether most trials logged the metric in the beginning of training only."""
  return sum(one.last < COVERED * one.length for one in seen) > len(seen) / 2


def covered(seen: Sequence[Outliers]) -> str:
  """Return what was looked at, in words: trials, and steps of how many."""
  return f"{many(len(seen), 'trial')}, up to step {_usual(seen, 'last'):,} of {_usual(seen, 'length'):,}"


def _usual(seen: Sequence[Outliers], name: str) -> int:
  return int(np.median([getattr(one, name) for one in seen]))


def outliers_of(trial: Trial, metric: str, until: float = 1.0, length: int | None = None) -> Outliers | None:
  """Return the outliers of a positive metric in the share `until` of the training; None if it was not logged often
  enough. `length` is the number of steps of the training, if that is known."""
  steps, values = trial.curve(metric)
  wanted = (values > 0) & (steps <= until * max(length or 0, trial.last_step))
  steps, values = steps[wanted], values[wanted]
  if len(values) < LEAST:
    return None
  logs = np.log(values)
  above = logs - ndimage.median_filter(logs, NEIGHBOURS, mode="nearest")
  # Differences of neighbours know the noise also where the norm moves.
  deviation = 1.4826 * float(np.median(np.abs(above)))
  far = above > max(DEVIATIONS * deviation, np.log(FACTOR))
  return Outliers(
    trial=trial,
    steps=tuple(int(step) for step in steps[far]),
    logged=len(values),
    largest=float(np.exp(above.max())),
    last=int(steps[-1]),
    length=max(length or 0, trial.last_step),
  )


def recurrent(seen: Sequence[Outliers]) -> list[Outliers]:
  """Return those with more than a single bad batch; [] if they are too few of the trials to be the study's."""
  hit = [one for one in seen if len(one.steps) >= RECURRENT]
  return hit if len(hit) >= max(FREQUENT * len(seen), LEAST_TRIALS) else []


def is_grave(hit: Sequence[Outliers], seen: Sequence[Outliers]) -> bool:
  """Return whether outliers are more than those of bad values, given the recurrent ones and all, the best trial
  first."""
  best = {one.trial.trial for one in seen[: math.ceil(TOP * len(seen))]}
  return len(hit) >= MANY * len(seen) or any(one.trial.trial in best for one in hit)


def clip_threshold(results: StudyResults) -> float | None:
  """Return the 90th percentile of the norms of the best trial, with two digits; None if they were not logged."""
  for trial in complete(results):
    _, norms = trial.curve(METRIC)
    if len(norms) >= LEAST:
      return float(f"{np.quantile(norms, THRESHOLD):.2g}")
  return None


def _of_norms(results: StudyResults, seen: Sequence[Outliers]) -> Finding:
  hit = recurrent(seen)
  count, logged = sum(len(one.steps) for one in seen), sum(one.logged for one in seen)
  low, high = share_interval(count, logged)
  largest = max(one.largest for one in seen)
  numbers = {"outliers": count, "logged": logged, "low": low, "high": high, "largest": largest, "trials": len(seen)}
  share = f"{count:,} of {logged:,} norms ({low:.2%} to {high:.2%}, 95% interval)"
  rule = f"more than {FACTOR:g} times and {DEVIATIONS:g} standard deviations of the logarithm above their neighbours"
  if not hit and is_beginning_only(seen):
    return _outlier_finding(
      severity="cannot_tell",
      title=f"Unknown whether gradients have outliers: norms were logged up to step {_usual(seen, 'last'):,} of"
      f" {_usual(seen, 'length'):,} only",
      why=f"{share} of {covered(seen)} are {rule}. Later steps were not logged.",
      numbers=numbers,
      action=f"Log {METRIC} during all of the training.",
    )
  if not hit:
    return _outlier_finding(
      severity="ok",
      title=f"Gradient norms have no frequent outliers: {count:,} of {logged:,}",
      why=f"{share} of {covered(seen)} are {rule}. The largest is {short(largest)} times its neighbours. A trial counts"
      f" from {RECURRENT} outliers on, and a study from {FREQUENT:.0%} of its trials on.",
      numbers=numbers,
      plot="grad_norm",
    )
  grave = is_grave(hit, seen)
  early = np.mean([step / max(one.trial.last_step, 1) < BEGINNING for one in hit for step in one.steps])
  threshold, now = clip_threshold(results), setting(results, "clip_norm")
  if now is not None:
    # What is clipped already is clipped harder, or it would not help.
    threshold = float(f"{min(threshold or now, now / 2):.2g}")
  numbers |= {"with_outliers": len(hit), "early": float(early), "threshold": threshold}
  changeable = threshold is not None and results.study.config is not None and not is_varied(results, "clip_norm")
  return _outlier_finding(
    severity="warning" if grave else "note",
    title=f"Gradient norms have outliers in {len(hit)} of {len(seen)} trials, up to {short(largest)} times their"
    f" neighbours{'' if grave else '. None of the best trials has any'}",
    why=f"{share} are {rule}, and {early:.0%} of them are in the first {BEGINNING:.0%} of the training"
    f"{_region(results, hit, seen)}. A single such update can throw a training back or make it diverge, and forces"
    " smaller learning rates.",
    trials=trial_numbers([one.trial for one in hit]),
    numbers=numbers,
    action=(
      f"Clip gradients at {threshold:g}" if grave else f"To try larger learning rates, clip gradients at {threshold:g}"
    )
    + ", the 90th percentile of the best trial's norms"
    + (
      ", or less: they are clipped already."
      if now is not None
      else ", and search larger learning rates."
      if grave
      else "."
    ),
    changes={"clip_norm": threshold} if changeable and grave else None,
    plot="grad_norm",
  )


def _region(results: StudyResults, hit: Sequence[Outliers], seen: Sequence[Outliers]) -> str:
  """Return where the trials with outliers lie, in a clause; "" if nowhere in particular."""
  looked_at, numbers = {one.trial.trial for one in seen}, {one.trial.trial for one in hit}
  points = [point for point in points_of(results) if looked_at & set(point.trials)]
  bad = [2 * len(numbers & set(point.trials)) >= len(looked_at & set(point.trials)) for point in points]
  found = region_of(results, points, bad)
  held = held_by(found)
  return "" if held is None else f". {held[0].upper()}{held[1:]}"


def _clipping(results: StudyResults) -> Finding | None:
  shares = [(trial, float(values.mean())) for trial in complete(results) if len(values := trial.curve(CLIPPED)[1])]
  if not shares:
    return None
  hard = [(trial, share) for trial, share in shares if share > AGGRESSIVE]
  best, usual = shares[0][1], float(np.median([share for _, share in shares]))
  numbers = {"best": best, "median": usual, "above": len(hard), "trials": len(shares)}
  if best <= AGGRESSIVE and len(hard) <= len(shares) / 2:
    return _clipping_finding(
      severity="ok",
      title=f"{best:.0%} of the best trial's updates are clipped",
      why=f"In {len(hard)} of {len(shares)} trials it is more than {AGGRESSIVE:.0%}; the median is {usual:.0%}.",
      numbers=numbers,
      plot="grad_norm",
    )
  low, high = share_interval(len(hard), len(shares))
  threshold = clip_threshold(results)
  return _clipping_finding(
    severity="warning",
    title=f"{best:.0%} of the best trial's updates are clipped, and more than half in {len(hard)} of {len(shares)}"
    " trials",
    why=f"Clipping more than {AGGRESSIVE:.0%} of the updates is extremely aggressive: it acts as a smaller learning"
    f" rate. That is so in {between(low, high)} of such trials. Clipping is for outliers.",
    trials=trial_numbers([trial for trial, _ in hard]),
    numbers={**numbers, "threshold": threshold},
    action="Cut the learning rate instead, and clip at the 90th percentile of the norms"
    + (f", {threshold:g} in the best trial." if threshold is not None else "."),
    changes=None if threshold is None else proposed(results, ("clip_norm", threshold)),
    plot="grad_norm",
  )
