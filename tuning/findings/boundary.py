"""Best points at an edge of the space (PB-23), or right below an instability (PB-80).

The playbook: a search space is suspicious if the best points sit near its boundary; expand it there. If everything
above a learning rate is infeasible and the best sit right below, it is not the space but training that limits: mend the
instability first. Here: each side of each numeric hyperparameter is tested by `statistics.boundary_tests`; where the
best points lie at one or near it, the scale that goes further is proposed, unless nothing can lie there.
"""

import math
from collections.abc import Sequence

from trialbook.tuning.findings import edges, few_values
from trialbook.tuning.findings.finding import Finding, finding_of
from trialbook.tuning.findings.statistics import response_surface
from trialbook.tuning.findings.statistics.boundary_tests import (
  LEAST,
  LEAST_PLACES,
  LEVEL,
  MOST_SIDES_BY_COUNTS,
  Side,
  level_of,
  testable,
  tested,
)
from trialbook.tuning.findings.statistics.expansion import bound_of, places_of
from trialbook.tuning.findings.statistics.finite_spaces import exhausted
from trialbook.tuning.findings.statistics.points import (
  TriedPoint,
  feasible,
  is_learning_rate,
  is_numeric,
  points_of,
  searched,
  tried_points,
  units_of,
)
from trialbook.tuning.findings.statistics.separation import separation
from trialbook.tuning.findings.wording import listed, many, p_value, region, shown
from trialbook.tuning.results import StudyResults
from trialbook.tuning.space.scales import Hyperparameter

_finding = finding_of("PB-23", "boundary")

SHOWN = 3
"""Sides whose tests are named in one finding, the first ones: a reader sees what is asked."""


def find(results: StudyResults) -> list[Finding]:
  """Return for each side at which the best points lie by how much to expand it, or that training is unstable beyond."""
  binary = _two_values(results)
  found = [*binary]
  two = {one.name for one in _binary(results)}
  axes = [one for one in testable(results) if one.name not in two]
  if not axes:
    none = "No numeric hyperparameter is varied: there is no edge to be near to"
    return found or [_finding("ok", none, "Nothing to test.")]
  tried, sides = tried_points(results), tested(results)
  unsure: list[Side] = []
  for side in sides:
    if side.cliff is not None:
      # Of what cannot be expanded it is not asked whether it should be.
      found += [_unstable(side)] if side.is_limiting_or_near else []
      continue
    if side.sweep is not None:
      found += [_by_order(side, results)] if side.is_limiting_or_near else []
      continue
    scale = edges.room(side, results)
    if side.limits and not _is_pruned(side, tried):
      found.append(edges.expand(side, scale))
    elif not side.limits and scale is not None and not _often_without_value(side, tried):
      found += [edges.expand(side, scale)] if side.p_near is not None else []
      unsure += [side] if side.p_near is None and side.more is not None else []
  # Of a space that was tried completely no more points can be asked for.
  if unsure and exhausted(results) is None:
    found.append(_unsure(unsure, level_of(axes)))
  names = {side.one.name for side in sides}
  if short := [one.name for one in axes if one.name not in names]:
    found.append(_short(short, results))
  elif found == binary:
    found.append(_nowhere(sides, results))
  return found


def _two_values(results: StudyResults) -> list[Finding]:
  """Return a finding on the numeric hyperparameters of two values, which have no edge."""
  axes = _binary(results)
  if not axes:
    return []
  names = listed([one.name for one in axes])
  return [
    _finding(
      "cannot_tell",
      f"{names} {'has' if len(axes) == 1 else 'have'} two values: there is no edge to test",
      "Each of two values is at an edge. That one is better does not show whether one beyond it is better still.",
      action=f"If {'it matters' if len(axes) == 1 else 'they matter'}, add a third value next to the better one.",
    )
  ]


def _binary(results: StudyResults) -> list[Hyperparameter]:
  """Return the numeric hyperparameters that have two values, or of which enough points tried two only."""
  found = []
  for one in searched(results):
    if not is_numeric(one):
      continue
    units = [unit for unit in units_of(one, tried_points(results)).tolist() if math.isfinite(unit)]
    if places_of(one) < LEAST_PLACES or (len(units) >= LEAST and len(set(units)) < LEAST_PLACES):
      found.append(one)
  return found


def _short(names: Sequence[str], results: StudyResults) -> Finding:
  """Return the finding that there are too few points for a test."""
  points, axes = feasible(points_of(results)), searched(results)
  total = len(points)
  # A conditional hyperparameter has fewer than the study.
  counts = {one.name: sum(map(math.isfinite, units_of(one, points).tolist())) for one in axes if one.name in names}
  count = min(counts.values())
  needed = LEAST_PLACES if len(axes) == 1 else LEAST
  if len(names) > MOST_SIDES_BY_COUNTS:
    needed = response_surface.needed(axes)
  more = max(math.ceil((needed - count) * total / max(count, 1)), 1)
  are = f"{many(count, 'point')} with a value {'is' if count == 1 else 'are'} too few"
  all_tried = exhausted(results)
  if all_tried is not None and all_tried.is_declared:
    action, asked = f"{all_tried.said}. To test it, add values of {listed(names)}.", {}
  elif len(axes) == 1 and count == needed - 1:
    upper = points[0].values[names[0]] > points[1].values[names[0]]
    value = shown(axes[0], points[0].values[names[0]])
    action, asked = f"Try a third value beyond the better one, {'above' if upper else 'below'} {value}.", {"more": 1}
  else:
    action, asked = f"To test whether the best values lie at an edge, try {many(more, 'more point')}.", {"more": more}
  return _finding(
    "cannot_tell",
    f"{are} to test whether the best lie at an edge of {listed(names)}",
    f"The test needs {needed} points with a value that have the hyperparameter, at {LEAST_PLACES} values at least."
    " Retrains of a point count once.",
    numbers={"points": count, "needed": needed, **asked},
    action=action,
    until=f"{many(asked['more'], 'more point')}." if asked else None,
  )


