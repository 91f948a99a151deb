"""Where a study comes from, and what repeats it."""

import time

from tuning import records, tracking
from tuning.results import StudyResults


def provenance(results: StudyResults) -> list[tuple[str, str]]:
  """Where a study comes from and what repeats it."""
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


def is_running(results: StudyResults) -> bool:
  """Whether somebody works now on the study, or on one of those that were merged."""
  folders = {results.folder, *(folder for trial in results.trials for folder in list(trial.folder.parents)[1:2])}
  return any(records.is_locked(folder, "study") for folder in folders)
