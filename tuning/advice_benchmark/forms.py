"""Forms of healthy studies: samplers, retrains, metrics, schedules, and how trials end, all drawn at random."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from trialbook.tuning.advice_benchmark.metrics import METRICS
from trialbook.tuning.advice_benchmark.planted_curves import SCHEDULES

ENOUGH_POINTS = 4
"""Points for each hyperparameter with fewer of which it is true that there are too few."""
AMPLE = 0.7
"""Share of the studies that have no more hyperparameters than their points suffice for."""


def restarts(*lengths: float) -> Callable[[np.ndarray], np.ndarray]:
  """Return a learning rate that falls as a cosine in cycles of these lengths, of time from 0 to 1."""
  ends = np.cumsum(lengths) / sum(lengths)

  def factor(time: np.ndarray) -> np.ndarray:
    cycle = np.minimum(np.searchsorted(ends, time, side="right"), len(ends) - 1)
    starts = np.concatenate([[0.0], ends[:-1]])
    return 0.5 * (1 + np.cos(np.pi * (time - starts[cycle]) / (ends - starts)[cycle]))

  return factor


LEARNING_RATES: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
  **SCHEDULES,
  "constant": lambda time: np.ones_like(time),
  "step at 80 of 90": lambda time: np.where(time < 80 / 90, 1.0, 0.1),
  "one restart": restarts(1, 1),
  "two restarts": restarts(1, 2, 4),
}
"""Learning rates, as shares of the largest, of time from 0 to 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
  """What a seed draws.

  Attributes:
    sampler: "halton", "uniform", "adaptive" or "grid".
    trials: how many, about.
    dimensions: number of hyperparameters.
    retrains: trials of each point.
    metric: a key of `METRICS`.
    schedule: a key of `LEARNING_RATES`.
    excess: of the error where the learning rate is at its largest, as a share of the error at the end.
    ends: "all", "pruned", "cut short" or "target".
    share: of the trials that were cut short or reached the target.
    bad_point: whether one point is infeasible in all of its trials.
    evaluations: of each trial; 1: its final value only.
    logged: metrics beside the objective: "all", "no gradients" or "none".
    says_state: whether trials that were cut short have a state that says so.
    value: which evaluation counts: "best" or "last".
    noise: standard deviation of the error from seed to seed.
    jitter: standard deviation of the error from evaluation to evaluation.
    examples: in the validation set.
    settings: of a scientific hyperparameter, all equally good; 0: there is none.
  """

  sampler: str
  trials: int
  dimensions: int
  retrains: int
  metric: str
  schedule: str
  excess: float
  ends: str
  share: float
  bad_point: bool
  evaluations: int
  logged: str
  says_state: bool
  value: str
  noise: float
  jitter: float
  examples: int
  settings: int = 0


def form_of(rng: np.random.Generator) -> Form:
  """Return a form drawn at random."""

  def choice(**weights: float) -> str:
    return str(rng.choice([name.replace("_", " ") for name in weights], p=np.array([*weights.values()])))

  def log_uniform(low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))

  schedule = str(rng.choice(list(LEARNING_RATES)))
  sampler = choice(halton=0.4, uniform=0.15, adaptive=0.25, grid=0.2)
  evaluations = int(rng.choice([1, 10, 20, 50, 100], p=[0.1, 0.15, 0.25, 0.35, 0.15]))
  form = Form(
    sampler=sampler,
    trials=round(log_uniform(12, 128)),
    dimensions=int(rng.integers(1, 3)) if sampler == "grid" else int(rng.integers(2, 16)),
    retrains=1 if rng.random() < 0.55 else int(rng.integers(3, 6)),
    metric=str(rng.choice(list(METRICS))),
    schedule=schedule,
    excess=0.0 if schedule == "constant" else rng.uniform(0.2, 1.0),
    ends="all" if evaluations == 1 else choice(all=0.52, pruned=0.16, cut_short=0.16, target=0.16),
    share=rng.uniform(0.1, 0.4),
    bad_point=rng.random() < 0.25,
    evaluations=evaluations,
    logged=choice(all=0.5, no_gradients=0.3, none=0.2),
    says_state=rng.random() < 0.5,
    value=choice(best=0.8, last=0.2),
    noise=log_uniform(0.0005, 0.008),
    jitter=log_uniform(0.002, 0.008),
    examples=round(log_uniform(10_000, 200_000)),
  )
  if rng.random() > AMPLE:
    return form
  return dataclasses.replace(
    form, dimensions=min(form.dimensions, max(form.trials // form.retrains // ENOUGH_POINTS, 2))
  )


def parts(form: Form) -> list[str]:
  """Return the groups of studies that one belongs to, in words."""
  ends = {
    "all": "ran to its end",
    "pruned": "pruned by a rule if worse",
    "cut short": "10% to 40% cut short",
    "target": "stopped at a target",
  }
  return [
    "all",
    f"seeds of a point: {'one' if form.retrains == 1 else 'three to five'}",
    f"a point that is infeasible: {'one' if form.bad_point else 'none'}",
    f"each trial: {ends[form.ends]}",
    f"points: {form.sampler}",
    f"metric: {form.metric}",
    f"curves: {'final values only' if form.evaluations == 1 else f'{form.evaluations} evaluations'}",
  ]
