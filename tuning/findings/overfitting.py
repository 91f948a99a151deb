"""Problematic overfitting (PB-26): validation that gets worse at some point of training.

The playbook ("Examining the training curves"): look for it in all trials, and for certain in the best trial of each
setting that is compared; if it is there, regularize before settings are compared, unless regularization is compared.
"""

from collections.abc import Sequence

import numpy as np
from scipy import special

from trialbook.tuning.compared_settings import ComparedSetting, compared_settings
from trialbook.tuning.findings.finding import Finding, finding_of, trial_numbers
from trialbook.tuning.findings.settings_in_use import proposed, setting
from trialbook.tuning.findings.statistics.curve_trends import (
  Rise,
  complete,
  correlation,
  costs,
  rise_after_best,
  share_interval,
  training_losses,
)
from trialbook.tuning.findings.statistics.points import is_learning_rate, is_numeric
from trialbook.tuning.findings.statistics.relevance import RELEVANT, relevant
from trialbook.tuning.findings.wording import between, short
from trialbook.tuning.once import by_any_objective
from trialbook.tuning.results import StudyResults, Trial
from trialbook.tuning.space.scales import Hyperparameter

_finding = finding_of("PB-26", "overfitting")

CERTAIN = 0.01
"""Largest p of a rise, divided by the number of curves looked at: one healthy study in a hundred is accused."""
MANY = 0.5
"""Share of the trials behind the best from which the best one may be best for not overfitting: most of them."""
LEAST_EVALUATIONS = 12
"""Fewest evaluations of a curve: fewer leave no line behind the best of their running mean."""
PLACES = 0.05
"""Largest p, divided by the number of hyperparameters, of a place where trials overfit. It is said beside what was
found with certainty, and only shows where to look."""
LEAST_OF_A_KIND = 3
"""Points that overfit, and that do not, by whose ranks a place is found: with fewer, the normal approximation of the
test does not hold."""
REGULARIZERS = (
  *("weight_decay", "dropout", "smoothing", "mixup", "cutmix", "augment", "erasing", "crop", "flip", "jitter"),
  *("stochastic_depth", "regulariz", "l2"),
)
"""Parts of the names of hyperparameters whose strength is regularization."""


def find(results: StudyResults) -> list[Finding]:
  """Return findings on trials that overfit (PB-26).

  A trial overfits if, after the best of the running mean of its curve, a line through the rest rises by a relevant
  amount (`relevance.RELEVANT`), and by more than its noise explains at level `CERTAIN`, after Bonferroni.
  """
  metric = results.objective.metric
  # A sudden collapse is no overfitting, see `outcomes`.
  trials = [trial for trial in complete(results) if results.endings[trial.trial].kind != "collapsed"]
  trials = [trial for trial in trials if len(costs(results, trial)[0]) >= LEAST_EVALUATIONS]
  if metric.startswith("train"):
    return [_cannot_tell(f"The objective {metric} is measured on training examples", "Choose a validation metric.")]
  if not trials:
    return [
      _cannot_tell(
        f"No complete trial has {LEAST_EVALUATIONS} evaluations of {metric}",
        f"Evaluate {LEAST_EVALUATIONS} times at least in each training.",
      )
    ]
  shared = correlation(costs(results, trial) for trial in trials)
  curves = {trial.trial: costs(results, trial) for trial in trials}
  found_rises = {n: by_any_objective(results, rise_after_best, *curve, shared) for n, curve in curves.items()}
  rises = {number: rise for number, rise in found_rises.items() if rise}
  groups = []
  for group in compared_settings(results):
    inside = set(trial_numbers(group.trials))
    if (best := next((trial for trial in trials if trial.trial in inside), None)) is not None:
      groups.append((group, best))
  margin = relevant(results, trials[0].objective or 0.0)
  found = []
  for group, best in groups:
    if _overfits(margin, rises.get(best.trial), len(groups)):
      found.append(_of_best(results, group if len(groups) > 1 else None, best, rises[best.trial]))
  best_ones = {best.trial for _, best in groups}
  others = [t for t in trials if t.trial not in best_ones and _overfits(margin, rises.get(t.trial), len(trials))]
  if others:
    found.append(_of_others(results, trials, others))
    if (note := _selection(results, trials, others, found)) is not None:
      found.append(note)
  if not found:
    found.append(_calibration(results, trials[0], shared) or _ok(results, trials, rises))
  return found


