"""The plots of trials: each is a mark, or a part of a distribution."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from trialbook.tuning.reporting.axes import banded, drawn, ink, is_sliced, x_axis, y_axis
from trialbook.tuning.reporting.plot import AMBER, BLUE, GREY, RED, Plot, by_setting, ring, spec, table, tooltip
from trialbook.tuning.space.scales import Hyperparameter, Quantity

STEP_BINS = 20
"""Bins of the histogram of selected steps: the first two are the first 10%, the last five the last 25% (PB-61)."""
_CROSS_Y = 7
_CROSS = "M-1,-1L1,1M1,-1L-1,1"


def axis(number: int, one: Hyperparameter, name: str, coloured: Sequence[str]) -> Plot:
  """Return the plot of every trial against hyperparameter `number` of those that are varied; coloured by setting if
  there are any (PB-22)."""
  field = f"h{number}"
  here = f"isValid(datum.{field})"
  x = x_axis(field, one, name)
  base = table("trials").transform_filter(here)
  y = y_axis("objective")
  colour: Any = alt.value(BLUE)
  if coloured and one.role != "scientific":
    colour = by_setting(coloured)
  valued = base.transform_filter("isValid(datum.objective)")
  crossed = base.transform_filter("datum.state === 'infeasible' || datum.state === 'failed'")
  ended = base.transform_filter("datum.state === 'pruned' || datum.state === 'stopped'")
  layers = [
    valued.mark_point(filled=True, size=70).encode(
      x=x,
      y=y,
      color=colour,
      opacity=alt.condition("datum.trial === selected || selected < 0", alt.value(0.8), alt.value(0.35)),
      tooltip=tooltip(field, name),
    ),
    valued.transform_filter("datum.best").mark_point(size=240, strokeWidth=2, color=AMBER).encode(x=x, y=y),
    # Lines are hard to hit: a disc that nobody sees takes the clicks.
    crossed.mark_point(filled=True, size=160, fillOpacity=0.001).encode(
      x=x, y=alt.value(_CROSS_Y), color=alt.value(RED)
    ),
    crossed.mark_point(shape=_CROSS, size=50, strokeWidth=2, filled=False).encode(
      x=x,
      y=alt.value(_CROSS_Y),
      color=alt.value(RED),
      opacity=alt.condition("datum.trial === selected || selected < 0", alt.value(1), alt.value(0.4)),
      tooltip=[*tooltip(field, name)[:2], alt.Tooltip("state:N"), alt.Tooltip("reason:N")],
    ),
    ended.mark_point(shape="triangle-down", filled=True, size=60).encode(
      x=x,
      y=alt.value(_CROSS_Y),
      color=alt.value(GREY),
      opacity=alt.condition("datum.trial === selected || selected < 0", alt.value(0.8), alt.value(0.35)),
      tooltip=[*tooltip(field, name)[:2], alt.Tooltip("state:N"), alt.Tooltip("reason:N")],
    ),
    ring(base, x, y),
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
    caption="Each trial's objective. The ring is the best trial, red crosses are infeasible or failed trials, grey"
    " triangles trials that were pruned or stopped, and dashed lines the bounds of the search space. PB-22",
    spec=spec(*layers),
    datasets=("trials",),
    switch=True,
  )


def isolation(number: int, one: Hyperparameter, name: str) -> Plot:
  """Return the plot of the best trial for each value, or each slice of the axis, of hyperparameter `number` (PB-30)."""
  field = f"b{number}"
  base = (
    table("trials")
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
      color=alt.value(BLUE),
      opacity=alt.condition("datum.trial === selected", alt.value(1), alt.value(0.3)),
      tooltip=tooltip(f"h{number}", name),
    ),
    best.mark_point(filled=True, size=90, opacity=1).encode(
      x=x, y=y, color=alt.value(BLUE), tooltip=tooltip(f"h{number}", name)
    ),
    ring(base, x, y),
  ]
  if is_sliced(one):
    layers.insert(1, best.mark_line(strokeWidth=2, color=BLUE).encode(x=x, y=alt.Y("min(objective):Q")))
  return Plot(
    id=f"isolation:{one.name}",
    section="isolation",
    title=name,
    caption="Points: the best trial for each value, or each slice of the axis, over all other hyperparameters. Ticks:"
    " all other trials. PB-30",
    spec=spec(*layers),
    datasets=("trials",),
    switch=True,
  )


def comparison(settings: int) -> Plot:
  """Return the plot of the best of each setting, with the interval that the verdict speaks of (PB-13, PB-30)."""
  base = table("settings")
  y = alt.Y("setting:N", title=None, sort=alt.EncodingSortField("order"), axis=alt.Axis(labelLimit=220))
  tested = base.transform_filter("isValid(datum.low)")
  tooltip = [
    alt.Tooltip("setting:N"),
    alt.Tooltip("objective:Q", format=".4g", title="best"),
    alt.Tooltip("trial:Q"),
    alt.Tooltip("points:Q", title="tried"),
    alt.Tooltip("pruned:Q"),
    alt.Tooltip("budget:Q", title="compared at"),
    alt.Tooltip("typical:Q", format=".4g", title="typical best"),
    alt.Tooltip("low:Q", format=".4g", title="from"),
    alt.Tooltip("high:Q", format=".4g", title="to"),
  ]
  layers = [
    base.transform_filter("isValid(datum.reference)")
    .mark_tick(thickness=2, height=30, opacity=0.5)
    .encode(y=y, x=alt.X("reference:Q", scale=alt.Scale(zero=False)), color=ink()),
    tested.mark_bar(height=12, opacity=0.4).encode(
      y=y, x=alt.X("low:Q", scale=alt.Scale(zero=False)), x2="high:Q", color=alt.value(BLUE), tooltip=tooltip
    ),
    base.transform_filter("isValid(datum.typical)")
    .mark_tick(thickness=2.5, height=14)
    .encode(y=y, x="typical:Q", color=alt.value(BLUE)),
    base.mark_point(filled=True, size=110, opacity=1).encode(
      y=y,
      x=alt.X("objective:Q", scale=alt.Scale(type="linear", zero=False)),
      color=alt.condition("datum.winner", alt.value(AMBER), alt.value(BLUE)),
      tooltip=tooltip,
    ),
  ]
  return Plot(
    id="comparison",
    section="comparison",
    title="What was compared",
    caption="Points: the best of each setting. Bars: the interval of the finding above, that is, where the typical best"
    " of an equal number of trials lies if that of the winner lies at the grey line. A bar that crosses the line is not"
    " clearly worse. Settings with too few trials have no bar. PB-13, PB-30",
    spec=spec(*layers, height=34 * settings + 20),
    datasets=("settings",),
    wide=True,
  )


def best_of_k(coloured: Sequence[str]) -> Plot:
  """Return the playbook's box plot: the best against the number of trials (PB-24)."""
  # Where too few of the draws are feasible, there is no box.
  base = table("best_of_k").transform_filter("isValid(datum.p5) && isValid(datum.p95)")
  x = alt.X("k:O", title="number of trials", axis=alt.Axis(labelAngle=0, labelOverlap=True))
  colour: dict[str, Any] = {"color": alt.value(BLUE)}
  if coloured:
    colour = {
      "color": by_setting(coloured),
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
    title="Best value by number of trials",
    caption="The best of k trials drawn from those of this study: median, quartiles, 5% to 95%. Where the boxes are"
    " flat, more trials gain little. There is no box where too many of the draws have no value. PB-24",
    spec=spec(*layers),
    datasets=("best_of_k",),
    wide=True,
    switch=True,
  )


