"""A study's directory: what it is (`study.json`), its trials (`trials/0007/trial.json`), and the table of them.

The holder of a trial writes its record: the coordinator until it is started and after its process was lost, and in
between the process that runs it. A trial's folder is its run's workdir too.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NotRequired

from typing_extensions import TypedDict

from trialbook import files
from trialbook.errors import UserError
from trialbook.record import Count, Format, Kind, shown, stored
from trialbook.settings import flat
from trialbook.trainer.records import Number, config_of
from trialbook.trainer.workdir import provenance
from trialbook.tuning.space.scales import Discrete, Hyperparameter, OneOf, Role
from trialbook.tuning.study import Objective, Study

if TYPE_CHECKING:
  from trialbook.trainer import Config

State = Literal["pending", "running", "complete", "infeasible", "failed", "pruned", "stopped"]
FINAL: tuple[State, ...] = ("complete", "infeasible", "failed", "pruned")
"""States that a trial leaves only if it is run again."""


@stored
class Attempt(TypedDict):
  """A try to run a trial."""

  worker: NotRequired[str | None]
  started: float | None
  finished: NotRequired[float | None]
  end: NotRequired[str | None]
  checkpoint: NotRequired[int | None]


@stored
class Summary(TypedDict):
  """Numbers of the run of a trial that ended."""

  step: NotRequired[Count | None]
  lines: NotRequired[Count]
  best_step: NotRequired[Count | None]
  objective: NotRequired[Number | None]
  uncharacteristic: NotRequired[str | None]
  seconds: NotRequired[float]
  training_seconds: NotRequired[float]
  compilations: NotRequired[Count]
  source: NotRequired[str | None]
  mistake: NotRequired[str | None]
  reached: NotRequired[tuple[tuple[Count, Number | None], ...]]


@stored
class StoredTrial(TypedDict):
  """`trial.json`."""

  format: Format
  trial: Count
  state: State
  values: dict[str, Any]
  changes: dict[str, Any]
  reason: NotRequired[str | None]
  attempts: NotRequired[tuple[Attempt, ...]]
  summary: NotRequired[Summary]


TRIAL = Kind(StoredTrial, "Restore the file from a copy, or remove the trial's folder to run the trial again")


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
  found = TRIAL.read(path)
  if found is None:
    return None
  number = found["trial"]
  if folder.name.isdecimal() and folder.name != trial_folder(folder, number).name:
    raise TRIAL.error(path, [f"trial is {number}, but the folder is {folder.name}: it was copied or renamed"])
  known = TrialRecord.__dataclass_fields__.keys() & found.keys()
  return TrialRecord(**{name: _numbers(found[name]) for name in known})


def write_trial(folder: pathlib.Path, record: TrialRecord) -> None:
  """Replace a trial's record, atomically."""
  # Not its parents: where they are gone, the study is gone.
  folder.mkdir(exist_ok=True)
  files.write_json(folder / "trial.json", trial_json(record))


def trial_json(record: TrialRecord) -> dict[str, Any]:
  """Return the contents of `trial.json`."""
  return {"format": files.FORMAT, **dataclasses.asdict(record)}


def read_trials(study: pathlib.Path) -> dict[int, TrialRecord]:
  """Return the records of all trials that were started or ended, by number."""
  found = {}
  folders = sorted((study / "trials").iterdir()) if (study / "trials").is_dir() else []
  for folder in folders:
    if folder.is_dir() and folder.name.isdecimal() and (record := read_trial(folder)) is not None:
      found[record.trial] = record
  return dict(sorted(found.items()))


@stored
class StoredObjective(TypedDict):
  """An `Objective`."""

  metric: str
  mode: Literal["min", "max"]
  value: Literal["best", "last", "smoothed"]


@stored
class Parent(TypedDict):
  """The value of another hyperparameter under which one exists."""

  name: str
  value: Any


@stored
class StoredHyperparameter(TypedDict):
  """A `Hyperparameter`; which keys its scale needs is checked by `Hyperparameter.from_json`."""

  role: Role
  scale: Literal["linear", "log", "reverse_log", "integer", "integer_log", "discrete", "categorical"]
  min: NotRequired[float | int]
  max: NotRequired[float | int]
  values: NotRequired[list[Any]]
  path: NotRequired[str]
  parent: NotRequired[Parent | None]
  sets: NotRequired[Literal["value", "complement", "name", "presence"]]
  static: NotRequired[bool]
  inferred: NotRequired[bool]


@stored
class Search(TypedDict):
  """A search: its name, and its settings."""

  name: str
  seed: NotRequired[int]
  per_dimension: NotRequired[int]
  trials: NotRequired[list[dict[str, Any]]]
  sampler: NotRequired[str]
  explore: NotRequired[int]
  earlier: NotRequired[list[str]]
  renamed: NotRequired[dict[str, str]]


@stored
class Stopping(TypedDict):
  """A `QuantileStopping`, and the index of the first trial under it."""

  quantile: float
  at: list[int | float]
  after: int
  since: NotRequired[Count]


@stored
class Session(TypedDict):
  """A time that a study was worked on."""

  started: float
  finished: NotRequired[float | None]
  programs: NotRequired[dict[str, Count]]


