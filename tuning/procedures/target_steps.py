"""What the trainings at one batch size reached: the steps to the target of the best point, and their cost (PB-06)."""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trialbook.tuning.results import Trial
from trialbook.tuning.study import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reached:
  """The steps to the target at one batch size.

  Attributes:
    batch_size: examples of a step.
    budget: steps of each training.
    resolution: steps from one evaluation to the next.
    trials, feasible: trials of the search, and those that trained to their end.
    searched: steps of the best trial of the search; None: none reached the target.
    spread: of the logarithm of the best steps, from search to search; see `search_spread`.
    of_seeds: steps of its retrains; None for one that did not reach the target.
    changes: of the config, by the best trial.
    at_edge: whether its learning rate is at an edge of the search.
    examples_per_second: of the trainings; None if unknown.
    devices: of each training.
  """

  batch_size: int
  budget: int
  resolution: int
  trials: int
  feasible: int
  searched: int | None = None
  spread: float = 0.0
  of_seeds: tuple[int | None, ...] = ()
  changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  at_edge: bool = False
  examples_per_second: float | None = None
  devices: int = 1

  @property
  def steps(self) -> float | None:
    """Return the median of the retrains' steps, one that did not reach the target counting as more than all; of the
    search if there are no retrains. None if the target is not reached."""
    if not self.of_seeds:
      return self.searched
    median = statistics.median(math.inf if one is None else one for one in self.of_seeds)
    return median if math.isfinite(median) else None

  @property
  def seconds(self) -> float | None:
    """Return the training time to the target, without evaluations."""
    if self.steps is None or self.examples_per_second is None:
      return None
    return self.steps * self.batch_size / self.examples_per_second

  @property
  def device_seconds(self) -> float | None:
    """Return the time times the devices."""
    return None if self.seconds is None else self.seconds * self.devices


def first_step(trial: Trial, objective: Objective, target: float) -> int | None:
  """Return the first step at which a trial's metric was as good as the target; None if never.

  The state before the first step counts too: a target that it meets is none, and has to show.
  """
  at, values = trial.curve(objective.metric)
  reached = at[objective.sign * values <= objective.sign * target]
  return int(reached[0]) if len(reached) else None


def search_spread(steps: Sequence[int | None]) -> float:
  """Return the standard deviation of the logarithm of the best steps, over bootstraps of a search's trials.

  The j-th best of n trials is the best of a bootstrap with probability (1 - (j-1)/n)^n - (1 - j/n)^n.

  Args:
    steps: of all trials; None for those that did not reach the target.
  """
  reached = np.log(sorted(max(one, 1) for one in steps if one is not None))
  if len(reached) < 2:
    return 0.0
  below = (1 - np.arange(len(reached) + 1) / len(steps)) ** len(steps)
  weights = (below[:-1] - below[1:]) / (below[0] - below[-1])
  mean = float(weights @ reached)
  return math.sqrt(float(weights @ (reached - mean) ** 2))
