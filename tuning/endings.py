"""How each trial of a study ended: as it should, or diverged, collapsed, stuck, worse than its retrains, or cut short.

A trial alone does not show it: one that was cut short is shorter than the others, and one that died is far worse than
the other seeds of its point. So these look at all trials of a study. States are what was recorded of each trial, and
endings are what its numbers say.
"""

import bisect
import dataclasses
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trialbook.tuning.objective import Curve, value_of
from trialbook.tuning.study import Objective

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

SAME_LENGTH = 0.05
"""Share by which trainings of the same length may differ in the last step that they logged: one evaluation of
twenty."""
EARLY = 0.9
"""Share of the usual length under which a training ended early: two evaluations of twenty are missing."""
AT_ONCE = 0.1
"""Share of the median length under which a training ended early where no length is usual: rules that stop trainings
leave them longer than that."""
USUAL = 0.2
"""Share of the trials that must have about the same length for it to be the usual one."""
REACHED = 0.9
"""Share of the trials of the usual length that a shorter one beats if it was ended because it had reached a target."""
PATIENCE = 0.8
"""Share of its own length before which a trial was at its best if it was ended because it no longer improved."""
TARGET, BAND = 3, 0.1
"""Trials that end early at the same value if that was a target, and the share of what they gained in the second half of
their curves within which these values lie."""
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

_LENGTH = re.compile(r"(?:^|[._/])(?:(?:max|num|n|train|training|total)_)*(?:steps|epochs|iterations|iters|updates)$")
"""Names of hyperparameters that set the length of a training."""


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


def usual_length(last_steps: Sequence[float]) -> tuple[float, int]:
  """Return the last step of which the most others are at most `SAME_LENGTH` short, the longest among equals, and how
  many these are; (0, 0) if there are none."""
  last = sorted(last_steps)
  near = [at + 1 - bisect.bisect_left(last, (1 - SAME_LENGTH) * step) for at, step in enumerate(last)]
  count, step = max(zip(near, last, strict=True), default=(0, 0))
  return step, count


def early_ends(
  objective: Objective, curves: Sequence[Mapping[str, Curve]], values: Sequence[Mapping[str, Any]]
) -> dict[int, EarlyEnd]:
  """Return the trainings that ended before the others, by index; those with a reason to be shorter are not among them.

  A reason is a hyperparameter that sets the length, a target that was reached (better than nearly all of the usual
  length), or that it no longer improved (its best evaluation lies well before its end).

  Args:
    objective: by which trials are ranked.
    curves: of each trial that is recorded as complete, by metric.
    values: of its hyperparameters, by name.
  """
  last = [max((points[-1][0] for points in each.values() if points), default=0) for each in curves]
  if len(last) < 2 or max(last) <= 1:
    return {}
  relative = _relative(last, values)
  usual, count = usual_length([length for length in relative if length > 0])
  if count >= max(2, USUAL * len(last)):
    least = EARLY * usual
  else:
    usual = float(np.median(relative))
    least = AT_ONCE * usual
  whole = [index for index, length in enumerate(relative) if length >= (1 - SAME_LENGTH) * usual]
  worths = {index: _best(objective, curves[index]) for index in range(len(curves))}
  of_whole = [worth for index in whole if (worth := worths[index]) is not None]
  early = {}
  for index, length in enumerate(relative):
    if length >= least:
      continue
    own = worths[index]
    beats = sum(own is not None and own < other for other in of_whole)
    reached = bool(of_whole) and beats >= REACHED * len(of_whole)
    if not reached and not _stopped_improving(objective, curves[index], last[index]):
      early[index] = EarlyEnd("cut_short", last[index], round(usual * last[index] / length) if length else round(usual))
  return _with_rungs(objective, curves, last, _with_targets(objective, curves, early))


