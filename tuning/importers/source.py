"""A study as another program left it: what each importer reads, before it is given our names and files."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from trialbook.metric_names import Mode
from trialbook.tuning.records import State
from trialbook.tuning.space.scales import Hyperparameter
from trialbook.tuning.study import Objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """The user's choices for an import.

  Attributes:
    rename: metric as the source calls it -> metric as the study is to call it.
    objective: the metric to rank by, in either name; for Optuna also the index of an objective.
    mode: which direction of it is better.
    name: of the study; where a source has several, each one's own name is put behind it.
    goal: in words.
    study: of an Optuna storage, the only one that is wanted.
    space: path of a JSON file that declares roles, scales and bounds of hyperparameters, as `study.json` does.
  """

  rename: Mapping[str, str] = dataclasses.field(default_factory=dict)
  objective: str | None = None
  mode: Mode | None = None
  name: str | None = None
  goal: str | None = None
  study: str | None = None
  space: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceTrial:
  """A trial as another program recorded it, in that program's names; an import makes a `records.TrialRecord` of it.

  Attributes:
    source: what it is called there.
    values: of its hyperparameters, by name; those that do not exist in it are absent.
    curves: metric, as it is called there -> step -> value; what is not finite is kept.
    state: None if it is to be derived from the curves.
    reason: of the state.
    certain: whether its program returned a value at its end, so that neither the end nor the length of its curves says
      anything else than its state.
    any_length: whether it may be shorter than others and have run to its end.
    seconds: that it took; None: unknown.
    training_seconds: of these, in training and evaluation; None: unknown.
    started: seconds since the epoch; None: unknown.
    finished: the same.
  """

  source: str
  values: Mapping[str, Any]
  curves: Mapping[str, Mapping[int, float]]
  state: State | None = None
  reason: str | None = None
  certain: bool = False
  any_length: bool = False
  seconds: float | None = None
  training_seconds: float | None = None
  started: float | None = None
  finished: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class SourceStudy:
  """One study of a source.

  Attributes:
    source: of all that it was read from, in words; the same for the same place.
    name: of the study.
    goal: in words.
    place: its folder inside the import's; "" for the only study of a source.
    trials: in the source's order.
    objective: what it was ranked by; None: unknown.
    chosen: whether that is what `Options.objective` asked for.
    hyperparameters: those of which the source knows the scale, by name; the others' scales are inferred.
    names: metric, as it is called there -> our name, where the importer knows better than `metric_names.ours`.
    notes: what a reader of the results should know.
  """

  source: str
  name: str
  goal: str
  place: str = ""
  trials: Sequence[SourceTrial]
  objective: Objective | None = None
  chosen: bool = False
  hyperparameters: Mapping[str, Hyperparameter] = dataclasses.field(default_factory=dict)
  names: Mapping[str, str] = dataclasses.field(default_factory=dict)
  notes: Sequence[str] = ()


def plain(value: Any) -> Any:
  """Return a hyperparameter's value as records can hold it: a finite number, a bool, None, a tuple of such, else its
  text."""
  if value is None or isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value)):
    return value
  if isinstance(value, list | tuple):
    return tuple(map(plain, value))
  return str(value)
