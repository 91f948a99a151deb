"""Several studies under one goal, run one after the other and compared by the best of each (PB-13)."""

import pathlib
from collections.abc import Mapping
from typing import Any

from trialbook import files
from trialbook.errors import UserError
from trialbook.paths import as_path
from trialbook.tuning import tracking
from trialbook.tuning.execution.coordinator import run_study
from trialbook.tuning.execution.planned_study import prepare
from trialbook.tuning.execution.study_folder import check_folder
from trialbook.tuning.records import StoredRound, read_round_record, read_trials
from trialbook.tuning.results import StudyResults, read_results
from trialbook.tuning.study import Round, Study


def problems(round_: Round, trials: int | None = None) -> list[str]:
  """Return what is wrong with a round and its studies; `trials` is each one's number instead of its own."""
  found = []
  if not isinstance(round_.studies, tuple | list) or not all(isinstance(study, Study) for study in round_.studies):
    return [f"round {round_.name}: studies should be a tuple of trialbook.Study"]
  names = [study.name for study in round_.studies]
  if not names:
    found.append(f"round {round_.name}: it has no study")
  found += [
    f"round {round_.name}: two studies are named {name!r}" for name in dict.fromkeys(names) if names.count(name) > 1
  ]
  if len({study.objective for study in round_.studies}) > 1:
    found.append(f"round {round_.name}: its studies have different objectives, so they cannot be compared")
  for study in round_.studies:
    try:
      prepare(study, trials)
    except UserError as error:
      found += error.problems
  return found


def run_round(round_: Round, folder: str | pathlib.Path, **options: Any) -> Mapping[str, StudyResults]:
  """Run the studies of a round, each in a folder of its name; `options` are those of `run_study`.

  Returns:
    the results by the study's name.

  Raises:
    UserError: if any of them is wrong, before the first one runs.
  """
  folder = as_path(folder)
  found = problems(round_, options.get("trials"))
  if found:
    raise UserError(found)
  path = folder / "round.json"
  record = {"format": files.FORMAT, "name": round_.name, "goal": round_.goal}
  record["studies"] = [study.name for study in round_.studies]
  stored = read_round_record(folder)
  if stored is None:
    if folder.exists() and any(not inside.name.startswith(".") for inside in folder.iterdir()):
      raise UserError(f"{folder} is not empty and holds no round: name another folder")
  elif (stored["name"], stored["studies"]) != (record["name"], record["studies"]) and any(
    map(read_trials, folder.iterdir())
  ):
    raise UserError(
      f"{folder} holds another round, {stored['name']!r} of {stored['studies']}, of which trials have been run;"
      " name another folder"
    )
  for study in round_.studies:
    check_folder(folder / study.name, prepare(study, options.get("trials")).record())
  folder.mkdir(parents=True, exist_ok=True)
  files.write_json(path, record)
  results = {}
  for study in round_.studies:
    results[study.name] = run_study(study, folder / study.name, **options)
    tracking.update(folder.parent)
  return results


def read_round(folder: pathlib.Path) -> tuple[StoredRound, list[StudyResults]]:
  """Return a round's record, and the results of those of its studies that were begun. Raise UserError if there is
  none."""
  stored = read_round_record(folder)
  if stored is None:
    raise UserError(f"{folder} holds no round: there is no round.json")
  begun = [folder / name for name in stored["studies"] if (folder / name / "study.json").exists()]
  return stored, [read_results(path) for path in begun]
