"""Pictures of losses and gradient norms of trainings that differ in a setting (PB-80, PB-81)."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

from trialbook.tuning.procedures import drawing
from trialbook.tuning.procedures.instability import LOSS, NORM
from trialbook.tuning.reporting.thinning import thinned
from trialbook.tuning.results import Trial

POINTS = 150
"""Most points of a curve."""
SHOWN_ABOVE = 10.0
"""Multiple of the largest first value up to which the axis goes: a training that diverges would hide the others."""
ROWS = "rows"
"""Name of a picture's main table."""
BINS = 40
"""Bins of a histogram."""
PERCENTILE = 0.9
"""The percentile of gradient norms that is a first threshold for clipping (PB-83)."""


def loss_curves(trials: Mapping[str, Trial], title: str, *, until: float = math.inf) -> dict[str, Any]:
  """Return the training loss against the step up to one, by name of the training."""
  return _curves(trials, LOSS, title, until)


def norm_curves(trials: Mapping[str, Trial], title: str) -> dict[str, Any]:
  """Return the norm of the whole gradient against the step, by name of the training (PB-81)."""
  return _curves(trials, NORM, title, math.inf)


def norm_histogram(trial: Trial, title: str) -> dict[str, Any] | None:
  """Return the histogram of a training's gradient norms over all steps, with the 90th percentile; None without them."""
  norms = trial.curve(NORM)[1]
  norms = norms[norms > 0]
  if not len(norms):
    return None
  low, high = float(norms.min()), float(norms.max())
  edges = np.geomspace(low, max(high, 1.01 * low), BINS + 1)
  counts, _ = np.histogram(norms, edges)
  bins = [
    {"low": float(edges[at]), "high": float(edges[at + 1]), "count": int(count)} for at, count in enumerate(counts)
  ]
  bars = (
    alt.Chart(alt.NamedData(ROWS))
    .mark_rect(opacity=0.75, color="#3d7dca")
    .encode(
      x=alt.X("low:Q", scale=alt.Scale(type="log", nice=False), title="gradient norm"),
      x2="high:Q",
      y=alt.Y("count:Q", title="steps"),
      y2=alt.datum(0),
    )
  )
  rule = (
    alt.Chart(drawing.rows([{"value": float(np.quantile(norms, PERCENTILE))}]))
    .mark_rule(strokeDash=[4, 4], strokeWidth=2, color="#d7263d")
    .encode(x="value:Q")
  )
  return _filled(drawing.specification(bars, rule, title=f"{title}. Dashed: 90th percentile"), bins)


def _curves(trials: Mapping[str, Trial], metric: str, title: str, until: float) -> dict[str, Any]:
  rows: list[dict[str, Any]] = []
  starts: list[float] = []
  for name, trial in trials.items():
    steps, values = trial.curve(metric)
    steps, values = steps[steps <= until], values[steps <= until]
    if not len(values):
      continue
    starts.append(float(values[0]))
    steps, values = thinned(steps, values, POINTS)
    rows += [
      {"training": name, "step": int(step), "value": float(value)} for step, value in zip(steps, values, strict=True)
    ]
  chart = alt.Chart(alt.NamedData(ROWS)).mark_line(strokeWidth=1.3, clip=True)
  y = alt.Y("value:Q", title=metric, scale=_scale([row["value"] for row in rows], starts))
  colour = alt.Color("training:N", title=None, sort=list(trials), legend=alt.Legend(orient="top", columns=4))
  line = chart.encode(x=alt.X("step:Q", axis=alt.Axis(format="~s", tickCount=6)), y=y, color=colour)
  return _filled(drawing.specification(line, title=title), rows)


def _filled(plot: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
  # Altair checks each row that it is given, which takes longer than to draw it.
  return {**plot, "datasets": {**plot.get("datasets", {}), ROWS: rows}}


def _scale(values: Sequence[float], starts: Sequence[float]) -> alt.Scale:
  if not values or min(values) <= 0:
    return alt.Scale(zero=False)
  most = min(max(values), SHOWN_ABOVE * max(starts))
  if not math.isfinite(most) or most <= min(values):
    return alt.Scale(type="log")
  return alt.Scale(type="log", domain=[min(values), most], nice=False, clamp=True)
