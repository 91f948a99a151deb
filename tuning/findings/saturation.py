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
from trialbook.tuning.findings.statistics.learning_curves import (
  LearningCurve,
  LearningCurves,
  error_of_typical,
  tenths,
)
from trialbook.tuning.findings.wording import listed, short
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
    left_out: trials among the best few whose course is unlike that of the others.
  """

  trials: Sequence[Trial]
  saturated: int | None
  lost: float | None
  half: tuple[float, float]
  left_out: Sequence[Trial] = ()

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
    left_out=ran.left_out,
  )


def _lost(several: Sequence[LearningCurve], shared: float) -> tuple[np.ndarray, float]:
  """Return by how much the fifths of the mean curve that end at each of `ENOUGH` are worse than the last fifth: [3];
  their standard error, with noise as before half of the steps, and the effective number of trials."""
  means = tenths(several)
  lost = np.array([means[end - 2 : end].mean() for end in ENOUGH]) - means[8:].mean()
  # The difference of two fifths, of two tenths each, has the error of one tenth.
  return lost, error_of_typical(several, shared, before=True)


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
    title=f"{metric} improves by less than {short(seen.lost)} after {share} (95% confidence)"
    if seen.lost > 0
    else f"{metric} is no better at the end than after {share} (95% confidence)",
    why=f"{_compared(seen)} A difference of {short(margin)} would matter. With fewer steps, the same compute pays for"
    " more trials.",
    until=f"A training of {shorter:,} steps that ends worse than the best trial by more than {short(margin)}.",
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
    title=f"Unknown whether half the steps would do: {results.objective.metric} may be worse by up to {short(most)}",
    why=f"{_compared(seen)} Half-way, it is worse by 0 to {short(most)} (95% confidence), because evaluations vary. A"
    f" difference of {short(margin)} would matter.",
    trials=trial_numbers(seen.trials),
    numbers={**seen.numbers, "relevant": margin},
    action=f"Train the best trial again for {half:,} steps, with the learning rate decayed by then. Less noisy"
    " evaluations, on more examples,"
    + (f" or {math.ceil(times)} times as many of them," if times <= MOST_TIMES else "")
    + " would show it too.",
    plot="curves",
  )


def _compared(seen: Fewer) -> str:
  """Return a sentence on what was compared."""
  count = len(seen.trials)
  whose = "of the best trial" if count == 1 else f"over the best {count} trials that ran to their end"
  text = f"Mean {whose}: the fifth of the curve up to there is compared with the last fifth."
  return f"{text} {unlike(seen.left_out)}" if seen.left_out else text


def unlike(trials: Sequence[Trial]) -> str:
  """Return a sentence on trials whose course is unlike that of the others; they are not empty."""
  numbers = [str(trial.trial) for trial in trials]
  return (
    f"{'Trials' if len(numbers) > 1 else 'Trial'} {listed(numbers)} {'are' if len(numbers) > 1 else 'is'} left out: the"
    " course is unlike that of the others, as if a training recovered late."
  )
