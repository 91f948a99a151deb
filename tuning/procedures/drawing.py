"""Pictures of a procedure's evidence: Vega-Lite specifications, drawn as SVG files without a browser."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

LOOK = {
  "background": "white",
  "font": "DejaVu Sans, sans-serif",
  "view": {"stroke": None},
  "range": {"category": ["#3d7dca", "#d95f02", "#2d9a72", "#a55fb8", "#b8860b", "#c94c7c", "#5c9bb8", "#8a6d4f"]},
}
"""Configuration of all pictures, as that of a report's."""
WIDTH, HEIGHT = 460, 280
"""Pixels of a picture."""


def specification(*layers: alt.Chart | alt.LayerChart, title: str) -> dict[str, Any]:
  """Return layers, which hold their own data, as one picture."""
  made = alt.layer(*layers).properties(width=WIDTH, height=HEIGHT, title=title).to_dict()
  made.pop("config", None)
  return made


def rows(values: Sequence[Mapping[str, Any]]) -> alt.Data:
  """Return the data of a layer, a mapping for each row."""
  return alt.Data(values=[dict(row) for row in values])


def svg(plot: Mapping[str, Any]) -> str:
  """Return a picture as SVG."""
  import vl_convert  # Takes a second, and most procedures are only read.

  return vl_convert.vegalite_to_svg({**plot, "config": LOOK})


def write(plots: Mapping[str, Mapping[str, Any]], folder: pathlib.Path) -> list[pathlib.Path]:
  """Write each picture as `NAME.svg` into a folder, and return the files."""
  paths = []
  for name, plot in plots.items():
    path = folder / f"{name}.svg"
    path.write_text(svg(plot))
    paths.append(path)
  return paths
