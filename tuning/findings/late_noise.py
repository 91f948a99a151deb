"""Evaluation-to-evaluation noise late in training (PB-27): does it decide the order of the best trials?

The playbook ("Examining the training curves"): if validation error goes up and down late in training by more than the
difference between trials, find out why: batch variance, a small validation set, or a learning rate that is still high.

A drop of the learning rate late in training is not noise, and the noise before it is not that of the end. The curves
are cut where they jump (`statistics.pieces`), and what follows the last jump counts.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from trialbook.tuning.findings.finding import Finding, finding_of, trial_numbers
from trialbook.tuning.findings.settings_in_use import is_varied
from trialbook.tuning.findings.statistics.curve_trends import LEAST_POINTS, costs, residuals
from trialbook.tuning.findings.statistics.pieces import all_jumps, learning_rate
from trialbook.tuning.findings.statistics.relevance import has_natural_zero, of_perfection, relevant, whole_of
from trialbook.tuning.findings.statistics.seed_noise import split_of
from trialbook.tuning.findings.statistics.whole_trainings import WholeTrainings, ended_early, whole_trainings
from trialbook.tuning.findings.wording import between, short
from trialbook.tuning.once import once
from trialbook.tuning.results import StudyResults, Trial

_finding = finding_of("PB-27", "late_noise")

LATE = 0.2
"""Share of a training that is late: in most schedules the learning rate is small then."""
LEAST_LATE = 8
"""Evaluations that are looked at, if they are not more than half: fewer give a standard deviation to no better than a
third."""
TOP, LEAST_TOP = 0.25, 4
"""Share of the trials among which the choice is made, and how many these are at least."""
CONTEXT = 2
"""Multiple of the late evaluations in which jumps are looked for: before a jump, a line is drawn too."""
CALMER = 0.01
"""Largest p of the F test by which the last half of the late evaluations counts as less noisy than the first."""
DECAYED = 0.1
"""Share of its largest value from which on a learning rate has decayed: to let it decay further changes little."""
RIGHT = 0.75
"""Share of pairs of the best trials that one evaluation of each puts in the right order, under which their order is
chance: half-way from a coin flip to certainty. There, the noise is as large as the differences of the trials."""
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
  """The evaluation-to-evaluation noise at the end of the best trials' curves.

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
    evaluations: number of them that were looked at in the median trial.
    jump: step before the last fall at once of most of the late curves; None if there is none.
    rate_left: learning rate at the end, as a share of its largest; None if it was not logged.
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
  evaluations: int = 0
  jump: int | None = None
  rate_left: float | None = None

  @property
  def explained(self) -> float:
    """Return the share of the variance that the draw of validation examples explains; 0 if not known."""
    return min((self.sampling or 0.0) ** 2 / self.deviation**2, 1.0) if self.deviation > 0 else 0.0

  @property
  def is_decayed(self) -> bool:
    """Return whether the learning rate has decayed by the end, or seems to have, as the curves jump."""
    return self.jump is not None if self.rate_left is None else self.rate_left <= DECAYED


def find(results: StudyResults) -> list[Finding]:
  """Return the finding on the evaluation-to-evaluation noise at the end (PB-27).

  It is a warning if the noise is relevant (`relevance.relevant`), and either so large beside the differences of the
  best trials that one evaluation each orders fewer than `RIGHT` of their pairs correctly, or larger than `LARGE` alone.
  Both are judged at the end of its interval that is in the study's favour.
  """
  seen = measured(results)
  metric = results.objective.metric
  if seen is None:
    return [_unknown(results, whole_trainings(results))]
  shown = dataclasses.asdict(dataclasses.replace(seen, trials=())) | {"explained": seen.explained}
  del shown["trials"]
  noise = f"the evaluation-to-evaluation noise of {metric} is {short(seen.deviation)}"
  by_chance = is_order_chance(results, seen)
  if not by_chance and not is_large(results, seen):
    return [
      _finding(
        severity="ok",
        title=f"Late in training, {noise}, {_beside(seen)}",
        why=_why(results, seen),
        trials=trial_numbers(seen.trials),
        numbers=shown,
      )
    ]
  by_sampling = seen.explained >= EXPLAINED
  return [
    _finding(
      severity="warning",
      title=f"Late in training, {noise} ({between(seen.low, seen.high)}): "
      + (
        f"the best trials differ by {short(seen.spread)}, so their order is mostly chance"
        if by_chance
        else "the best of many evaluations overstates a trial"
      ),
      why=_why(results, seen),
      trials=trial_numbers(seen.trials),
      numbers=shown,
      action=_more_examples(results, seen) if by_sampling else _less_noise(seen),
      until=f"Retrains of the best {len(seen.trials)} trials that keep their order.",
      changes=None if by_sampling else _averaging(results),
      plot="curves",
    )
  ]


