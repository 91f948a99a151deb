"""The report of a procedure: its conclusion, the evidence with its pictures, and the recommended config.

The autopilot's report has a section for each of its stages as well.
"""

import argparse
import base64
import dataclasses
import json
import pathlib
import sys
from typing import Any

import jinja2

from trialbook import errors, files
from trialbook.errors import ConfigError, UserError
from trialbook.settings import flat
from trialbook.tuning import reporting, tables
from trialbook.tuning.procedures import autopilot_logbook, drawing
from trialbook.tuning.procedures.conclusion import CONCLUSION, NAME, Conclusion, StoredConclusion, cell, flags, markdown
from trialbook.tuning.procedures.conclusion import read as read_conclusion
from trialbook.tuning.reporting import commands
from trialbook.tuning.results import read_results

RANKING = ("objective", "value", "mode")
"""Flags that rank the trials of a study."""


@dataclasses.dataclass(frozen=True)
class Section:
  """What a page shows of one procedure.

  Attributes:
    folder: of the procedure.
    record: its conclusion.
    found: the same, as a procedure returned it.
  """

  folder: pathlib.Path
  record: StoredConclusion
  found: Conclusion

  @property
  def changes(self) -> list[tuple[str, str, str]]:
    """Return the recommended changes: field, value before, value after."""
    before = flat(self.record.get("config", {}))
    new = self.found.changes or {}
    return [(path, _value(before[path]) if path in before else "", _value(value)) for path, value in new.items()]

  @property
  def flags(self) -> str:
    """Return the recommended changes as flags of a command."""
    return flags(self.found.changes or {})

  @property
  def studies(self) -> list[tuple[str, str, str]]:
    """Return its studies: name, goal, and what became of the trials."""
    rows = []
    for name in self.record.get("studies", []):
      results = read_results(self.folder / name)
      rows.append((name, results.study.goal, tables.states(results)))
    return rows

  @property
  def pictures(self) -> list[tuple[str, str]]:
    """Return its plots, each with the URL of the picture, which holds it."""
    found = []
    for name, plot in self.found.plots.items():
      encoded = base64.b64encode(drawing.svg(plot).encode()).decode()
      found.append((name.replace("_", " "), f"data:image/svg+xml;base64,{encoded}"))
    return found

  @property
  def table(self) -> list[list[str]]:
    """Return the rows of its table as text, the names of the columns first; empty if it has none."""
    if not self.found.table:
      return []
    columns = list(self.found.table[0])
    return [columns, *([cell(row.get(column)) for column in columns] for row in self.found.table)]


def report_(options: argparse.Namespace) -> int:
  """Execute `trialbook tune report DIR`, of a study, a round or a procedure."""
  folder: pathlib.Path = options.dir
  if any((folder / name).exists() for name in ("study.json", "round.json")):
    return commands.report_(options)
  if not (folder / NAME).exists():
    if begun := sorted(path.parent for path in folder.glob("*/study.json")):
      raise UserError(
        f"{folder} holds neither a study nor the conclusion of a procedure. If a procedure has begun there, rerun its"
        f" command to resume it. A study in it has a report of its own: trialbook tune report {begun[0]}"
      )
    return commands.report_(options)
  if given := [name for name in RANKING if getattr(options, name) is not None]:
    raise UserError(
      f"--{given[0]} ranks the trials of a study, and {folder} holds a procedure; name one of its studies"
    )
  path = write(folder, options.output, options.format)
  if str(path) != "-":
    tables.console().print(f"report: {path}", soft_wrap=True)
  return errors.DONE


def write(folder: pathlib.Path, output: pathlib.Path | None, format: reporting.Format) -> pathlib.Path:
  """Write the report of a procedure that has ended, as `reporting.report.report` does for a study; return where."""
  sections = read(folder)
  is_pictures = format in ("png", "svg")
  path = output or folder / ("plots" if is_pictures else f"report.{format}")
  if is_pictures:
    if format == "png":
      raise ConfigError("--format=png: the pictures of a procedure are SVG files; use --format=svg")
    if path.exists() and not path.is_dir():
      raise ConfigError(f"{path} is a file, and pictures are several; name a folder")
    path.mkdir(parents=True, exist_ok=True)
    for section in sections:
      prefix = "" if section.folder == folder else f"{section.folder.name}_"
      drawing.write({f"{prefix}{name}": plot for name, plot in section.found.plots.items()}, path)
    return path
  text = {"html": html, "md": text_of, "json": json_of}[format](sections)
  if str(path) == "-":
    sys.stdout.write(text)
    return path
  if path.is_dir() or not path.parent.is_dir():
    raise ConfigError(f"{path} is a folder; name a file" if path.is_dir() else f"there is no folder {path.parent}")
  files.write_text(path, text)
  return path


def read(folder: pathlib.Path) -> list[Section]:
  """Return the section of a procedure, and after it those of its stages, if it has some."""
  found = []
  for place in [folder, *sorted(path.parent for path in folder.glob(f"*/{NAME}"))]:
    record, conclusion = CONCLUSION.read(place / NAME), read_conclusion(place)
    if record is None or conclusion is None:
      raise UserError(f"{place} holds no conclusion: there is no {NAME}")
    found.append(Section(place, record, conclusion))
  return found


def html(sections: list[Section]) -> str:
  """Return the report as a page that needs nothing beside it, and runs no script."""
  here = pathlib.Path(reporting.__file__).parent
  environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
  template = environment.from_string((here / "procedure.html.j2").read_text())
  first = sections[0]
  logbook = autopilot_logbook.PAGE if (first.folder / autopilot_logbook.PAGE).exists() else None
  return template.render(
    name=first.folder.resolve().name, sections=sections, logbook=logbook, css=(here / "page.css").read_text()
  )


def text_of(sections: list[Section]) -> str:
  """Return the report as Markdown."""
  texts = []
  for section in sections:
    record = section.record
    text = markdown(section.found, record.get("studies", []), record.get("cost", ""))
    texts.append(text if section is sections[0] else f"#{text}")
  return "\n".join(texts)


def json_of(sections: list[Section]) -> str:
  """Return the report as JSON: the records of the conclusions, each with its folder."""
  records = [{"folder": str(section.folder), **section.record} for section in sections]
  return json.dumps(files.jsonable({"format": 1, "procedures": records}), indent=2, allow_nan=False) + "\n"


def _value(value: Any) -> str:
  return cell(value) if isinstance(value, float) else str(value)
