"""How each trial of a study ended: as it should, or diverged, collapsed, stuck, worse than its retrains, or cut short.

A trial alone does not show it: one that was cut short is shorter than the others, and one that died is far worse than
the other seeds of its point. So these look at all trials of a study. States are what was recorded of each trial, and
endings are what its numbers say.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trialbook.tuning.objective import Curve, evaluations_of, finite
from trialbook.tuning.once import by_any_objective
from trialbook.tuning.study import Objective
from trialbook.tuning.training_lengths import SAME_LENGTH, training_length

if TYPE_CHECKING:
  from trialbook.tuning.results import StudyResults, Trial

Kind = Literal[
  "finished",
  "diverged",
  "stuck",
  "collapsed",
  "outlier",
  "cut_short",
  "target",
  "pruned",
  "failed",
  "refused",
  "unfinished",
]

EARLY = 0.9
"""Share of the usual length under which a training ended early: two evaluations of twenty are missing."""
AT_ONCE = 0.1
"""Share of the median length under which a training ended early where no length is usual: rules that stop trainings
leave them longer than that."""
REACHED = 0.9
"""Share of the trials of the usual length that a shorter one beats if it was ended because it had reached a target."""
PATIENCE = 0.8
"""Share of its own length before which a trial was at its best if it was ended because it no longer improved."""
TARGET, AT_END = 3, 2
"""Trials that end early at the same value if that was a target, and evaluations at their ends among which it was
reached: the last one, or the one before if training ended a little later."""
WENT_ON, BAND = 0.1, 0.1
"""Share of the whole trainings that may have reached a target and gone on; if more have, the share of what the trials
gained in the second half of their curves by which they may be beyond the target."""
RUNG = 3
"""Trials that end at the same early step, worse than those that go on, if a rule ended them."""
BACK = 0.5
"""Share of all that a trial had gained which it lost again if it collapsed."""
SUDDEN = 0.1
"""Share of the steps within which most of a collapse happens; overfitting takes longer."""
LAST = 3
"""Evaluations whose median is the value at the end: a single bad one is no collapse."""
FAR = 0.25
"""Share of what a point's trials gain since the first evaluation by which an outlier is worse than the others."""
DEVIATIONS = 8.0
"""Robust standard deviations of retrains by which an outlier is worse as well, and of evaluations by which a collapse
is: with two or three other seeds that many are rare by chance."""
LEAST_SEEDS = 3
"""Seeds of a point, of which one can be an outlier."""
IMPROVES = 0.05
"""Share of what the median trial gains under which a trial has learned nothing."""


@dataclasses.dataclass(frozen=True)
class Ending:
  """How a trial ended.

  Attributes:
    kind: "finished"; "diverged": infeasible, its loss or its objective stopped being finite; "stuck": it never got
      better than at its start; "collapsed": it got better and fell back; "outlier": far worse than other seeds of its
      point; "cut_short": it ended long before the others, for no reason that the curves show; "target": it was ended at
      a value that others were ended at too; "pruned": a rule ended it because it was worse than others; "failed": it
      crashed; "refused": its values cannot be run; "unfinished": it may still go on.
    step: at which that happened; None if unknown.
    text: in words, for a sentence that begins with the trial.
  """

  kind: Kind
  step: int | None
  text: str


FINISHED = Ending("finished", None, "ran to its end")


@dataclasses.dataclass(frozen=True)
class EarlyEnd:
  """A training that is shorter than the others.

  Attributes:
    kind: "cut_short", "target" or "pruned", as `Ending` has them.
    step: the last that it logged.
    usual: length of the others, in steps.
  """

  kind: Literal["cut_short", "target", "pruned"]
  step: int
  usual: int

  @property
  def text(self) -> str:
    """Return it in words."""
    if self.kind == "target":
      return f"ended at step {self.step:,} of the usual {self.usual:,}, as others at the same value: probably a target"
    if self.kind == "pruned":
      return f"ended at step {self.step:,} of the usual {self.usual:,}, as other trials that were worse than the rest"
    return f"cut short at step {self.step:,} of the usual {self.usual:,}"


