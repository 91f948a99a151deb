"""Saturation of the best trials long before their end (PB-28), for `convergence`.

The playbook ("Examining the training curves"): then fewer steps will do, and the compute pays for more trials.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from trialbook.tuning.findings.finding import Finding, finding_of, trial_numbers
from trialbook.tuning.findings.settings_in_use import proposed
from trialbook.tuning.findings.statistics.curve_trends import effective_trials
from trialbook.tuning.findings.statistics.learning_curves import LearningCurve, LearningCurves, tenths
from trialbook.tuning.findings.wording import short
from trialbook.tuning.results import StudyResults, Trial

_finding = finding_of("PB-28", "convergence")

ENOUGH = (3, 4, 5)
"""Tenths of the steps by which saturation counts as long before the end: half of the compute at least is wasted.
Whether the last of them would do is answered in any case."""
MOST_TIMES = 20
"""Most evaluations that are proposed, as a multiple of those made: more is not practical."""
ONE_SIDED = 1.645
"""Standard errors of a normal distribution that are not exceeded in 95%, on one side."""
AGAINST = 2.576
"""Standard errors not exceeded in 99.5%, on one side: the best few alone count against the mean of more if they are
worse at half of the steps by as much."""


@dataclasses.dataclass(frozen=True)
class Fewer:
  """The loss from fewer steps.

  Attributes:
    trials: over which the curves are averaged, the best first.
    saturated: tenths of the steps by which the level of the last fifth was reached; None if later than `ENOUGH`.
    lost: at most, with 95% certainty, by having stopped there; None as before.
    half: what the fifth of the curve that ends at half of the steps is worse than the last one, at least and at most,
      with 95% certainty each.
  """

  trials: Sequence[Trial]
  saturated: int | None
  lost: float | None
  half: tuple[float, float]

  @property
  def numbers(self) -> dict[str, float]:
    """Return the numbers of a finding: what half of the steps lose, and over how many trials."""
    return {"half_low": self.half[0], "half_high": self.half[1], "averaged": len(self.trials)}


def fewer(ran: LearningCurves, margin: float) -> Fewer:
  """Return what fewer steps would lose.

  Saturated: in the mean of the good trials, a fifth of the curve in the first half is at the upper end worse than the
  last fifth by less than `margin`; in that of the best few alone if these are certainly worse at half of the steps.
  """
  few, few_error = _lost(ran.best, ran.noise_correlation)
  averaged = ran.best if few[-1] >= max(margin, AGAINST * few_error) else ran.good
  lost, error = _lost(averaged, ran.noise_correlation)
  at_most = lost + ONE_SIDED * error
  # Each is asked only if the later one was answered, so that all hold together.
  saturated = min(itertools.takewhile(lambda end: at_most[ENOUGH.index(end)] <= margin, reversed(ENOUGH)), default=None)
  return Fewer(
    trials=[one.trial for one in averaged],
    saturated=saturated,
    lost=None if saturated is None else float(at_most[ENOUGH.index(saturated)]),
    half=(float(lost[-1] - ONE_SIDED * error), float(at_most[-1])),
  )


def _lost(several: Sequence[LearningCurve], shared: float) -> tuple[np.ndarray, float]:
  """Return by how much the fifths of the mean curve that end at each of `ENOUGH` are worse than the last fifth: [3];
  their standard error, with noise as before half of the steps, and the effective number of trials."""
  means, count = tenths(several), len(several)
  lost = np.array([means[end - 2 : end].mean() for end in ENOUGH]) - means[8:].mean()
  # A fifth held against another: twice as many evaluations in each.
  errors = [error for one in several for error in (one.error, one.error_before)]
  return lost, math.hypot(*errors) / math.sqrt(2 * count * effective_trials(count, shared))


def finding(results: StudyResults, seen: Fewer, level: float, margin: float) -> Finding:
  """Return the finding of saturation.

  `seen.saturated` and `seen.lost` are not None. `level` is the level at the end, `margin` a relevant difference.
  """
  assert seen.saturated is not None
  assert seen.lost is not None
  metric, steps = results.objective.metric, results.length(seen.trials[0])
  share = f"{10 * seen.saturated}% of the steps"
  shorter = math.ceil(seen.saturated / 10 * (steps or 1))
  change = proposed(results, ("max_train_steps", shorter))
  return _finding(
    severity="warning",
    title=f"{metric} improves by less than {short(seen.lost)} after {share} (95% certain)"
    if seen.lost > 0
    else f"{metric} is no better at the end than after {share} (95% certain)",
    why=f"Mean of the best {len(seen.trials)} trials that ran to their end: the fifth of the curve up to there against"
    f" the last one. A difference of {short(margin)} would be relevant. With fewer steps the same compute pays for more"
    " trials.",
    trials=trial_numbers(seen.trials),
    numbers={
      "saturated": seen.saturated / 10,
      "lost": seen.lost,
      "level": level,
      "steps": steps,
      "averaged": len(seen.trials),
    },
    action=f"Train for fewer steps, such as {shorter:,}, and tune the decay of the learning rate again.",
    changes=None if change is None else dict(change),
    plot="curves",
  )


def unsure(results: StudyResults, seen: Fewer, margin: float) -> Finding:
  """Return the finding that half of the steps may lose nothing, or a relevant amount."""
  least, most = seen.half
  # What half of the steps lose must be known to within what is relevant.
  times = ((most - least) / margin) ** 2 if margin > 0 else math.inf
  half = math.ceil(ENOUGH[-1] / 10 * (results.length(seen.trials[0]) or 1))
  return _finding(
    severity="cannot_tell",
    title=f"Whether fewer steps would do as well cannot be told: half may lose up to {short(most)}",
    why=f"Mean of the best {len(seen.trials)} trials that ran to their end: the fifth of the curve up to half of the"
    f" steps is worse than the last one by 0 to {short(most)} (95% certain), as evaluations vary. A difference of"
    f" {short(margin)} would be relevant.",
    trials=trial_numbers(seen.trials),
    numbers={**seen.numbers, "relevant": margin},
    action=f"Train the best trial again for {half:,} steps, with the learning rate decayed by then. Evaluations that"
    " vary less, on more examples,"
    + (f" or {math.ceil(times)} times as many of them," if times <= MOST_TIMES else "")
    + " would tell too.",
    plot="curves",
  )
