"""Did training last long enough, or too long, and does its loss rise (PB-28)?

The playbook ("Examining the training curves"): if the best trials still improve at the end, the study is bound by
compute; if they were saturated long before, fewer steps will do; a training loss that rises is probably a bug.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from tuning.findings import rising_loss
from tuning.findings.curve_noise import (
  between,
  complete,
  correlation,
  costs,
  deviation,
  listed,
  of_perfection,
  relevant,
  text,
)
from tuning.findings.finding import Finding
from tuning.findings.settings_in_use import proposed
from tuning.results import StudyResults, Trial

BEST = 5
"""Trials whose ends are looked at: the best few, as the playbook says; enough to average noise."""
TOP = 0.25
"""Share of the trials that are looked through for such as ran to their end; worse ones say nothing of the best."""
AVERAGED = 20
"""Of those trials, whose ends are held against their middles: evaluations vary by more than what is relevant, and good
trials all stop to learn at about the same step. How fast they still improve differs more."""
END = 0.3
"""Share of a curve in which its noise is measured: that from which the gain is foreseen."""
WHOLE = 0.95
"""Share of the steps that a trial must have run: the end of one that was cut short is not the end of its schedule."""
MORE_STEPS = 0.2
"""Share of steps, in addition, of which the gain is foreseen: what a next study may add without much thought, and not
further from what was seen than that."""
ENOUGH = (3, 4, 5)
"""Tenths of the steps by which saturation counts as long before the end: half of the compute at least is wasted.
Whether the last of them would do is answered in any case."""
MOST_TIMES = 20
"""As many evaluations that are proposed: more than these nobody makes."""
STEADY = 0.1
"""Of all that the metric improved since its first evaluation, that must still be gained to be more than a decay makes:
one that takes the whole training, in a line, had to have made half of all the improvement, and learning no more."""
MANY = 3
"""Times 2% of the distance from perfection that such a gain must be: plainly more than what is just relevant."""
FIRST = 0.05
"""Share of the steps by which the first evaluation must be, for the improvement since then to be about all."""
LEAST = 20
"""Evaluations of a trial, about, one in each twentieth of its steps: of fewer, the end is one or two."""
COVERED = 0.9
"""Share of `LEAST` evaluations that a trial must have: one or two may be missing."""
FILLED = 0.8
"""Share of the twentieths in which an evaluation must be: what is interpolated is not known."""
ONE_SIDED = 1.645
"""Standard errors of a normal distribution that are not exceeded in 95%, on one side."""
AGAINST = 2.576
"""The same in 99.5%: of the best few alone, which count against the mean of more if they are worse at half of the steps
by as much."""
CONSTANT = 0.9
"""Of the largest learning rate of a training: from there on down it decays."""
LEARNING_RATES = ("learning_rate", "lr")
"""Last parts of the names under which a learning rate is logged."""


@dataclasses.dataclass(frozen=True)
class Course:
  """How a trial came to its end.

  Attributes:
    trial: that ran to its end.
    twentieths: means of the costs over each twentieth of the steps: [20].
    error: standard error of the mean over a tenth, late in training.
    error_before: the same before half of the steps; noise is larger before a decay.
  """

  trial: Trial
  twentieths: np.ndarray
  error: float
  error_before: float


@dataclasses.dataclass(frozen=True)
class Ends:
  """The last part of the best trials' curves.

  Attributes:
    trials: that ran to their end, the best first.
    gain: of the metric, from `MORE_STEPS` more, foreseen from how it slows down; positive is better.
    low, high: the 95% interval of `gain`.
    averaged: how many trials the rest is about, `AVERAGED` at most.
    saturated: tenths of the steps by which the level of the last fifth was reached; None if later than `ENOUGH`.
    lost: at most, with 95% certainty, by having stopped there; None as before.
    half: what the fifth of the curve that ends at half of the steps is worse than the last one, at least and at most,
      with 95% certainty each.
    level: of the metric at the end.
    schedule: what the gain may be due to: "constant" where the learning rate is, or where the metric still improved by
      a relevant amount when the decay began; "steady" where no usual decay makes so much, see `_is_steady`; "decay"
      where it was made in one; None if no learning rate was logged.
  """

  trials: Sequence[Trial]
  gain: float
  low: float
  high: float
  averaged: int
  saturated: int | None
  lost: float | None
  half: tuple[float, float]
  level: float
  schedule: str | None


def find(results: StudyResults) -> list[Finding]:
  """PB-28. Still improving: of the best few trials the mean gain of 20% more steps is relevant
  (`curve_noise.RELEVANT`) at the lower end of its interval; a warning only where a decay of the learning rate did not
  make it, since a decay that takes longer need not gain more. Saturated: in the mean of more of them, a fifth of the
  curve in the first half is at the upper end worse than the last fifth by less than is relevant. See `rising_loss`."""
  found = []
  seen = ends(results)
  if seen is None:
    found.append(
      Finding(
        id="PB-28",
        question="convergence",
        severity="cannot_tell",
        title="Whether training was long enough cannot be told",
        why=f"It takes one of the best trials that ran to its end, with {LEAST} evaluations of"
        f" {results.objective.metric} at least.",
        action=f"Let the best trials run to their end, and evaluate {LEAST} times at least.",
      )
    )
  elif 0 < seen.low >= relevant(results, seen.level):
    found.append(_improving(results, seen))
  elif seen.saturated is not None:
    found.append(_saturated(results, seen))
  if wrong := rising_loss.rising(results):
    found.append(rising_loss.finding(results, wrong))
  if not found and seen is not None:
    found.append(_enough(results, seen))
  return found


def ends(results: StudyResults) -> Ends | None:
  """What the ends of the best trials say; None if none of them has enough evaluations."""
  trials = complete(results)
  among = trials[: max(BEST, math.ceil(TOP * len(trials)))]
  whole = [trial for trial in among if trial.last_step >= WHOLE * (results.length(trial) or 0)][:AVERAGED]
  shared = correlation(costs(results, trial) for trial in trials)
  inflation = math.sqrt((1 + shared) / (1 - shared))
  courses = [_course(results, trial, inflation) for trial in whole]
  more = [one for one in courses if one is not None]
  best = [one for one in courses[:BEST] if one is not None]
  if not best:
    return None
  twentieths = np.mean([one.twentieths for one in best], axis=0)
  tenths = twentieths.reshape(10, 2).mean(axis=1)
  error = math.hypot(*(one.error for one in best)) / len(best)  # Of the mean over the trials, in one tenth.
  gain, gain_error = _gain(tenths, twentieths, error)
  freedom = sum(round(END * len(costs(results, one.trial)[0])) - 3 for one in best)
  reach = float(special.stdtrit(freedom, 0.975)) * gain_error
  level = results.objective.sign * float(tenths[8:].mean())
  margin = relevant(results, level)
  few, few_error = _lost(best)
  # Where the best few are certainly worse at half of the steps, what others are does not count.
  averaged = best if few[-1] >= max(margin, AGAINST * few_error) else more
  lost, lost_error = _lost(averaged)
  at_most = lost + ONE_SIDED * lost_error
  # Each is asked only if the later one was answered, so that all hold together.
  saturated = min(itertools.takewhile(lambda end: at_most[ENOUGH.index(end)] <= margin, reversed(ENOUGH)), default=None)
  found = [one.trial for one in best]
  steady = _is_steady(results, found, tenths, gain - reach, level)
  schedule = _schedule(results, found, tenths, error, level)
  return Ends(
    trials=found,
    gain=gain,
    low=gain - reach,
    high=gain + reach,
    averaged=len(averaged),
    saturated=saturated,
    lost=None if saturated is None else float(at_most[ENOUGH.index(saturated)]),
    half=(float(lost[-1] - ONE_SIDED * lost_error), float(at_most[-1])),
    level=level,
    schedule="steady" if steady and schedule != "constant" else schedule,
  )


def _course(results: StudyResults, trial: Trial, inflation: float) -> Course | None:
  """None if there are too few evaluations; `inflation` of errors is that by what neighbours have in common."""
  steps, values = costs(results, trial)
  twentieths = _twentieths(steps, values)
  points, half = round(END * len(steps)), len(steps) // 2
  noise, before = deviation(steps, values, points), deviation(steps[:half], values[:half], points)
  if twentieths is None or noise is None or before is None:
    return None
  scale = inflation / math.sqrt(len(steps) / 10)
  return Course(trial, twentieths, scale * noise, scale * before)


def _lost(courses: Sequence[Course]) -> tuple[np.ndarray, float]:
  """What fifths of the mean curve that end at each of `ENOUGH` are worse than the last fifth: [3]; their
  standard error, with noise as before half of the steps."""
  tenths = np.mean([one.twentieths for one in courses], axis=0).reshape(10, 2).mean(axis=1)
  lost = np.array([tenths[end - 2 : end].mean() for end in ENOUGH]) - tenths[8:].mean()
  # A fifth held against another: twice as many evaluations in each.
  errors = [error for one in courses for error in (one.error, one.error_before)]
  return lost, math.hypot(*errors) / len(courses) / math.sqrt(2)


def _is_steady(results: StudyResults, best: Sequence[Trial], tenths: np.ndarray, gain: float, level: float) -> bool:
  """Whether a gain is one that no usual decay of the learning rate makes: large (`MANY`), a large part of all the
  improvement (`STEADY`), and none that began late: each fifth after the first improved by as much as the next will. A
  decay to the end that bends, such as a cosine, leaves hardly any gain to be foreseen."""
  curves = [trial.curve(results.objective.metric) for trial in best]
  if any(steps[0] > FIRST * steps[-1] for steps, _ in curves):
    return False
  start = results.objective.sign * float(np.mean([values[0] for _, values in curves]))
  falls = -np.diff(tenths.reshape(5, 2).mean(axis=1))[1:]
  improved = start - float(tenths[9])
  return gain >= max(MANY * of_perfection(results, level), STEADY * improved) and bool((falls >= gain).all())


def _schedule(
  results: StudyResults, best: Sequence[Trial], tenths: np.ndarray, error: float, level: float
) -> str | None:
  """Whether the gain at the end is that of a decay, see `Ends`; by the trial that begins to decay first."""
  starts = [_decay(trial) for trial in best]
  if any(start is None for start in starts):
    return None
  before = int(10 * min(start for start in starts if start is not None) + 1e-9)
  if before >= 10:
    return "constant"
  if before < 5:
    return "decay"  # The fall from initialization is no sign of what more steps would gain.
  gain, gain_error = _gain(np.r_[np.zeros(10 - before), tenths[:before]], None, error)
  return "constant" if gain - 1.96 * gain_error >= relevant(results, level) else "decay"


def _decay(trial: Trial) -> float | None:
  """The share of the training at which the learning rate falls below `CONSTANT` of its largest for good, 1 if it does
  not; None if it was not logged."""
  for name in trial.curves:
    if name.rpartition("/")[2] in LEARNING_RATES:
      steps, rates = trial.curve(name)
      if len(rates) >= LEAST:
        last = np.flatnonzero(rates >= CONSTANT * rates.max())[-1]
        return 1.0 if last == len(rates) - 1 else float(steps[last] / steps[-1])
  return None


def _twentieths(steps: np.ndarray, values: np.ndarray) -> np.ndarray | None:
  """Means over each twentieth of the steps: [20]; None if there are too few evaluations. A twentieth without any, as
  where one is missing, has that of its neighbours."""
  if len(steps) < COVERED * LEAST:
    return None
  part = np.minimum((20 * (steps - 1) // steps[-1]).astype(int), 19)
  counts = np.bincount(part, minlength=20)
  if (counts > 0).sum() < FILLED * 20 or not counts[-2:].all():
    return None
  there = np.flatnonzero(counts)
  return np.interp(np.arange(20), there, np.bincount(part, values, minlength=20)[there] / counts[there])


def _gain(tenths: np.ndarray, twentieths: np.ndarray | None, error: float) -> tuple[float, float]:
  """What two more tenths would gain, and its standard error; `error` is that of one tenth.

  Each further tenth gains r times what the one before did, where r is what the last gain was of the one before it; from
  0 to 1: what speeds up, as errors do when the learning rate decays, is not foreseen to go on so. Where the last two
  twentieths are certainly closer than that, the curve has become flat, as at the end of a decay, and they count;
  None: they are not looked at.
  """
  last, before = float(tenths[8] - tenths[9]), float(tenths[7] - tenths[8])
  end = last if twentieths is None else 2 * float(twentieths[18] - twentieths[19])
  # Four times: the difference of two halves of a tenth, doubled.
  last = max(end, 0.0) if last > end + 1.96 * 4 * error else last
  slows = min(max(last / before, 0.0), 1.0) if before > 0 and last > 0 else 1.0
  factor = slows + slows**2
  return last * factor, math.sqrt(2) * error * max(factor, 1.0)


def _improving(results: StudyResults, seen: Ends) -> Finding:
  metric, steps = results.objective.metric, results.length(seen.trials[0])
  longer = math.ceil((1 + MORE_STEPS) * (steps or 1))
  numbers = {"gain": seen.gain, "low": seen.low, "high": seen.high, "level": seen.level, "steps": steps}
  if seen.schedule not in ("constant", "steady"):
    made = seen.schedule == "decay"
    return Finding(
      id="PB-28",
      question="convergence",
      severity="note",
      title=f"{metric} still improves at the end, "
      + ("while the learning rate decays" if made else "which a decay of the learning rate may have made"),
      why=f"Mean of the best {len(seen.trials)} trials that ran to their end: if it went on as in the last three"
      f" tenths of their curves, {MORE_STEPS:.0%} more steps would gain about {text(seen.gain)}"
      f" ({between(seen.low, seen.high)}). But a learning rate that decays to the end lets any metric improve to the"
      " end, so that whether a longer training is better cannot be told from these curves."
      + ("" if made else " The learning rate was not logged."),
      trials=listed(seen.trials),
      numbers=numbers,
      action=f"To see whether more steps gain, train the best trial again for {longer:,} steps, with a longer constant"
      " part of the learning rate before the same decay (PB-63)."
      + ("" if made else " Log the learning rate as learning_rate."),
      plot="curves",
    )
  cause = {
    "constant": " The learning rate does not explain it: it is constant at the end, or the metric improved as well"
    " before it began to decay.",
    "steady": f" A decay of the learning rate hardly explains it: that is {STEADY:.0%} at least of all that the metric"
    " improved since its first evaluation, each fifth of the steps before gained as much, and the end is not flat.",
  }
  return Finding(
    id="PB-28",
    question="convergence",
    severity="warning",
    title=f"{metric} still improves at the end: {MORE_STEPS:.0%} more steps would gain about {text(seen.gain)}"
    f" ({between(seen.low, seen.high)})",
    why=f"Mean of the best {len(seen.trials)} trials that ran to their end, foreseen from the last three tenths of"
    " their curves: each tenth gains so much less than the one before as the last did, or as much where they speed up."
    f"{cause[seen.schedule]} Such a study is bound by compute: what wins with more steps may be another configuration.",
    trials=listed(seen.trials),
    numbers=numbers,
    action=f"Train for more steps, such as {longer:,}, and tune the decay of the learning rate again.",
    changes=_steps(results, longer),
    plot="curves",
  )


def _saturated(results: StudyResults, seen: Ends) -> Finding:
  assert seen.saturated is not None
  steps = results.length(seen.trials[0])
  fewer = math.ceil(seen.saturated / 10 * (steps or 1))
  return Finding(
    id="PB-28",
    question="convergence",
    severity="warning",
    title=f"{results.objective.metric} does not improve after {10 * seen.saturated}% of the steps: by less than"
    f" {text(max(seen.lost or 0.0, 0.0))} (95% certain)",
    why=f"Mean of the best {seen.averaged} trials that ran to their end: the fifth of the curve up to there is worse"
    f" than the last one by less than {text(relevant(results, seen.level))}, which would be relevant. With"
    " fewer steps the same compute pays for more trials.",
    trials=listed(seen.trials),
    numbers={"saturated": seen.saturated / 10, "lost": seen.lost, "level": seen.level, "steps": steps},
    action=f"Train for fewer steps, such as {fewer:,}, and tune the decay of the learning rate again.",
    changes=_steps(results, fewer),
    plot="curves",
  )


def _steps(results: StudyResults, steps: int) -> dict | None:
  change = proposed(results, ("max_train_steps", steps))
  return None if change is None else dict(change)


def _enough(results: StudyResults, seen: Ends) -> Finding:
  """Where the metric is neither certainly improving nor certainly saturated: ok if half of the steps are certainly
  worse than all, be it by little."""
  steps, margin, (least, most) = results.length(seen.trials[0]), relevant(results, seen.level), seen.half
  gains = f"{MORE_STEPS:.0%} more steps would gain {text(max(seen.low, 0.0))} to {text(max(seen.high, 0.0))}"
  numbers = {"gain": seen.gain, "low": seen.low, "high": seen.high, "level": seen.level, "steps": steps}
  numbers |= {"half_low": least, "half_high": most}
  about = (
    f"By the mean of the best {len(seen.trials)} trials that ran to their end, for half of the steps {seen.averaged}. A"
    f" difference of {text(margin)} would be relevant; "
  )
  if least > 0:
    loses = "would not do" if least >= margin else f"would lose {text(least)} to {text(most)}"
    return Finding(
      id="PB-28",
      question="convergence",
      severity="ok",
      title=f"{gains}, and half as many {loses}",
      why=f"{about}no trial's training loss rises.",
      trials=listed(seen.trials),
      numbers=numbers,
    )
  # What half the steps lose must be known to within what is relevant.
  times = ((most - least) / margin) ** 2 if margin > 0 else math.inf
  return Finding(
    id="PB-28",
    question="convergence",
    severity="cannot_tell",
    title=f"Whether fewer steps would do as well cannot be told: half may lose up to {text(most)}",
    why=f"{about}the fifth of the curve up to half of the steps is worse than the last one by 0 to {text(most)}:"
    f" evaluations vary too much. {gains}; no trial's training loss rises.",
    trials=listed(seen.trials),
    numbers=numbers,
    action=f"Train the best trial again for {math.ceil(ENOUGH[-1] / 10 * (steps or 1)):,} steps, with the learning rate"
    " decayed by then. Evaluations that vary less, on more examples,"
    + (f" or {math.ceil(times)} times as many of them" if times <= MOST_TIMES else "")
    + " would tell too.",
    plot="curves",
  )
