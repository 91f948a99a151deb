"""The origin of a study, and the command that repeats it."""

import time

from trialbook import files
from trialbook.tuning import records, tracking
from trialbook.tuning.findings.statistics.finite_spaces import finite_space
from trialbook.tuning.results import StudyResults

ADAPTIVE = (
  "If a search looks at results, its points crowd where its objective looks good. Findings that treat points as"
  " independent (the best of k trials, the gain of more trials, rankings by other objectives) are then too favourable."
)
"""The playbook's reason for quasi-random search (PB-14, PB-15)."""


def provenance(results: StudyResults) -> list[tuple[str, str]]:
  """Return where a study comes from and what repeats it."""
  study = results.study
  found = [
    ("folder", str(results.folder)),
    ("imported from", study.source or ""),
    ("ranked by", f"{study.objective.metric}, {study.objective.mode}, {study.objective.value}"),
    ("search", ", ".join(f"{name}: {value}" for name, value in study.search.items())),
    ("created", time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(study.created)) if study.created else ""),
    ("commit", study.commit or ""),
    ("uncommitted changes", str(results.folder / "study.diff") if study.diff else ""),
    ("again", tracking.reproduction(results)),
  ]
  return [(name, value) for name, value in found if value]


def caveats(results: StudyResults) -> list[str]:
  """Return what a reader must know before believing a study, beside its findings."""
  found, source = list(results.study.warnings), results.study.source
  if results.objective.metric.startswith("test/"):
    found.append(
      f"Ranked by {results.objective.metric}: the best trial was chosen on the test set, so its value there is too"
      " optimistic."
    )
  if results.study.is_adaptive:
    found.append(ADAPTIVE)
  elif source and not source.startswith("algoperf") and finite_space(results) is None:
    found.append(f"Which search chose the points is not stored. {ADAPTIVE}")
  return found


def is_running(results: StudyResults) -> bool:
  """Return whether a process works now on the study, or on one of those that were merged."""
  folders = {results.folder, *(folder for trial in results.trials for folder in list(trial.folder.parents)[1:2])}
  return any(files.is_locked(records.study_lock(folder)) for folder in folders)


def states(results: StudyResults) -> dict[str, int]:
  """Return how many trials are in each state that any trial is in."""
  names = ("complete", "infeasible", "failed", "pruned", "running", "stopped", "pending")
  return {name: count for name in names if (count := results.count(name))}
