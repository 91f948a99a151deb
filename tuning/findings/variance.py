"""The noise in a difference: three variances, kept apart (PB-40, PB-41).

The playbook: trial variance (the same point with another seed), study variance (another search of the same space), and
data-sampling variance (another validation set). The first needs retrains: points that the study has several times, or
`trialbook tune rerun`. The second is a bootstrap of the best of all points, in closed form. The third is the standard
error of a share. The noise of all findings is that of `statistics.seed_noise`. Two points tie if they differ by less
than `APART` standard errors of the difference of their means.
"""

import math
from typing import Any

import scipy.stats

from trialbook.tuning.findings.finding import Finding, finding_of
from trialbook.tuning.findings.left_out import left_out
from trialbook.tuning.findings.statistics.best_of_k import of_k
from trialbook.tuning.findings.statistics.points import TriedPoint, feasible, points_of, tried_points
from trialbook.tuning.findings.statistics.seed_noise import (
  TrialNoise,
  noise_of,
  sampling_noise,
  split_of,
  trial_noise,
)
from trialbook.tuning.findings.wording import apart, how_to_rerun, many
from trialbook.tuning.results import StudyResults

_seed_variance = finding_of("PB-41", "variance")
_best_points = finding_of("PB-40", "variance")

APART = 1.96
"""Standard errors: 95% of two equal points differ by less."""
ENOUGH = 4
"""Degrees of freedom of a standard deviation, as five seeds have: its 95% interval is then 0.6 to 2.9 times it."""
SEEDS = 5
"""Retrains of a point that are proposed: their standard deviation has `ENOUGH` degrees of freedom."""


def find(results: StudyResults) -> list[Finding]:
  """Return findings on the variances that are known and how to learn the others, and on the best points that noise
  cannot order."""
  if best_point(results) is None:
    why = f"There is nothing to compare.{left_out(results)}"
    return [_seed_variance("cannot_tell", "No point has a value", why, action="Run trials.")]
  return [_trial_variance(results), _best(results)]


def best_point(results: StudyResults) -> TriedPoint | None:
  """Return the point with the best mean over its retrains; None if no point has a value."""
  return next(iter(feasible(points_of(results))), None)


def _trial_variance(results: StudyResults) -> Finding:
  seeds = trial_noise(results)
  command = how_to_rerun(results)
  if seeds is None:
    return _seed_variance(
      "cannot_tell",
      "Seed noise is unknown: no point was run twice",
      "Without it, differences can only be compared with the noise of the validation examples, which is a part of it.",
      numbers={"reruns": SEEDS},
      action=f"Rerun the best trial: {command}.",
      until=f"{SEEDS} retrains of the best point.",
    )
  of = f"{many(len(seeds.trials), 'point')} ({many(seeds.degrees_of_freedom, 'degree')} of freedom)"
  numbers: dict[str, Any] = {"deviation": seeds.deviation, "freedom": seeds.degrees_of_freedom}
  if not seeds.good:
    return _seed_variance(
      "cannot_tell",
      "Seed noise of good points is unknown: only bad points were run twice",
      f"The retrains of {of} from the worse half of the study have a standard deviation of {seeds.deviation:.2g}. Good"
      " points mostly vary less, so no difference is compared with that.",
      trials=seeds.trials,
      numbers={**numbers, "reruns": SEEDS},
      action=f"Rerun the best trial: {command}.",
      until=f"{SEEDS} retrains of the best point.",
    )
  few = seeds.degrees_of_freedom < ENOUGH
  return _seed_variance(
    "note" if few else "ok",
    f"Seed noise: retrains of a point have a standard deviation of {seeds.deviation:.2g} (95% interval {seeds.low:.2g}"
    f" to {seeds.high:.2g})",
    f"From {of}: of the points with retrains, the better half.",
    trials=seeds.trials,
    numbers={**numbers, "low": seeds.low, "high": seeds.high, **({"reruns": SEEDS} if few else {})},
    action=f"To know it better, rerun the best trial: {command}." if few else None,
  )