@dataclasses.dataclass(frozen=True)
class Training:
  """What a training logged of the objective's metric.

  Attributes:
    last: step of the last line that it logged.
    steps: of the evaluations whose values are finite, in order: [evaluations].
    costs: smaller is better: [evaluations].
  """

  last: int
  steps: np.ndarray
  costs: np.ndarray

  def best(self, until: float = math.inf) -> float | None:
    """Return the least cost until a step, after the first step if there is one; None if there is none at all."""
    costs, steps = self.costs[self.steps <= until], self.steps[self.steps <= until]
    after = costs[steps > 0]
    return float(after.min() if len(after) else costs.min()) if len(costs) else None

  @property
  def stopped_improving(self) -> bool:
    """Return whether its best evaluation lies well before its end."""
    if len(self.costs) <= LAST:
      return False
    steps, costs = self.steps, self.costs
    if (steps > 0).any():
      costs, steps = costs[steps > 0], steps[steps > 0]
    at = int(steps[np.argmin(costs)])
    return at <= PATIENCE * self.last and int((self.steps > at).sum()) >= LAST


def early_ends(
  objective: Objective, curves: Sequence[Mapping[str, Curve]], values: Sequence[Mapping[str, Any]]
) -> dict[int, EarlyEnd]:
  """Return `early_ends_of` trainings by their curves by metric."""
  trainings = []
  for each in curves:
    steps, found = finite(*evaluations_of(each.get(objective.metric, ())))
    last = max((points[-1][0] for points in each.values() if points), default=0)
    trainings.append(Training(last, steps, objective.sign * found))
  return early_ends_of(trainings, values)


def early_ends_of(trainings: Sequence[Training], values: Sequence[Mapping[str, Any]]) -> dict[int, EarlyEnd]:
  """Return the trainings that ended before the others, by index; those with a reason to be shorter are not among them.

  A reason is a hyperparameter that sets the length (`training_lengths`), a value better than nearly all of the usual
  length, or that it no longer improved (its best evaluation lies well before its end).

  Args:
    trainings: of each trial that is recorded as complete.
    values: of its hyperparameters, by name.
  """
  last = [one.last for one in trainings]
  if len(last) < 2 or max(last) <= 1:
    return {}
  length = training_length(last, values)
  shares = [step / max(length.of(each), 1) for step, each in zip(last, values, strict=True)]
  short = [index for index, share in enumerate(shares) if share < 1 - SAME_LENGTH]
  if not short:
    return {}
  whole = [index for index, share in enumerate(shares) if share >= 1 - SAME_LENGTH]
  at_target, at_rung = _at_targets(trainings, short, whole), _at_rungs(trainings, short)
  patient = _by_patience(trainings, short)
  # Where no length is usual, a rule may have ended most trials, and leaves them longer than that.
  least = EARLY if length.is_usual else AT_ONCE * statistics.median(shares)
  of_whole = [best for index in whole if (best := trainings[index].best()) is not None]
  early = {}
  for index in short:
    has_reason = index in patient or _has_reason(trainings[index], of_whole)
    if index in at_rung:
      kind = "pruned"
    elif index in at_target:
      kind = "target"
    elif shares[index] < least and not has_reason:
      kind = "cut_short"
    else:
      continue
    early[index] = EarlyEnd(kind, last[index], round(length.of(values[index])))
  return early


def _has_reason(training: Training, of_whole: Sequence[float]) -> bool:
  """Return whether a training is better than nearly all of the usual length, or no longer improved."""
  best = training.best()
  beats = sum(best is not None and best < other for other in of_whole)
  return (bool(of_whole) and beats >= REACHED * len(of_whole)) or training.stopped_improving


