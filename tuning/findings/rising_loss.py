"""Training losses that rise late (PB-28), which `convergence` and `optimization` look for.

The playbook ("Examining the training curves"): a training loss that rises is probably a bug.
"""

from collections.abc import Sequence

import numpy as np

from trialbook.tuning.findings.finding import Finding, trial_numbers
from trialbook.tuning.findings.statistics.curve_trends import (
  Rise,
  complete,
  correlation,
  rise_after_best,
  thinned,
  training_losses,
)
from trialbook.tuning.findings.wording import between, short
from trialbook.tuning.results import StudyResults, Trial

BEST = 5
"""Trials, the best few, in one of which a rise is grave."""
RISES = 0.05
"""Share of the lowest training loss that a rise must reach: regularization and batches make it vary by less."""
RISES_OF_FALL = 0.01
"""Share of the loss's fall since the first evaluation that a rise must reach: a loss that is nearly 0 varies by much of
itself."""
CERTAIN = 0.01
"""Largest p of a rise, divided by the number of trials."""
FREQUENT = 0.1
"""Share of the trials with a rising loss from which it is the study's problem and not that of some bad values."""
POINTS = 200
"""Number of points to which a training loss that was logged at every step is thinned by medians: single spikes are not
a rise."""


def rising(results: StudyResults) -> list[tuple[Trial, Rise]]:
  """Return the complete trials whose training loss rises after the best of its running mean, the best trial first.

  A loss rises if it does so with certainty `CERTAIN` over all trials, by `RISES` of its lowest and by `RISES_OF_FALL`
  of its fall.
  """
  curves = [(trial, *thinned(*training_losses(results, trial), POINTS)) for trial in complete(results)]
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


def is_grave(results: StudyResults, wrong: Sequence[tuple[Trial, Rise]]) -> bool:
  """Return whether rising training losses are more than those of some bad values."""
  trials = complete(results)
  best = {trial.trial for trial in trials[:BEST]}
  return len(wrong) >= FREQUENT * len(trials) or any(trial.trial in best for trial, _ in wrong)


def finding(results: StudyResults, wrong: Sequence[tuple[Trial, Rise]]) -> Finding:
  """Return the finding of `convergence` on what `rising` found; `wrong` is not empty."""
  trials = complete(results)
  best = {trial.trial for trial in trials[:BEST]}
  first, rise = wrong[0]
  among_best = sum(trial.trial in best for trial, _ in wrong)
  grave = is_grave(results, wrong)
  return Finding(
    id="PB-28",
    question="convergence",
    severity="problem" if grave else "note",
    title=f"Training loss rises late in {len(wrong)} of {len(trials)} trials: probably a bug"
    if grave
    else f"Training loss rises late in {len(wrong)} of {len(trials)} trials, none of them among the best",
    why=f"After its best, at step {rise.step:,}, a line through the training loss of trial {first.trial} rises by"
    f" {short(rise.amount)} ({between(rise.low, rise.high)}) from {short(rise.level)}; {among_best} of such trials are"
    f" among the best {len(best)}. Training lowers the loss that it minimizes, unless the learning rate is too high,"
    " the data change, or the pipeline or the update is wrong.",
    trials=trial_numbers([trial for trial, _ in wrong]),
    numbers={
      "count": len(wrong),
      "trials": len(trials),
      "among_best": among_best,
      "amount": rise.amount,
      "low": rise.low,
      "high": rise.high,
    },
    action="Look for a bug first: data that change during training, a schedule that rises, regularization that grows."
    " Then try a smaller learning rate."
    if grave
    else "Look at their learning rates; large ones may be unstable (PB-80).",
    plot="curves",
  )
