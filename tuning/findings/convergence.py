"""The length of training: too short or too long (PB-28), and whether its loss rises.

The playbook ("Examining the training curves"): if the best trials still improve at the end, the study is bound by
compute; if they were saturated long before, fewer steps will do; a training loss that rises is probably a bug.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from trialbook.tuning.findings import rising_loss, saturation
from trialbook.tuning.findings.finding import Finding, finding_of, trial_numbers
from trialbook.tuning.findings.settings_in_use import proposed
from trialbook.tuning.findings.statistics.curve_trends import costs, effective_trials
from trialbook.tuning.findings.statistics.learning_curves import END, LEAST, LearningCurves, learning_curves, tenths
from trialbook.tuning.findings.statistics.relevance import of_perfection, relevant
from trialbook.tuning.findings.wording import short
from trialbook.tuning.results import StudyResults, Trial

_finding = finding_of("PB-28", "convergence")

MORE_STEPS = 0.2
"""Share of steps in addition whose gain is predicted: what a next study may easily add, and not further beyond the data
than that."""
STEADY = 0.1
"""Share of the improvement since the first evaluation that must still be gained for a decay not to explain it: a linear
decay over the whole training would have had to make half of all the improvement, and learning no more."""
MANY = 3
"""Multiple of 2% of the distance from perfection that such a gain must reach: plainly more than what is just
relevant."""
FIRST = 0.05
"""Share of the steps by which the first evaluation must be, for the improvement since then to be about all."""
CONSTANT = 0.9
"""Share of the largest learning rate of a training below which it decays."""
LEARNING_RATES = ("learning_rate", "lr")
"""Last parts of the names under which a learning rate is logged."""


@dataclasses.dataclass(frozen=True)
class Ends:
  """The last part of the best trials' curves.

  Attributes:
    trials: that ran to their end, the best first.
    gain: of the metric, from `MORE_STEPS` more, foreseen from how it slows down; positive is better.
    low, high: at least, as foreseen, by what the noise of evaluations leaves of it (too high by up to the error of how
      it slows down, which is left out); at most, with 95% certainty, if the metric does not speed up, see `_most`.
    level: of the metric at the end.
    margin: what is relevant there.
    schedule: what the gain may be due to: "constant" where the learning rate is, or where the metric still improved by
      a relevant amount when the decay began; "decay" where it was made in one; "steady" where no learning rate was
      logged, and no usual decay makes so much, see `_is_steady`; None where none was logged, else.
  """

  trials: Sequence[Trial]
  gain: float
  low: float
  high: float
  level: float
  margin: float
  schedule: str | None


def find(results: StudyResults) -> list[Finding]:
  """Return the finding on whether the best trials still improve, are saturated, or have a rising loss (PB-28).

  Still improving: the mean gain of the best few trials from 20% more steps is relevant (`relevance.RELEVANT`) at the
  lower end of its interval. That is a warning only if a decay of the learning rate did not make the gain, since a
  longer decay need not gain more. Neither still improving nor saturated: ok if the gain is less than relevant at the
  upper end too, and half of the steps would lose something. See `saturation` and `rising_loss`.
  """
  ran = learning_curves(results)
  wrong = rising_loss.rising(results)
  rises = [rising_loss.finding(results, wrong)] if wrong else []
  if ran is None:
    unknown = _finding(
      severity="cannot_tell",
      title="Whether training was long enough cannot be told",
      why=f"It takes one of the best trials that ran to its end, with {LEAST} evaluations of"
      f" {results.objective.metric} at least.",
      action=f"Let the best trials run to their end, and evaluate {LEAST} times at least.",
    )
    return [unknown, *rises]
  seen = ends(results, ran)
  if 0 < seen.low >= seen.margin:
    return [_improving(results, seen), *rises]
  fewer = saturation.fewer(ran, seen.margin)
  if fewer.saturated is not None:
    return [saturation.finding(results, fewer, seen.level, seen.margin), *rises]
  if rises:
    return rises
  unsure = []
  if seen.high >= seen.margin:
    unsure.append(_unforeseen(results, seen, fewer))
  if fewer.half[0] <= 0:
    unsure.append(saturation.unsure(results, fewer, seen.margin))
  return unsure or [_enough(results, seen, fewer)]


def ends(results: StudyResults, ran: LearningCurves) -> Ends:
  """Return what the ends of the best trials show."""
  trials, means = [one.trial for one in ran.best], tenths(ran.best)
  count = len(trials)
  # Of the mean over the trials, in one tenth.
  effective = effective_trials(count, ran.noise_correlation)
  error = math.hypot(*(one.error for one in ran.best)) / math.sqrt(count * effective)
  twentieths = np.mean([one.twentieths for one in ran.best], axis=0)
  gain, gain_error = _gain(means, twentieths, error)
  degrees_of_freedom = sum(round(END * len(costs(results, trial)[0])) - 3 for trial in trials)
  errors = float(special.stdtrit(degrees_of_freedom, 0.975))
  low, high = gain - errors * gain_error, max(_most(means, errors * error), gain)
  level = results.objective.sign * float(means[8:].mean())
  schedule = _schedule(results, trials, means, error, level)
  if schedule is None and _is_steady(results, trials, means, low, level):
    schedule = "steady"
  return Ends(trials, gain, low, high, level, relevant(results, level), schedule)


def _is_steady(results: StudyResults, best: Sequence[Trial], tenths: np.ndarray, gain: float, level: float) -> bool:
  """Return whether a gain is one that no usual decay of the learning rate makes.

  Such a gain is large (`MANY`), a large part of all the improvement (`STEADY`), and did not begin late: each fifth
  after the second was better than the one before it by as much as the next will be. A decay to the end that bends, such
  as a cosine, leaves hardly any gain to be predicted.
  """
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
  """Return what may explain the gain at the end, as `Ends.schedule` has it; by the trial that begins to decay first."""
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
  """Return the share of the training at which the learning rate falls below `CONSTANT` of its largest for good, 1 if it
  does not; None if it was not logged."""
  for name in trial.curves:
    if name.rpartition("/")[2] in LEARNING_RATES:
      steps, rates = trial.curve(name)
      if len(rates) >= LEAST:
        last = np.flatnonzero(rates >= CONSTANT * rates.max())[-1]
        return 1.0 if last == len(rates) - 1 else float(steps[last] / steps[-1])
  return None


def _gain(tenths: np.ndarray, twentieths: np.ndarray | None, error: float) -> tuple[float, float]:
  """Return the gain from two more tenths, and its standard error; `error` is that of one tenth.

  Each further tenth gains r times what the one before did, where r is what the last gain was of the one before it,
  limited to 0 to 1. What speeds up, as errors do when the learning rate decays, is not predicted to continue so. Where
  the last two twentieths are certainly closer than that, the curve has become flat, as at the end of a decay, and they
  count. If `twentieths` is None, they are not looked at.
  """
  last, before = float(tenths[8] - tenths[9]), float(tenths[7] - tenths[8])
  end = last if twentieths is None else 2 * float(twentieths[18] - twentieths[19])
  # Four times: the difference of two halves of a tenth, doubled.
  last = max(end, 0.0) if last > end + 1.96 * 4 * error else last
  slows = min(max(last / before, 0.0), 1.0) if before > 0 and last > 0 else 1.0
  factor = slows + slows**2
  return last * factor, math.sqrt(2) * error * max(factor, 1.0)


def _most(tenths: np.ndarray, half_width: float) -> float:
  """Return the most that two more tenths gain if no tenth gains more than the one before.

  How much the gain slows down is known less well, so any slowdown counts: as much as the last fifth gained, or twice as
  much as the last tenth. `half_width` is that of the interval of one tenth.
  """
  fifth = tenths[6:8].mean() - tenths[8:].mean() + half_width
  tenth = 2 * (tenths[8] - tenths[9] + math.sqrt(2) * half_width)
  return float(min(fifth, tenth))


def _improving(results: StudyResults, seen: Ends) -> Finding:
  metric, steps = results.objective.metric, results.length(seen.trials[0])
  longer = math.ceil((1 + MORE_STEPS) * (steps or 1))
  numbers = _numbers(results, seen)
  if seen.schedule not in ("constant", "steady"):
    made = seen.schedule == "decay"
    return _finding(
      severity="note",
      title=f"{metric} still improves at the end, "
      + ("while the learning rate decays" if made else "which a decay of the learning rate may have made"),
      why=f"If it went on as in the last three tenths of the curves, {MORE_STEPS:.0%} more steps would gain about"
      f" {short(seen.gain)} ({short(seen.low)} to {short(seen.high)}). {_foreseen(seen)}."
      " But a learning rate that decays to the end lets any metric improve to the end, so that whether a longer"
      " training is better cannot be told from these curves." + ("" if made else " The learning rate was not logged."),
      trials=trial_numbers(seen.trials),
      numbers=numbers,
      action=f"To see whether more steps gain, train the best trial again for {longer:,} steps, with a longer constant"
      " part of the learning rate before the same decay (PB-63)."
      + ("" if made else " Log the learning rate as learning_rate."),
      plot="curves",
    )
  change = proposed(results, ("max_train_steps", longer))
  cause = {
    "constant": " The learning rate does not explain it: it is constant at the end, or the metric improved as well"
    " before it began to decay.",
    "steady": f" A decay of the learning rate hardly explains it: that is {STEADY:.0%} at least of all that the metric"
    " improved since its first evaluation, each fifth of the steps after the second was better than the one before it"
    " by as much, and the end is not flat.",
  }
  return _finding(
    severity="warning",
    title=f"{metric} still improves at the end: {MORE_STEPS:.0%} more steps would gain about {short(seen.gain)}"
    f" ({short(seen.low)} to {short(seen.high)})",
    why=f"{_foreseen(seen)}.{cause[seen.schedule]} Such a study is bound by compute: what wins with more steps"
    " may be another configuration.",
    trials=trial_numbers(seen.trials),
    numbers=numbers,
    action=f"Train for more steps, such as {longer:,}, and tune the decay of the learning rate again.",
    changes=None if change is None else dict(change),
    plot="curves",
  )


def _numbers(results: StudyResults, seen: Ends) -> dict[str, float | None]:
  steps = results.length(seen.trials[0])
  return {
    "gain": seen.gain,
    "low": seen.low,
    "high": seen.high,
    "level": seen.level,
    "relevant": seen.margin,
    "steps": steps,
  }


def _gains(seen: Ends) -> str:
  return f"{MORE_STEPS:.0%} more steps would gain {short(max(seen.low, 0.0))} to {short(max(seen.high, 0.0))}"


def _unforeseen(results: StudyResults, seen: Ends, fewer: saturation.Fewer) -> Finding:
  """Return the finding that a relevant gain is neither certain nor excluded."""
  longer = math.ceil((1 + MORE_STEPS) * (results.length(seen.trials[0]) or 1))
  constant = seen.schedule == "constant"
  return _finding(
    severity="cannot_tell",
    title=f"Whether more steps gain enough to matter cannot be told: {_gains(seen)}",
    why=f"A gain of {short(seen.margin)} would be relevant. {_foreseen(seen)}"
    + ("." if constant else ". A decay of the learning rate may have made what they gained there.")
    + (f" Half as many steps {_loses(seen, fewer)}." if fewer.half[0] > 0 else ""),
    trials=trial_numbers(seen.trials),
    numbers={**_numbers(results, seen), **fewer.numbers},
    action=f"Train the best {len(seen.trials)} trials again for {longer:,} steps"
    + ("." if constant else ", with a longer constant part of the learning rate before the same decay (PB-63)."),
    plot="curves",
  )


def _loses(seen: Ends, fewer: saturation.Fewer) -> str:
  least, most = fewer.half
  return "would not do" if least >= seen.margin else f"would lose {short(least)} to {short(most)}"


def _foreseen(seen: Ends) -> str:
  return (
    f"By the mean of the best {len(seen.trials)} trials that ran to their end: the least is foreseen from how they slow"
    " down over the last three tenths of their curves; the most holds with 95% certainty if they do not speed up"
  )


def _enough(results: StudyResults, seen: Ends, fewer: saturation.Fewer) -> Finding:
  """Return the finding that more steps gain nothing, and that half of them lose something, though it may be little."""
  return _finding(
    severity="ok",
    title=f"{_gains(seen)}, and half as many {_loses(seen, fewer)}",
    why=f"A difference of {short(seen.margin)} would be relevant. {_foreseen(seen)}. Losses are by the mean"
    f" of {len(fewer.trials)}, at least and at most with 95% certainty each. No trial's training loss rises.",
    trials=trial_numbers(seen.trials),
    numbers={**_numbers(results, seen), **fewer.numbers},
  )
