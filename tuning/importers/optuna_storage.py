"""Studies of an Optuna storage: an SQLite database or a journal file.

What becomes of a trial:

| Optuna's state | ours |
|---|---|
| COMPLETE | complete; infeasible if its value is not finite or it violates a constraint |
| PRUNED | pruned: it was ended early by a rule, so it is not ranked, as Optuna does not rank it; its curve counts |
| FAIL | failed; infeasible if its reported values end in NaN or infinity |
| RUNNING | running |
| WAITING | pending |

A trial that returned NaN is FAIL in Optuna, like one that raised an exception, and neither NaN nor the exception is
stored. A pruned trial whose reported values end in NaN is infeasible too: pruners end a trial that reports NaN.
"""

import contextlib
import datetime
import math
import pathlib
import re
import sqlite3
import urllib.parse
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from trialbook.errors import UserError, said
from trialbook.naming import nearest
from trialbook.paths import as_local_path
from trialbook.tuning.importers import inferred, metric_names
from trialbook.tuning.importers.source import Options, SourceStudy, SourceTrial, plain
from trialbook.tuning.objective import value_of
from trialbook.tuning.records import State
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Linear, Log, OneOf, Scale
from trialbook.tuning.study import Objective

if TYPE_CHECKING:
  import optuna

METRIC = "objective"
"""Name of a value to which its study gave none."""

INTERMEDIATE = "intermediate"
"""Name of reported values if the returned value does not come from them."""
LONGEST_NAME = 100
"""Characters of a folder's name that are taken of a study's: file systems take 255 bytes."""

UNKNOWN = "an exception, or a returned NaN; Optuna stores neither"
"""Reason of a trial that failed without a sign of what happened."""

_STATES: dict[str, State] = {
  "COMPLETE": "complete",
  "PRUNED": "pruned",
  "FAIL": "failed",
  "RUNNING": "running",
  "WAITING": "pending",
}


def read(source: str, options: Options) -> list[SourceStudy]:
  """Return the studies of a storage, or the one that `options.study` names.

  Scales and bounds are those of the distributions; where they changed during the study, the widest.

  The value that a trial returned, and those that it reported while it ran, are one curve where each returned value is
  the best one, or each is the last one, of what the trial reported; trials then are ranked by that. Otherwise the
  returned value stands alone, at the last step, and the reported ones are the metric `INTERMEDIATE`. The ranking is
  always the one that Optuna has. Where a study has a step 0, its steps count evaluations from 0; here they are counted
  from 1, as step 0 is the state before training.

  Args:
    source: path of the database or the journal, or `sqlite:///PATH`.
    options: `objective` must say which one of a study with several objectives: its name or its index.

  Raises:
    UserError: if it cannot be read, or there is no such study.
  """
  try:
    import optuna
  except ImportError:
    raise UserError("an Optuna storage is read by optuna: pip install 'trialbook[bayes]'") from None
  if "://" in str(source) and not source.startswith("sqlite:///"):
    raise UserError(f"{source.partition('://')[0]}://...: should be the path of a file: sqlite:///PATH, or a journal")
  path = as_local_path(source.removeprefix("sqlite:///"))
  if not path.is_file():
    raise UserError(f"{path}: there is no such file; name an SQLite database or a journal of Optuna")
  with _opened(path) as storage:
    try:
      names = optuna.get_all_study_names(storage)
    except Exception as error:  # Optuna raises many kinds for what it has not written.
      raise UserError(f"{path}: its list of studies cannot be read: {said(error)}") from None
    if options.study is not None and options.study not in names:
      raise UserError(f"{path}: study {options.study!r} is not in it{nearest(options.study, names)}")
    if not names:
      raise UserError(f"{path}: holds no study")
    wanted = names if options.study is None else [options.study]
    studies, problems = [], []
    for name in wanted:
      try:
        loaded = optuna.load_study(study_name=name, storage=storage)
        _check(loaded)
      except Exception as error:
        problems.append(f"{path}: study {name!r} cannot be read: {said(error)}")
        continue
      try:
        studies.append(_study(loaded, path, options, several=len(wanted) > 1))
      except UserError as error:
        problems += error.problems
    if problems:
      raise UserError(problems)
  return studies


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> "Iterator[optuna.storages.BaseStorage]":
  """Yield the storage in a file, which is not written to."""
  from optuna.exceptions import OptunaError
  from optuna.storages import JournalStorage, RDBStorage
  from optuna.storages.journal import JournalFileBackend
  from sqlalchemy.exc import SQLAlchemyError

  with path.open("rb") as file:
    is_database = file.read(16) == b"SQLite format 3\0"
  unreadable = f"{path}: is no storage of Optuna, or one of another version"
  if not is_database:
    try:
      journal = JournalStorage(JournalFileBackend(str(path)))
    except Exception as error:
      raise UserError(f"{unreadable}; {said(error)}") from None
    yield journal
    return
  place = f"file:{urllib.parse.quote(str(path.resolve()))}?mode=ro"
  storage = None
  try:
    with contextlib.closing(sqlite3.connect(place, uri=True)) as connection:
      tables = {name for (name,) in connection.execute("select name from sqlite_master where type = 'table'")}
    if not {"studies", "trials", "version_info", "alembic_version"} <= tables:
      raise UserError(f"{unreadable}; its tables are {', '.join(sorted(tables)) or 'none'}")
    storage = RDBStorage(f"sqlite:///{place}&uri=true", skip_table_creation=True)
    yield storage
  except (sqlite3.Error, SQLAlchemyError, OptunaError, RuntimeError, AssertionError) as error:
    raise UserError(f"{unreadable}; {str(error).splitlines()[0]}") from None
  finally:
    if storage is not None:
      storage.remove_session()
      storage.engine.dispose()


