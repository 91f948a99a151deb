"""Trials that the findings about points do not count, because their value is not known."""

from collections.abc import Mapping

from trialbook.tuning.findings.statistics.points import TriedPoint, tried_points
from trialbook.tuning.findings.wording import many
from trialbook.tuning.results import StudyResults

STATES: Mapping[str, str] = {
  "pruned": "ended early as worse than others",
  "stopped": "interrupted",
  "failed": "failed",
  "running": "running",
}
"""States of trials without a value that are not infeasible, and how they are called."""


def pruned_points(results: StudyResults) -> list[TriedPoint]:
  """Return the points that have no value because all of their trials were ended early as worse than others."""
  return [point for point in tried_points(results) if point.pruned and not point.retrains and not point.infeasible]


def left_out(results: StudyResults) -> str:
  """Return how many trials are not counted and why, in a sentence after a space; empty if all are."""
  counts = {name: results.count(state) for state, name in STATES.items()}
  parts = [f"{count} {name}" for name, count in counts.items() if count]
  if not parts:
    return ""
  total = sum(counts.values())
  return f" Not counted: {many(total, 'trial')} without a value ({', '.join(parts)})."
