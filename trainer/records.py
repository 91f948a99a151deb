"""The types of a run's records, and how each is read. docs/design.md (The workdir) says what the fields mean."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal, NotRequired

import pydantic
from typing_extensions import TypedDict

from trialbook import files
from trialbook.errors import ConfigError
from trialbook.record import Count, Format, Kind, check_steps, sentences, shown, stored

if TYPE_CHECKING:
  from trialbook.trainer.config import Config

Status = Literal["running", "complete", "infeasible", "pruned", "preempted", "stopped", "failed"]
Number = Annotated[int | float | Literal["NaN", "Infinity", "-Infinity"], pydantic.Field(union_mode="left_to_right")]
"""A number as `files.jsonable` writes it."""

_AGAIN = "Restore the file from a copy, or remove the workdir to train the run again"
Pair = tuple[float, float]
Normalization = tuple[tuple[float, ...], tuple[float, ...]]
ArraySpec = tuple[tuple[int, ...], str]


@stored
class Process(TypedDict):
  """What a process that worked on a run recorded of itself: `run.json`, or an entry of its `earlier`."""

  format: Format
  status: Status
  reason: NotRequired[str | None]
  step: Count | None
  restored_step: NotRequired[Count | None]
  started: float
  first_step: NotRequired[float | None]
  seen: NotRequired[float]
  finished: NotRequired[float]
  times: NotRequired[dict[str, float]]
  compilations: NotRequired[dict[str, int]]
  compilation_seconds: NotRequired[float]
  git: NotRequired[dict[str, Any] | None]


@stored
class Facts(TypedDict):
  """The facts of a dataset, as `trialbook.input_pipeline.Info` has them; earlier versions recorded fewer."""

  name: str
  input_shape: tuple[int, ...] | None
  input_dtype: str | None
  num_classes: int | None
  num_targets: int | None
  examples: dict[str, Count]
  normalization: Normalization | dict[str, Normalization] | None
  notice: NotRequired[str]
  label_shape: NotRequired[tuple[int, ...]]
  mixes_labels: NotRequired[bool]
  ignore_label: NotRequired[int | None]
  spec: NotRequired[dict[str, ArraySpec]]
  left_out: NotRequired[dict[str, str]]


@stored
class Fingerprint(TypedDict):
  """What a split held."""

  hash: str
  sums: list[list[float]]


@stored
class Run(Process):
  """`run.json`; `id` names the run, and earlier versions had none."""

  id: NotRequired[str]
  dataset: NotRequired[Facts]
  fingerprints: NotRequired[dict[str, Fingerprint | str]]
  input_range: NotRequired[Pair | None]
  notice: NotRequired[str]
  platform: NotRequired[str]
  earlier: NotRequired[list[Process]]


@stored
class Best(TypedDict):
  """`best.json`."""

  format: Format
  metric: str
  step: Count | None
  value: Number | None
  checkpoint: str | None
  note: str | None
  final: dict[str, Number | list[Number]]


@stored
class Fork(TypedDict):
  """`fork.json`."""

  format: Format
  source: str
  step: Count
  run: NotRequired[str]


@stored
class Exit(TypedDict):
  """`logs/host_i.exit.json`."""

  format: Format
  code: int
  cause: str
  time: float
  host: Count
  preempted: NotRequired[bool]


@stored
class Versioned(TypedDict):
  """`config.json`: its format, and a config."""

  format: Format


def _with_a_step(line: dict[str, Any]) -> dict[str, Any]:
  if type(line.get("step")) is not int or line["step"] < 0:
    raise ValueError("an object with a step, which is a whole number from 0 on")
  return line


StepLine = Annotated[dict[str, Number | list[Number]], pydantic.AfterValidator(_with_a_step)]
"""A line of `metrics.jsonl`: its `step`, and what was logged after it."""

RUN = Kind(Run, _AGAIN)
BEST = Kind(Best, "Restore the file from a copy; without it, no checkpoint is selected")
EXIT = Kind(Exit, "Remove the file")
FORK = Kind(Fork, _AGAIN)
CONFIG = Kind(Versioned, _AGAIN)
METRICS: Kind[dict[str, Any]] = Kind(StepLine, _AGAIN, version=None)  # type: ignore[arg-type]


def read_run(workdir: pathlib.Path) -> Run | None:
  """Return `run.json`; None if there is none. Raises UserError."""
  return RUN.read(workdir / "run.json")


def read_best(workdir: pathlib.Path) -> Best | None:
  """Return `best.json`; None if there is none. Raises UserError."""
  return BEST.read(workdir / "best.json")


def read_fork(workdir: pathlib.Path) -> Fork | None:
  """Return `fork.json`; None if there is none. Raises UserError."""
  return FORK.read(workdir / "fork.json")


def read_exit(logs: pathlib.Path, host: int) -> Exit | None:
  """Return what a host recorded of its end; None if it recorded nothing. Raises UserError."""
  return EXIT.read(logs / f"host_{host}.exit.json")


def read_metrics(workdir: pathlib.Path, first: int | None = 0) -> list[dict[str, Any]]:
  """Return the lines of a `metrics.jsonl`; [] if there is no such file.

  Args:
    workdir: of a run, or of another trial.
    first: the step of the first line, where each step has a line; None: steps only increase.

  Raises:
    UserError: naming file and line, if a line cannot be read, or was removed, doubled or moved.
  """
  path = workdir / "metrics.jsonl"
  lines = METRICS.lines(path)
  for name in {name for line in lines for name, value in line.items() if type(value) is list}:
    for number, line in enumerate(lines, start=1):
      if type(line.get(name, [])) is not list:
        raise METRICS.error(path, [f"{name} is {shown(line[name])}, and elsewhere it is a list"], number)
  check_steps(METRICS, path, [line["step"] for line in lines], first)
  return lines


def check_ends(
  workdir: pathlib.Path, lines: Sequence[Mapping[str, Any]], step: int | None, count: int | None = None
) -> None:
  """Raise ConfigError unless the lines of `metrics.jsonl` end at the step at which training ended, and are as many as
  were written; None: it is not known."""
  last = lines[-1]["step"] if lines else 0
  problems = [] if step in (None, last) else [f"it ends at step {last}, but the training ended at step {step}"]
  if count not in (None, len(lines)):
    problems.append(f"it has {len(lines)} lines, but {count} were written")
  if problems:
    raise ConfigError(METRICS.error(workdir / "metrics.jsonl", problems).problems)


def read_config(path: pathlib.Path) -> "Config":
  """Return the config in a `config.json`.

  Raises:
    ConfigError: if there is none, it cannot be read, or a newer version wrote it.
  """
  found = CONFIG.read(path)
  if found is None:
    raise ConfigError(f"{path.parent} holds no run: there is no config.json")
  return config_of({name: value for name, value in found.items() if name != "format"}, CONFIG, path)


def config_of(tree: Any, kind: Kind[Any], path: pathlib.Path) -> "Config":
  """Return the config in a record. Raises ConfigError."""
  from trialbook.trainer.config import Config  # It imports flax, which a study of a function does without.

  try:
    return Config.model_validate_json(json.dumps(tree))
  except pydantic.ValidationError as error:
    raise ConfigError(kind.error(path, sentences(error)).problems) from None


def values_of(line: dict[str, Any]) -> dict[str, Any]:
  """Return what a line of `metrics.jsonl`, or `final` in `best.json`, has beside the step, with numbers as floats."""
  return {name: files.number(value) for name, value in line.items() if name != "step"}