def _check(study: "optuna.Study") -> None:
  """Read all of a study. Raise what Optuna raises, or ValueError if a trial is one that it does not write."""
  count = len(_metrics(study))
  for trial in study.get_trials(deepcopy=False):
    values = [value for value in trial.values or () if isinstance(value, int | float)]
    if trial.state.name == "COMPLETE" and len(values) != count:
      raise ValueError(f"trial {trial.number} is complete and has {len(values)} of {count} values")
    for step in trial.intermediate_values:
      if type(step) is not int or step < 0:
        raise ValueError(f"trial {trial.number} has reported a value at step {step!r}")


def _study(study: "optuna.Study", path: pathlib.Path, options: Options, several: bool) -> SourceStudy:
  trials = study.get_trials(deepcopy=False)
  name = study.study_name
  metrics = _metrics(study)
  chosen, is_asked = _chosen(name, metrics, options)
  mode = "min" if study.directions[chosen].name == "MINIMIZE" else "max"
  shift = 1 if any(0 in trial.intermediate_values for trial in trials) else 0
  reported = [
    {step + shift: float(value) for step, value in sorted(trial.intermediate_values.items())} for trial in trials
  ]
  objective, joined = _joined(Objective(metrics[chosen], mode), chosen, trials, reported)
  label = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in name).lstrip(". ")[:LONGEST_NAME] or "study"
  made = [_trial(trial, metrics, chosen, curve, joined) for trial, curve in zip(trials, reported, strict=True)]
  return SourceStudy(
    source=f"optuna: {path.resolve()}, {name}",
    name=label if options.name is None else f"{options.name}_{label}" if several else options.name,
    goal=options.goal or f"{'Minimize' if mode == 'min' else 'Maximize'} {metrics[chosen]} ({name}, Optuna)",
    place=label if several else "",
    trials=made,
    objective=objective,
    chosen=is_asked,
    hyperparameters=_hyperparameters(trials),
    names={metric: metric_names.ours(metric) for metric in metrics},
    notes=_about_states(trials, made),
  )


def _about_states(trials: "Sequence[optuna.trial.FrozenTrial]", made: Sequence[SourceTrial]) -> list[str]:
  pairs = [(trial.state.name, own) for trial, own in zip(trials, made, strict=True)]
  notes = []
  if overruled := [name for name, own in pairs if name in ("FAIL", "PRUNED") and own.state == "infeasible"]:
    counts = ", ".join(f"{overruled.count(name)} as {name}" for name in dict.fromkeys(overruled))
    what = "trial is" if len(overruled) == 1 else "trials are"
    notes.append(
      f"{len(overruled)} {what} infeasible, although recorded otherwise ({counts}): their values end in NaN."
    )
  if unknown := sum(own.state == "failed" for _, own in pairs):
    what = "trial is" if unknown == 1 else "trials are"
    notes.append(f"{unknown} {what} recorded as FAIL: {UNKNOWN}, so a diverged training looks like a bug here.")
  return notes


def _metrics(study: "optuna.Study") -> list[str]:
  """Return a name for each objective."""
  count = len(study.directions)
  return list(study.metric_names or ([METRIC] if count == 1 else [f"{METRIC}_{index}" for index in range(count)]))


def _chosen(study: str, metrics: Sequence[str], options: Options) -> tuple[int, bool]:
  """Return the index of the objective to rank by, and whether the user asked for it."""
  asked = options.objective
  known = [*metrics, *map(metric_names.ours, metrics), *(options.rename.get(name, name) for name in metrics)]
  if asked in known:
    return known.index(asked) % len(metrics), True
  if asked is not None and asked.isdecimal() and int(asked) < len(metrics):
    return int(asked), True
  if len(metrics) == 1:
    return 0, False  # What was asked for may be `INTERMEDIATE`; an unknown name is told later.
  told = f"study {study!r} has {len(metrics)} objectives: choose one by its name or index, for example --objective=0"
  problem = "" if asked is None else f"; {asked!r} is none of them"
  raise UserError(f"{told}{problem}; there are {', '.join(metrics)}")


