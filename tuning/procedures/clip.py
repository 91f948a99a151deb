"""Whether clipping gradients makes training stable, and at which threshold (PB-83).

The playbook ("Gradient clipping"): choose the threshold by the 90th percentile of the logged norms of the whole
gradient. If instability remains, clip harder. More than half of the updates clipped is extremely aggressive: it acts as
a smaller learning rate, so cut that instead. The result is compared with the baseline by retrospective selection.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trialbook.errors import UserError
from trialbook.tuning.findings.gradient_norm import LEAST, RECURRENT, Outliers, outliers_of
from trialbook.tuning.procedures.against_baseline import other_seeds
from trialbook.tuning.procedures.clip_conclusion import (
  PERCENTILES,
  THRESHOLD_FIELD,
  Clipped,
  Found,
  concluded,
  nothing_to_clip,
  nothing_trains,
)
from trialbook.tuning.procedures.conclusion import Conclusion
from trialbook.tuning.procedures.instability import CLIPPED, NORM, Behaviour, behaviour
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.rate_sweep import PROBE, RATE, RateSweep, rate_of, rounded
from trialbook.tuning.results import StudyResults, Trial

FACTORS = (0.1, 0.3, 1.0, 2.0, 5.0, 10.0)
"""Multiples of the config's learning rate without clipping: smaller ones show what a stable training is and whether
cutting the learning rate is as good, larger ones whether clipping could allow them."""


def run(lab: Lab) -> Conclusion:
  """Find a threshold of the gradient norm that makes training stable, and compare it with the baseline (PB-83).

  Args:
    lab: where the trainings run.
  """
  rate, length = float(lab.config.optimizer.learning_rate), lab.config.max_train_steps
  if rate == 0:
    raise UserError("optimizer.learning_rate = 0: give a positive learning rate")
  if length < LEAST:
    raise UserError(f"{length} steps are too few to know the usual norm of the gradient; train for at least {LEAST}")
  results = lab.sweep(
    "unclipped",
    "Where is training unstable without clipping, and how large are gradients where it is not?",
    RATE,
    [rounded(factor * rate) for factor in FACTORS],
    changes={**PROBE, THRESHOLD_FIELD: None},
  )
  rates = RateSweep.of([results], length)
  typical = rates.best
  if typical is None or len(typical.curve(NORM)[1]) < LEAST or not _threshold(typical, PERCENTILES[0]):
    return lab.conclude(nothing_trains(lab, rates))
  outliers = outliers_of(typical, NORM)
  targets = _targets(rates, rounded(rate), outliers)
  if not targets:
    return lab.conclude(nothing_to_clip(lab, rates, typical, outliers))
  baseline, clipped = _clip(lab, rates, typical, targets)
  found = Found(rates, typical, outliers, targets, baseline, clipped)
  while found.best is not None and found.is_better and (tested := _with_other_seeds(lab, rates, found.best)).broken:
    found = dataclasses.replace(found, clipped=[tested if one is found.best else one for one in found.clipped])
  return lab.conclude(concluded(lab, found))


LATER = (
  "Then trainings with gradients clipped at the 90th percentile of their norms, at the config's learning rate and at"
  " larger ones where training is unstable; and with smaller thresholds if it is unstable still."
)
"""What may be run after the first study."""


def _targets(rates: RateSweep, rate: float, outliers: Outliers | None) -> list[float]:
  """Return the learning rates that clipping may help at: the config's if training is unstable there or has outliers,
  and the larger ones at which it is unstable."""
  own = _behaviour_at(rates, rate)
  found = [rate] if own.is_unstable or (outliers is not None and len(outliers.steps) >= RECURRENT) else []
  above = [one for one, went in zip(rates.rates, rates.behaviours, strict=True) if one > rate and went.is_unstable]
  return [*found, *above]


def _behaviour_at(rates: RateSweep, rate: float) -> Behaviour:
  """Return how training went at a learning rate of the sweep."""
  return next(went for one, went in zip(rates.rates, rates.behaviours, strict=True) if one == rate)


def _clip(lab: Lab, rates: RateSweep, typical: Trial, targets: Sequence[float]) -> tuple[Trial, list[Clipped]]:
  """Return the training of the config as it is, and those with clipping; harder where they are unstable."""
  left, clipped, baseline = list(targets), [], None
  now, seen = lab.config.clip_norm, set()
  for number, percentile in enumerate(PERCENTILES):
    threshold = _threshold(typical, percentile)
    if now is not None:
      threshold = min(threshold, float(f"{now / 2:.2g}"))  # What is clipped already is clipped harder.
    if threshold in seen or not threshold or not left:
      continue
    seen.add(threshold)
    points: list[Mapping[str, Any]] = [{RATE: rate, THRESHOLD_FIELD: threshold} for rate in left]
    if number == 0:
      points = [{RATE: float(lab.config.optimizer.learning_rate), THRESHOLD_FIELD: now}, *points]
    results = lab.points(
      f"clipped_{number}",
      f"Is training stable, and better than the baseline, with gradients clipped at {threshold:g}?",
      points,
      changes=PROBE,
    )
    trained = _in_order(results)
    if number == 0:
      baseline, trained = trained[0], trained[1:]
    new = [_clipped(rates, rate, threshold, trial) for rate, trial in zip(left, trained, strict=True)]
    clipped += new
    left = [one.rate for one in new if one.went.is_unstable and not one.is_aggressive]
  assert baseline is not None
  return baseline, clipped


def _with_other_seeds(lab: Lab, rates: RateSweep, one: Clipped) -> Clipped:
  """Return a clipped training with the number of trainings with other seeds that break."""
  candidate = lab.config.override({RATE: one.rate, THRESHOLD_FIELD: one.threshold})
  name = f"seeds_{one.rate:g}_{one.threshold:g}"
  went = other_seeds(lab, name, candidate, rates.length, rates.reference, PROBE)
  return dataclasses.replace(one, broken=sum(other.is_unstable for other in went))


def _threshold(typical: Trial, percentile: float) -> float:
  """Return a percentile of the norms of the whole gradient, with two digits."""
  return float(f"{np.quantile(typical.curve(NORM)[1], percentile):.2g}")


def _in_order(results: StudyResults) -> list[Trial]:
  return sorted(results.trials, key=lambda trial: trial.trial)


def _clipped(rates: RateSweep, rate: float, threshold: float, trial: Trial) -> Clipped:
  shares, reference = trial.curve(CLIPPED)[1], rates.reference
  is_slower = reference is not None and rate <= rate_of(reference)
  went = behaviour(trial, rates.length, reference, may_be_slow=is_slower)
  return Clipped(trial, rate, threshold, float(shares.mean()) if len(shares) else 0.0, went)
