"""The step that retrospective selection finds (PB-61), which shows trainings that are too long or too short.

The playbook ("Deciding how long to train"): if the best step is always in the first tenth of the training, the number
of steps is far too large; if it is consistently in the last quarter, train longer and tune the decay again.
"""

import dataclasses

import numpy as np

from trialbook.tuning.findings.finding import Finding, finding_of, trial_numbers
from trialbook.tuning.findings.settings_in_use import proposed
from trialbook.tuning.findings.statistics.curve_trends import complete, share_interval
from trialbook.tuning.objective import value_of
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
  """Return the finding on the step of the best evaluation of every complete trial, as a share of the trial's steps
  (PB-61).

  It has the share of trials that are early or late with its interval (Clopper and Pearson). Late ones are a note at
  most.
  """
  selected = shares(results)
  if not selected:
    return [
      _finding(
        severity="cannot_tell",
        title="Which steps were the best cannot be told",
        why=f"It takes a complete trial with {EVALUATIONS} evaluations of {results.objective.metric}.",
        action=f"Evaluate {EVALUATIONS} times at least in each training.",
      )
    ]
  at = np.array([share for _, share in selected])
  early, late = int((at <= EARLY).sum()), int((at > LATE).sum())
  lengths = sorted(results.length(trial) or 1 for trial, _ in selected)
  usual = lengths[len(lengths) // 2]
  few, many = share_interval(early, len(at)), share_interval(late, len(at))
  numbers = {
    "trials": len(at),
    "early": early,
    "early_low": few[0],
    "early_high": few[1],
    "late": late,
    "late_low": many[0],
    "late_high": many[1],
    "median": float(np.median(at)),
    "steps": usual,
  }
  of_steps = f"{usual:,} steps" if lengths[0] == lengths[-1] else "its steps"
  counted = (
    f"Of {len(at)} complete trials, the best evaluation of {early} ({few[0]:.0%} to {few[1]:.0%}, 95% interval) is in"
    f" the first {EARLY:.0%} of {of_steps}, that of {late} ({many[0]:.0%} to {many[1]:.0%}) in the last"
    f" {1 - LATE:.0%}; the median is at {np.median(at):.0%}."
  )
  fewer = max(round(usual * 2 * EARLY), 1)
  if few[0] > MOST:
    return [
      _finding(
        severity="problem" if early >= ALWAYS * len(at) else "warning",
        title=f"In {early} of {len(at)} trials the best step is in the first {EARLY:.0%}: trainings are far too long",
        why=f"{counted} All steps after the best were paid for and not used.",
        trials=trial_numbers([trial for trial, share in selected if share <= EARLY]),
        numbers=numbers,
        action=f"Train for far fewer steps, such as {fewer:,}, and let the learning rate decay by then; if validation"
        " gets worse after the best step, regularize.",
        changes=proposed(results, ("max_train_steps", fewer)),
        plot="steps",
      )
    ]
  if many[0] > CONSISTENTLY:
    return [
      _finding(
        severity="note",
        title=f"In {late} of {len(at)} trials the best step is in the last {1 - LATE:.0%}",
        why=f"{counted} With a learning rate that decays to the end this is usual: the last steps are the least noisy.",
        trials=trial_numbers([trial for trial, share in selected if share > LATE]),
        numbers=numbers,
        action="If the best trials still improve at the end, train longer and tune the decay again.",
        plot="steps",
      )
    ]
  if np.median(at) <= EARLY:
    return [
      _finding(
        severity="note",
        title=f"The median of the best steps is at {np.median(at):.0%}: trainings may be too long",
        why=f"{counted} Whether most trials are that early cannot be told from so many.",
        trials=trial_numbers([trial for trial, share in selected if share <= EARLY]),
        numbers=numbers,
        action="Look at the curves: if none of the best trials improves after its first fifth, train for fewer steps,"
        f" such as {fewer:,}, and let the learning rate decay by then.",
        plot="steps",
      )
    ]
  where = f"{late} of {len(at)} best steps are in the last {1 - LATE:.0%}, {early} in the first {EARLY:.0%}"
  if np.median(at) > LATE and many[1] >= CONSISTENTLY:
    needed = _would_tell(late, len(at))
    return [
      _finding(
        severity="cannot_tell",
        title=f"{where}: too few trials to call it consistently late",
        why=f"{counted} Consistently: in {CONSISTENTLY:.0%} at least. With a learning rate that decays to the end late"
        " ones are usual.",
        trials=trial_numbers([trial for trial, share in selected if share > LATE]),
        numbers=numbers,
        action=(f"{needed} complete trials would tell, if as large a part of them were late. " if needed else "")
        + "If the best trials still improve at the end, train longer and tune the decay again.",
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


def _would_tell(late: int, trials: int) -> int | None:
  """Return how many trials would show whether lateness is consistent, if the same share is late; None if many more."""
  for more in range(trials + 1, MOST_TIMES * trials + 1):
    low, high = share_interval(round(late / trials * more), more)
    if low > CONSISTENTLY or high < CONSISTENTLY:
      return more
  return None


def shares(results: StudyResults) -> list[tuple[Trial, float]]:
  """Return the complete trials with enough evaluations, and the step of the best one as a share of the trial's own
  steps."""
  best = dataclasses.replace(results.objective, value="best")
  found = []
  for trial in complete(results):
    points = trial.curves[best.metric]
    step = trial.step if results.objective.value == "best" else (value_of(best, points) or (None,))[0]
    length = results.length(trial)
    if step is not None and len(points) >= EVALUATIONS and length:
      found.append((trial, step / length))
  return found
