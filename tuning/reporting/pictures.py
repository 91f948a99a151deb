"""The plots of a report as PNG or SVG files, drawn without a browser."""

import copy
import pathlib
import re
from typing import Any, Literal

import vl_convert

from trialbook.tuning.compared_settings import compared_settings
from trialbook.tuning.findings import comparison
from trialbook.tuning.reporting import charts, page_data
from trialbook.tuning.reporting.plot import Plot, name_objective
from trialbook.tuning.results import StudyResults

WIDTH = {False: 460, True: 860}
"""Pixels of a plot, and of one that takes a page's whole width."""
CURVE_POINTS = 500
"""Most points of a curve in a picture."""
_CONFIG = {
  "background": "white",
  "font": "DejaVu Sans, sans-serif",
  "view": {"stroke": None},
  "range": {"category": ["#3d7dca", "#d95f02", "#2d9a72", "#a55fb8", "#b8860b", "#c94c7c", "#5c9bb8", "#8a6d4f"]},
}


def write_pictures(results: StudyResults, folder: pathlib.Path, kind: Literal["png", "svg"]) -> list[pathlib.Path]:
  """Write each plot that has something to show, by the study's objective, as `PLOT.KIND`; return the files."""
  compared = compared_settings(results)
  tables = page_data.view_tables(results, compared, comparison.find(results)) | page_data.common_tables(results)
  tables["trials"] = page_data.trial_columns(results, compared) | tables["trials"]
  rows = {name: page_data.rows(columns) for name, columns in tables.items()}
  shown = results.ranked[: charts.SHOWN]
  metric = results.objective.metric
  rows["curves"] = page_data.curve_rows(results, metric, shown, CURVE_POINTS)
  if (training := results.training_metric(metric)) and training != metric:
    rows["curves"] += page_data.curve_rows(results, training, shown, CURVE_POINTS)
  rows["grad_norm"] = page_data.curve_rows(results, "grad_norm", shown, CURVE_POINTS)
  folder.mkdir(parents=True, exist_ok=True)
  written: list[pathlib.Path] = []
  for plot in charts.plots(results, page_data.short_names(results), [each.label for each in compared]):
    if not any(rows[name] for name in plot.datasets):
      continue
    name = re.sub(r"[^\w.-]+", "_", plot.id)
    while (path := folder / f"{name}.{kind}") in written:
      name += "_"
    spec = _filled(plot, {name: rows[name] for name in plot.datasets}, metric)
    if kind == "svg":
      path.write_text(vl_convert.vegalite_to_svg(spec))
    else:
      path.write_bytes(vl_convert.vegalite_to_png(spec, scale=2))
    written.append(path)
  return written


def _filled(plot: Plot, tables: dict[str, list[dict[str, Any]]], metric: str) -> dict[str, Any]:
  spec = copy.deepcopy(plot.spec)
  spec["datasets"] = spec.get("datasets", {}) | tables
  spec["config"], spec["width"], spec["title"] = _CONFIG, WIDTH[plot.wide], plot.title
  name_objective(spec, metric, plot)
  return spec
