"""Several studies as one whose scientific hyperparameter is the study, so that all that works on one works on them."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from trialbook.errors import ConfigError, UserError
from trialbook.paths import as_path
from trialbook.tuning.results import StudyResults, Trial, read_results
from trialbook.tuning.rounds import read_round

STUDY = "study"
"""The hyperparameter that distinguishes the studies; a value of it is a study's name, or its folder's."""


def read_any(folder: str | pathlib.Path) -> StudyResults:
  """Return the results of the study in a folder, or of all studies of a round. Raise UserError if there is neither."""
  folder = as_path(folder)
  if not _is_round(folder):
    return read_results(folder)
  stored, studies = _begun(folder)
  begun = {results.folder.name for results in studies}
  found = studies[0]
  if len(studies) > 1:
    found = merged(studies, name=stored["name"], goal=stored["goal"], folder=folder)
  missing = [f"of this round, {name} has not begun" for name in stored["studies"] if name not in begun]
  return dataclasses.replace(found, study=dataclasses.replace(found.study, warnings=(*found.study.warnings, *missing)))


def read_compared(folders: Sequence[str | pathlib.Path]) -> StudyResults:
  """Return the studies of some folders and rounds, at least two, merged. Raise UserError with all reasons why they
  cannot be compared."""
  found: list[StudyResults] = []
  problems = []
  for folder in map(as_path, folders):
    try:
      found += _begun(folder)[1] if _is_round(folder) else [read_results(folder)]
    except UserError as error:
      problems += error.problems
  if len({results.folder.resolve() for results in found}) < max(len(found), 2 - len(problems)):
    problems.append("a comparison needs two different studies at least")
  if problems:
    raise UserError(problems)
  names = ", ".join(dict.fromkeys(results.study.name for results in found))
  root = _folder_above([results.folder.resolve() for results in found])
  return merged(found, name="comparison", goal=f"Which is best: {names}?", folder=root)


def _folder_above(folders: Sequence[pathlib.Path]) -> pathlib.Path:
  """Return the nearest folder that holds all of these. Raise UserError if they are in different stores."""
  first, *others = folders
  for folder in (first, *first.parents):
    if all(folder in (other, *other.parents) for other in others):
      return folder
  raise UserError("studies in different stores have no folder in common: copy them to one place")


def _is_round(folder: pathlib.Path) -> bool:
  return (folder / "round.json").exists()


def _begun(folder: pathlib.Path) -> tuple[Mapping[str, Any], list[StudyResults]]:
  """Return the record of a round and those of its studies that have begun. Raise UserError if none has."""
  stored, studies = read_round(folder)
  if not studies:
    raise UserError(f"{folder}: no study of this round has begun")
  return stored, studies


def merged(studies: Sequence[StudyResults], *, name: str, goal: str, folder: pathlib.Path) -> StudyResults:
  """Return the trials of several studies, numbered anew, as those of one; the first one's objective ranks them.

  What was scientific in a study is nuisance here: the studies are compared by the best of each (PB-13).

  Raises:
    ConfigError: if a study never logged the objective's metric, or ranks by the other direction of it.
  """
  objective = studies[0].objective
  problems = []
  for results in studies:
    own = results.objective
    if own.metric == objective.metric and own.mode != objective.mode:
      problems.append(f"{results.folder} takes {own.mode} of {own.metric}, {studies[0].folder} {objective.mode}")
    elif own != objective and results.trials and objective.metric not in results.metrics:
      problems.append(f"{results.folder} ranks by {own.metric}, {own.value}, and never logged {objective.metric}")
  if problems:
    raise ConfigError([f"{problem}; compare studies of one objective" for problem in problems])
  labels = _labels(studies)
  hyperparameters: dict[str, Mapping[str, Any]] = {
    STUDY: {"role": "scientific", "scale": "categorical", "values": labels, "path": STUDY}
  }
  # What is fixed in all of them differs with the study, if it does.
  tuned = {
    one for results in studies for one, stored in results.study.hyperparameters.items() if stored["role"] != "fixed"
  }
  trials: list[Trial] = []
  reruns: dict[int, StudyResults] = {}
  for label, results in zip(labels, studies, strict=True):
    renamed = {one: one if one != STUDY else f"{label}.{one}" for one in results.study.hyperparameters}
    for one, stored in results.study.hyperparameters.items():
      if one in tuned:
        parent = stored.get("parent")
        if parent is not None:
          parent = {**parent, "name": renamed.get(parent["name"], parent["name"])}
        other = {**stored, "role": "nuisance", "parent": parent}
        had = [trial.values[one] for each in studies for trial in each.trials if one in trial.values]
        hyperparameters[renamed[one]] = _together(hyperparameters.get(renamed[one]), other, had)
    ranked = results if objective == results.objective else results.by(objective)
    for trial in ranked.trials:
      if trial.trial in ranked.reruns:
        reruns[len(trials)] = ranked.reruns[trial.trial]
      values = {STUDY: label, **{renamed.get(one, one): value for one, value in trial.values.items()}}
      source = f"{label} {trial.trial}"
      trials.append(dataclasses.replace(trial, trial=len(trials), values=values, source=source))
  configs = [results.study.config for results in studies]
  # Only where all were made elsewhere does a trial that was cut short not go on.
  sources = [results.study.source for results in studies]
  record = dataclasses.replace(
    studies[0].study,
    name=name,
    goal=goal,
    hyperparameters=hyperparameters,
    trials=sum(max(results.study.trials, len(results.trials)) for results in studies),
    config=configs[0] if all(config == configs[0] for config in configs) else None,
    search={"studies": ", ".join(str(results.folder) for results in studies)},
    command="",
    commit=None,
    diff="",
    source="; ".join(dict.fromkeys(map(str, sources))) if None not in sources else None,
    warnings=tuple(dict.fromkeys(warning for results in studies for warning in results.study.warnings)),
  )
  return StudyResults(folder=folder, study=record, objective=objective, trials=tuple(trials), reruns=reruns)


def _labels(studies: Sequence[StudyResults]) -> list[str]:
  """Return each study's name, or its folder if two studies have the same name."""
  names = [results.study.name for results in studies]
  return [name if names.count(name) == 1 else str(results.folder) for name, results in zip(names, studies, strict=True)]


def _together(known: Mapping[str, Any] | None, other: Mapping[str, Any], had: Sequence[Any]) -> Mapping[str, Any]:
  """Return the record of a hyperparameter of two studies, with a scale that holds all values that trials had in both.
  If the scales differ, its bounds are unknown."""
  if known is None or known == other:
    return other
  if known["scale"] == other["scale"] and "min" in known:
    return {**other, "min": min(known["min"], other["min"]), "max": max(known["max"], other["max"]), "inferred": True}
  values = list(known.get("values", ()))
  # Values may be lists, which no set holds.
  for value in [*other.get("values", ()), *(had if "min" in other or "min" in known else ())]:
    if value not in values:
      values.append(value)
  kept = {name: item for name, item in other.items() if name not in ("min", "max", "values")} | {"inferred": True}
  bounds = [each[side] for each in (known, other) if "min" in each for side in ("min", "max")]
  numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
  if bounds and numeric:
    return {**kept, "scale": "linear", "min": min(*bounds, *values), "max": max(*bounds, *values)}
  if known["scale"] == other["scale"] == "discrete":
    return {**kept, "scale": "discrete", "values": sorted(values)}
  return {**kept, "scale": "categorical", "values": values}
