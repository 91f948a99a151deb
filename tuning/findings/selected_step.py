"""The step that retrospective selection finds (PB-61), which shows trainings that are too long or too short.

The playbook ("Deciding how long to train"): if the best step is always in the first tenth of the training, the number
of steps is far too large; if it is consistently in the last quarter, train longer and tune the decay again.
"""

import dataclasses

import numpy as np

from trialbook.tuning.findings.finding import Finding, finding_of, trial_numbers
from trialbook.tuning.findings.settings_in_use import proposed
from trialbook.tuning.findings.statistics.curve_trends import share_interval
from trialbook.tuning.findings.statistics.finite_spaces import finite_space
from trialbook.tuning.findings.statistics.whole_trainings import WholeTrainings, ended_early, whole_trainings
from trialbook.tuning.findings.wording import many
from trialbook.tuning.objective import value_of_finite
from trialbook.tuning.results import StudyResults, Trial

_finding = finding_of("PB-61", "selected_step")

EARLY = 0.1
"""The playbook's "first 10%" of the steps."""
LATE = 0.75
"""The playbook's "last 25%" begins here."""
MOST = 0.5
"""Share of the trials that must at least be early, with 95% certainty: most of them."""
ALWAYS = 0.9
"""Share from which it is all of them, but for chance: then trainings are far too long."""
CONSISTENTLY = 0.8
"""Share of the trials that must at least be late, with 95% certainty: also where nothing is wrong most are, since noise
decides on a flat end of which the last quarter is a large part."""
MOST_TIMES = 10
"""Most trials that are proposed, as a multiple of those run: more would not be worth it."""
EVALUATIONS = 10
"""Fewest evaluations in a curve: with fewer, the first tenth of the steps has none."""


