"""A study's directory: what it is (`study.json`), its trials (`trials/0007/trial.json`), and the table of them.

The holder of a trial writes its record: the coordinator until it is started and after its process was lost, and in
between the process that runs it. A trial's folder is its run's workdir too.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from trialbook import files
from trialbook.errors import UserError
from trialbook.settings import flat
from trialbook.trainer.workdir import provenance
from trialbook.tuning.early_stopping import QuantileStopping
from trialbook.tuning.space.scales import Hyperparameter
from trialbook.tuning.study import Objective, Study

if TYPE_CHECKING:
  from trialbook.trainer import Config

State = Literal["pending", "running", "complete", "infeasible", "failed", "pruned", "stopped"]
FINAL: tuple[State, ...] = ("complete", "infeasible", "failed", "pruned")
"""States that a trial leaves only if it is run again."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialRecord:
  """A trial as `trial.json` holds it: what happened to it, whatever the objective.

  `results.Trial` is made from it and from what the trial logged.

  Attributes:
    trial: its number, from 0.
    state: see docs/design.md, Studies.
    values: of its hyperparameters, by name; those that do not exist in it are absent.
    changes: what they change in the study's config: dotted path -> value.
    reason: why it is infeasible, failed or pruned, or was stopped.
    attempts: each with `started` and `finished` (seconds since the epoch), `worker`, `end`: how it ended, and
      `checkpoint`: where it crashed, the step of the newest one, -1 for none.
    summary: of a trial that ended: numbers of its run that tables show.
  """

  trial: int
  state: State = "pending"
  values: Mapping[str, Any]
  changes: Mapping[str, Any]
  reason: str | None = None
  attempts: tuple[Mapping[str, Any], ...] = ()
  summary: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  @property
  def crashes(self) -> int:
    """Return how many attempts, the last ones in a row, crashed without having got further than the one before."""
    count, before = 0, None
    for attempt in self.attempts:
      came_to = attempt.get("checkpoint")
      if not str(attempt.get("end", "")).startswith(CRASHED):
        count = 0
      else:
        count = count + 1 if count and came_to == before else 1
      before = came_to
    return count


CRASHED = "crashed"
"""Beginning of the `end` of an attempt that counts against `max_attempts`."""


def trial_folder(study: pathlib.Path, trial: int) -> pathlib.Path:
  """Return where a trial's record and run are."""
  return study / "trials" / f"{trial:04d}"


def read_trial(folder: pathlib.Path) -> TrialRecord | None:
  """Return the record in a trial's folder; None if there is none. Raise UserError if it cannot be read."""
  path = folder / "trial.json"
  stored = files.read_json(path)
  if stored is None:
    return None
  try:
    files.check_format(path, stored.pop("format"))
    found = TrialRecord(**{name: _numbers(value) for name, value in stored.items()})
    _check_types(found)
    return found
  except (KeyError, TypeError, ValueError) as error:
    raise UserError(f"{path} cannot be read: {error}") from None


def write_trial(folder: pathlib.Path, record: TrialRecord) -> None:
  """Replace a trial's record, atomically."""
  folder.mkdir(parents=True, exist_ok=True)
  files.write_json(folder / "trial.json", trial_json(record))


def trial_json(record: TrialRecord) -> dict[str, Any]:
  """Return the contents of `trial.json`."""
  return {"format": files.FORMAT, **dataclasses.asdict(record)}


def read_trials(study: pathlib.Path) -> dict[int, TrialRecord]:
  """Return the records of all trials that were started or ended, by number."""
  found = {}
  folders = sorted((study / "trials").iterdir()) if (study / "trials").is_dir() else []
  for folder in folders:
    if folder.name.isdecimal() and (record := read_trial(folder)) is not None:
      found[record.trial] = record
  return dict(sorted(found.items()))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyRecord:
  """The contents of `study.json`.

  Attributes:
    name: of the study.
    goal: in words.
    objective: what it ranks by.
    config: of all trials but for their hyperparameters; None: `function` is called.
    function: "module:name", or None.
    hyperparameters: name -> role, scale, bounds or values, path, parent, as `Hyperparameter.as_json` gives them.
    search: its name and settings.
    trials: how many there are to be.
    cores_per_trial: CPU cores of each worker.
    devices_per_trial: devices of each trial.
    max_attempts: crashes after which a trial has failed.
    command: that worked on it last, and repeats it.
    commit: of the code then; None outside of a repository.
    diff: uncommitted changes, which `study.diff` beside this file holds too, for `git apply`.
    created: seconds since the epoch.
    warnings: what the roles of its hyperparameters make doubtful.
    sessions: each time that it was worked on: `started`, `finished`, `workers`, `executor`, `command`, `commit`, and
      `programs`: how many each worker compiled, or read from the cache.
    source: of a study that was made elsewhere, what it was imported from: "algoperf: /logs, fastmri_jax"; else None.
    stopping: the rule that ends trials early, as `QuantileStopping.as_json` gives it, and `since`: index of the first
      trial under it; None: there is none.
  """

  name: str
  goal: str
  objective: Objective
  config: Config | None
  function: str | None
  hyperparameters: Mapping[str, Mapping[str, Any]]
  search: Mapping[str, Any]
  trials: int
  cores_per_trial: int
  devices_per_trial: int
  max_attempts: int
  command: str
  commit: str | None
  diff: str
  created: float
  warnings: tuple[str, ...]
  sessions: tuple[Mapping[str, Any], ...] = ()
  source: str | None = None
  stopping: Mapping[str, Any] | None = None