def _nowhere(sides: Sequence[Side], results: StudyResults) -> Finding:
  """Return the finding that no side limits the best points."""
  inner = {side.one.name: text for side in sides if (text := few_values.inside(side, results)) is not None}
  undecided: list[str] = []
  for side in sides:
    if (text := few_values.undecided(side)) is not None:
      inner[side.one.name] = text
      undecided.append(side.one.name)
  fitted = [side for side in sides if side.sweep is None]
  numbers = {"p": {side.key: round(side.p, 6) for side in sides}}
  texts = list(inner.values())
  if fitted:
    p = f"p below {LEVEL / len(sides):.2g} would show it"
    texts.append(
      f"A quadratic fit to the good points gets better towards none of {len(fitted)} edges ({p})."
      if all(side.is_fitted for side in fitted)
      else f"Near none of {len(fitted)} edges are there more of the best points than by chance ({p})."
    )
  if sides and not fitted and not undecided and len(inner) == len({side.one.name for side in sides}):
    names = listed(list(inner))
    title = f"The best {'value' if len(inner) == 1 else 'values'} of {names} {'lies' if len(inner) == 1 else 'lie'}"
    return _finding("ok", f"{title} between others that were tried", " ".join(texts), numbers=numbers)
  said = " ".join(texts) or "Nothing to test."
  return _finding("ok", "No edge of the space is shown to limit the best points", said, numbers=numbers)


def _is_pruned(side: Side, tried: Sequence[TriedPoint]) -> bool:
  """Return whether points were pruned more often on this side: they were worse."""
  return any(point.pruned for point in tried) and _often_without_value(side, tried)


def _often_without_value(side: Side, tried: Sequence[TriedPoint]) -> bool:
  """Return whether points are infeasible or pruned more often on this side, so that it should not be expanded."""
  cut = separation(side.one, tried, [not point.retrains for point in tried])
  return cut is not None and cut.above == side.upper and cut.p < LEVEL


def _unstable(side: Side) -> Finding:
  cut, one = side.cliff, side.one
  assert cut is not None
  right = side.limits or side.at_last > 0
  beside, below = ("right next to", "right") if right else ("near", "not far")
  why = (
    f"{cut.inside[0]} of {many(cut.inside[1], 'point')} with {region(cut)} are infeasible or much worse,"
    f" and {cut.outside[0]} of {cut.outside[1]} others. In addition, {edges.where(side, 'that cliff')}, and"
    f" {edges.evidence(side)}."
  )
  numbers = {
    "cliff": cut.value,
    "inside": list(cut.inside),
    "outside": list(cut.outside),
    "p": side.p if side.limits else side.p_near,
  }
  if is_learning_rate(one) and side.upper:
    surely = "is" if side.limits else "may be"
    return Finding(
      id="PB-80",
      question="boundary",
      severity="warning" if side.limits else "note",
      subject=one.name,
      title=f"Training is unstable at {region(cut)}, and the best points lie {below} below",
      why=f"{why} It {surely} instability that limits the learning rate, not the search space.",
      trials=side.trials,
      numbers=numbers,
      action="Do not expand the space. Look at the loss just above the cliff, then try warmup (PB-82), gradient"
      " clipping (PB-83), and the other remedies in their order (PB-84), and search again.",
      plot=f"axis:{one.name}",
    )
  return _finding(
    "note",
    f"The best points lie {beside} the infeasible region, {region(cut)}",
    why,
    subject=one.name,
    trials=side.trials,
    numbers=numbers,
    action="Find out why trials are infeasible there. Expanding the space on that side gains nothing.",
    plot=f"axis:{one.name}",
  )


def _unsure(sides: Sequence[Side], level: float) -> Finding:
  """Return the finding on sides whose test has too few points to decide."""
  names = list(dict.fromkeys(side.one.name for side in sides))
  more = max(side.more or 0 for side in sides)
  count = max(len(side.points) for side in sides)
  which = (
    f"the {sides[0].word} edge of {names[0]} limits the best points"
    if len(sides) == 1
    else f"the best points lie at an edge of {listed(names)}"
  )
  tests = "; ".join(
    f"at the {side.word} edge of {side.one.name}, {side.how} ({p_value(side.p)})"
    for side in sorted(sides, key=lambda side: side.p)[:SHOWN]
  )
  return _finding(
    "cannot_tell",
    f"{many(count, 'point')} with a value are too few to say whether {which}",
    f"With all edges tested together, p must be below {level:.2g}. Here: {tests}"
    + (f"; and {many(len(sides) - SHOWN, 'more edge')}." if len(sides) > SHOWN else "."),
    subject=names[0] if len(names) == 1 else None,
    numbers={"p": {side.key: round(side.p, 6) for side in sides}, "more": more},
    action=f"To decide whether the best values lie at an edge, try at least {many(more, 'more point')}. Retrains of a"
    " point count once.",
    until=f"{many(more, 'more point')}.",
    plot=f"axis:{names[0]}",
  )


def _by_order(side: Side, results: StudyResults) -> Finding:
  """Return the finding on a few values of which the last is the best."""
  bound = bound_of(side.one.scale, side.upper)
  title, action = edges.end(side, bound)
  return few_values.last_is_best(side, results, edges.room(side, results), title, action)
