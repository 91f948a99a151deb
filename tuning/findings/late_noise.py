"""Step-to-step variance late in training (PB-27): is the order of the best trials that of their noise?

The playbook ("Examining the training curves"): if validation error goes up and down late in training by more than the
difference between trials, find out why: batch variance, a small validation set, or a learning rate that is still high.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from trialbook.tuning.findings.finding import Finding, finding_of, trial_numbers
from trialbook.tuning.findings.settings_in_use import is_varied
from trialbook.tuning.findings.statistics.curve_trends import complete, costs, deviation
from trialbook.tuning.findings.statistics.relevance import of_perfection, relevant, whole_of
from trialbook.tuning.findings.statistics.seed_noise import split_of
from trialbook.tuning.findings.wording import between, short
from trialbook.tuning.results import StudyResults, Trial

_finding = finding_of("PB-27", "late_noise")

LATE = 0.2
"""Share of a training that is late: in most schedules the learning rate is small then."""
LEAST_LATE = 8
"""Evaluations that are looked at, if they are not more than half: fewer give a standard deviation to no better than a
third."""
TOP, LEAST_TOP = 0.25, 4
"""Share of the trials among which the choice is made, and how many these are at least."""
RIGHT = 0.75
"""Share of pairs of the best trials that one evaluation of each puts in the right order, under which ranking is chance:
half way from a coin's toss to certainty. There, noise varies as much as the trials do."""
LARGE = 5.0
"""Relevant differences (`relevance.RELEVANT`) in the part of the noise that validation examples do not explain, above
which it is a fault of its own: a tenth of the error. The best of dozens of evaluations flatters a trial by twice that,
which is more than most changes gain."""
EXPLAINED = 0.5
"""Share of the variance from which on the draw of validation examples counts as its cause: most of it."""
AVERAGED = 0.995
"""Decay of Polyak averaging that is proposed: over the last two hundred steps, shorter than any late part."""


@dataclasses.dataclass(frozen=True)
class LateNoise:
  """The noise at the end of the best trials' curves.

  Attributes:
    trials: that were looked at, the best first.
    deviation: standard deviation from evaluation to evaluation around a parabola, pooled over them.
    low, high: its 95% interval, by the chi-squared distribution.
    sampling: standard deviation that as many validation examples explain; None if that is not known.
    spread: standard deviation between the trials' levels, without what noise adds to it.
    right: the share of pairs that one evaluation of each would put in the right order.
    right_at_most: the same at the lower end of the interval.
    level: the median of the levels, in the metric's own direction.
    examples: of validation; None as above.
  """

  trials: Sequence[Trial]
  deviation: float
  low: float
  high: float
  sampling: float | None
  spread: float
  right: float
  right_at_most: float
  level: float
  examples: int | None

  @property
  def explained(self) -> float:
    """Return the share of the variance that the draw of validation examples explains; 0 if not known."""
    return min((self.sampling or 0.0) ** 2 / self.deviation**2, 1.0) if self.deviation > 0 else 0.0


def find(results: StudyResults) -> list[Finding]:
  """Return the finding on the noise at the end (PB-27).

  It is a warning if the noise is relevant (`relevance.RELEVANT`), and either so large beside the differences of the
  best trials that one evaluation each orders fewer than `RIGHT` of their pairs correctly, or larger than `LARGE` alone.
  Both are judged at the end of its interval that is in the study's favour.
  """
  seen = measured(results)
  if seen is None:
    return [
      _finding(
        severity="cannot_tell",
        title=f"How noisy {results.objective.metric} is late in training cannot be told",
        why=f"It takes the last {LEAST_LATE} evaluations, half of all at most, of {LEAST_TOP} complete trials.",
        action=f"Run {LEAST_TOP} trials at least, each with {2 * LEAST_LATE} evaluations at least.",
      )
    ]
  shown = dataclasses.asdict(dataclasses.replace(seen, trials=())) | {"explained": seen.explained}
  del shown["trials"]
  why = (
    f"Around a parabola through the last {LATE:.0%} of training, {results.objective.metric} of the best"
    f" {len(seen.trials)}"
    f" trials has a standard deviation of {short(seen.deviation)} ({between(seen.low, seen.high)}); their levels there"
    f" differ by {short(seen.spread)}. One evaluation of each would put {seen.right:.0%} of their pairs in the right"
    " order (50% is a coin's toss)."
  )
  if seen.sampling is not None:
    why += (
      f" The draw of {seen.examples:,} {split_of(results)} examples explains up to {short(seen.sampling)},"
      f" {seen.explained:.0%} of the variance; less where evaluations share them."
    )
  by_chance = is_order_chance(results, seen)
  if not by_chance and not is_large(results, seen):
    return [
      _finding(
        severity="ok",
        title=f"Late in training, {results.objective.metric} varies by {short(seen.deviation)} from evaluation to"
        f" evaluation, {_beside(seen)}",
        why=why,
        trials=trial_numbers(seen.trials),
        numbers=shown,
      )
    ]
  by_sampling = seen.explained >= EXPLAINED
  return [
    _finding(
      severity="warning",
      title=f"Late in training, {results.objective.metric} varies by {short(seen.deviation)}"
      f" ({between(seen.low, seen.high)}) from evaluation to evaluation: "
      + ("which of the best trials is best is luck" if by_chance else "the best evaluation flatters its trial"),
      why=why,
      trials=trial_numbers(seen.trials),
      numbers=shown,
      action=_more_examples(results, seen)
      if by_sampling
      else "Let the learning rate decay further by the end, average the parameters (Polyak), or train on larger"
      " batches; rank by the smoothed value rather than by the best evaluation.",
      changes=None if by_sampling else _averaging(results),
      plot="curves",
    )
  ]