def selected_steps(steps: int) -> Plot:
  """Return the histogram of the steps at which trials were best, given the steps of a whole training (PB-61)."""
  base = table("trials").transform_filter("isValid(datum.step)")
  zones = alt.Chart(alt.InlineData([{"from": 0, "to": 0.1 * steps}, {"from": 0.75 * steps, "to": steps}])).mark_rect(
    opacity=0.12, color=AMBER
  )
  width = steps / STEP_BINS
  x = alt.X("step:Q", bin=alt.Bin(step=width, extent=[0, steps]), title="selected step", axis=alt.Axis(format="~s"))
  layers = [
    zones.encode(x=alt.X("from:Q"), x2="to:Q"),
    base.mark_bar(opacity=0.75).encode(
      x=x,
      y=alt.Y("count()", title="trials", axis=alt.Axis(tickMinStep=1)),
      color=alt.value(BLUE),
      tooltip=[alt.Tooltip("count()", title="trials")],
    ),
    base.transform_filter("datum.trial === selected").mark_rule(strokeWidth=2.5).encode(x="step:Q", color=ink()),
  ]
  return Plot(
    id="steps",
    section="steps",
    title="Step of the best evaluation",
    caption="All trials. Shaded: the first 10% and the last 25% of the steps. If all trials are best in the first part,"
    " training is far too long. If most are best in the last part, longer training may help. PB-61",
    spec=spec(*layers),
    datasets=("trials",),
  )
