"""Did training last long enough, or too long, and does its loss rise (PB-28)?

The playbook ("Examining the training curves"): if the best trials still improve at the end, the study is bound by
compute; if they were saturated long before, fewer steps will do; a training loss that rises is probably a bug.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from tuning.findings.curve_noise import (
  Rise,
  between,
  complete,
  correlation,
  costs,
  deviation,
  listed,
  relevant,
  rise_after_best,
  text,
  thinned,
  training_losses,
)
from tuning.findings.finding import Finding
from tuning.findings.settings_in_use import proposed
from tuning.results import StudyResults, Trial

BEST = 5
"""Trials whose ends are looked at: the best few, as the playbook says; enough to average noise."""
TOP = 0.25
"""Share of the trials that are looked through for such as ran to their end; worse ones say nothing of the best."""
END = 0.3
"""Share of a curve in which its noise is measured: that from which the gain is foreseen."""
WHOLE = 0.95
"""Share of the steps that a trial must have run: the end of one that was cut short is not the end of its schedule."""
MORE_STEPS = 0.2
"""Share of steps, in addition, of which the gain is foreseen: what a next study may add without much thought, and not
further from what was seen than that."""
ENOUGH = (3, 4, 5)
"""Tenths of the steps by which saturation counts as long before the end: half of the compute at least is wasted."""
LEAST = 20
"""Evaluations of a trial, about, one in each twentieth of its steps: of fewer, the end is one or two."""
COVERED = 0.9
"""Share of `LEAST` evaluations that a trial must have: one or two may be missing."""
FILLED = 0.8
"""Share of the twentieths in which an evaluation must be: what is interpolated is not known."""
ONE_SIDED = 1.645
"""Standard errors of a normal distribution that are not exceeded in 95%, on one side."""
CONSTANT = 0.9
"""Of the largest learning rate of a training: from there on down it decays."""
LEARNING_RATES = ("learning_rate", "lr")
"""Last parts of the names under which a learning rate is logged."""
RISES = 0.05
"""Of the lowest training loss, that a rise must reach: less is the sway of regularization and of batches."""
RISES_OF_FALL = 0.01
"""Of what the loss fell since the first evaluation, that a rise must reach: a loss that is nearly 0 wavers by much of
itself."""
CERTAIN = 0.01
"""Largest p of a rise, divided by the number of trials."""
FREQUENT = 0.1
"""Share of the trials with a rising loss from which it is the study's problem and not that of some bad values."""
POINTS = 200
"""To which a training loss that was logged at every step is thinned by medians: single spikes are no rise."""


@dataclasses.dataclass(frozen=True)
class Ends:
  """The last part of the best trials' curves.

  Attributes:
    trials: that ran to their end, the best first.
    gain: of the metric, from `MORE_STEPS` more, foreseen from how it slows down; positive is better.
    low, high: the 95% interval of `gain`.
    saturated: tenths of the steps by which the level of the last fifth was reached; None if later than `ENOUGH`.
    lost: at most, with 95% certainty, by having stopped there; None as before.
    needed: whether the fifth of the curve that ends at half of the steps is certainly worse than the last one.
    level: of the metric at the end.
    schedule: what the gain may be due to: "constant" where the learning rate is, or where the metric still improved by
      a relevant amount when the decay began; "decay" where it was made in one; None if no learning rate was logged.
  """

  trials: Sequence[Trial]
  gain: float
  low: float
  high: float
  saturated: float | None
  lost: float | None
  needed: bool
  level: float
  schedule: str | None


def find(results: StudyResults) -> list[Finding]:
  """PB-28. Still improving: of the best few trials the mean gain of 20% more steps is relevant
  (`curve_noise.RELEVANT`) at the lower end of its interval; a warning only where a decay of the learning rate did not
  make it, since a decay that takes longer need not gain more. Saturated: a fifth of the curve that ends before half of
  the steps is, at the upper end, worse than the last fifth by less than is relevant. Rising: see `rising`."""
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
  elif seen.low >= relevant(results, seen.level):
    found.append(_improving(results, seen))
  elif seen.saturated is not None:
    found.append(_saturated(results, seen))
  if wrong := rising(results):
    found.append(_rising(results, wrong))
  if not found and seen is not None:
    found.append(_ok(results, seen))
  return found