def measured(results: StudyResults) -> LateNoise | None:
  """Return the noise at the end of the best trials; None if there are too few trials or evaluations."""
  trials = complete(results)
  ends = [
    (trial, end) for trial in trials[: max(math.ceil(TOP * len(trials)), LEAST_TOP)] if (end := _end(results, trial))
  ]
  if len(ends) < LEAST_TOP:
    return None
  # A parabola takes three degrees of freedom: with a line, the end of a decay would pass for noise.
  degrees_of_freedom = sum(end.points - 3 for _, end in ends)
  variance = sum((end.points - 3) * end.noise**2 for _, end in ends) / degrees_of_freedom
  quantiles = special.chdtri(degrees_of_freedom, [0.025, 0.975]).tolist()
  low, high = (math.sqrt(variance * degrees_of_freedom / quantile) for quantile in quantiles)
  levels = np.array([end.level for _, end in ends])
  by_noise = float(np.mean([end.noise**2 / end.points for _, end in ends]))
  spread = math.sqrt(max(float(levels.var(ddof=1)) - by_noise, 0.0))
  level = results.objective.sign * float(np.median(levels))
  examples = ends[0][0].log.examples.get(results.objective.metric.rpartition("/")[0])
  sampling = None
  whole = whole_of(results)
  if results.objective.metric.rpartition("/")[2] in ("error", "accuracy") and examples and 0 <= level <= whole:
    sampling = math.sqrt(level * (whole - level) / examples)
  return LateNoise(
    trials=[trial for trial, _ in ends],
    deviation=math.sqrt(variance),
    low=low,
    high=high,
    sampling=sampling,
    spread=spread,
    right=_right(spread, math.sqrt(variance)),
    right_at_most=_right(spread, low),
    level=level,
    examples=examples,
  )


def is_order_chance(results: StudyResults, seen: LateNoise) -> bool:
  """Return whether the noise decides which of the best trials is best, and matters."""
  return seen.right_at_most < RIGHT and seen.low > relevant(results, seen.level)


def is_large(results: StudyResults, seen: LateNoise) -> bool:
  """Return whether the noise that validation examples do not explain is a fault, whatever the trials' differences
  are."""
  unexplained = math.sqrt(max(seen.low**2 - (seen.sampling or 0.0) ** 2, 0.0))
  return unexplained > LARGE * of_perfection(results, seen.level)


@dataclasses.dataclass(frozen=True)
class _End:
  """The end of one curve: the noise around a parabola, the mean, and the number of evaluations."""

  noise: float
  level: float
  points: int


def _end(results: StudyResults, trial: Trial) -> _End | None:
  steps, values = costs(results, trial)
  late = max(round(LATE * len(steps)), min(LEAST_LATE, len(steps) // 2))
  if late < LEAST_LATE or (noise := deviation(steps, values, late)) is None:
    return None
  return _End(noise, float(values[-late:].mean()), late)


def _right(spread: float, noise: float) -> float:
  """Return the share of pairs in the right order, for normal levels and normal noise."""
  return 0.5 + math.atan2(spread, noise) / math.pi


def _beside(seen: LateNoise) -> str:
  if seen.right < RIGHT:
    return "too little to matter"
  return f"less than the best trials differ, by {short(seen.spread)}"


def _more_examples(results: StudyResults, seen: LateNoise) -> str:
  factor = (seen.deviation / max(seen.spread, 1e-3 * seen.deviation)) ** 2
  return (
    f"Evaluate on {factor:,.0f} times as many {split_of(results)} examples: the noise is then as small as the trials'"
    " differences."
    if 2 <= factor < 100
    else f"Evaluate on more {split_of(results)} examples, or take the best trials for equally good."
  )


def _averaging(results: StudyResults) -> dict | None:
  if results.study.config is None or results.study.config.averaging is not None or is_varied(results, "averaging"):
    return None
  return {"averaging.decay": AVERAGED}
