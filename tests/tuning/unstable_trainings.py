"""Simulated trainings that are unstable above a learning rate, unless they are warmed up or clipped as they need."""

import dataclasses
from typing import Literal

import numpy as np
from simulated_trainings import Simulation

from trialbook.trainer import Config

START = 2.3
"""Loss of the untrained model."""


LOGGED = 100
"""Steps up to which each is logged."""


@dataclasses.dataclass(frozen=True)
class Unstable:
  """What is true of the trainings.

  Attributes:
    limit: learning rate above which training breaks.
    best: learning rate whose validation error would be the lowest if training were stable; the error is 0.02 there and
      0.1 more for each decade beside it.
    breaks: what happens: "diverges", "collapses" to the loss of the start, or "recovers" after a rise.
    at: share of the training at which it breaks.
    warmup: steps of warmup that make ten times the limit stable; None: none do.
    whole: steps of warmup that a whole training needs at ten times the limit, if those are more.
    norm: usual norm of the gradient; that of each twentieth step is 20 times as large above the limit.
    threshold: of clipping, up to which training is stable above the limit; 0: clipping does not help.
    unlucky: multiple of the warmup that seeds other than 0 need; with more than 1, clipping does not help them.
    noise: relative noise of the loss from step to step.
  """

  limit: float
  best: float = 1.0
  breaks: Literal["diverges", "collapses", "recovers"] = "diverges"
  at: float = 0.02
  warmup: int | None = 100
  whole: int = 0
  norm: float = 1.0
  threshold: float = 0.0
  unlucky: float = 1.0
  noise: float = 0.05

  def is_stable(self, config: Config) -> bool:
    """Return whether a training is stable."""
    rate = config.optimizer.learning_rate
    more = self.unlucky if config.seed else 1.0
    is_clipped = config.clip_norm is not None and config.clip_norm <= self.threshold and more == 1
    if rate <= self.limit or is_clipped:
      return True
    short = config.max_train_steps == 3 * config.schedule.warmup_steps
    needed = self.warmup if short or self.warmup is None else max(self.warmup, self.whole)
    return needed is not None and config.schedule.warmup_steps >= more * needed * rate / (10 * self.limit) * 0.999

  def curves(self, config: Config):
    """Return what a training logs."""
    steps = np.arange(1, config.max_train_steps + 1)
    rng = np.random.default_rng(int(1e6 * config.optimizer.learning_rate) + config.schedule.warmup_steps)
    rate = config.optimizer.learning_rate
    speed = 30.0 * min(1.0, (rate / self.limit) ** 0.5) / 1000
    loss = START * np.exp(-speed * steps) + 0.01
    error = 0.02 + 0.1 * abs(np.log10(rate / self.best)) + 0.9 * np.exp(-speed * steps)
    stable = self.is_stable(config)
    if not stable:
      broken = steps > self.at * config.max_train_steps
      since = steps - self.at * config.max_train_steps
      if self.breaks == "diverges":
        loss = np.where(broken, loss * np.exp(np.minimum(since, 50)), loss)
        loss[since > 50], error = np.nan, np.full(len(steps), np.nan)
      elif self.breaks == "collapses":
        loss, error = np.where(broken, START, loss), np.where(broken, 0.9, error)
      else:
        loss = np.where(broken & (since < 20), 3 * START, loss)
    loss = loss * np.exp(self.noise * rng.normal(size=len(steps)))
    norms = self.norm * np.exp(0.2 * rng.normal(size=len(steps)))
    if rate > self.limit:
      norms[9::20] *= 20
    shown = np.unique([*range(0, config.max_train_steps + 1, config.evaluation.every_steps), config.max_train_steps])
    # Fewer late steps, since writing them is most of what a test does.
    kept = (steps <= LOGGED) | (steps % 5 == 0)
    found = {
      "train/loss": (steps[kept], loss[kept]),
      "grad_norm": (steps[kept], norms[kept]),
      "validation/error": (shown, np.concatenate([[0.9 if np.isfinite(error[0]) else np.nan], error])[shown]),
    }
    if config.clip_norm is not None:
      found["clip_fraction"] = (steps[kept], (norms > config.clip_norm)[kept].astype(float))
    return found


def simulation(truth: Unstable) -> Simulation:
  """Return a runner of such trainings."""
  return Simulation(truth.curves)


CONFIG = Config().override(
  {"optimizer.learning_rate": 0.1, "max_train_steps": 500, "schedule": {"name": "cosine"}, "evaluation.every_steps": 50}
)
