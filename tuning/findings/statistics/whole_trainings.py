"""Which trials ran to the end of their training, and which were ended before: by a target, a rule, or an interruption.

The end of a training that was ended early is not the end of its learning-rate schedule. What it would have become is
unknown, so it says nothing of whether training was long enough.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from trialbook.tuning.endings import usual_length
from trialbook.tuning.findings.statistics.curve_trends import complete
from trialbook.tuning.findings.statistics.relevance import TO_DEVIATION
from trialbook.tuning.results import StudyResults, Trial

BEST = 5
"""Trials whose ends are looked at: the best few, as the playbook says; enough to average noise."""
ENOUGH = 0.5
"""Share of the best few that must have run to their end for their mean to speak of the best: most of them."""
WHOLE = 0.95
"""Share of the steps of a whole training that a trial must have run."""
USUAL = 0.5
"""Share of the trials of about the same length for it to be that of a whole training, else the longest trial has it. Of
trials that were ended anywhere some have about the same length by chance."""
EXPLAINED, LEAST_OF_A_VALUE = 0.8, 3
"""Share of the trials that must have about the same length as others of the same value of a hyperparameter for it to
set the length, as a batch size does if the number of epochs is fixed; and trials of each value at least."""
ENDED = ("cut_short", "target", "pruned")
"""Endings of trainings that did not run to their end."""
LEAST_AT_TARGET = 3
"""Trials that ended early at about the same value, if a target ended them."""
BAND = 0.25
"""Standard deviation of these values, as a share of what the trials gained in the second half of their curves: without
a target, trials that end anywhere differ by as much as they gain on the way."""


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


def whole_trainings(results: StudyResults) -> WholeTrainings:
  """Return which trials ran to their end."""
  trials = complete(results)
  usual, count = usual_length([trial.last_step for trial in trials])
  lengths: Mapping[int, float] = {}
  if count < USUAL * len(trials):
    usual = max((trial.last_step for trial in trials), default=0)
    lengths = _by_hyperparameter(results, trials)
  whole, ended = [], []
  for trial in trials:
    known = results.study.config is not None or "max_train_steps" in trial.changes
    length = (results.length(trial) or 0) if known else lengths.get(trial.trial, usual)
    is_known = trial.trial in lengths or results.endings[trial.trial].kind not in ENDED
    (whole if is_known and trial.last_step >= WHOLE * length else ended).append(trial)
  return WholeTrainings(whole, ended, trials[: min(BEST, len(trials))], int(usual) or None)


def _by_hyperparameter(results: StudyResults, trials: Sequence[Trial]) -> Mapping[int, float]:
  """Return the length of a whole training by trial, if a hyperparameter sets it; empty if none does."""
  for one in results.varied:
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
      groups.setdefault(repr(trial.values.get(one.name)), []).append(trial)
    if len(groups) < 2 or min(map(len, groups.values())) < LEAST_OF_A_VALUE:
      continue
    usual = {value: usual_length([trial.last_step for trial in group]) for value, group in groups.items()}
    if sum(count for _, count in usual.values()) >= EXPLAINED * len(trials):
      return {trial.trial: usual[value][0] for value, group in groups.items() for trial in group}
  return {}


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
  """Return the trials that seem to have been ended because they reached a target: at different steps, at about the same
  value; empty if none."""
  trials = [trial for trial in seen.ended if results.endings[trial.trial].kind in ("target", "finished")]
  if len(trials) < LEAST_AT_TARGET:
    return []
  steps = [trial.last_step for trial in trials]
  if max(steps) < min(steps) / WHOLE:
    return []  # At one step a rule ended them.
  last, gains = [], []
  for trial in trials:
    at, values = trial.curve(results.objective.metric)
    costs = results.objective.sign * values
    last.append(costs.min())
    gains.append(costs[at <= at[-1] / 2].min(initial=np.inf) - costs.min())
  away = TO_DEVIATION * float(np.median(np.abs(last - np.median(last))))
  gained = float(np.median([gain for gain in gains if np.isfinite(gain)] or [0.0]))
  return trials if away <= BAND * gained else []


def _middle(results: StudyResults, trials: Sequence[Trial]) -> float:
  return float(np.median([trial.objective for trial in trials if trial.objective is not None]))
