"""Trials in the making, and the ways in which they end."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trialbook.tuning import StudyResults
from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.advice_benchmark.planted import Curves, Units
from trialbook.tuning.space.scales import Hyperparameter
from trialbook.tuning.study import Objective

RUNGS = (0.25, 0.5)
"""Shares of the steps at which the pruning rule compares a trial with earlier ones."""
COMPARED = 4
"""Earlier trials that have come so far, with fewer of which nothing is pruned."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
  """A trial before it is made a result.

  Attributes:
    values: of its hyperparameters, by name.
    units: where these are on their scales.
    curves: what it logged.
    error: that it converged to, without the noise of evaluations.
    state: how it ended.
    reason: of the state.
  """

  values: Mapping[str, Any]
  units: Units
  curves: Curves
  error: float = math.nan
  state: str = "complete"
  reason: str | None = None


def until(run: Run, step: float, state: str = "complete", reason: str | None = None) -> Run:
  """Return a run that ended after a step."""
  curves = {name: (s[s <= step], values[s <= step]) for name, (s, values) in run.curves.items() if s[0] <= step}
  return dataclasses.replace(run, curves=curves, state=state, reason=reason)


def cut_short(runs: Sequence[Run], share: float, rng: np.random.Generator, state: str = "complete") -> list[Run]:
  """Return runs of which a share ended for no reason of theirs after 10% to 80% of the steps, as by a preemption."""
  chosen = set(rng.permutation(len(runs))[: round(share * len(runs))].tolist())
  reason = None if state == "complete" else "preempted"
  return [
    until(run, rng.uniform(0.1, 0.8) * last_step(run), state, reason) if place in chosen else run
    for place, run in enumerate(runs)
  ]


def pruned(runs: Sequence[Run], objective: Objective, rungs: Sequence[float] = RUNGS) -> list[Run]:
  """Return runs of which those that are worse at a rung than the median of the earlier ones there ended there."""
  kept: list[Run] = []
  length = max(last_step(run) for run in runs)
  for run in runs:
    for rung in rungs:
      step = rung * length
      earlier = [one for one in kept if last_step(one) > step]
      before = [worth for one in earlier if np.isfinite(worth := best_until(one, objective, step))]
      if run.state == "complete" and len(before) >= COMPARED and best_until(run, objective, step) > np.median(before):
        run = until(run, step, "pruned", "worse than the median of the earlier trials at this step")
        break
    kept.append(run)
  return kept


def stopped_at_target(runs: Sequence[Run], objective: Objective, share: float) -> list[Run]:
  """Return runs that ended at their first evaluation as good as what a share of them reaches."""
  finals = [best_until(run, objective, math.inf) for run in runs if run.state == "complete"]
  target = np.quantile(finals, share) if finals else -math.inf
  found = []
  for run in runs:
    steps, costs = costs_of(run, objective)
    reached = steps[costs <= target]
    found.append(until(run, reached[0]) if run.state == "complete" and len(reached) else run)
  return found


def diverged(run: Run, rng: np.random.Generator) -> Run:
  """Return a run that became NaN in the first third of its steps."""
  step = int(rng.uniform(0.02, 0.33) * last_step(run))
  return until(run, step, "infeasible", f"train/loss = nan at step {step}")


def last_step(run: Run) -> float:
  """Return the last step of its curves; 0 if it has none."""
  return max((float(steps[-1]) for steps, _ in run.curves.values()), default=0.0)


def costs_of(run: Run, objective: Objective) -> tuple[np.ndarray, np.ndarray]:
  """Return steps and costs of the objective, without the state before the first step."""
  steps, values = run.curves[objective.metric]
  return steps[steps > 0], objective.sign * values[steps > 0]


def best_until(run: Run, objective: Objective, step: float) -> float:
  """Return the lowest cost at or before a step; infinite if there is none."""
  steps, costs = costs_of(run, objective)
  there = costs[(steps <= step) & np.isfinite(costs)]
  return float(there.min()) if len(there) else math.inf


def study_of(
  runs: Sequence[Run],
  space: Sequence[Hyperparameter],
  objective: Objective = planted.OBJECTIVE,
  examples: Mapping[str, int] | None = None,
) -> StudyResults:
  """Return the study of these runs, as if it was imported."""
  trials = [
    planted.trial(number, run.values, run.curves, state=run.state, reason=run.reason, examples=examples)
    for number, run in enumerate(runs)
  ]
  return planted.results(trials, space, objective, source="planted")
