"""The plots of curves: what trials logged, against the step."""

import altair as alt

from trialbook.tuning.reporting.axes import few_labels, y_axis
from trialbook.tuning.reporting.plot import BLUE, RED, Plot, spec, table


def curves() -> Plot:
  """Return the plot of the objective's metric and the same on training examples, of the best trials and the selected
  one (PB-25)."""
  base = table("curves")
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
    title="Training curves of the best trials and of the selected one",
    caption="Solid: the objective's metric. Dashed: the same metric on training examples. Points: the selected"
    " evaluation. PB-25",
    spec=spec(layer, chosen, height=340),
    datasets=("curves",),
    wide=True,
    switch=True,
  )


def gradient_norm() -> Plot:
  """Return the plot of the norm against the step (PB-81)."""
  layer = (
    table("grad_norm")
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
    caption="Norm of the whole gradient before clipping, in the best trials and the selected one. Some steps are left"
    " out, but no extremes. PB-81",
    spec=spec(layer),
    datasets=("grad_norm",),
    switch=True,
  )


def gradient_histogram() -> Plot:
  """Return the histogram of the norms of all logged steps (PB-81, PB-83)."""
  base = table("grad_histogram")
  layers = [
    base.mark_rect(opacity=0.75).encode(
      x=alt.X("low:Q", scale=alt.Scale(type="log", nice=False), title="gradient norm", axis=few_labels()),
      x2="high:Q",
      y=alt.Y("count:Q", title="logged steps"),
      y2=alt.datum(0),
      color=alt.value(BLUE),
      tooltip=[
        alt.Tooltip("low:Q", format=".3g"),
        alt.Tooltip("high:Q", format=".3g"),
        alt.Tooltip("count:Q", format=","),
      ],
    ),
    table("grad_percentile")
    .mark_rule(strokeDash=[4, 4], strokeWidth=2)
    .encode(
      x=alt.X("value:Q"), color=alt.value(RED), tooltip=[alt.Tooltip("value:Q", format=".4g", title="90th percentile")]
    ),
  ]
  return Plot(
    id="grad_histogram",
    section="steps",
    title="Gradient norms of the best trials",
    caption="All logged steps. The dashed line is the 90th percentile, a first threshold for clipping. PB-81, PB-83",
    spec=spec(*layers),
    datasets=("grad_histogram", "grad_percentile"),
  )
