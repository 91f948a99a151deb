"""A sweep of learning rates whose best lies inside, and how stable training is at each of them (PB-80, PB-82)."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from trialbook.trainer import Config
from trialbook.tuning.procedures.instability import Behaviour, behaviour
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.results import StudyResults, Trial

RATE = "optimizer.learning_rate"
"""The field that is swept."""
RATES_PER_DECADE = 2
"""Learning rates in each decade of a sweep."""
DECADES_BELOW, DECADES_ABOVE = 2, 1
"""Decades of the first sweep below and above the config's learning rate."""
MOST_WIDENED = 3
"""Most times that a sweep is widened by a decade."""
SAME = 0.05
"""Share by which two learning rates differ at most if one stands for the other."""

PROBE: Mapping[str, Any] = {"export": False, "logging.tensorboard": False}
"""Changes of trainings whose numbers count and whose models do not."""


@dataclasses.dataclass(frozen=True)
class RateSweep:
  """Trainings that differ in their learning rate.

  Attributes:
    trials: in the order of their learning rates.
    sign: +1 if small values of the objective are good, -1 if large ones are.
    length: of each training, in steps.
  """

  trials: tuple[Trial, ...]
  sign: int
  length: int

  @classmethod
  def of(cls, studies: Iterable[StudyResults], length: int) -> "RateSweep":
    """Return the trials of some studies, the first of those at one learning rate."""
    studies = list(studies)
    found: dict[float, Trial] = {}
    for results in studies:
      for trial in results.trials:
        found.setdefault(rate_of(trial), trial)
    return cls(tuple(found[rate] for rate in sorted(found)), studies[0].objective.sign if studies else 1, length)

  @property
  def rates(self) -> list[float]:
    """Return the learning rates, in order."""
    return [rate_of(trial) for trial in self.trials]

  @property
  def span(self) -> str:
    """Return the smallest and the largest learning rate, in words."""
    return f"{self.rates[0]:.3g} to {self.rates[-1]:.3g}"

  @property
  def best(self) -> Trial | None:
    """Return the trial with the best value, of equals that in the middle of them; None if no trial has a value."""
    valued = [trial for trial in self.trials if trial.objective is not None]
    if not valued:
      return None
    least = min(self.sign * (trial.objective or 0.0) for trial in valued)
    equal = [trial for trial in valued if self.sign * (trial.objective or 0.0) == least]
    return equal[len(equal) // 2]

  @property
  def edge(self) -> str | None:
    """Return "lowest" or "highest" if the best learning rate is at that end of the sweep, or else None."""
    best = self.best
    if best is None:
      return None
    return "lowest" if best is self.trials[0] else "highest" if best is self.trials[-1] else None

  @functools.cached_property
  def reference(self) -> Trial | None:
    """Return the training that others are held against: the best one, or if that is unstable the next smaller learning
    rate that is not; None if no training has a value."""
    best = self.best
    if best is None:
      return None
    below = [trial for trial in self.trials if trial.objective is not None and rate_of(trial) <= rate_of(best)]
    for lower, trial in reversed(list(itertools.pairwise(below))):
      if not behaviour(trial, self.length, lower, may_be_slow=True).is_unstable:
        return trial
    return below[0]

  @functools.cached_property
  def behaviours(self) -> list[Behaviour]:
    """Return how each training went, in the order of the learning rates.

    With a smaller learning rate than the reference, training may be slow. With a larger one, it is broken if it is far
    behind.
    """
    reference = self.reference
    top = math.inf if reference is None else rate_of(reference)
    valued = [trial for trial in self.trials if trial.objective is not None and trial is not reference]
    # The reference itself is held against its smaller neighbour, or else against the larger one.
    smaller = [trial for trial in valued if rate_of(trial) < top]
    beside = next(iter(smaller[-1:] or valued), None)
    return [
      behaviour(trial, self.length, beside if trial is reference else reference, may_be_slow=rate_of(trial) <= top)
      for trial in self.trials
    ]

  def smallest_unstable(self, least: float = 0.0) -> tuple[Trial, Behaviour] | None:
    """Return the unstable training with the smallest learning rate from `least` on; None if there is none."""
    for trial, found in zip(self.trials, self.behaviours, strict=True):
      if found.is_unstable and rate_of(trial) >= least:
        return trial, found
    return None

  def near(self, rate: float) -> Trial | None:
    """Return the trial with about this learning rate; None if there is none."""
    return next((trial for trial in self.trials if abs(rate_of(trial) - rate) <= SAME * rate), None)

  def table(self, metric: str) -> list[dict[str, Any]]:
    """Return a row for each learning rate."""
    return [
      {"learning rate": rate_of(trial), f"best {metric}": trial.objective, "training": found.kind, "seen": found.text}
      for trial, found in zip(self.trials, self.behaviours, strict=True)
    ]


def rate_of(trial: Trial) -> float:
  """Return the learning rate of a trial of a sweep."""
  return float(trial.values[RATE])


def rounded(rate: float) -> float:
  """Return a learning rate with three digits."""
  return float(f"{rate:.3g}")


def sweep(
  lab: Lab,
  *,
  config: Config | None = None,
  changes: Mapping[str, Any],
  is_enough: Callable[[RateSweep], bool] = lambda _: True,
) -> RateSweep:
  """Train with learning rates around the config's until the best one lies inside, as `rates_0`, `rates_1` and so on.

  The sweep is widened by a decade, at most `MOST_WIDENED` times: below if no training has a value, and beyond the best
  learning rate if that is at an end.

  Args:
    lab: where it runs.
    config: of the trainings; None: the lab's.
    changes: of that config.
    is_enough: of a sweep whose best lies inside, whether it is not to be widened above nevertheless.
  """
  config = config or lab.config
  rate, length = float(config.optimizer.learning_rate), changes.get("max_train_steps", config.max_train_steps)
  lowest, highest = -DECADES_BELOW * RATES_PER_DECADE, DECADES_ABOVE * RATES_PER_DECADE
  exponents = [*range(lowest, highest + 1)]
  studies: list[StudyResults] = []
  for widened in range(MOST_WIDENED + 1):
    studies.append(
      lab.sweep(
        f"rates_{widened}",
        "Which learning rate is the best, and where does training become unstable?",
        RATE,
        [rounded(rate * 10 ** (one / RATES_PER_DECADE)) for one in exponents],
        config=config,
        changes={**PROBE, **changes},
      )
    )
    found = RateSweep.of(studies, length)
    if found.best is None or found.edge == "lowest":
      exponents = [*range(lowest - RATES_PER_DECADE, lowest)]
      lowest -= RATES_PER_DECADE
    elif found.edge == "highest" or not is_enough(found):
      exponents = [*range(highest + 1, highest + RATES_PER_DECADE + 1)]
      highest += RATES_PER_DECADE
    else:
      break
  return RateSweep.of(studies, length)
