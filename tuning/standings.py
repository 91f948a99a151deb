"""The standing of trials at the steps of a rule that ends them early, from what they logged."""

import math
from collections.abc import Sequence

import numpy as np

from trialbook.tuning.early_stopping import Standing
from trialbook.tuning.objective import Curve, evaluations_of, finite, value_of_finite
from trialbook.tuning.records import TrialRecord
from trialbook.tuning.study import Objective

REACHED = "reached"
"""Entry of a trial record's summary: for each of the rule's steps that the trial reached, the step of the evaluation
and the trial's value until then (None: it had no finite one)."""

Reached = tuple[tuple[int, float | None], ...]


def reached(steps: Sequence[int], objective: Objective, points: Curve) -> Reached:
  """Return what a trial had reached at each of a rule's steps: the step of its first evaluation from there on, and its
  value by the objective until then.

  Args:
    steps: of the rule, in order.
    objective: of the study.
    points: the curve of the objective's metric, in order of steps, as far as it was logged.
  """
  return reached_by(steps, objective, *evaluations_of(points))


def reached_by(steps: Sequence[int], objective: Objective, at: np.ndarray, values: np.ndarray) -> Reached:
  """Return `reached` for the steps and the values of the objective's metric, [evaluations] each."""
  found = []
  for step in steps:
    is_there = at >= step
    if not is_there.any():
      break
    end = int(np.argmax(is_there))
    value = value_of_finite(objective, *finite(at[: end + 1], values[: end + 1]))
    found.append((int(at[end]), None if value is None else value[1]))
  return tuple(found)


def standing(state: str, had: Reached, final: float | None, steps: int, sign: int) -> Standing:
  """Return a trial as a rule sees it.

  An infeasible or pruned trial counts as worse than others at the steps that it did not reach. A trial that was
  complete before counts with its final value there. A failed one does not count: a crash says nothing of its values.

  Args:
    state: of the trial's record.
    had: what it had reached.
    final: its value by the objective, if it is complete.
    steps: number of the rule's steps.
    sign: `Objective.sign`.
  """
  costs: list[float | None] = [_cost(value, sign) for _, value in had[:steps]]
  rest: float | None = None
  match state:
    case "complete":
      rest = _cost(final, sign)
    case "infeasible" | "pruned":
      rest = math.inf
    case "failed":
      rest = math.nan
  return Standing((*costs, *[rest] * (steps - len(costs))), len(costs))


def standing_of_record(record: TrialRecord | None, steps: int, sign: int) -> Standing:
  """Return the standing of a trial by its record, which holds what it reached; None: it has not begun."""
  if record is None:
    return Standing((None,) * steps, 0)
  return standing(record.state, record.summary.get(REACHED, ()), record.summary.get("objective"), steps, sign)


def _cost(value: float | None, sign: int) -> float:
  return math.inf if value is None else sign * value