def _with_targets(
  objective: Objective, curves: Sequence[Mapping[str, Curve]], early: dict[int, EarlyEnd]
) -> dict[int, EarlyEnd]:
  """Return early ends, those of trials that were ended at the same value, which was the best of each, as targets."""
  ends, gains = {}, []
  for index in early:
    points = [(step, value) for step, value in curves[index].get(objective.metric, ()) if math.isfinite(value)]
    best = objective.sign * points[-1][1] if points else math.inf
    if len(points) > LAST and best == _best(objective, curves[index]):
      ends[index] = points[-1][1]
      before = _so_far(objective, curves[index], points[-1][0] // 2)
      gains.append(0.0 if before is None else before - best)
  if len(ends) < max(TARGET, len(early) / 2):
    return early
  middle = statistics.median(ends.values())
  band = BAND * statistics.median(gains)
  at_target = [index for index, value in ends.items() if abs(value - middle) <= band]
  if len(at_target) < max(TARGET, len(ends) / 2):
    return early
  return early | {index: dataclasses.replace(early[index], kind="target") for index in at_target}


def _relative(last: Sequence[int], values: Sequence[Mapping[str, Any]]) -> list[float]:
  """Return lengths, as multiples of what a hyperparameter sets if one does."""
  names = dict.fromkeys(name for each in values for name in each if _LENGTH.search(name.lower()))
  for name in names:
    planned = [each.get(name) for each in values]
    numbers = [float(one) for one in planned if isinstance(one, int | float) and not isinstance(one, bool) and one > 0]
    if len(numbers) < len(last) or len(set(numbers)) < 2:
      continue
    shares = [step / one for step, one in zip(last, numbers, strict=True)]
    if usual_length(shares)[1] > max(usual_length(last)[1], len(last) / 2):
      return shares
  return [float(step) for step in last]


def _best(objective: Objective, curves: Mapping[str, Curve]) -> float | None:
  found = value_of(dataclasses.replace(objective, value="best"), curves.get(objective.metric, ()))
  return None if found is None else objective.sign * found[1]


def _stopped_improving(objective: Objective, curves: Mapping[str, Curve], last: int) -> bool:
  points = [point for point in curves.get(objective.metric, ()) if math.isfinite(point[1])]
  found = value_of(dataclasses.replace(objective, value="best"), points)
  if found is None or len(points) <= LAST:
    return False
  return found[0] <= PATIENCE * last and sum(step > found[0] for step, _ in points) >= LAST


def _with_rungs(
  objective: Objective, curves: Sequence[Mapping[str, Curve]], last: Sequence[int], early: dict[int, EarlyEnd]
) -> dict[int, EarlyEnd]:
  """Return early ends, those of several trials at one step as pruned if they were worse there than trials that went
  on."""
  at: dict[int, list[int]] = {}
  for index in early:
    at.setdefault(last[index], []).append(index)
  for step, those in at.items():
    there = {index: _so_far(objective, each, step) for index, each in enumerate(curves) if last[index] >= step}
    on = [value for index, value in there.items() if index not in those and last[index] > step and value is not None]
    ended = [value for index in those if (value := there[index]) is not None]
    if len(ended) >= RUNG and len(on) >= RUNG and min(ended) > statistics.median(on):
      early |= {index: dataclasses.replace(early[index], kind="pruned") for index in those}
  return early


def _so_far(objective: Objective, curves: Mapping[str, Curve], step: int) -> float | None:
  return _best(objective, {objective.metric: [point for point in curves.get(objective.metric, ()) if point[0] <= step]})


def endings(results: "StudyResults") -> dict[int, Ending]:
  """Return how each trial ended, by its number."""
  found = {trial.trial: _own(results, trial) for trial in results.trials}
  complete = [trial for trial in results.trials if trial.objective is not None]
  if not any(len(trial.curve(results.objective.metric)[0]) > 1 for trial in complete):
    return found | _outliers(results)
  if results.study.config is None:
    early = early_ends(results.objective, [t.curves for t in complete], [t.values for t in complete])
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
  sign, metric = results.objective.sign, results.objective.metric
  steps, values = trial.curve(metric)
  costs = sign * values
  if len(costs) < 2 * LAST:
    return None
  first = [float(np.median(costs[: at + 1])) for at in range(LAST - 1)]
  windows = np.lib.stride_tricks.sliding_window_view(costs, LAST)
  smooth = np.concatenate([first, np.median(windows, axis=1)])
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
  return Ending("collapsed", step, f"fell back from {sign * smooth[best]:.4g} to {to:.4g} at step {step:,}")


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
        text = f"{results.objective.metric} {sign * cost:.4g}, where other seeds of its point have {sign * middle:.4g}"
        found[trial.trial] = Ending("outlier", None, text)
  return found
