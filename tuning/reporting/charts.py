"""The plots of a study, as Vega-Lite specifications over named datasets that `tuning.reporting.page_data` fills.

Each plot has a parameter `selected`, the trial that is selected in the page (-1: none). A y axis whose scale the reader
may switch has its type spelled out.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

from tuning.reporting.axes import banded, drawn, few_labels, ink, is_sliced, x_axis, y_axis
from tuning.results import StudyResults
from tuning.space import Hyperparameter, Quantity

SHOWN = 5
"""Trials whose curves are drawn from the start: as many as people tell apart by colour (PB-25)."""
STEP_BINS = 20
"""Of the histogram of selected steps: the first two are the first 10%, the last five the last 25% (PB-61)."""
HEIGHT = 260
_OWN_NAMES = ("constructor", "__proto__", "hasOwnProperty", "isPrototypeOf", "toString", "toLocaleString", "valueOf")
_CROSS_Y = 7
_CROSS = "M-1,-1L1,1M1,-1L-1,1"
_RED = "#d7263d"
_BLUE = "#3d7dca"
TOLD_APART = 8
"""Settings that have a colour each; where there are more, none has."""

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


def plots(results: StudyResults, names: Sequence[str], settings: Sequence[str]) -> list[Plot]:
  """All plots that a study has something for.

  Args:
    results: of the study.
    names: of `results.varied`, as short as they tell them apart.
    settings: what is compared, by label; a single one: nothing is.
  """
  # Vega takes titles for keys of objects, and `constructor` is one of JavaScript's own; with a space of no width it is
  # none.
  names = [f"{name}\u200b" if name in _OWN_NAMES else name for name in names]
  coloured = settings if 1 < len(settings) <= TOLD_APART else ()
  found = []
  if len(settings) > 1:
    found.append(_comparison(len(settings)))
  found += [_axis(number, one, names[number], coloured) for number, one in enumerate(results.varied)]
  found += [_isolation(number, one, names[number]) for number, one in enumerate(results.varied)]
  found += [_curves(), _best_of_k(coloured)]
  if results.steps:
    found.append(_steps(results.steps))
  if "grad_norm" in results.metrics:
    found += [_gradient_norm(), _gradient_histogram()]
  return found


def _axis(number: int, one: Hyperparameter, name: str, coloured: Sequence[str]) -> Plot:
  field = f"h{number}"
  here = f"isValid(datum.{field})"
  x = x_axis(field, one, name)
  base = _base("trials").transform_filter(here)
  y = y_axis("objective")
  colour: Any = alt.value(_BLUE)
  if coloured and one.role != "scientific":
    colour = _by_setting(coloured)
  valued = base.transform_filter("isValid(datum.objective)")
  crossed = base.transform_filter("datum.state === 'infeasible' || datum.state === 'failed'")
  layers = [
    valued.mark_point(filled=True, size=70).encode(
      x=x,
      y=y,
      color=colour,
      opacity=alt.condition("datum.trial === selected || selected < 0", alt.value(0.8), alt.value(0.35)),
      tooltip=_tooltip(field, name),
    ),
    valued.transform_filter("datum.best").mark_point(size=240, strokeWidth=2, color="#e8a33d").encode(x=x, y=y),
    # Lines are hard to hit: a disc that nobody sees takes the clicks.
    crossed.mark_point(filled=True, size=160, fillOpacity=0.001).encode(
      x=x, y=alt.value(_CROSS_Y), color=alt.value(_RED)
    ),
    crossed.mark_point(shape=_CROSS, size=50, strokeWidth=2, filled=False).encode(
      x=x,
      y=alt.value(_CROSS_Y),
      color=alt.value(_RED),
      opacity=alt.condition("datum.trial === selected || selected < 0", alt.value(1), alt.value(0.4)),
      tooltip=[*_tooltip(field, name)[:2], alt.Tooltip("state:N"), alt.Tooltip("reason:N")],
    ),
    base.transform_filter("datum.trial === selected")
    .mark_point(size=240, strokeWidth=2.5)
    .encode(x=x, y=y, color=ink()),
  ]
  if not one.inferred and isinstance(one.scale, Quantity):
    bounds = [drawn(one, one.scale.min), drawn(one, one.scale.max)]
    edges = alt.Chart(alt.InlineData([{"bound": bound} for bound in bounds])).mark_rule(
      strokeDash=[4, 4], strokeWidth=1.5, opacity=0.6
    )
    layers.append(edges.encode(x=alt.X("bound:Q"), color=ink()))
  return Plot(
    id=f"axis:{one.name}",
    section="hyperparameters",
    title=name,
    caption="Each trial's objective; the ring is the best, red crosses are infeasible or failed, dashed lines the"
    " search space's bounds. PB-22",
    spec=_spec(*layers),
    datasets=("trials",),
    switch=True,
  )


def _isolation(number: int, one: Hyperparameter, name: str) -> Plot:
  field = f"b{number}"
  base = (
    _base("trials")
    .transform_filter(f"isValid(datum.{field}) && isValid(datum.worth)")
    .transform_joinaggregate(top="min(worth)", groupby=[field])
  )
  x = alt.X(
    f"{field}:O",
    title=name,
    sort=alt.EncodingSortField(f"o{number}", op="min"),
    axis=banded(-25 if is_sliced(one) else 0),
  )
  y = y_axis("objective")
  best = base.transform_filter("datum.worth === datum.top")
  layers = [
    base.mark_tick(thickness=2, width=24).encode(
      x=x,
      y=y,
      color=alt.value(_BLUE),
      opacity=alt.condition("datum.trial === selected", alt.value(1), alt.value(0.3)),
      tooltip=_tooltip(f"h{number}", name),
    ),
    best.mark_point(filled=True, size=90, opacity=1).encode(
      x=x, y=y, color=alt.value(_BLUE), tooltip=_tooltip(f"h{number}", name)
    ),
    base.transform_filter("datum.trial === selected")
    .mark_point(size=220, strokeWidth=2.5)
    .encode(x=x, y=y, color=ink()),
  ]
  if is_sliced(one):
    layers.insert(1, best.mark_line(strokeWidth=2, color=_BLUE).encode(x=x, y=alt.Y("min(objective):Q")))
  return Plot(
    id=f"isolation:{one.name}",
    section="isolation",
    title=name,
    caption="The best trial for each value, or each slice of the axis, over all other hyperparameters; ticks are the"
    " others. PB-30",
    spec=_spec(*layers),
    datasets=("trials",),
    switch=True,
  )


def _comparison(settings: int) -> Plot:
  base = _base("settings")
  y = alt.Y("setting:N", title=None, sort=alt.EncodingSortField("order"), axis=alt.Axis(labelLimit=220))
  x = alt.X("objective:Q", scale=alt.Scale(type="linear", zero=False))
  layers = [
    base.mark_rule(strokeWidth=3, opacity=0.45).encode(
      y=y, x=alt.X("p5:Q", scale=alt.Scale(zero=False)), x2="p95:Q", color=alt.value(_BLUE)
    ),
    base.mark_bar(height=16, opacity=0.35).encode(y=y, x="p25:Q", x2="p75:Q", color=alt.value(_BLUE)),
    base.mark_point(filled=True, size=110, opacity=1).encode(
      y=y,
      x=x,
      color=alt.condition("datum.winner", alt.value("#e8a33d"), alt.value(_BLUE)),
      tooltip=[
        alt.Tooltip("setting:N"),
        alt.Tooltip("objective:Q", format=".4g", title="best"),
        alt.Tooltip("trial:Q"),
        alt.Tooltip("budget:Q", title="compared at trials"),
        alt.Tooltip("p5:Q", format=".4g", title="5%"),
        alt.Tooltip("p95:Q", format=".4g", title="95%"),
      ],
    ),
  ]
  return Plot(
    id="comparison",
    section="comparison",
    title="What was compared",
    caption="Points: the best of each setting. Bars: what the best of an equal number of its trials would be, from the"
    " lower to the upper quartile (wide) and from 5% to 95% (thin), were they drawn again. PB-13, PB-30",
    spec=_spec(*layers, height=34 * settings + 20),
    datasets=("settings",),
    wide=True,
  )


def _curves() -> Plot:
  base = _base("curves")
  x = alt.X("step:Q", axis=alt.Axis(format="~s", tickCount=6))
  colour = alt.Color("trial:N", legend=alt.Legend(orient="top", title="trial"), sort=alt.EncodingSortField("place"))
  layer = base.mark_line(strokeWidth=1.8).encode(
    x=x,
    y=y_axis("value"),
    color=colour,
    strokeDash=alt.StrokeDash(
      "split:N",
      scale=alt.Scale(domain=["objective", "training"], range=[[1, 0], [4, 3]]),
      legend=alt.Legend(orient="top", title=None),
    ),
    opacity=alt.condition("datum.trial === selected || selected < 0", alt.value(0.95), alt.value(0.3)),
    tooltip=[
      alt.Tooltip("trial:N"),
      alt.Tooltip("metric:N"),
      alt.Tooltip("step:Q", format=","),
      alt.Tooltip("value:Q", format=".4g"),
    ],
  )
  chosen = (
    base.transform_filter("datum.chosen")
    .mark_point(filled=True, size=70, opacity=1)
    .encode(x=x, y=y_axis("value"), color=colour, tooltip=[alt.Tooltip("trial:N"), alt.Tooltip("step:Q", format=",")])
  )
  return Plot(
    id="curves",
    section="curves",
    title="Training curves of the best trials, and of the selected one",
    caption="Solid: the objective's metric; dashed: the same on training examples; points: the evaluation that was"
    " selected. PB-25",
    spec=_spec(layer, chosen, height=340),
    datasets=("curves",),
    wide=True,
    switch=True,
  )


def _best_of_k(coloured: Sequence[str]) -> Plot:
  # Where too few of the draws are feasible, there is no box.
  base = _base("best_of_k").transform_filter("isValid(datum.p5) && isValid(datum.p95)")
  x = alt.X("k:O", title="number of trials", axis=alt.Axis(labelAngle=0, labelOverlap=True))
  colour: dict[str, Any] = {"color": alt.value(_BLUE)}
  if coloured:
    colour = {
      "color": _by_setting(coloured),
      "xOffset": alt.XOffset("setting:N"),
    }
  tooltip = [
    alt.Tooltip("setting:N"),
    alt.Tooltip("k:Q", title="trials"),
    *(alt.Tooltip(f"{name}:Q", format=".4g") for name in ("median", "p25", "p75", "p5", "p95")),
  ]
  layers = [
    base.mark_rule(opacity=0.7).encode(x=x, y=y_axis("p5"), y2="p95:Q", **colour),
    base.mark_bar(opacity=0.45).encode(x=x, y=y_axis("p25"), y2="p75:Q", tooltip=tooltip, **colour),
    base.mark_tick(thickness=2.5, width=8).encode(x=x, y=y_axis("median"), tooltip=tooltip, **colour),
  ]
  return Plot(
    id="best_of_k",
    section="search",
    title="The best of so many trials",
    caption="What a study of k of these trials, drawn again, would have found: median, quartiles, 5% to 95%. Where it"
    " is flat, more trials gain little; where too few of the draws are feasible there is no box. PB-24",
    spec=_spec(*layers),
    datasets=("best_of_k",),
    wide=True,
    switch=True,
  )


def _steps(steps: int) -> Plot:
  base = _base("trials").transform_filter("isValid(datum.step)")
  zones = alt.Chart(alt.InlineData([{"from": 0, "to": 0.1 * steps}, {"from": 0.75 * steps, "to": steps}])).mark_rect(
    opacity=0.12, color="#e8a33d"
  )
  width = steps / STEP_BINS
  x = alt.X("step:Q", bin=alt.Bin(step=width, extent=[0, steps]), title="selected step", axis=alt.Axis(format="~s"))
  layers = [
    zones.encode(x=alt.X("from:Q"), x2="to:Q"),
    base.mark_bar(opacity=0.75).encode(
      x=x,
      y=alt.Y("count()", title="trials", axis=alt.Axis(tickMinStep=1)),
      color=alt.value(_BLUE),
      tooltip=[alt.Tooltip("count()", title="trials")],
    ),
    base.transform_filter("datum.trial === selected").mark_rule(strokeWidth=2.5).encode(x="step:Q", color=ink()),
  ]
  return Plot(
    id="steps",
    section="steps",
    title="Where the best evaluation was",
    caption="All trials. Shaded: the first 10% of the steps, where all of them mean far too long a training, and the"
    " last 25%, where most of them mean that a longer one may help. PB-61",
    spec=_spec(*layers),
    datasets=("trials",),
  )


def _gradient_norm() -> Plot:
  layer = (
    _base("grad_norm")
    .mark_line(strokeWidth=1.2)
    .encode(
      x=alt.X("step:Q", axis=alt.Axis(format="~s", tickCount=6)),
      y=y_axis("value", scale="log", title="gradient norm"),
      color=alt.Color("trial:N", legend=alt.Legend(orient="top", title="trial"), sort=alt.EncodingSortField("place")),
      opacity=alt.condition("datum.trial === selected || selected < 0", alt.value(0.9), alt.value(0.25)),
      tooltip=[alt.Tooltip("trial:N"), alt.Tooltip("step:Q", format=","), alt.Tooltip("value:Q", format=".4g")],
    )
  )
  return Plot(
    id="grad_norm",
    section="steps",
    title="Gradient norm",
    caption="Of the whole gradient, before clipping, of the best trials and the selected one; thinned so that extremes"
    " stay. PB-81",
    spec=_spec(layer),
    datasets=("grad_norm",),
    switch=True,
  )


def _gradient_histogram() -> Plot:
  base = _base("grad_histogram")
  layers = [
    base.mark_rect(opacity=0.75).encode(
      x=alt.X("low:Q", scale=alt.Scale(type="log", nice=False), title="gradient norm", axis=few_labels()),
      x2="high:Q",
      y=alt.Y("count:Q", title="logged steps"),
      y2=alt.datum(0),
      color=alt.value(_BLUE),
      tooltip=[
        alt.Tooltip("low:Q", format=".3g"),
        alt.Tooltip("high:Q", format=".3g"),
        alt.Tooltip("count:Q", format=","),
      ],
    ),
    _base("grad_percentile")
    .mark_rule(strokeDash=[4, 4], strokeWidth=2)
    .encode(
      x=alt.X("value:Q"), color=alt.value(_RED), tooltip=[alt.Tooltip("value:Q", format=".4g", title="90th percentile")]
    ),
  ]
  return Plot(
    id="grad_histogram",
    section="steps",
    title="Gradient norms of the best trials",
    caption="All logged steps; the dashed line is the 90th percentile, a first threshold for clipping. PB-81, PB-83",
    spec=_spec(*layers),
    datasets=("grad_histogram", "grad_percentile"),
  )


def _by_setting(coloured: Sequence[str]) -> alt.Color:
  """A setting has the same colour in every plot, also in one that has not all of them."""
  scale = alt.Scale(domain=list(coloured))
  return alt.Color("setting:N", title=None, scale=scale, legend=alt.Legend(orient="top", symbolOpacity=1))


def _base(dataset: str) -> alt.Chart:
  return alt.Chart(alt.NamedData(dataset))


def _tooltip(field: str, name: str) -> list[alt.Tooltip]:
  return [
    alt.Tooltip("trial:Q"),
    alt.Tooltip(f"{field}:N", title=name),
    alt.Tooltip("objective:Q", format=".4g", title="objective"),
    alt.Tooltip("step:Q", format=","),
  ]


def name_objective(spec: dict[str, Any], metric: str, plot: Plot) -> None:
  """Titles the axes that show the objective, in place; what the page does too."""
  if plot.id.startswith("grad_"):
    return
  for layer in spec["layer"]:
    for name in ("x", "y"):
      channel = layer["encoding"].get(name, {})
      if channel.get("field") in ("objective", "value", "p5", "p25", "median") and "bin" not in channel:
        channel["title"] = metric


def _spec(*layers: alt.Chart, height: int = HEIGHT) -> dict[str, Any]:
  chart = alt.layer(*layers).add_params(alt.param(name="selected", value=-1), alt.param(name="ink", value="#1c2330"))
  autosize = alt.AutoSizeParams(type="fit-x", contains="padding")
  spec = chart.properties(width="container", height=height, autosize=autosize).to_dict(context={"datasets": {}})
  # The page and the pictures bring their own look.
  spec.pop("config", None)
  return spec
