"""The playbook's checklist: each module answers one question about a study, by one function `find(results)`.

Findings are pure functions of `StudyResults`: they read no file but a trial's log, draw no plot, and say the same of
the same study each time. They run on any study, also one that was made elsewhere or is still running.
"""

import importlib
from collections.abc import Sequence

from threadpoolctl import threadpool_limits

from trialbook.tuning.findings.finding import SEVERITIES, Finding, Severity
from trialbook.tuning.findings.without_curves import folded
from trialbook.tuning.results import StudyResults

QUESTIONS = (
  "outcomes",
  "infeasible",
  "boundary",
  "density",
  "stopping",
  "early_stopping",
  "comparison",
  "variance",
  "importance",
  "overfitting",
  "late_noise",
  "convergence",
  "selected_step",
  "periodicity",
  "gradient_norm",
  "optimization",
  "fixed",
)
"""The modules, in the order in which a reader asks."""


def findings(results: StudyResults) -> list[Finding]:
  """Return the findings on a study, by its objective: the gravest first; among equals, those that answer the study's
  question (`asked`) first, and the others in the order of `QUESTIONS`."""
  # Several threads only wait for each other on arrays as small as these.
  with threadpool_limits(1):
    found = [
      one
      for question in QUESTIONS
      for one in importlib.import_module(f"trialbook.tuning.findings.{question}").find(results)
    ]
  found = folded(results, found)
  question = asked(found)
  return sorted(found, key=lambda one: (SEVERITIES.index(one.severity), one.question != question))


def asked(found: Sequence[Finding]) -> str:
  """Return the question that a study was made to answer: "comparison" if it compares settings, or else "variance":
  which trial is best, and is it more than noise."""
  return "comparison" if any(one.question == "comparison" for one in found) else "variance"


__all__ = ["QUESTIONS", "SEVERITIES", "Finding", "Severity", "asked", "findings"]