def find(results: StudyResults) -> list[Finding]:
  """Return the finding on the step of the best evaluation of every trial that ran to its end, as a share of the trial's
  steps (PB-61).

  It has the share of trials that are early or late with its interval (Clopper and Pearson). Late ones are a note at
  most. The best step of a trial that was ended early, as at a target, is usually its last one, and says nothing.
  """
  trainings = whole_trainings(results)
  selected = shares(results, trainings) if trainings.is_enough else []
  if not selected:
    return [_unknown(results, trainings)]
  at = np.array([share for _, share in selected])
  early, late = int((at <= EARLY).sum()), int((at > LATE).sum())
  lengths = sorted(results.length(trial) or 1 for trial, _ in selected)
  usual = lengths[len(lengths) // 2]
  few, many_ = share_interval(early, len(at)), share_interval(late, len(at))
  numbers = {
    "trials": len(at),
    "early": early,
    "early_low": few[0],
    "early_high": few[1],
    "late": late,
    "late_low": many_[0],
    "late_high": many_[1],
    "median": float(np.median(at)),
    "steps": usual,
    "left_out": len(trainings.ended),
  }
  of_steps = f"{usual:,} steps" if lengths[0] == lengths[-1] else "its steps"
  counted = (
    f"{many(len(at), 'trial')} ran to the end. The best evaluation is in the first {EARLY:.0%} of {of_steps} in"
    f" {early} of them ({few[0]:.0%} to {few[1]:.0%}, 95% interval), in the last {1 - LATE:.0%} in {late}"
    f" ({many_[0]:.0%} to {many_[1]:.0%}), and at {np.median(at):.0%} in the median trial."
  )
  if trainings.ended:
    counted += f" {many(len(trainings.ended), 'trial')} that ended early {_are(len(trainings.ended))} left out."
  fewer = max(round(usual * 2 * EARLY), 1)
  if few[0] > MOST:
    return [
      _finding(
        severity="problem" if early >= ALWAYS * len(at) else "warning",
        title=f"In {early} of {len(at)} trials the best step is in the first {EARLY:.0%}: trainings are far too long",
        why=f"{counted} All steps after the best one cost compute and were not used.",
        trials=trial_numbers([trial for trial, share in selected if share <= EARLY]),
        numbers=numbers,
        action=f"Train for far fewer steps, such as {fewer:,}, and let the learning rate decay by then. If validation"
        " gets worse after the best step, regularize.",
        until=f"{many(len(at), 'more trial')} whose best step is later.",
        changes=proposed(results, ("max_train_steps", fewer)),
        plot="steps",
      )
    ]
  longer = "If the best trials still improve at the end, train longer and tune the decay again."
  if many_[0] > CONSISTENTLY:
    return [
      _finding(
        severity="note",
        title=f"In {late} of {len(at)} trials the best step is in the last {1 - LATE:.0%}",
        why=f"{counted} This is usual if the learning rate decays to the end: the last steps are the least noisy.",
        trials=trial_numbers([trial for trial, share in selected if share > LATE]),
        numbers=numbers,
        action=longer,
        plot="steps",
      )
    ]
  if np.median(at) <= EARLY:
    return [
      _finding(
        severity="note",
        title=f"The best step of the median trial is at {np.median(at):.0%}: trainings may be too long",
        why=f"{counted} {many(len(at), 'trial')} do not show whether most trials are that early.",
        trials=trial_numbers([trial for trial, share in selected if share <= EARLY]),
        numbers=numbers,
        action="Look at the curves. If none of the best trials improves after its first fifth, train for fewer steps,"
        f" such as {fewer:,}, and let the learning rate decay by then.",
        plot="steps",
      )
    ]
  where = f"{late} of {len(at)} best steps are in the last {1 - LATE:.0%}, {early} in the first {EARLY:.0%}"
  if np.median(at) > LATE and many_[1] >= CONSISTENTLY:
    needed = _would_tell(late, len(at))
    if (space := finite_space(results)) is not None and space.is_exhausted_grid:
      needed = None  # There are no more points.
    return [
      _finding(
        severity="cannot_tell",
        title=f"{where}: too few trials to call this consistently late",
        why=f"{counted} Consistently late means in at least {CONSISTENTLY:.0%} of all trials. Late steps are usual if"
        " the learning rate decays to the end.",
        trials=trial_numbers([trial for trial, share in selected if share > LATE]),
        numbers=numbers,
        action=(f"Complete {needed} trials: if as large a share of them is late, that decides. " if needed else "")
        + longer,
        plot="steps",
      )
    ]
  return [
    _finding(
      severity="ok",
      title=f"{where}: neither always early nor consistently late",
      why=counted,
      trials=(),
      numbers=numbers,
      plot="steps",
    )
  ]


def _unknown(results: StudyResults, trainings: WholeTrainings) -> Finding:
  """Return the finding that no best step is known."""
  metric = results.objective.metric
  if trainings.best and not trainings.is_enough:
    return _finding(
      severity="cannot_tell",
      title="Unknown which steps are best: too few of the best trials ran to their end",
      why=f"{ended_early(results, trainings)} The best step of a trial that ended early is usually near its end,"
      " whatever its length.",
      action="Train the best trials to their end.",
    )
  return _finding(
    severity="cannot_tell",
    title=f"Unknown which steps are best: too few evaluations of {metric}",
    why=f"It takes a trial that ran to its end with {EVALUATIONS} evaluations.",
    action=f"Evaluate at least {EVALUATIONS} times in each training.",
  )


def _are(count: int) -> str:
  return "is" if count == 1 else "are"


def _would_tell(late: int, trials: int) -> int | None:
  """Return how many trials would show whether lateness is consistent, if the same share is late; None if many more."""
  for more in range(trials + 1, MOST_TIMES * trials + 1):
    low, high = share_interval(round(late / trials * more), more)
    if low > CONSISTENTLY or high < CONSISTENTLY:
      return more
  return None


def shares(results: StudyResults, trainings: WholeTrainings) -> list[tuple[Trial, float]]:
  """Return the trials that ran to their end with enough evaluations, and the step of the best one as a share of the
  trial's own steps."""
  best = dataclasses.replace(results.objective, value="best")
  found = []
  for trial in trainings.whole:
    is_best = results.objective.value == "best"
    step = trial.step if is_best else (value_of_finite(best, *trial.curve(best.metric)) or (None,))[0]
    length = results.length(trial)
    if step is not None and len(trial.curves[best.metric]) >= EVALUATIONS and length:
      found.append((trial, step / length))
  return found
