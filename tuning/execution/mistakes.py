"""Mistakes in a user's code or config that show in trials: one costs its trial, the same one in all of the first trials
stops the study."""

import pathlib
import re
from collections.abc import Iterable, Sequence

from trialbook.tuning.execution.trial_states import MISTAKE
from trialbook.tuning.records import TrialRecord, trial_folder

FIRST = 3
"""Number of trials that must have ended by the same mistake before it counts as one of the whole study. One value of a
hyperparameter easily explains one or two trials; each further trial costs its time."""


def kind_of(text: str) -> str:
  """Return what is the same in the texts of a mistake that was made with different values."""
  return re.sub(r"-?\b\d[\d.]*(?:e[+-]?\d+)?\b", "#", text)


def shared(
  session: Sequence[TrialRecord],
  everything: Iterable[TrialRecord],
  left: int,
  folder: pathlib.Path,
  function: str | None,
) -> list[str]:
  """Return what stops a study: the mistake by which all of the first trials ended, and the remedy; [] if nothing does.

  Args:
    session: trials that ended since the study was started or resumed, in order of their ends.
    everything: all trials of the study, also those that ended before.
    left: number of trials that have not ended.
    folder: of the study.
    function: of the study; None: its trials are trainings.
  """
  if any(record.state in ("complete", "pruned") for record in everything):
    return []
  # That values do not work says nothing of the function, or of the config.
  telling = [record for record in session if record.state == "failed" or MISTAKE in record.summary]
  kinds = {record.summary.get(MISTAKE) for record in telling}
  if len(kinds) != 1 or None in kinds or (len(telling) < FIRST and left):
    return []
  first = min(telling, key=lambda record: record.trial)
  told = first.reason or ""
  if first.crashes:
    where = trial_folder(folder, first.trial) / "traceback.txt"
    told = f"{f'function {function}' if function else 'training'}: trial {first.trial} {told}; see {where}"
  ended = f"All {len(telling)} trials that ended" if len(telling) > 1 else "The only trial that ended"
  stops = f" had this mistake{', so the study stops here' if left else ''}. Correct it, and rerun the same command with"
  return [told, f"{ended}{stops} --retry_failed. Without that flag it runs the other trials only."]