@stored
class StoredStudy(TypedDict):
  """`study.json`."""

  format: Format
  name: str
  goal: str
  objective: StoredObjective
  config: dict[str, Any] | None
  function: str | None
  hyperparameters: dict[str, StoredHyperparameter]
  search: Search
  trials: Count
  cores_per_trial: Count
  devices_per_trial: Count
  max_attempts: Count
  command: str
  commit: str | None
  diff: str
  created: float
  warnings: tuple[str, ...]
  sessions: NotRequired[tuple[Session, ...]]
  source: NotRequired[str | None]
  stopping: NotRequired[Stopping | None]
  baseline: NotRequired[dict[str, Any] | None]


STUDY = Kind(StoredStudy, "Restore the file from a copy, or move the study's folder away")


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
    baseline: values of the first trial, if the search did not choose them; else None.
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
  baseline: Mapping[str, Any] | None = None

  @property
  def first_step(self) -> int | None:
    """Return the step of the first line of a trial's log, where each step has a line; None where that is not so."""
    if self.source is not None or (self.config is None and self.function is None):
      return None
    return 0 if self.function is None else 1

  @property
  def is_adaptive(self) -> bool:
    """Return whether the search chose points by the results of others, told from its name."""
    return "bayes" in str(self.search.get("name", "")).lower()


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
  try:
    found = STUDY.read(path)
  except UserError:
    if _holds_tables(folder):
      raise _tables(folder) from None
    raise
  if found is None:
    raise _tables(folder) if _holds_tables(folder) else UserError(f"{folder} holds no study: there is no study.json")
  for name, one in found["hyperparameters"].items():
    try:
      Hyperparameter.from_json(name, one)
    except (KeyError, TypeError, ValueError) as error:
      raise STUDY.error(path, [f"hyperparameters.{name} is no {one['scale']} scale: {error}"]) from None
  given = [name for name in ("config", "function") if found[name] is not None]
  if len(given) > 1 or (not given and found.get("source", "") is None):
    raise STUDY.error(path, ["a study has either a config or a function"])
  objective = found["objective"]
  made = {
    "objective": Objective(objective["metric"], objective["mode"], objective["value"]),
    "config": None if found["config"] is None else config_of(found["config"], STUDY, path),
  }
  known = StudyRecord.__dataclass_fields__.keys() & found.keys()
  return StudyRecord(**{name: found[name] for name in known} | made)


def check_values(folder: pathlib.Path, study: StudyRecord, trials: Iterable[TrialRecord]) -> None:
  """Raise UserError if a trial has a hyperparameter that the study has not, or a value that its scale has not."""
  space = {name: Hyperparameter.from_json(name, one) for name, one in study.hyperparameters.items()}
  for record in trials:
    path = trial_folder(folder, record.trial) / "trial.json"
    for name, value in record.values.items():
      if name not in space:
        raise TRIAL.error(path, [f"values.{name} is no hyperparameter in {folder / 'study.json'}"])
      scale = space[name].scale
      is_number = isinstance(value, int | float) and not isinstance(value, bool)
      if isinstance(scale, OneOf | Discrete):
        is_nan = value != value  # Text such as "NaN" is read as a number, which equals nothing.
        if not is_nan and value not in map(_numbers, scale.values):
          raise TRIAL.error(path, [f"values.{name} is {shown(value)}, and should be one of {shown(scale.values)}"])
      elif not is_number:
        raise TRIAL.error(path, [f"values.{name} is {shown(value)}, and should be a number"])


def _holds_tables(folder: pathlib.Path) -> bool:
  return (folder / "trials.csv").exists() and (folder / "curves.csv").exists()


def _tables(folder: pathlib.Path) -> UserError:
  return UserError(f"{folder} holds tables: first make a study of them, trialbook tune import csv {folder} DIR")


def write_study(folder: pathlib.Path, record: StudyRecord) -> None:
  """Replace `study.json`, atomically."""
  folder.mkdir(parents=True, exist_ok=True)
  fields = {name: getattr(record, name) for name in record.__dataclass_fields__}
  fields |= {
    "objective": dataclasses.asdict(record.objective),
    "config": None if record.config is None else record.config.model_dump(mode="json"),
  }
  files.write_json(folder / "study.json", {"format": files.FORMAT, **fields})
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


@stored
class StoredRound(TypedDict):
  """`round.json`."""

  format: Format
  name: str
  goal: str
  studies: list[str]


@stored
class Jobs(TypedDict):
  """`slurm.json`: the job of each trial."""

  format: Format
  jobs: dict[str, str]


ROUND = Kind(StoredRound, "Restore the file from a copy, or remove it and run the same command again")
JOBS = Kind(Jobs, "Restore the file from a copy, or cancel the study's jobs and remove it")


def read_round_record(folder: pathlib.Path) -> StoredRound | None:
  """Return `round.json`; None if there is none. Raises UserError."""
  return ROUND.read(folder / "round.json")


def read_jobs(study: pathlib.Path) -> dict[str, str]:
  """Return the job of each trial, by its number, of a study that was run by Slurm; otherwise {}. Raises UserError."""
  found = JOBS.read(study / "slurm.json")
  return {} if found is None else found["jobs"]


def study_lock(folder: pathlib.Path) -> pathlib.Path:
  """Return the lock file of a study, which its coordinator holds."""
  return folder / ".study.lock"


def _numbers(value: Any) -> Any:
  if isinstance(value, dict):
    return {name: _numbers(item) for name, item in value.items()}
  if isinstance(value, list):
    return tuple(map(_numbers, value))
  return files.number(value) if isinstance(value, str) else value
