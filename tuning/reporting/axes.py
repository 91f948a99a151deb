"""Axes of a study's plots: scales of hyperparameters, and of what trials are worth."""

import math
import sys
from typing import Any, Literal

import altair as alt

from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, Linear, Log, OneOf, Quantity, ReverseLog

_MARGIN = 0.04
_SMALLEST, _LARGEST = math.log(sys.float_info.min), math.log(sys.float_info.max) - 1


def x_axis(field: str, one: Hyperparameter, name: str) -> alt.X:
  """Return the x axis of a hyperparameter, on its own scale, a little wider than its bounds."""
  match one.scale:
    case Log() | Integer(log=True):
      return alt.X(
        f"{field}:Q", title=name, scale=alt.Scale(type="log", domain=_domain(one), nice=False), axis=few_labels()
      )
    case ReverseLog():
      scale = alt.Scale(type="log", domain=_domain(one), nice=False, reverse=True)
      return alt.X(f"{field}:Q", title=f"1 − {name}", scale=scale, axis=few_labels())
    case Linear() | Integer():
      return alt.X(f"{field}:Q", title=name, scale=alt.Scale(domain=_domain(one), nice=False), axis=few_labels())
    case Discrete() | OneOf() as scale:
      order = [_label(value) for value in scale.values]
      return alt.X(f"{field}:O", title=name, sort=order, axis=banded())
    case _:
      return alt.X(f"{field}:O", title=name)


def _domain(one: Hyperparameter) -> list[float]:
  """Return limits a little wider than the bounds, on the hyperparameter's own scale."""
  low, high = sorted((_number(one, one.scale.min), _number(one, one.scale.max)))  # type: ignore[attr-defined]
  if isinstance(one.scale, Log | ReverseLog) or (isinstance(one.scale, Integer) and one.scale.log):
    room = _MARGIN * (math.log(high) - math.log(low))
    ends = (math.exp(max(math.log(low) - room, _SMALLEST)), math.exp(min(math.log(high) + room, _LARGEST)))
    return [min(ends[0], low), max(ends[1], high)]
  room = _MARGIN * (high - low)
  return [low - room, high + room]


def _number(one: Hyperparameter, value: float) -> float:
  return 1 - value if isinstance(one.scale, ReverseLog) else value


def is_sliced(one: Hyperparameter) -> bool:
  """Return whether its values are quantities of which a slice of the axis can be taken."""
  return isinstance(one.scale, Quantity)


def drawn(one: Hyperparameter, value: Any) -> Any:
  """Return what a plot's axis shows for a value of a hyperparameter: a number, or a label if it is not a quantity."""
  if is_sliced(one):
    return _number(one, value)
  return _label(value)


def _label(value: Any) -> str:
  return f"{value:g}" if isinstance(value, float) else str(value)


def y_axis(field: str, scale: Literal["linear", "log"] = "linear", title: str | None = None) -> alt.Y:
  """Return the y axis of a number of trials or curves, whose scale the page may switch."""
  # Its title is the objective's, which the page sets.
  title = field if title is None else title
  return alt.Y(
    f"{field}:Q", title=title, scale=alt.Scale(type=scale, zero=False), axis=alt.Axis(format="~g", tickCount=6)
  )


def few_labels() -> alt.Axis:
  """Return the axis of a quantity in a narrow plot."""
  return alt.Axis(format="~g", labelOverlap=True, tickCount=5, grid=False)


def banded(angle: int = 0) -> alt.Axis:
  """Return the axis of values that stand beside each other."""
  return alt.Axis(labelAngle=angle, labelOverlap=False, labelLimit=130)


def ink() -> Any:
  """Return the colour of text, which the page sets by its scheme."""
  return alt.value(alt.ExprRef("ink"))
