"""The edges of a space: how the best points lie before one, and the scale that goes further (PB-23)."""

import dataclasses

from trialbook.tuning.findings.finding import Finding, finding_of
from trialbook.tuning.findings.statistics.boundary_tests import FEW_PLACES, LEAST_STEP, Side
from trialbook.tuning.findings.statistics.expansion import (
  across,
  allowed,
  bound_of,
  expanded,
  is_share,
  limit_of,
  log_instead,
  places_of,
)
from trialbook.tuning.findings.statistics.points import rounded, unit_of, value_at
from trialbook.tuning.findings.wording import p_value, shown
from trialbook.tuning.results import StudyResults
from trialbook.tuning.space.scales import Hyperparameter, Integer, Linear, Log, Quantity, ReverseLog, Scale

_finding = finding_of("PB-23", "boundary")

BEYOND, MOST_STEP = 0.1, 0.5
"""Share of the scale beyond the fitted optimum to which a side is moved out; more than a half would be guessed."""


def where(side: Side, what: str) -> str:
  """Return how the best points lie before a side, in a clause that calls it `what`."""
  values = sorted(point.values[side.one.name] for point in side.points[: side.best])
  middle = shown(side.one, values[len(values) // 2])
  if side.at_last:
    before_it = f" before {what}" if side.cliff is not None else ""
    return f"{side.at_last} of the best {side.best} points have {middle}, the last value{before_it}"
  if places_of(side.one) <= FEW_PLACES:
    return f"the best {side.best} points have {middle} at the median"
  return f"half of the best {side.best} points lie within {side.distance:.0%} of the scale from {what}"


def evidence(side: Side, note: str = "") -> str:
  """Return the test that found something, in a clause; `note` follows its p-value."""
  if side.sweep is not None:
    return f"the objective gets better from value to value up to there ({p_value(side.p)}{note})"
  if side.limits:
    return f"{side.how} ({p_value(side.p)}{note})"
  where = "towards it" if places_of(side.one) <= FEW_PLACES else "a sixth of the scale before it"
  return f"a quadratic fit to the good points still gets better {where} ({p_value(side.p_near or 0.0)}{note})"


def room(side: Side, results: StudyResults) -> Scale | None:
  """Return the scale that goes further on this side; None if nothing lies beyond, or the config accepts none of it."""
  best = side.points[: max(side.best, 1)]
  if not side.upper and (scale := log_instead(side.one, best)) is not None:
    low = bound_of(scale, False)
    return scale if allowed(side.one, low, side.points[0], results) else None
  scale = expanded(_reaching(side), side.upper, _step(side))
  if scale is None or not allowed(side.one, bound_of(scale, side.upper), side.points[0], results):
    return None
  return scale


def _reaching(side: Side) -> Hyperparameter:
  """Return the hyperparameter with its scale as wide as the values that were tried."""
  one = side.one
  if side.sweep is None or not isinstance(one.scale, Quantity):
    return one
  last = side.sweep.values[-1]
  new = max(last, one.scale.max) if side.upper else min(last, one.scale.min)
  scale = dataclasses.replace(one.scale, **{"max" if side.upper else "min": new})  # pyright: ignore
  return one if scale.problems() else dataclasses.replace(one, scale=scale)


def _step(side: Side) -> float:
  """Return the share of the scale by which a side moves out."""
  if side.sweep is not None:
    last, before_it = (unit_of(side.one, {side.one.name: value}) for value in side.sweep.values[:-3:-1])
    return min(max(abs(last - before_it), LEAST_STEP / 2), MOST_STEP)
  beyond = 0.0 if side.optimum is None else side.optimum - 1 if side.upper else -side.optimum
  return min(max(beyond + BEYOND, LEAST_STEP), MOST_STEP)


def end(side: Side, bound: float) -> tuple[str, str]:
  """Return that nothing lies beyond an edge that has no `room`, in a clause, and what to do."""
  one = side.one
  limit = limit_of(one, side.upper)
  beyond = across(one, side.upper, LEAST_STEP)
  word = "larger" if side.upper else "smaller"
  if limit == bound and beyond is not None:
    action = (
      f"Nothing, if {bound:g} is the end of what {one.name} can be, as of many hyperparameters. If {word} values make"
      " sense, declare a space that holds them."
    )
    return "which may be the end of what it can be", action
  if bound == 0:
    return (
      "which is the end of what it can be",
      "Nothing lies below 0. Try 0 itself, or resolve small values by a log scale.",
    )
  if limit != bound and expanded(_reaching(side), side.upper, _step(side)) is not None:
    return "and the study's config accepts no value beyond", "Nothing can lie beyond. Narrow the space to this side."
  if is_share(one) or limit == bound:
    return "which is the end of what it can be", "Nothing lies beyond. Narrow the space to this side."
  return (
    "which is about the end of what it can be",
    "Nothing that is worth a search lies beyond. Narrow the space to this side.",
  )


def expand(side: Side, scale: Scale | None) -> Finding:
  """Return the finding that an edge should move to this scale, or that nothing lies beyond it."""
  one = side.one
  bound = bound_of(one.scale, side.upper)
  found = evidence(side, ", corrected for all edges")
  why = f"{found[0].upper()}{found[1:]}, and {where(side, 'it')}."
  if side.optimum is not None and not side.at_last and (limit := limit_of(one, side.upper)) != bound:
    optimum = value_at(one, min(max(side.optimum, -MOST_STEP), 1 + MOST_STEP))
    place = unit_of(one, {one.name: optimum})
    short = rounded(one, optimum, lambda new: abs(unit_of(one, {one.name: new}) - place) < LEAST_STEP / 4, 2)
    # Beyond the end of what it can be, a quadratic has no meaning.
    if limit is None or (short < limit if side.upper else short > limit):
      short = round(short) if isinstance(one.scale, Integer) else short
      why += f" The fitted optimum is {shown(one, short)}{' or beyond' if side.limits else ''}."
  at = "at" if side.limits or side.at_last else "near"
  edge = "edge"
  if one.inferred:
    edge = "end of the tried values"
  title = f"The best points lie {at} the {side.word} {edge} of {one.name} ({shown(one, bound)})"
  numbers = {
    "edge": bound,
    "side": side.word,
    "p": side.p if side.limits else side.p_near,
    "distance": side.distance,
  }
  plot = f"axis:{one.name}"
  if scale is None:
    ends, action = end(side, bound)
    return _finding(
      "note",
      f"{title}, {ends}",
      why,
      subject=one.name,
      trials=side.trials,
      numbers=numbers,
      action=action,
      plot=plot,
    )
  changed = dataclasses.replace(one, scale=scale, inferred=False)
  new = bound_of(scale, side.upper)
  numbers["new"] = new
  if isinstance(one.scale, Log) and isinstance(scale, Log):
    numbers["factor"] = new / bound
  if not side.limits:
    why += " That better ones lie beyond is not shown."
  fields = {"subject": one.name, "trials": side.trials, "plot": plot, "space": {one.name: changed.as_json()}}
  fields["until"] = "Points of the expanded space, if the best lie inside it."
  severity = "warning" if side.limits else "note"
  if not side.upper and _becomes_log(one, scale):
    low, high = bound_of(scale, False), bound_of(scale, True)
    tenth = value_at(one, 0.1)
    return _finding(
      severity,
      f"{one.name} needs a log scale: the best points lie at the bottom of its linear scale"
      f" ({shown(one, bound)} to {shown(one, bound_of(one.scale, True))})",
      f"{why} On a linear scale only a tenth of the points lie below {tenth:.3g}, so the best values are hardly"
      " resolved.",
      numbers={**numbers, "scale": "log"},
      action=f"Search {one.name} on a log scale from {shown(changed, low)} to {shown(changed, high)}.",
      **fields,
    )
  by = f" (a factor of {max(new / bound, bound / new):.3g})" if "factor" in numbers else ""
  action = f"Expand {one.name} to {shown(changed, new)}{by}, and search again."
  if isinstance(scale, ReverseLog) and not isinstance(one.scale, ReverseLog):
    action = (
      f"Search {one.name} on a reverse-log scale, which is even in log(1 - x), from {bound_of(scale, False):g} to"
      f" {shown(changed, new)}."
    )
  return _finding(severity, title, why, numbers=numbers, action=action, **fields)


def _becomes_log(one: Hyperparameter, scale: Scale) -> bool:
  """Return whether a scale was linear and is to be logarithmic."""
  return (isinstance(one.scale, Linear) and isinstance(scale, Log)) or (
    getattr(scale, "log", False) and not getattr(one.scale, "log", False)
  )
