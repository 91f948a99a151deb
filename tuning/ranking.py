"""The ranking of a study's trials by another objective than its own."""

from trialbook.errors import UserError
from trialbook.metric_names import Mode, better
from trialbook.tuning.results import StudyResults
from trialbook.tuning.study import Objective, Value


def ranked(results: StudyResults, metric: str | None, mode: Mode | None, value: Value | None) -> StudyResults:
  """Return the results ranked by a metric, a direction and a value over the training; None keeps the study's own.

  Raises:
    UserError: if no trial logged the metric, or its better direction is not known.
  """
  if metric is None and value is None and mode is None:
    return results
  metric = metric or results.objective.metric
  own = results.objective.mode if metric == results.objective.metric else None
  mode = mode or own or better(metric)
  if mode is None:
    results.by(Objective(metric, "min"))  # An unknown metric is reported first.
    raise UserError(f"--objective={metric}: say which direction is better, --mode=min or --mode=max")
  return results.by(Objective(metric, mode, value or results.objective.value))


def warning(metric: str) -> str | None:
  """Return what a reader must know of a ranking by a metric, if anything."""
  if metric.startswith("test/"):
    return f"ranking by {metric} selects on the test set; then its value is no longer an unbiased estimate"
  return None
