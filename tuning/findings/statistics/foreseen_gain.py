"""The gain that more steps would bring, foreseen from the last part of the best trials' curves, for `convergence`."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

from trialbook.tuning.findings.statistics.curve_trends import costs
from trialbook.tuning.findings.statistics.learning_curves import (
  END,
  LEAST,
  LearningCurves,
  error_of_typical,
  last_break,
  typical,
)
from trialbook.tuning.findings.statistics.pieces import learning_rate
from trialbook.tuning.findings.statistics.relevance import of_perfection, relevant
from trialbook.tuning.results import StudyResults, Trial

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
CERTAIN = 1.96
"""Standard errors of a normal distribution that are not exceeded in 95%, on both sides."""
LEAST_PIECE = 2
"""Twentieths of the steps after the last break of the curves from which a gain is foreseen: one has no slope."""
WHOLE_PIECE = 6
"""Twentieths after it from which on the gain is foreseen as without a break: three tenths show how it slows down."""


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
    schedule: what the gain may be due to: "constant" where the learning rate is; "before" where the metric still
      improved by a relevant amount when the decay began: then the gain is foreseen from there, without what the decay
      made; "decay" where it was made in one; "steady" where no learning rate was logged, and no usual decay makes so
      much, see `_is_steady`; None where none was logged, else.
    last_break: where the last piece of the curves begins, as a share of the steps; 0 if they do not break.
    left_out: trials among the best whose course is unlike that of the others.
  """

  trials: Sequence[Trial]
  gain: float
  low: float
  high: float
  level: float
  margin: float
  schedule: str | None
  last_break: float
  left_out: Sequence[Trial] = ()


def ends(results: StudyResults, ran: LearningCurves) -> Ends:
  """Return what the ends of the best trials show."""
  trials, twentieths = [one.trial for one in ran.best], typical(ran.best)
  means = twentieths.reshape(10, 2).mean(axis=1)
  error = error_of_typical(ran.best, ran.noise_correlation)
  broken = last_break(ran.best)
  left = 20 - math.ceil(20 * broken - 1e-9)
  degrees_of_freedom = sum(round(END * len(costs(results, trial)[0])) - 3 for trial in trials)
  errors = float(special.stdtrit(degrees_of_freedom, 0.975))
  if left >= WHOLE_PIECE:
    gain, gain_error = _gain(means, twentieths, error)
    low, high = gain - errors * gain_error, max(_most(means, errors * error), gain)
  elif left >= LEAST_PIECE:
    gain, gain_error = _gain_of_piece(twentieths[-left:], error)
    # Right after a jump a curve may fall fast and then be flat, so that no gain is certain.
    low, high = min(gain - errors * gain_error, 0.0), max(gain + errors * gain_error, 0.0)
  else:
    gain, low, high = 0.0, 0.0, math.inf
  level = results.objective.sign * float(twentieths[-max(min(left, 4), 1) :].mean())
  schedule = _schedule(trials)
  if schedule == "decay":
    before = _gain_before(trials, means, error)
    if before is not None and before[0] - CERTAIN * before[1] >= relevant(results, level):
      schedule, gain, low = "before", before[0], before[0] - CERTAIN * before[1]
      high = gain + CERTAIN * before[1]
  if schedule is None and broken > 0:
    schedule = "decay"
  if schedule is None and _is_steady(results, trials, means, low, level):
    schedule = "steady"
  return Ends(trials, gain, low, high, level, relevant(results, level), schedule, broken, ran.left_out)


def _gain_of_piece(twentieths: np.ndarray, error: float) -> tuple[float, float]:
  """Return the gain from `MORE_STEPS` more if it goes on as in the few twentieths after a jump, and its standard error;
  `error` is that of a tenth."""
  size = len(twentieths) // 2
  change = float(twentieths[:size].mean() - twentieths[-size:].mean())
  times = 20 * MORE_STEPS / (len(twentieths) - size)
  return times * max(change, 0.0), times * math.sqrt(2) * error * math.sqrt(2 / size)


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


def _schedule(best: Sequence[Trial]) -> str | None:
  """Return "constant" if no logged learning rate decays, "decay" if one does, None if one was not logged."""
  starts = [_decay(trial) for trial in best]
  if any(start is None for start in starts):
    return None
  return "constant" if min(start for start in starts if start is not None) >= 1 else "decay"


def _gain_before(best: Sequence[Trial], tenths: np.ndarray, error: float) -> tuple[float, float] | None:
  """Return the gain from two more tenths at the learning rate before it decays, and its standard error; by the trial
  that begins to decay first. None if that is before half of the steps: the fall from initialization is no sign of it.

  The gain is not more than what the last two tenths gained: the last one alone may be there by chance.
  """
  before = int(10 * min(start for trial in best if (start := _decay(trial)) is not None) + 1e-9)
  if before < 5:
    return None
  gain, gain_error = _gain(np.r_[np.zeros(10 - before), tenths[:before]], None, error)
  two = float(tenths[before - 3] - tenths[before - 1])
  return min((gain, gain_error), (two, math.sqrt(2) * error))


def _decay(trial: Trial) -> float | None:
  """Return the share of the training at which the learning rate falls below `CONSTANT` of its largest for good, 1 if it
  does not; None if it was not logged."""
  steps, rates = learning_rate(trial)
  if len(rates) < LEAST:
    return None
  last = np.flatnonzero(rates >= CONSTANT * rates.max())[-1]
  return 1.0 if last == len(rates) - 1 else float(steps[last] / steps[-1])


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
  last = max(end, 0.0) if last > end + CERTAIN * 4 * error else last
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
