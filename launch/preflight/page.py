"""A preflight as one HTML page without scripts."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2

from trialbook.launch.preflight import table
from trialbook.launch.preflight.records import Report

COLORS = {
  "arguments": "#4c78a8",
  "temporaries": "#f58518",
  "outputs": "#54a24b",
  "code": "#b279a2",
  "batches": "#72b7b2",
  "save": "#e45756",
}
"""Colors of the parts of a chip's memory."""


def page(reports: Sequence[Report], columns: Sequence[Sequence[str]] = ()) -> str:
  """Return the page of some reports; `columns` is a table that compares them."""
  loader = jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
  template = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True).get_template("page.html.j2")
  title = ", ".join(dict.fromkeys(f"{one['config']} on {one['topology']}" for one in reports))
  return template.render(title=title, columns=columns, reports=[_shown(report) for report in reports])


def _shown(report: Report) -> dict[str, Any]:
  memory: Any = report["memory"]
  whole = max(memory["peak"], memory["limit"] or 0, 1)
  return {
    "report": report,
    "facts": table.facts(report),
    "memory": table.memory_rows(report),
    "bar": [(part, f"{100 * memory[part] / whole:.2f}", color) for part, color in COLORS.items() if memory[part]],
    "bounds": table.bound_rows(report),
    "collectives": table.collective_rows(report) if report["functions"] else [],
  }