def _why(results: StudyResults, seen: LateNoise) -> str:
  text = (
    f"This is the standard deviation of single evaluations around a parabola through"
    f" the last {seen.evaluations} evaluations of the best {len(seen.trials)} trials that ran to their end."
    f" Their levels there differ by {short(seen.spread)} (standard deviation). One evaluation of each would order"
    f" {seen.right:.0%} of their pairs correctly; a coin flip orders 50%."
  )
  if seen.jump is not None:
    text += (
      f" The curves fall at once after step {seen.jump:,}, as where the learning rate drops at once; that is not noise."
    )
  if seen.sampling is not None:
    text += (
      f" The sample of {seen.examples:,} {split_of(results)} examples explains a noise of up to {short(seen.sampling)},"
      f" {seen.explained:.0%} of the variance; less if all evaluations use the same examples."
    )
  return text


def _unknown(results: StudyResults, trainings: WholeTrainings) -> Finding:
  """Return the finding that the noise is not known."""
  metric = results.objective.metric
  enough = f"It takes {LEAST_TOP} of the best trials that ran to their end, with {2 * LEAST_LATE} evaluations each"
  if early := ended_early(results, trainings) if not trainings.is_enough else "":
    why = f"{early} {enough}."
    action = f"Train {LEAST_TOP} of the best trials to their end, with at least {2 * LEAST_LATE} evaluations each."
  else:
    why = f"{enough}, of which {LEAST_POINTS} follow the last jump of the curve."
    action = f"Run at least {LEAST_TOP} trials, with at least {2 * LEAST_LATE} evaluations of {metric} each."
  return _finding(
    severity="cannot_tell",
    title=f"Unknown evaluation-to-evaluation noise of {metric} late in training: "
    + ("too few of the best trials ran to their end" if early else "too few trials or evaluations"),
    why=why,
    action=action,
  )


@once
def measured(results: StudyResults) -> LateNoise | None:
  """Return the noise at the end of the best trials; None if too few of them ran to their end, or had enough
  evaluations."""
  trainings = whole_trainings(results)
  if not trainings.is_enough:
    return None
  count = max(math.ceil(TOP * (len(trainings.whole) + len(trainings.ended))), LEAST_TOP)
  ends = _ends(results, trainings.whole[:count])
  if len(ends) < LEAST_TOP:
    return None
  variance, degrees_of_freedom, share = _pooled(ends)
  quantiles = special.chdtri(degrees_of_freedom, [0.025, 0.975]).tolist()
  low, high = (math.sqrt(variance * degrees_of_freedom / quantile) for quantile in quantiles)
  levels = np.array([end.level for end in ends])
  by_noise = float(np.mean([end.squares / end.freedom / end.points for end in ends]))
  spread = math.sqrt(max(float(levels.var(ddof=1)) - by_noise, 0.0))
  level = results.objective.sign * float(np.median(levels))
  examples = ends[0].trial.log.examples.get(results.objective.metric.rpartition("/")[0])
  sampling = None
  whole = whole_of(results)
  if results.objective.metric.rpartition("/")[2] in ("error", "accuracy") and examples and 0 <= level <= whole:
    sampling = math.sqrt(level * (whole - level) / examples)
  jumps = [end.jump for end in ends if end.jump is not None]
  rates = [rates[-1] / rates.max() for end in ends if len(rates := learning_rate(end.trial)[1]) and rates.max() > 0]
  return LateNoise(
    trials=[end.trial for end in ends],
    deviation=math.sqrt(variance),
    low=low,
    high=high,
    sampling=sampling,
    spread=spread,
    right=_right(spread, math.sqrt(variance)),
    right_at_most=_right(spread, low),
    level=level,
    examples=examples,
    evaluations=round(share * float(np.median([end.points for end in ends]))),
    jump=int(np.median(jumps)) if 2 * len(jumps) > len(ends) else None,
    rate_left=float(np.median(rates)) if rates else None,
  )


def is_order_chance(results: StudyResults, seen: LateNoise) -> bool:
  """Return whether the noise decides which of the best trials is best, and matters."""
  return seen.right_at_most < RIGHT and seen.low > relevant(results, seen.level)


def is_large(results: StudyResults, seen: LateNoise) -> bool:
  """Return whether the noise that validation examples do not explain is a fault, whatever the trials' differences are.
  Without a natural zero it can be compared with these only, as `is_order_chance` does."""
  if not has_natural_zero(results):
    return False
  unexplained = math.sqrt(max(seen.low**2 - (seen.sampling or 0.0) ** 2, 0.0))
  return unexplained > LARGE * of_perfection(results, seen.level)


