"""One finding for all questions that only curves answer, in a study without any (PB-25).

Otherwise each of these questions asks for curves in its own words.
"""

from collections.abc import Mapping, Sequence

from trialbook.tuning.findings.finding import Finding
from trialbook.tuning.results import StudyResults

SHOWN: Mapping[str, str] = {
  "outcomes": "whether trials were cut short, collapsed or stayed at their start (PB-21)",
  "early_stopping": "what ending bad trials early would save (PB-69)",
  "overfitting": "whether trials overfit (PB-26)",
  "late_noise": "whether late noise decides their order (PB-27)",
  "convergence": "whether training was long enough (PB-28)",
  "selected_step": "which steps are best (PB-61)",
  "periodicity": "whether the metric is periodic (PB-29)",
  "gradient_norm": "whether gradients have outliers (PB-81)",
  "optimization": "whether optimization has problems (PB-33)",
}
"""What curves show, by the question that asks for it."""
EVALUATIONS = 30
"""Evaluations of a training that are enough for each of these questions: as many as a period takes."""


def folded(results: StudyResults, found: Sequence[Finding]) -> list[Finding]:
  """Return findings in which one stands for all those that only ask for curves, if trials have values and no curves."""
  has_curves = any(len(points) > 1 for trial in results.trials for points in trial.curves.values())
  asking = [one for one in found if one.severity == "cannot_tell" and one.question in SHOWN]
  if has_curves or results.best is None or len(asking) < 2:
    return list(found)
  metric = results.objective.metric
  shown = [SHOWN[question] for question in dict.fromkeys(one.question for one in asking)]
  one_for_all = Finding(
    id="PB-25",
    question="curves",
    severity="cannot_tell",
    title=f"No trial has a curve, which would answer {len(shown)} more questions",
    why=f"Only values at the end are known. Curves would show {'; '.join(shown)}.",
    numbers={"questions": [one.question for one in asking]},
    action=f"Log {metric} at least {EVALUATIONS} times in each training, and the training loss and the norm of the"
    " gradient (train/loss, grad_norm) at every step.",
    until="Trials with curves.",
  )
  return [one_for_all if one is asking[0] else one for one in found if one is asking[0] or one not in asking]
