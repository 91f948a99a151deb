"""The folder of a study that is to be run: empty, or with this study, which is then resumed or extended."""

import dataclasses
import pathlib

from trialbook.errors import UserError
from trialbook.launch.supervisor import newest_step
from trialbook.tuning import records
from trialbook.tuning.records import FINAL, StudyRecord, TrialRecord, trial_folder


def check_folder(folder: pathlib.Path, new: StudyRecord) -> StudyRecord | None:
  """Return the study that a folder holds, if its trials are those of the new record. Raise UserError if they are
  another's."""
  if not (folder / "study.json").exists():
    if folder.exists() and any(not path.name.startswith(".") for path in folder.iterdir()):
      raise UserError(f"{folder} is not empty and holds no study: name another folder")
    return None
  old = records.read_study(folder)
  if old.source is not None:
    raise UserError(f"{folder} holds a study that was imported from {old.source}; name another folder")
  found = records.differences(old, dataclasses.replace(new, stopping=_comparable(old, new)))
  if found and any(_came_to_something(folder, trial) for trial in records.read_trials(folder).values()):
    raise UserError(
      [f"{folder} holds another study, of which trials have been run; name another folder. What differs:", *found]
    )
  return None if found else old


def since(old: StudyRecord | None, trials: dict[int, TrialRecord]) -> int:
  """Return the index of the first trial under the rule of a study that is resumed, with these trials; 0 for a new one.

  A rule may be added to a study that had none. It holds for the trials that had not been started then.
  """
  if old is None:
    return 0
  if old.stopping is not None:
    return old.stopping.get("since", 0)
  return max((trial for trial, record in trials.items() if record.attempts or record.state in FINAL), default=-1) + 1


def _comparable(old: StudyRecord, new: StudyRecord) -> dict | None:
  """Return the new record's rule as it is compared with the old one's: a new one is no difference, and since when it
  holds is none either."""
  if new.stopping is None or old.stopping is None:
    return None
  return {**new.stopping, "since": old.stopping.get("since", 0)}


def _came_to_something(folder: pathlib.Path, record: TrialRecord) -> bool:
  """Return whether a trial was run and there is something to lose."""
  has_result = record.state in FINAL and record.state != "failed"
  return bool(record.attempts) and (has_result or newest_step(trial_folder(folder, record.trial)) >= 0)