_MAY_CHANGE = ("trials", "max_attempts", "goal", "command", "commit", "diff", "created", "warnings", "sessions")


def describe(
  study: Study, config: Config | None, hyperparameters: Mapping[str, Mapping[str, Any]], trials: int, command: str
) -> StudyRecord:
  """Return the record of a new study; `config` is that of its trials but for their hyperparameters."""
  git = provenance.git_state() or {}
  return StudyRecord(
    name=study.name,
    goal=study.goal,
    objective=study.objective,
    config=config,
    function=study.function,
    hyperparameters=hyperparameters,
    search=study.search.as_json(),
    trials=trials,
    cores_per_trial=study.cores_per_trial,
    devices_per_trial=study.devices_per_trial,
    max_attempts=study.max_attempts,
    command=command,
    commit=git.get("commit"),
    diff=git.get("diff", ""),
    created=time.time(),
    warnings=(),
    stopping=None if study.stopping is None else {**study.stopping.as_json(), "since": 0},
  )


def read_study(folder: pathlib.Path) -> StudyRecord:
  """Return the record of the study in a folder.

  Raises:
    UserError: if there is none, or it cannot be read.
  """
  path = folder / "study.json"
  stored = files.read_json(path)
  if (folder / "trials.csv").exists() and (folder / "curves.csv").exists() and "format" not in (stored or {}):
    raise UserError(f"{folder} holds tables: first make a study of them, trialbook tune import csv {folder} DIR")
  if stored is None:
    raise UserError(f"{folder} holds no study: there is no study.json")
  try:
    files.check_format(path, stored.pop("format"))
    config = stored["config"]
    stored |= {
      "objective": Objective(**stored["objective"]),
      "config": None if config is None else _config(config),
      "warnings": tuple(stored["warnings"]),
      "sessions": tuple(stored["sessions"]),
    }
    for name, one in stored["hyperparameters"].items():
      Hyperparameter.from_json(name, one)
    if stored.get("stopping") is not None:
      QuantileStopping.from_json(stored["stopping"])
    return StudyRecord(**stored)
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise UserError(f"{path} cannot be read: {str(error).splitlines()[0]}") from None


def _config(stored: Mapping[str, Any]) -> Config:
  from trialbook.trainer import Config  # It imports flax, which a study of a function does without.

  return Config.model_validate_json(json.dumps(stored))


def write_study(folder: pathlib.Path, record: StudyRecord) -> None:
  """Replace `study.json`, atomically."""
  folder.mkdir(parents=True, exist_ok=True)
  stored = {name: getattr(record, name) for name in record.__dataclass_fields__}
  stored |= {
    "objective": dataclasses.asdict(record.objective),
    "config": None if record.config is None else record.config.model_dump(mode="json"),
  }
  files.write_json(folder / "study.json", {"format": files.FORMAT, **stored})
  if record.diff:
    (folder / "study.diff").write_text(record.diff)


def differences(old: StudyRecord, new: StudyRecord) -> list[str]:
  """Return what makes two records those of different studies, in words; [] if nothing does."""

  def plain(record: StudyRecord) -> dict[str, Any]:
    found = {name: getattr(record, name) for name in record.__dataclass_fields__ if name not in _MAY_CHANGE}
    config = found.pop("config")
    found |= {} if config is None else {"config": config.model_dump(mode="json")}
    return flat(json.loads(json.dumps(found, default=dataclasses.asdict)))

  before, after = plain(old), plain(new)
  return [
    f"{path}: {before.get(path)!r} there, {after.get(path)!r} here"
    for path in dict.fromkeys([*before, *after])
    if before.get(path) != after.get(path)
  ]


def study_lock(folder: pathlib.Path) -> pathlib.Path:
  """Return the lock file of a study, which its coordinator holds."""
  return folder / ".study.lock"


def _check_types(record: TrialRecord) -> None:
  """Raise ValueError for a record of wrong types, as somebody else may have written it."""
  kinds = {"trial": int, "state": str, "values": dict, "changes": dict, "attempts": tuple, "summary": dict}
  for name, kind in kinds.items():
    if not isinstance(value := getattr(record, name), kind):
      raise ValueError(f"{name}: {value!r}")


def _numbers(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _numbers(item) for name, item in value.items()}
  if isinstance(value, list):
    return tuple(map(_numbers, value))
  return files.number(value) if isinstance(value, str) else value
