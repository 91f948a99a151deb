"""What a procedure concludes: a verdict with its evidence, and the changes of the config that follow, or none."""

import dataclasses
import json
import math
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired

from typing_extensions import TypedDict

from trialbook import escaping, files
from trialbook.errors import ConfigError
from trialbook.record import Format, Kind, stored
from trialbook.trainer import Config
from trialbook.tuning.procedures import drawing
from trialbook.tuning.reporting.plain import plain

FORMAT = 1
"""Version of `conclusion.json`."""
LARGE = 1e4
"""Numbers from which on all digits are shown, such as examples per second."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conclusion:
  """The result of a procedure.

  Attributes:
    procedure: its command, such as "max-steps".
    id: of the playbook's requirement that it fulfils, such as "PB-60".
    verdict: what was found, in one sentence with its most important number.
    evidence: how that is known: numbers, intervals, thresholds; a sentence each.
    changes: of the config: dotted path -> value; None: nothing is recommended.
    numbers: what the sentences say in numbers, by name; JSON.
    actions: what to do now, or to try if nothing could be recommended; a sentence each.
    table: rows that show the evidence, each column -> value; empty: none.
    plots: pictures of the evidence, by the name of their file without its ending: Vega-Lite specifications.
  """

  procedure: str
  id: str
  verdict: str
  evidence: Sequence[str] = ()
  changes: Mapping[str, Any] | None = None
  numbers: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  actions: Sequence[str] = ()
  table: Sequence[Mapping[str, Any]] = ()
  plots: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)

  @property
  def is_recommendation(self) -> bool:
    """Return whether it recommends changes, be they none: that the config is right as it is."""
    return self.changes is not None

  def as_json(self) -> dict[str, Any]:
    """Return all fields, for records."""
    return plain({"format": FORMAT, **dataclasses.asdict(self)})


@stored
class StoredConclusion(TypedDict):
  """`conclusion.json`."""

  format: Format
  procedure: str
  id: str
  verdict: str
  evidence: list[str]
  changes: dict[str, Any] | None
  numbers: dict[str, Any]
  actions: list[str]
  table: list[dict[str, Any]]
  plots: NotRequired[dict[str, dict[str, Any]]]
  studies: NotRequired[list[str]]
  cost: NotRequired[str]
  config: NotRequired[dict[str, Any]]


NAME = "conclusion.json"
_REMEDY = "Restore the file from a copy, or remove it and run the same command again"
CONCLUSION = Kind(StoredConclusion, _REMEDY, FORMAT)


def write(conclusion: Conclusion, folder: pathlib.Path, config: Config, studies: Sequence[str], cost: str) -> None:
  """Write `conclusion.json`, `conclusion.md`, its pictures, and the recommended config as `recommended/config.json`.

  Args:
    conclusion: of the procedure.
    folder: of the procedure.
    config: that the changes are of.
    studies: names of the folders of its studies.
    cost: of its trainings, in words.
  """
  record = conclusion.as_json() | {"studies": list(studies), "cost": cost, "config": config.model_dump(mode="json")}
  pictures = "".join(f"\n![{name}]({name}.svg)\n" for name in conclusion.plots)
  folder.mkdir(parents=True, exist_ok=True)
  files.write_text(folder / "conclusion.md", markdown(conclusion, studies, cost) + pictures)
  if conclusion.changes is not None:
    write_config(config.override(dict(conclusion.changes)), folder / "recommended")
  drawing.write(conclusion.plots, folder)
  # Last: whoever finds it finds the others.
  files.write_json(folder / NAME, record)


def write_config(config: Config, folder: pathlib.Path) -> pathlib.Path:
  """Write a config as `config.json` into a folder, as `--config` takes it, and return the file."""
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / "config.json"
  files.write_json(path, {"format": files.FORMAT, **config.model_dump(mode="json")})
  return path


def read(folder: pathlib.Path, config: Config | None = None) -> Conclusion | None:
  """Return the conclusion in a folder; None if there is none.

  Raises:
    UserError: if it cannot be read, or its changes are none of the config, where that is given.
  """
  path = folder / NAME
  found = CONCLUSION.read(path)
  if found is None:
    return None
  if config is not None:
    try:
      config.override(found["changes"] or {})
    except ConfigError as error:
      raise CONCLUSION.error(path, error.problems) from None
  fields: dict[str, Any] = {name: found[name] for name in Conclusion.__dataclass_fields__.keys() & found.keys()}
  return Conclusion(**fields)


def markdown(conclusion: Conclusion, studies: Sequence[str] = (), cost: str = "") -> str:
  """Return the conclusion as text."""
  lines = [f"# {conclusion.procedure} ({conclusion.id})", "", escaping.markdown(conclusion.verdict), ""]
  lines += [f"- {escaping.markdown(sentence)}" for sentence in conclusion.evidence]
  if conclusion.table:
    columns = list(conclusion.table[0])
    lines += ["", f"| {' | '.join(map(escaping.markdown, columns))} |", f"|{'---|' * len(columns)}"]
    lines += [
      f"| {' | '.join(escaping.markdown(cell(row.get(column))) for column in columns)} |" for row in conclusion.table
    ]
  if conclusion.changes is not None:
    told = flags(conclusion.changes)
    lines += ["", f"Recommended: {escaping.markdown_code(told)}" if told else "Recommended: the config as it is."]
  lines += (
    [""] + [f"- Next: {escaping.markdown(sentence)}" for sentence in conclusion.actions] if conclusion.actions else []
  )
  if studies:
    lines += ["", f"Studies: {escaping.markdown(', '.join(studies))}."]
  if cost:
    lines += ["", f"Cost: {escaping.markdown(cost)}."]
  return "\n".join(lines) + "\n"


def cell(value: Any) -> str:
  """Return a value of a table as text."""
  if isinstance(value, float):
    return f"{value:,.0f}" if LARGE <= abs(value) < math.inf else f"{value:.4g}"
  return "" if value is None else str(value)


def flags(changes: Mapping[str, Any]) -> str:
  """Return changes of a config as flags of a command."""
  return " ".join(f"--set {shlex.quote(f'{path}={_flag(value)}')}" for path, value in changes.items())


def _flag(value: Any) -> str:
  return value if isinstance(value, str) else json.dumps(value)
