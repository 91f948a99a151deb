"""When a run saves between two evaluations: after a number of steps or seconds, on all hosts after the same step."""

import math
import time
from collections.abc import Callable

from trialbook.trainer.config import Checkpointing
from trialbook.trainer.hosts.joining import Hosts


class BetweenEvaluations:
  """The next saves that `checkpointing.every_steps` and `checkpointing.every_seconds` ask for.

  A save is a collective of all hosts, so they must save after the same step, and only the lead's clock counts. All
  hosts look at it together after steps that each of them knows beforehand: halfway to the step at which the time
  will be up at the rate so far. Of the n steps between two saves, about 2 log2(n) are followed by a look.

  Args:
    config: the intervals.
    hosts: of the job.
    step: number of updates applied when training starts or continues.
    now: a clock in seconds.
  """

  def __init__(self, config: Checkpointing, hosts: Hosts, step: int, now: Callable[[], float] = time.monotonic):
    self._config, self._hosts, self._now = config, hosts, now
    self.restart(step)

  def restart(self, step: int) -> None:
    """Count steps and seconds from here: the state after `step` is saved, or training begins with it."""
    self._since, self._started = step, self._now()
    self._look = math.inf if self._config.every_seconds is None else step + 1

  def next_look(self, step: int) -> float:
    """Return the first step after `step` at which `is_due` must be asked; infinite if there is none."""
    every = self._config.every_steps
    return min(max(self._look, step + 1), math.inf if every is None else step - step % every + every)

  def is_due(self, step: int) -> bool:
    """Return whether to save the state after `step`, one that `next_look` returned. All hosts ask together.

    Raises TryAgainError if a host is lost meanwhile.
    """
    by_steps = self._config.every_steps is not None and step % self._config.every_steps == 0
    if step < self._look:
      return by_steps
    own = self._now() - self._started if self._hosts.is_lead else None
    # Another host may be slow for any reason, and the limit of a step says for how long.
    elapsed = self._hosts.exchange("the time of the next checkpoint", own, math.inf)[0]
    left = (self._config.every_seconds or math.inf) - elapsed
    # Steps are dispatched before they are made, so the first few seem to take no time: at most twice as far each time.
    made = step - self._since
    halfway = int(made * left / (2 * elapsed)) if elapsed > 0 else made
    self._look = step + max(1, min(made, halfway))
    return by_steps or left <= 0
