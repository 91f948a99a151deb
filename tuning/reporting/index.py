"""A page of all studies in a folder: the table of `studies.md`, with links to their reports."""

import pathlib
import shlex

import jinja2

from trialbook import files
from trialbook.tuning import tracking

_HERE = pathlib.Path(__file__).parent


def write_index(root: pathlib.Path) -> tuple[pathlib.Path, list[str]]:
  """Write `studies.html` in a root; return where, and which studies are not in it and why, a sentence each."""
  shelf = tracking.read(root)
  studies = []
  for row in shelf.rows:
    folder = pathlib.PurePosixPath(row["config"]).parent
    report = folder / "report.html"
    studies.append(
      {**row, "folder": shlex.quote(str(root / folder)), "report": str(report) if (root / report).exists() else None}
    )
  environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
  template = environment.from_string((_HERE / "index.html.j2").read_text())
  path = root / "studies.html"
  files.write_text(
    path, template.render(root=root.name or str(root), studies=studies, css=(_HERE / "page.css").read_text())
  )
  return path, shelf.passed_over