def _overfits(margin: float, rise: Rise | None, looked_at: int) -> bool:
  return rise is not None and rise.p < CERTAIN / looked_at and rise.amount >= margin


def _exempt(results: StudyResults) -> list[str]:
  """Return the names of scientific hyperparameters that are a regularization strength."""
  return [
    one.name
    for one in results.varied
    if one.role == "scientific" and any(part in one.path.lower() for part in REGULARIZERS)
  ]


def _of_best(results: StudyResults, group: ComparedSetting | None, best: Trial, rise: Rise) -> Finding:
  metric, exempt = results.objective.metric, _exempt(results)
  moves = "rises" if results.objective.mode == "min" else "falls"
  whose = "the best trial" + (f" of {group.named}" if group is not None else "")
  why = (
    f"After the best of its running mean, {short(results.objective.sign * rise.level)} at step {rise.step:,}, a line"
    f" through the rest of trial {best.trial}'s curve {moves} by {short(rise.amount)}"
    f" ({between(rise.low, rise.high)}; p = {rise.p:.1g}). The best trials tell what a setting can do; one that"
    " overfits undersells it, and comparisons with it may come out otherwise with regularization."
  )
  if exempt:
    why += (
      f" Here {', '.join(exempt)} is compared, a strength of regularization: overfitting at some value is an answer."
    )
  return _finding(
    severity="note" if exempt else "problem" if group is not None else "warning",
    subject=None if group is None else group.label,
    title=f"{metric} of {whose} {moves} by {short(rise.amount)} ({between(rise.low, rise.high)}) after step"
    f" {rise.step:,}",
    why=why,
    trials=(best.trial,),
    numbers={"step": rise.step, "amount": rise.amount, "low": rise.low, "high": rise.high, "p": rise.p},
    action=None
    if exempt
    else "Regularize, then compare again: add dropout or label smoothing, or search larger weight decay.",
    until=f"Two retrains of trial {best.trial} with other seeds in which {metric} does not get worse.",
    changes=None if exempt else _remedy(results),
    plot="curves",
  )


def _of_others(results: StudyResults, trials: Sequence[Trial], others: Sequence[Trial]) -> Finding:
  low, high = share_interval(len(others), len(trials))
  places = _places(results, trials, set(trial_numbers(others)))
  return _finding(
    severity="note",
    title=f"{len(others)} of {len(trials)} trials overfit, not counting the best of each setting"
    + (f", mostly at {' and '.join(places)}" if places else ""),
    why=f"Their {results.objective.metric} gets worse after its best, by more than is relevant and more than chance"
    f" explains (p < {CERTAIN:g} for all together). In such"
    f" a search that happens to {low:.0%} to {high:.0%} of the trials (95% interval). The best trials tell what a"
    " setting can do, so these matter only if one of them would be the best without it.",
    trials=trial_numbers(others),
    numbers={"count": len(others), "trials": len(trials), "low": low, "high": high},
    action="Regularize if one of them might be the best then; otherwise nothing.",
    plot="curves",
  )


def _places(results: StudyResults, trials: Sequence[Trial], those: set[int]) -> list[str]:
  """Return where those trials are among all, in words: hyperparameters by which their ranks differ (Mann and Whitney,
  1947).

  Retrains of a point are one, of the kind that most of them are: they say nothing of other values.
  """
  looked_at = set(trial_numbers(trials))
  some, rest = [], []
  for point in results.points:
    inside = [trial for trial in point if trial.trial in looked_at]
    if inside:
      (some if 2 * sum(trial.trial in those for trial in inside) > len(inside) else rest).append(inside[0])
  found = []
  axes = [one for one in results.varied if one.scale.as_json()["scale"] != "categorical"]
  for one in axes:
    inside, outside = (_units(one, trials) for trials in (some, rest))
    if min(len(inside), len(outside)) < LEAST_OF_A_KIND:
      continue
    above = (inside[:, None] > outside).mean() + 0.5 * (inside[:, None] == outside).mean()
    error = np.sqrt((len(inside) + len(outside) + 1) / (12 * len(inside) * len(outside)))
    p = 2 * float(special.ndtr(-abs(above - 0.5) / error))
    if p < PLACES / len(axes):
      found.append(f"{'large' if above > 0.5 else 'small'} {one.name}")
  return found


