"""Which trials ran to the end of their training, and which were ended before: by a target, a rule, or an interruption.

The end of a training that was ended early is not the end of its learning-rate schedule. What it would have become is
unknown, so it says nothing of whether training was long enough.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from trialbook.tuning.findings.statistics.curve_trends import complete
from trialbook.tuning.once import once
from trialbook.tuning.results import StudyResults, Trial

BEST = 5
"""Trials whose ends are looked at: the best few, as the playbook says; enough to average noise."""
ENOUGH = 0.5
"""Share of the best few that must have run to their end for their mean to speak of the best: most of them."""
WHOLE = 0.95
"""Share of the steps of a whole training that a trial must have run."""
ENDED = ("cut_short", "target", "pruned")
"""Endings of trainings that did not run to their end."""


@dataclasses.dataclass(frozen=True)
class WholeTrainings:
  """The complete trials with a curve of the objective.

  Attributes:
    whole: that ran to their end, the best first.
    ended: that were ended early, the best first.
    best: the best few of both.
    steps: of a whole training; None if nothing was logged.
  """

  whole: Sequence[Trial]
  ended: Sequence[Trial]
  best: Sequence[Trial]
  steps: int | None

  def of(self, some: Sequence[Trial]) -> list[Trial]:
    """Return those of some trials that ran to their end."""
    numbers = {trial.trial for trial in self.whole}
    return [trial for trial in some if trial.trial in numbers]

  @property
  def is_enough(self) -> bool:
    """Return whether enough of the best few ran to their end to speak for them."""
    return bool(self.best) and len(self.of(self.best)) >= ENOUGH * len(self.best)


@once
def whole_trainings(results: StudyResults) -> WholeTrainings:
  """Return which trials ran to their end."""
  trials = complete(results)
  whole, ended = [], []
  for trial in trials:
    is_whole = trial.last_step >= WHOLE * (results.length(trial) or 0)
    is_whole = is_whole and results.endings[trial.trial].kind not in ENDED
    (whole if is_whole else ended).append(trial)
  steps = max((results.length(trial) or 0 for trial in trials), default=0)
  return WholeTrainings(whole, ended, trials[: min(BEST, len(trials))], steps or None)


def ended_early(results: StudyResults, seen: WholeTrainings) -> str:
  """Return a sentence on the trials among the best few that were ended early, and why; "" if there are none."""
  numbers = {trial.trial for trial in seen.ended}
  some = [trial for trial in seen.best if trial.trial in numbers]
  if not some:
    return ""
  steps = sorted(trial.last_step for trial in some)
  where = f"at step {steps[0]:,}" if steps[0] == steps[-1] else f"at steps {steps[0]:,} to {steps[-1]:,}"
  of = f" of {seen.steps:,}" if seen.steps and steps[-1] < seen.steps else ""
  all_of_them = len(some) == len(seen.best)
  text = f"{'All' if all_of_them else len(some)} of the best {len(seen.best)} ended {where}{of}."
  target = at_target(results, seen)
  return text + (
    f" {len(target)} trials ended early at about the same {results.objective.metric}"
    f" ({_middle(results, target):.3g}), as if they were stopped when they reached a target."
    if target
    else ""
  )


def at_target(results: StudyResults, seen: WholeTrainings) -> list[Trial]:
  """Return the trials that seem to have been ended because they reached a target; empty if none."""
  return [trial for trial in seen.ended if results.endings[trial.trial].kind == "target"]


def _middle(results: StudyResults, trials: Sequence[Trial]) -> float:
  return float(np.median([trial.objective for trial in trials if trial.objective is not None]))
