"""Ranks the trials of a study by another objective than its own, as `--objective`, `--mode` and `--value` ask for."""

import argparse
import sys

from trialbook.errors import UserError
from trialbook.metric_names import Mode, better
from trialbook.tuning.results import StudyResults
from trialbook.tuning.study import Objective


def ranked(results: StudyResults, options: argparse.Namespace) -> StudyResults:
  """Return the results, ranked by what the flags say.

  Raises:
    UserError: if no trial logged the metric, or its better direction is not known.
  """
  if options.objective is None and options.value is None and options.mode is None:
    return results
  metric = options.objective or results.objective.metric
  own = results.objective.mode if metric == results.objective.metric else None
  mode: Mode | None = options.mode or own or better(metric)
  if mode is None:
    results.by(Objective(metric, "min"))  # An unknown metric is told first.
    raise UserError(f"--objective={metric}: say which direction is better, --mode=min or --mode=max")
  if metric.startswith("test/"):
    print(
      f"warning: ranking by {metric} selects on the test set; its value is then no estimate of anything",
      file=sys.stderr,
    )
  return results.by(Objective(metric, mode, options.value or results.objective.value))