def _joined(
  objective: Objective, chosen: int, trials: "Sequence[optuna.trial.FrozenTrial]", reported: Sequence[dict[int, float]]
) -> tuple[Objective, bool]:
  """Return the objective, and whether what trials reported is its curve."""
  pairs = [
    (trial.values[chosen], list(curve.items()))
    for trial, curve in zip(trials, reported, strict=True)
    if trial.state.name == "COMPLETE" and curve and trial.values and math.isfinite(trial.values[chosen])
  ]
  for value in ("best", "last"):
    by = Objective(objective.metric, objective.mode, value)
    if all((worth := value_of(by, points)) is not None and worth[1] == returned for returned, points in pairs):
      return by, True
  return objective, False


def _trial(
  trial: "optuna.trial.FrozenTrial", metrics: Sequence[str], chosen: int, reported: dict[int, float], joined: bool
) -> SourceTrial:
  curves: dict[str, dict[int, float]] = {}
  if reported:
    curves[metrics[chosen] if joined else INTERMEDIATE] = reported
  last = max(reported, default=1)
  returned = trial.values if trial.state.name == "COMPLETE" else None
  for name, value in zip(metrics, returned or (), strict=False):
    curves.setdefault(name, {last: float(value)})
  state, reason = _STATES[trial.state.name], None
  violated = [key for key, value in trial.constraints.items() if value > 0]
  if returned and not math.isfinite(returned[chosen]):
    state, reason = "infeasible", f"{metrics[chosen]} = {returned[chosen]}"
  elif state == "complete" and violated:
    state, reason = "infeasible", f"constraint violated: {', '.join(violated)}"
  elif state in ("pruned", "failed") and reported and not math.isfinite(reported[last]):
    step = next(step for step, value in reported.items() if not math.isfinite(value))
    name = metric_names.ours(metrics[chosen]) if joined else INTERMEDIATE
    reason = f"{name} is not finite, for the first time at step {step} (recorded as {trial.state.name})"
    state = "infeasible"
  elif state == "pruned":
    reason = f"pruned at step {last}" if reported else "pruned"
  elif state == "failed" and re.search(r"\bnan\b", str(trial.system_attrs.get("fail_reason", "")).lower()):
    state, reason = "infeasible", f"{metric_names.ours(metrics[chosen])} = nan"  # Optuna 2 and earlier say so.
  elif state == "failed":
    reason = f"recorded as FAIL{f' after step {last}' if reported else ''}: {UNKNOWN}"
  started, finished = _seconds(trial.datetime_start), _seconds(trial.datetime_complete)
  seconds = None if started is None or finished is None else round(finished - started, 6)
  return SourceTrial(
    source=f"trial {trial.number}",
    values={name: plain(value) for name, value in trial.params.items()},
    curves=curves,
    state=state,
    reason=reason,
    certain=True,
    seconds=seconds,
    training_seconds=seconds,
    started=started,
    finished=finished,
  )


def _seconds(time: datetime.datetime | None) -> float | None:
  return None if time is None else time.timestamp()


def _hyperparameters(trials: "Sequence[optuna.trial.FrozenTrial]") -> dict[str, Hyperparameter]:
  distributions: dict[str, list[Any]] = {}
  values: dict[str, list[Any]] = {}
  for trial in trials:
    for name, distribution in trial.distributions.items():
      distributions.setdefault(name, []).append(distribution)
      values.setdefault(name, []).append(plain(trial.params[name]))
  found = {}
  for name, those in distributions.items():
    scale = _scale(those, values[name])
    if scale is not None:
      fixed = isinstance(scale, Discrete) or (isinstance(scale, OneOf) and len(scale.values) == 1)
      role = "fixed" if fixed else "nuisance"
      found[name] = Hyperparameter(name=name, path=inferred.path_of(name), scale=scale, role=role)
  return found


def _scale(distributions: Sequence[Any], values: Sequence[Any]) -> Scale | OneOf | None:
  """Return the widest of a parameter's distributions, which also holds values that were enqueued from outside of it.

  None if they are of several kinds.
  """
  kinds = {type(one).__name__ for one in distributions}
  if kinds == {"CategoricalDistribution"}:
    return OneOf(dict.fromkeys(plain(choice) for one in distributions for choice in one.choices))
  if not kinds <= {"IntDistribution", "FloatDistribution"} or len(kinds) > 1:
    return None
  low = min(*(one.low for one in distributions), *values)
  high = max(*(one.high for one in distributions), *values)
  if low == high:
    return Discrete((low,))
  log = all(one.log for one in distributions) and low > 0
  if kinds == {"IntDistribution"}:
    return Integer(low, high, log=log)
  return Log(low, high) if log else Linear(low, high)