def _best(results: StudyResults) -> Finding:
  ranked = feasible(points_of(results))
  total = len(tried_points(results))
  sign, metric = results.objective.sign, results.objective.metric
  costs = [point.cost for point in ranked]
  numbers: dict[str, Any] = {"best": sign * costs[0], "points": len(costs), "trial": ranked[0].trials[0]}
  why = []
  if (sampling := sampling_noise(results)) is not None:
    numbers["sampling"] = sampling[0]
    why.append(
      f"Validation examples: {sampling[1]:,} {split_of(results)} examples give a standard error of {sampling[0]:.2g}."
      " All trials share them, so differences vary less."
    )
  else:
    why.append("Validation examples: their noise is not known for this metric, or their number was not logged.")
  box = of_k([sign * cost for cost in costs], sign, total, total - len(costs))
  numbers |= {"study_p5": box.p5, "study_p95": box.p95}
  if box.p5 is not None and box.p95 is not None:
    low, high = apart([box.p5, box.p95])
    why.append(
      f"Search: the best of another such study would lie between {low} and {high} in 90% of cases (bootstrap)."
    )
  noise = noise_of(results)
  if len(costs) < 2 or noise is None:
    return _best_points(
      "cannot_tell",
      "Only one point has a value: there is no other to compare it with"
      if len(costs) < 2
      else f"The best point leads the next by {costs[1] - costs[0]:.2g}; whether that is more than noise is unknown",
      " ".join(why) + left_out(results),
      trials=ranked[0].trials,
      numbers=numbers | ({} if len(costs) < 2 else {"lead": costs[1] - costs[0], "reruns": 2 * SEEDS}),
      action="Try other points." if len(costs) < 2 else f"Rerun the best two points with {SEEDS} seeds each.",
      until="Another point." if len(costs) < 2 else f"{SEEDS} retrains of each of the best two points.",
    )
  seeds = trial_noise(results)
  factor = APART
  if seeds is not None and seeds.is_usable:
    factor = float(scipy.stats.t.ppf(0.975, seeds.degrees_of_freedom))
  margins = [factor * noise.deviation * math.sqrt(1 / _count(ranked[0], seeds) + 1 / _count(p, seeds)) for p in ranked]
  # Each by its own margin: a point of one seed may be close that is behind a clearly worse one of five.
  close = [place for place, cost in enumerate(costs) if not place or cost - costs[0] < margins[place]]
  numbers |= {"lead": costs[1] - costs[0], "margin": margins[1], "ties": len(close), "noise": noise.deviation}
  why.insert(0, f"Leads are compared with the {noise.source}, {noise.deviation:.2g}{_means(ranked[0], seeds)}.")
  having = {trial.trial for trial in results.trials if trial.objective is not None}
  trials = tuple(next(number for number in ranked[place].trials if number in having) for place in close)
  text = " ".join(why) + left_out(results)
  if len(close) == 1:
    return _best_points(
      "ok",
      f"The best point is ahead by more than noise: its lead is {costs[1] - costs[0]:.2g} and equal points"
      f" differ by up to {margins[1]:.2g}",
      text,
      trials=trials,
      numbers=numbers,
    )
  margin = max(margins[place] for place in close[1:])
  return _best_points(
    "note",
    f"{len(close)} of {len(costs)} points tie for best: their {metric} differs by less than {margin:.2g}, and noise"
    " alone makes such differences",
    text,
    trials=trials,
    numbers=numbers,
    action="Choose among them by cost or simplicity, or rerun them with other seeds.",
    until=f"Retrains of these {len(close)} points: their means have less noise." if len(close) <= SEEDS else None,
  )


def _count(point: TriedPoint, seeds: TrialNoise | None) -> int:
  """Return the number of retrains that average the noise out; 1 unless the noise is that of seeds."""
  return len(point.retrains) if seeds is not None and seeds.is_usable else 1


def _means(point: TriedPoint, seeds: TrialNoise | None) -> str:
  """Return that values are means of retrains, in words that follow the noise."""
  return f" of one trial; the best point is the mean of {len(point.retrains)}" if _count(point, seeds) > 1 else ""
