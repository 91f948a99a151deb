"""Objectives of several kinds: errors, percentages, losses, and log-likelihoods, whose zero is arbitrary."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from trialbook.tuning import Maximize, Minimize
from trialbook.tuning.advice_benchmark.planted import Curves
from trialbook.tuning.study import Objective


@dataclasses.dataclass(frozen=True)
class Metric:
  """An objective that is made from the errors or losses of `planted`.

  Attributes:
    objective: to rank by.
    source: last part of the name of the metric that it is made from: "error" or "loss".
    of: returns its values from those of the source.
    counts: whether it is a share of the validation examples.
  """

  objective: Objective
  source: str
  of: Callable[[np.ndarray], np.ndarray]
  counts: bool


METRICS: Mapping[str, Metric] = {
  "error": Metric(Minimize("validation/error"), "error", lambda errors: errors, True),
  "percent": Metric(Maximize("validation/accuracy"), "error", lambda errors: 100 * (1 - errors), True),
  "loss": Metric(Minimize("validation/loss"), "loss", lambda losses: 0.4 + losses, False),
  "log-likelihood": Metric(Maximize("validation/log_likelihood"), "loss", lambda losses: -1180 - 12 * losses, False),
}
"""By name in words."""


def measured(curves: Curves, metric: Metric) -> Curves:
  """Return curves in which those of the metric, of all splits, replace errors and losses of evaluations."""
  last = metric.objective.metric.rpartition("/")[2]
  found = {}
  for name, (steps, values) in curves.items():
    split, _, kind = name.rpartition("/")
    if split not in ("validation", "train_subset"):
      found[name] = steps, values
    elif kind == metric.source:
      found[f"{split}/{last}"] = steps, metric.of(values)
  return found
