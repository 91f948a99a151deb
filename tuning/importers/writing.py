"""Writing of imported studies as study directories: all of them or none."""

import json
import pathlib
import tempfile
from collections.abc import Sequence

from trialbook import files
from trialbook.errors import UserError
from trialbook.tuning import tracking
from trialbook.tuning.importers.conversion import Converted, Curves
from trialbook.tuning.records import read_study, trial_folder, trial_json, write_study
from trialbook.tuning.results import StudyResults

_OURS = ("study.json", "trials", "trials.csv")


def refusals(directory: pathlib.Path, studies: Sequence[Converted]) -> list[str]:
  """Return why studies cannot be written to their places: what is there would be lost."""
  found = []
  for path in dict.fromkeys((directory, *(directory / study.place for study in studies))):
    if path.exists() and not path.is_dir():
      found.append(f"{path} is a file; name a folder")
  for study in studies if not found else ():
    path = directory / study.place
    inside = sorted(one.name for one in path.iterdir()) if path.is_dir() else []
    if not inside:
      continue
    if "study.json" not in inside:
      found.append(f"{path} is not empty and holds no study ({', '.join(inside[:3])}, ...): name another folder")
    elif (there := read_study(path).source) != study.record.source:
      other = "a study that was run here" if there is None else f"what was imported from {there}"
      found.append(f"{path} holds {other}: name another folder")
  return found


def write(directory: pathlib.Path, studies: Sequence[Converted]) -> list[pathlib.Path]:
  """Write each study to its place in a folder; an earlier import of the same source is replaced.

  They are written beside the folder first, and renamed when all are whole. Files that are not of a study, such as a
  report, stay where they are.

  Returns:
    the studies' folders.

  Raises:
    UserError: see `refusals`; or if the disk is full. Nothing was written.
  """
  if found := refusals(directory, studies):
    raise UserError(found)
  at = directory.resolve()
  targets = [at / study.place for study in studies]
  with files.disk_errors(str(directory)):
    at.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, as renames do not cross disks.
    with tempfile.TemporaryDirectory(prefix=f".{at.name}.import-", dir=at.parent) as name:
      made = [pathlib.Path(name) / f"new_{number}" for number in range(len(studies))]
      for folder, study in zip(made, studies, strict=True):
        _write_study(folder, study)
      for number, (folder, target) in enumerate(zip(made, targets, strict=True)):
        _put(folder, target, pathlib.Path(name) / f"old_{number}")
    for root in dict.fromkeys(target.parent for target in targets):
      tracking.update(root)
  return [directory / study.place for study in studies]


def _put(folder: pathlib.Path, target: pathlib.Path, old: pathlib.Path) -> None:
  target.parent.mkdir(parents=True, exist_ok=True)
  if not target.exists():
    folder.rename(target)
    return
  target.rename(old)
  try:
    folder.rename(target)
  except BaseException:
    old.rename(target)
    raise
  for path in old.iterdir():
    if path.name not in _OURS:
      path.rename(target / path.name)


def _write_study(folder: pathlib.Path, study: Converted) -> None:
  write_study(folder, study.record)
  for record, curves in study.trials:
    inside = trial_folder(folder, record.trial)
    inside.mkdir(parents=True)
    # Not fsynced one by one, as `write_trial` does: until the folder is renamed, nobody relies on it.
    text = json.dumps(files.jsonable(trial_json(record)), indent=2, allow_nan=False)
    (inside / "trial.json").write_text(text + "\n")
    with (inside / "metrics.jsonl").open("w") as file:
      file.writelines(_lines(curves))
  results = StudyResults.of(folder, study.record, [record for record, _ in study.trials])
  tracking.write_trials(folder, results)


def _lines(curves: Curves) -> list[str]:
  rows: dict[int, dict[str, float]] = {}
  for metric, points in curves.items():
    for step, value in points:
      rows.setdefault(step, {"step": step})[metric] = value
  encode = json.JSONEncoder(allow_nan=False).encode
  lines = []
  for _, row in sorted(rows.items()):
    try:
      lines.append(f"{encode(row)}\n")
    except ValueError:
      lines.append(f"{encode(files.jsonable(row))}\n")
  return lines
