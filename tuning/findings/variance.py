"""The noise in a difference: three variances, kept apart (PB-40, PB-41).

The playbook: trial variance (the same point with another seed), study variance (another search of the same space), and
data-sampling variance (another validation set). The first needs retrains: points that the study has several times, or
`trialbook tune rerun`. The second is a bootstrap of the best of all trials, in closed form. The third is the standard
error of a share. Two trials cannot be distinguished if they differ by less than `TOLD_APART` standard errors of it.
"""

import math
from typing import Any

import scipy.stats

from trialbook.tuning.findings.finding import Finding, finding_of
from trialbook.tuning.findings.statistics.best_of_k import of_k
from trialbook.tuning.findings.statistics.points import feasible, points_of
from trialbook.tuning.findings.statistics.seed_noise import noise_of, sampling_noise, split_of, trial_noise
from trialbook.tuning.findings.wording import how_to_rerun, many
from trialbook.tuning.results import StudyResults

_seed_variance = finding_of("PB-41", "variance")
_best_trials = finding_of("PB-40", "variance")

TOLD_APART = 1.96
"""Standard errors: 95% of two equal trials differ by less."""
ENOUGH = 4
"""Degrees of freedom of a standard deviation, as five seeds have: its 95% interval is then 0.6 to 2.9 times it."""


def find(results: StudyResults) -> list[Finding]:
  """Return findings on the variances that are known and how to learn the others, and on the best trials that noise
  cannot order."""
  points = points_of(results)
  ranked = feasible(points)
  if not ranked:
    return [_seed_variance("cannot_tell", "No trial has a value", "There is nothing to vary.", action="Run trials.")]
  return [_trial_variance(results), *_apart(results, len(points) - len(ranked))]


def _trial_variance(results: StudyResults) -> Finding:
  seeds = trial_noise(results)
  command = how_to_rerun(results)
  if seeds is None:
    return _seed_variance(
      "cannot_tell",
      "How much a trial varies from seed to seed is not known: no point was run twice",
      "A lead can only be held against the draw of validation examples, which is a part of the noise.",
      action=f"Rerun the best trial: {command}.",
    )
  if not seeds.good:
    which = many(len(seeds.trials), "point")
    return _seed_variance(
      "cannot_tell",
      "How much a good trial varies from seed to seed is not known: only bad points were run twice",
      f"{which} of the worse half of the study, with {many(seeds.degrees_of_freedom, 'degree')} of freedom, varies by"
      f" {seeds.deviation:.2g}; good points mostly vary less, so that no lead is held against that.",
      trials=seeds.trials,
      numbers={"deviation": seeds.deviation, "freedom": seeds.degrees_of_freedom},
      action=f"Rerun the best trial: {command}.",
    )
  numbers = {"deviation": seeds.deviation, "low": seeds.low, "high": seeds.high, "freedom": seeds.degrees_of_freedom}
  few = seeds.degrees_of_freedom < ENOUGH
  return _seed_variance(
    "note" if few else "ok",
    f"From seed to seed a trial varies by {seeds.deviation:.2g} (standard deviation, 95% interval {seeds.low:.2g} to"
    f" {seeds.high:.2g})",
    f"From retrains of {many(len(seeds.trials), 'point')}, the better half, with"
    f" {many(seeds.degrees_of_freedom, 'degree')} of freedom.",
    trials=seeds.trials,
    numbers=numbers,
    action=f"More seeds would make it surer: {command}." if few else None,
  )


def _apart(results: StudyResults, infeasible: int) -> list[Finding]:
  ranked = feasible(points_of(results))
  sign = results.objective.sign
  costs = [point.cost for point in ranked]
  numbers: dict[str, Any] = {"best": sign * costs[0], "points": len(costs)}
  why = []
  if (sampling := sampling_noise(results)) is not None:
    numbers["sampling"] = sampling[0]
    why.append(
      f"Data-sampling: the {sampling[1]:,} {split_of(results)} examples leave a standard error of {sampling[0]:.2g};"
      " trials share them, so that differences vary less than that of two independent sets."
    )
  else:
    why.append("Data-sampling: not known for this metric, or the number of validation examples was not logged.")
  box = of_k([sign * cost for cost in costs], sign, len(costs) + infeasible, infeasible)
  numbers |= {"study_p5": box.p5, "study_p95": box.p95}
  if box.p5 is not None and box.p95 is not None:
    why.append(f"Study: the best of another such study lies between {box.p5:.4g} and {box.p95:.4g} in 90% (bootstrap).")
  noise = noise_of(results)
  if len(costs) < 2 or noise is None:
    return [
      _best_trials(
        "cannot_tell",
        "Whether the best trial is better than the next cannot be told",
        " ".join(why) + (" There is one point." if len(costs) < 2 else " No noise is known to hold the lead against."),
        numbers=numbers,
        action="Rerun the best two trials with 5 seeds each.",
      )
    ]
  seeds = trial_noise(results)
  factor = TOLD_APART
  if seeds is not None and seeds.is_usable:
    factor = float(scipy.stats.t.ppf(0.975, seeds.degrees_of_freedom))
  margins = [factor * noise.deviation * math.sqrt(1 / _count(ranked[0], seeds) + 1 / _count(p, seeds)) for p in ranked]
  # Each by its own margin: a point of one seed may be close that is behind a clearly worse one of five.
  close = [place for place, cost in enumerate(costs) if not place or cost - costs[0] < margins[place]]
  numbers |= {"lead": costs[1] - costs[0], "margin": margins[1], "not_told_apart": len(close), "noise": noise.deviation}
  why.append(f"The lead is held against the {noise.source}, {noise.deviation:.2g}, of both trials.")
  having = {trial.trial for trial in results.trials if trial.objective is not None}
  trials = tuple(next(number for number in ranked[place].trials if number in having) for place in close)
  if len(close) == 1:
    return [
      _best_trials(
        "ok",
        f"The best point leads by {costs[1] - costs[0]:.2g}, more than the noise of {margins[1]:.2g}",
        " ".join(why),
        trials=trials,
        numbers=numbers,
      )
    ]
  return [
    _best_trials(
      "note",
      f"The best point is not told apart from {many(len(close) - 1, 'other')}: it leads them by less than the noise,"
      f" {max(margins[place] for place in close[1:]):.2g}",
      " ".join(why),
      trials=trials,
      numbers=numbers,
      action="Choose among them by cost or simplicity, or rerun them with other seeds.",
    )
  ]


def _count(point, seeds) -> int:
  """Return the number of retrains that average the noise out; 1 unless the noise is that of seeds."""
  return len(point.retrains) if seeds is not None and seeds.is_usable else 1