@dataclasses.dataclass(frozen=True)
class _End:
  """The end of one curve.

  Attributes:
    trial: whose it is.
    squares: sum of squares around a parabola.
    freedom: its degrees of freedom.
    last_squares, last_freedom: the same of the last half of the evaluations.
    level: mean of these.
    points: their number.
    jump: step before the last fall at once; None if there is none.
  """

  trial: Trial
  squares: float
  freedom: float
  last_squares: float
  last_freedom: float
  level: float
  points: int
  jump: int | None


def _ends(results: StudyResults, trials: Sequence[Trial]) -> list[_End]:
  """Return the ends of those curves that have enough evaluations."""
  late, tails = [], []
  for trial in trials:
    steps, values = costs(results, trial)
    count = max(round(LATE * len(steps)), min(LEAST_LATE, len(steps) // 2))
    if count >= LEAST_LATE:
      late.append(count)
      tails.append((trial, steps[-CONTEXT * count :], values[-CONTEXT * count :]))
  found = []
  for (trial, steps, values), jumps, count in zip(tails, all_jumps(results, tails), late, strict=True):
    points = len(steps)
    # What follows the last jump is the end: before it, the learning rate was another.
    first = max([points - count, *(jump.settled for jump in jumps)])
    left, places, freedom = residuals(steps[first:], values[first:])
    if not freedom:
      continue
    half = (points - first + 1) // 2
    is_last = places >= half
    last, last_freedom = left[is_last], freedom * float(is_last.mean())
    if len(last) >= LEAST_POINTS:
      # A parabola through all follows the noise of the first half.
      last, _, last_freedom = residuals(steps[first + half :], values[first + half :])
    falls = [jump.at for jump in jumps if jump.at >= points - count and values[jump.at] < values[jump.at - 1]]
    found.append(
      _End(
        trial=trial,
        squares=float(left @ left),
        freedom=freedom,
        last_squares=float(last @ last),
        last_freedom=last_freedom,
        level=float(values[first:].mean()),
        points=points - first,
        jump=int(steps[falls[-1] - 1]) if falls else None,
      )
    )
  return found


def _pooled(ends: Sequence[_End]) -> tuple[float, float, float]:
  """Return the variance of the noise, its degrees of freedom, and the share of the evaluations that it is from.

  That is the last half if it is certainly less noisy, as where the learning rate decays at the very end, else all.
  """
  squares, freedom = sum(end.squares for end in ends), sum(end.freedom for end in ends)
  last, last_freedom = sum(end.last_squares for end in ends), sum(end.last_freedom for end in ends)
  first, first_freedom = squares - last, freedom - last_freedom
  if min(first, last, last_freedom, first_freedom) > 0:
    ratio = (first / first_freedom) / (last / last_freedom)
    if float(special.fdtrc(first_freedom, last_freedom, ratio)) < CALMER:
      return last / last_freedom, last_freedom, 0.5
  return squares / freedom, freedom, 1.0


def _right(spread: float, noise: float) -> float:
  """Return the share of pairs in the right order, for normal levels and normal noise."""
  return 0.5 + math.atan2(spread, noise) / math.pi


def _beside(seen: LateNoise) -> str:
  if seen.right < RIGHT:
    return "too little to matter"
  return f"less than the best trials differ ({short(seen.spread)})"


def _less_noise(seen: LateNoise) -> str:
  """Return what to do against noise that validation examples do not explain."""
  ranked = 'Rank trials by the last of the running median (value="smoothed"), not by the best evaluation.'
  if seen.is_decayed:
    return f"Average the parameters (Polyak), or train on larger batches. {ranked}"
  decay = (
    "Let the learning rate decay to nearly 0 by the end"
    if seen.rate_left is not None
    else "If the learning rate does not decay to nearly 0 by the end, let it"
  )
  return f"{decay}, average the parameters (Polyak), or train on larger batches. {ranked}"


def _more_examples(results: StudyResults, seen: LateNoise) -> str:
  factor = (seen.deviation / max(seen.spread, 1e-3 * seen.deviation)) ** 2
  return (
    f"Evaluate on {factor:,.0f} times as many {split_of(results)} examples: the noise is then as small as the trials'"
    " differences."
    if 2 <= factor < 100
    else f"Evaluate on more {split_of(results)} examples, or treat the best trials as equally good."
  )


def _averaging(results: StudyResults) -> dict | None:
  if results.study.config is None or results.study.config.averaging is not None or is_varied(results, "averaging"):
    return None
  return {"averaging.decay": AVERAGED}