def ends(results: StudyResults) -> Ends | None:
  """What the ends of the best trials say; None if none of them has enough evaluations."""
  trials = complete(results)
  among = trials[: max(BEST, math.ceil(TOP * len(trials)))]
  whole = [trial for trial in among if trial.last_step >= WHOLE * (results.length(trial) or 0)][:BEST]
  shared = correlation(costs(results, trial) for trial in trials)
  inflation = math.sqrt((1 + shared) / (1 - shared))
  best, parts, errors, errors_before = [], [], [], []
  for trial in whole:
    steps, values = costs(results, trial)
    means = _twentieths(steps, values)
    noise = deviation(steps, values, round(END * len(steps)))
    half = len(steps) // 2
    noise_before = deviation(steps[:half], values[:half], round(END * len(steps)))
    if means is None or noise is None or noise_before is None:
      continue
    best.append(trial)
    parts.append(means)
    errors.append(inflation * noise / math.sqrt(len(steps) / 10))
    errors_before.append(inflation * noise_before / math.sqrt(len(steps) / 10))
  if not best:
    return None
  twentieths = np.mean(parts, axis=0)
  mean = twentieths.reshape(10, 2).mean(axis=1)
  error = math.hypot(*errors) / len(best)  # Of the mean over the trials, in one tenth.
  gain, gain_error = _gain(mean, twentieths, error)
  freedom = sum(round(END * len(costs(results, trial)[0])) - 3 for trial in best)
  reach = float(special.stdtrit(freedom, 0.975)) * gain_error
  final = float(mean[8:].mean())
  level = results.objective.sign * final
  # Before a decay noise is larger than at the end.
  early_error = math.hypot(*errors, *errors_before) / len(best) / math.sqrt(2)
  # A fifth held against the last one: twice as many evaluations in each.
  at_most = [float(mean[end - 2 : end].mean()) - final + ONE_SIDED * error for end in range(2, 9)]
  good = [lost < relevant(results, level) for lost in at_most]
  saturated = next((end for end in ENOUGH if all(good[end - 2 :])), None)
  return Ends(
    trials=best,
    gain=gain,
    low=gain - reach,
    high=gain + reach,
    saturated=saturated,
    lost=None if saturated is None else at_most[saturated - 2],
    needed=float(mean[3:5].mean()) - final - ONE_SIDED * early_error >= relevant(results, level),
    level=level,
    schedule=_schedule(results, best, mean, error, level),
  )


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


def rising(results: StudyResults) -> list[tuple[Trial, Rise]]:
  """The complete trials whose training loss rises after the best of its running mean, with certainty `CERTAIN` over all
  of them, by `RISES` of its lowest and `RISES_OF_FALL` of its fall; the best trial first."""
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


def _improving(results: StudyResults, seen: Ends) -> Finding:
  metric, steps = results.objective.metric, results.length(seen.trials[0])
  longer = math.ceil((1 + MORE_STEPS) * (steps or 1))
  numbers = {"gain": seen.gain, "low": seen.low, "high": seen.high, "level": seen.level, "steps": steps}
  if seen.schedule != "constant":
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
  return Finding(
    id="PB-28",
    question="convergence",
    severity="warning",
    title=f"{metric} still improves at the end: {MORE_STEPS:.0%} more steps would gain about {text(seen.gain)}"
    f" ({between(seen.low, seen.high)})",
    why=f"Mean of the best {len(seen.trials)} trials that ran to their end, foreseen from the last three tenths of"
    " their curves: each tenth gains so much less than the one before as the last did, or as much where they speed up."
    " The learning rate does not explain it: it is constant at the end, or the metric improved as well before it"
    " began to decay. Such a study is bound by compute: what wins with more steps may be another configuration.",
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
    why=f"Mean of the best {len(seen.trials)} trials that ran to their end: the fifth of the curve up to there is worse"
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


def is_grave(results: StudyResults, wrong: Sequence[tuple[Trial, Rise]]) -> bool:
  """Whether rising training losses are more than those of some bad values."""
  trials = complete(results)
  best = {trial.trial for trial in trials[:BEST]}
  return len(wrong) >= FREQUENT * len(trials) or any(trial.trial in best for trial, _ in wrong)


def _rising(results: StudyResults, wrong: Sequence[tuple[Trial, Rise]]) -> Finding:
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
    f" {text(rise.amount)} ({between(rise.low, rise.high)}) from {text(rise.level)}; {among_best} of such trials are"
    f" among the best {len(best)}. Training lowers the loss that it minimizes, unless the learning rate is too high,"
    " the data change, or the pipeline or the update is wrong.",
    trials=listed([trial for trial, _ in wrong]),
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


def _ok(results: StudyResults, seen: Ends) -> Finding:
  return Finding(
    id="PB-28",
    question="convergence",
    severity="ok",
    title=f"{MORE_STEPS:.0%} more steps would gain {text(max(seen.low, 0.0))} to {text(max(seen.high, 0.0))}"
    + (", and half as many would not do" if seen.needed else ""),
    why=f"Mean of the best {len(seen.trials)} trials that ran to their end. A gain of"
    f" {text(relevant(results, seen.level))} would be relevant; no trial's training loss rises."
    + ("" if seen.needed else " Whether half as many steps would do as well cannot be told."),
    trials=listed(seen.trials),
    numbers={
      "gain": seen.gain,
      "low": seen.low,
      "high": seen.high,
      "level": seen.level,
      "steps": results.length(seen.trials[0]),
    },
  )
