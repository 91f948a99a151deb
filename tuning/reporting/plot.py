"""A plot as a Vega-Lite specification over named datasets that `reporting.page_data` fills, and its parts.

Each plot has a parameter `selected`, the trial that is selected in the page (-1: none). A y axis whose scale the reader
may switch has its type spelled out.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

from trialbook.tuning.reporting.axes import ink

HEIGHT = 260
RED = "#d7263d"
BLUE = "#3d7dca"
AMBER = "#e8a33d"
GREY = "#8a93a3"

OF_OBJECTIVE = ("objective", "value", "p5", "p25", "median", "reference", "low", "typical")
"""Fields of tables in units of the objective; `page.js` has the same."""

Section = Literal["comparison", "hyperparameters", "isolation", "curves", "search", "steps"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot:
  """One plot.

  Attributes:
    id: by which findings link to it.
    section: of the page.
    title: what it shows.
    caption: how to read it, and the requirement that asks for it.
    spec: Vega-Lite.
    datasets: names of the tables that it draws.
    wide: whether it takes the whole width of the page.
    switch: whether its y axis can be switched between linear and logarithmic.
  """

  id: str
  section: Section
  title: str
  caption: str
  spec: dict[str, Any]
  datasets: tuple[str, ...]
  wide: bool = False
  switch: bool = False


def table(dataset: str) -> alt.Chart:
  """Return an empty chart of a dataset that is filled in later."""
  return alt.Chart(alt.NamedData(dataset))


def spec(*layers: alt.Chart, height: int = HEIGHT) -> dict[str, Any]:
  """Return layers as one plot, as wide as the page lets it."""
  chart = alt.layer(*layers).add_params(alt.param(name="selected", value=-1), alt.param(name="ink", value="#1c2330"))
  autosize = alt.AutoSizeParams(type="fit-x", contains="padding")
  whole = chart.properties(width="container", height=height, autosize=autosize)
  made = whole.to_dict(validate=False, context={"datasets": {}})
  # The page and the pictures bring their own look.
  made.pop("config", None)
  return made


def by_setting(coloured: Sequence[str]) -> alt.Color:
  """Return the colour of a setting, the same in every plot, also in one that does not have all of them."""
  scale = alt.Scale(domain=list(coloured))
  return alt.Color("setting:N", title=None, scale=scale, legend=alt.Legend(orient="top", symbolOpacity=1))


def tooltip(field: str, name: str) -> list[alt.Tooltip]:
  """Return the tooltip of a trial: its number, a field under a name, and its value with the step."""
  return [
    alt.Tooltip("trial:Q"),
    alt.Tooltip(f"{field}:N", title=name),
    alt.Tooltip("objective:Q", format=".4g", title="objective"),
    alt.Tooltip("step:Q", format=","),
  ]


def ring(trials: alt.Chart, x: alt.X, y: alt.Y) -> alt.Chart:
  """Return a ring around the trial that is selected."""
  return (
    trials.transform_filter("datum.trial === selected")
    .mark_point(size=230, strokeWidth=2.5)
    .encode(x=x, y=y, color=ink())
  )


def name_objective(spec: dict[str, Any], metric: str, plot: Plot) -> None:
  """Set the titles of the axes that show the objective, in place, as the page does too."""
  if plot.id.startswith("grad_"):
    return
  for layer in spec["layer"]:
    for name in ("x", "y"):
      channel = layer["encoding"].get(name, {})
      if channel.get("field") in OF_OBJECTIVE and "bin" not in channel:
        channel["title"] = metric