def _at_targets(trainings: Sequence[Training], short: Sequence[int], whole: Sequence[int]) -> set[int]:
  """Return the short trials that were ended at a target: a value that each of them reached for the first time at its
  end."""
  costs = {index: trainings[index].costs for index in (*short, *whole)}
  firsts = {
    index: (float(costs[index].min()), float(costs[index][:-AT_END].min()))
    for index in short
    if len(costs[index]) > LAST
  }
  if len(firsts) < TARGET:
    return set()

  def ended_at(target: float) -> set[int]:
    return {index for index, (best, before) in firsts.items() if best <= target < before}

  target = max((best for best, _ in firsts.values()), key=lambda one: (len(ended_at(one)), -one))
  found = ended_at(target)
  ends = {trainings[index].last for index in found}
  if len(found) < max(TARGET, len(short) / 2) or len(ends) == 1:  # At one step, a rule or a limit of time ended them.
    return set()
  if sum((costs[index][:-AT_END] <= target).any() for index in whole) <= WENT_ON * len(whole):
    return found
  # Where others reached it and went on, it is a target if the values are much closer to it than by chance.
  away = statistics.median(target - float(costs[index].min()) for index in found)
  gained = statistics.median(
    float(costs[index][: len(costs[index]) // 2].min()) - float(costs[index].min()) for index in found
  )
  return found if away <= BAND * gained else set()


def _by_patience(trainings: Sequence[Training], short: Sequence[int]) -> set[int]:
  """Return the short trials that ended equally many evaluations after their best, as patience ends them."""
  after: dict[int, set[int]] = {}
  for index in short:
    costs = trainings[index].costs
    if len(costs) > LAST:
      after.setdefault(len(costs) - 1 - int(np.argmin(costs)), set()).add(index)
  count = max(after, key=lambda one: (len(after[one]), one), default=0)
  return after[count] if count >= LAST and len(after[count]) >= max(TARGET, len(short) / 2) else set()


def _at_rungs(trainings: Sequence[Training], short: Sequence[int]) -> set[int]:
  """Return the short trials of which several ended at one step, and were worse there than trials that went on."""
  at: dict[int, list[int]] = {}
  for index in short:
    at.setdefault(trainings[index].last, []).append(index)
  pruned: set[int] = set()
  for step, those in at.items():
    if len(those) < RUNG:
      continue
    there = {index: one.best(step) for index, one in enumerate(trainings) if one.last >= step}
    on = [value for index, value in there.items() if trainings[index].last > step and value is not None]
    ended = [value for index in those if (value := there[index]) is not None]
    if len(ended) >= RUNG and len(on) >= RUNG and min(ended) > statistics.median(on):
      pruned |= {*those}
  return pruned


def endings(results: "StudyResults") -> dict[int, Ending]:
  """Return how each trial ended, by its number."""
  found = {trial.trial: _own(results, trial) for trial in results.trials}
  complete = [trial for trial in results.trials if trial.objective is not None]
  if not any(len(trial.curve(results.objective.metric)[0]) > 1 for trial in complete):
    return found | _outliers(results)
  if results.study.config is None:
    early = early_ends_of([_training(results, trial) for trial in complete], [trial.values for trial in complete])
  else:
    early = {}  # Trainings of ours that did not reach their last step are not complete.
  for index, end in early.items():
    found[complete[index].trial] = Ending(end.kind, end.step, end.text)
  gain = _usual_gain(results, complete)
  for trial in complete:
    if found[trial.trial].kind == "finished":
      found[trial.trial] = _collapsed(results, trial, gain) or _stuck(results, trial, gain) or FINISHED
  outliers = _outliers(results)
  return found | {number: end for number, end in outliers.items() if found[number].kind == "finished"}


def _training(results: "StudyResults", trial: "Trial") -> Training:
  steps, values = trial.curve(results.objective.metric)
  return Training(trial.last_step, steps, results.objective.sign * values)


def _own(results: "StudyResults", trial: "Trial") -> Ending:
  """Return what a trial's state says."""
  reason = trial.reason or "no reason was recorded"
  last = trial.last_step or None
  match trial.state:
    case "complete":
      return FINISHED
    case "infeasible":
      if reason.startswith("refused"):
        return Ending("refused", None, reason)
      if trial.recorded[0] == "complete" or "never better than" in reason:
        return Ending("stuck", None, reason)
      return Ending("diverged", last, reason)
    case "pruned":
      return Ending("pruned", last, reason)
    case "failed":
      return Ending("failed", last, reason)
    case "stopped" if results.study.source is not None:
      return Ending("cut_short", last, reason)
    case _:
      return Ending("unfinished", last, trial.state)


def _usual_gain(results: "StudyResults", complete: "Sequence[Trial]") -> float:
  """Return what the median trial gains from its first evaluation to its best; 0 if unknown."""
  gains = []
  for trial in complete:
    costs = results.objective.sign * trial.curve(results.objective.metric)[1]
    if len(costs) > LAST:
      gains.append(float(costs[0] - costs.min()))
  return max(float(np.median(gains)), 0.0) if gains else 0.0


def _stuck(results: "StudyResults", trial: "Trial", gain: float) -> Ending | None:
  """Return that a trial has learned nothing: it began where others began, and stayed there."""
  costs = results.objective.sign * trial.curve(results.objective.metric)[1]
  if len(costs) <= LAST or gain <= DEVIATIONS * _noise(costs) or costs[0] - costs.min() > IMPROVES * gain:
    return None
  best = results.best
  good = results.objective.sign * best.objective if best is not None and best.objective is not None else math.inf
  if costs.min() - good < (1 - BACK) * gain:
    return None  # It began where it was good already.
  return Ending("stuck", None, f"{results.objective.metric} stayed at {trial.objective:.4g}")


def _collapsed(results: "StudyResults", trial: "Trial", gain: float) -> Ending | None:
  """Return that a trial lost at once, and for good, half of what it had gained, or of what the median trial gains."""
  found = by_any_objective(results, _fall_back, *trial.curve(results.objective.metric), results.objective.sign, gain)
  return None if found is None else Ending("collapsed", found[0], found[1])


def _fall_back(steps: np.ndarray, values: np.ndarray, sign: int, gain: float) -> tuple[int, str] | None:
  """Return the step at which a curve [evaluations] fell back, and that it did in words; None if it did not."""
  costs = sign * values
  if len(costs) < 2 * LAST:
    return None
  first = [float(np.median(costs[: at + 1])) for at in range(LAST - 1)]
  windows = np.lib.stride_tricks.sliding_window_view(costs, LAST)
  smooth = np.concatenate([first, np.sort(windows, axis=1)[:, LAST // 2]])
  best = int(np.argmin(smooth))
  gained, lost = max(float(costs[0] - smooth[best]), gain), float(np.median(costs[-LAST:]) - smooth[best])
  if gained <= 0 or lost < max(BACK * gained, DEVIATIONS * _noise(costs)) or len(costs) - 1 - best < LAST:
    return None
  after = costs[best:]
  middle = smooth[best] + lost / 2
  # From the last time below a quarter of the rise to the first time above three quarters of it.
  high = int(np.argmax(after >= smooth[best] + 0.75 * lost))
  low = int(np.flatnonzero(after[: high + 1] <= smooth[best] + 0.25 * lost)[-1]) if high else 0
  width = float(steps[best + high] - steps[best + low]) / max(float(steps[-1]), 1.0)
  spacing = float(np.median(np.diff(steps))) / max(float(steps[-1]), 1.0)
  if width > max(SUDDEN, spacing) or float(np.median(after[high:])) < middle:
    return None
  step = int(steps[best + high])
  to = sign * float(np.median(costs[-LAST:]))
  return step, f"fell back from {sign * smooth[best]:.4g} to {to:.4g} at step {step:,}"


def _noise(costs: np.ndarray) -> float:
  """Return the standard deviation from evaluation to evaluation, by the median of the differences of neighbours."""
  return 1.4826 * float(np.median(np.abs(np.diff(costs)))) / math.sqrt(2)


def _outliers(results: "StudyResults") -> dict[int, Ending]:
  """Return the trials that are far worse than the other seeds of their point."""
  sign = results.objective.sign
  groups = []
  for trials in results.points:
    valued = [trial for trial in trials if trial.objective is not None]
    if len(valued) >= LEAST_SEEDS:
      groups.append(valued)
  if not groups:
    return {}
  costs = [np.array([sign * (trial.objective or 0.0) for trial in group]) for group in groups]
  # Pooled: of few seeds of one point the spread is known badly.
  spread = 1.4826 * float(np.median(np.concatenate([np.abs(one - np.median(one)) for one in costs])))
  all_costs = np.concatenate(costs)
  between = float(np.median(all_costs) - all_costs.min())
  found = {}
  for group, own in zip(groups, costs, strict=True):
    starts = [sign * float(values[0]) for t in group if len(values := t.curve(results.objective.metric)[1]) > LAST]
    for trial, cost in zip(group, own, strict=True):
      others = np.array([c for t, c in zip(group, own, strict=True) if t.trial != trial.trial])
      middle = float(np.median(others))
      deviation = max(spread, 1.4826 * float(np.median(np.abs(others - middle))))
      gained = float(np.median(starts)) - middle if starts else between
      if cost - middle > max(DEVIATIONS * deviation, FAR * gained) and gained > 0 and cost > others.max():
        own_value, others_value = f"{sign * cost:.4g}", f"{sign * middle:.4g}"
        text = f"{results.objective.metric} {own_value}; the median of the other seeds of its point is {others_value}"
        found[trial.trial] = Ending("outlier", None, text)
  return found