def _units(one: Hyperparameter, trials: Sequence[Trial]) -> np.ndarray:
  return np.array([one.scale.unit(trial.values[one.name]) for trial in trials if one.name in trial.values])


def _selection(
  results: StudyResults, trials: Sequence[Trial], others: Sequence[Trial], found: Sequence[Finding]
) -> Finding | None:
  """Return a finding if the best trial may be best because it regularizes by accident, as by a small learning rate."""
  low, high = share_interval(len(others), max(len(trials) - 1, 1))
  if low <= MANY or any(one.trials == (trials[0].trial,) for one in found):
    return None
  rates = [one for one in results.varied if is_learning_rate(one) and is_numeric(one) and one.name in trials[0].values]
  remark = ""
  for one in rates:
    here, all_of_them = _units(one, trials[:1])[0], _units(one, trials)
    if here < np.median(all_of_them):
      remark = f" Its {one.name}, {short(trials[0].values[one.name])}, is smaller than that of most trials."
  return _finding(
    severity="note",
    title=f"Most trials overfit ({between(low, high)}) but the best does not: it may be best because it regularizes",
    why="Choosing the best trial favours configurations that regularize, also by accident: too small a learning rate"
    f" keeps a model from overfitting.{remark} With regularization, other nuisance values may win.",
    trials=(trials[0].trial,),
    numbers={"low": low, "high": high},
    action="Regularize, and search again: the best learning rate may be another.",
    until="A regularized search in which the same values are best.",
    changes=_remedy(results),
    plot="curves",
  )


def _calibration(results: StudyResults, best: Trial, shared: float) -> Finding | None:
  """Return a finding on loss that rises while the error does not. That is overconfidence: common, and not a fault by
  the playbook."""
  split, _, last = results.objective.metric.rpartition("/")
  if last == "loss":
    return None
  steps, losses = best.curve(f"{split}/loss")
  rise = rise_after_best(steps[steps > 0], losses[steps > 0], shared)
  if rise is None or rise.p >= CERTAIN:
    return None
  # A loss may be a likelihood, which has no zero: what it has fallen by counts then.
  whole = abs(rise.level) if rise.level > 0 else float(np.max(losses[steps > 0])) - rise.level
  if rise.amount < RELEVANT * whole:
    return None
  fall = rise_after_best(*training_losses(results, best), shared)
  if fall is not None and fall.p < CERTAIN:
    return None  # Training loss rises too: that is another finding's.
  return _finding(
    severity="note",
    title=f"{split}/loss of the best trial rises by {short(rise.amount)} ({between(rise.low, rise.high)}) after step"
    f" {rise.step:,}, {results.objective.metric} gets no worse",
    why="The model becomes too sure of its answers, not worse at them: its probabilities are not calibrated. By the"
    " objective of this study no trial overfits.",
    trials=(best.trial,),
    numbers={"step": rise.step, "amount": rise.amount, "low": rise.low, "high": rise.high, "p": rise.p},
    action="Where probabilities are used, label smoothing or stopping earlier keeps them calibrated.",
    plot="curves",
  )


def _remedy(results: StudyResults) -> dict | None:
  choices = [
    (path, 0.1) for path in ("model.dropout_rate", "task.label_smoothing") if setting(results, path) in (None, 0.0)
  ]
  decay = setting(results, "optimizer.weight_decay")
  if isinstance(decay, float):
    choices.append(("optimizer.weight_decay", 3 * decay if decay else 1e-4))
  change = proposed(results, *choices)
  return None if change is None else dict(change)


def _ok(results: StudyResults, trials: Sequence[Trial], rises: dict[int, Rise]) -> Finding:
  most = max((rise.amount for rise in rises.values()), default=0.0)
  return _finding(
    severity="ok",
    title=f"None of {len(trials)} trials overfits",
    why=f"{results.objective.metric} gets worse after its best by less than its noise explains, or by less than a"
    f" relevant amount; at most by {short(max(most, 0.0))}. In {len(trials) - len(rises)} trials the best came so late"
    " that nothing is left to look at.",
    numbers={"trials": len(trials), "most": most, "best_at_end": len(trials) - len(rises)},
  )


def _cannot_tell(seen: str, action: str) -> Finding:
  return _finding(
    severity="cannot_tell",
    title=f"Whether trials overfit cannot be told: {seen[0].lower()}{seen[1:]}",
    why=f"{seen}; overfitting is a validation metric that gets worse during training.",
    action=action,
  )
