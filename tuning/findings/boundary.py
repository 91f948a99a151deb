"""Best points at an edge of the space (PB-23), or right below an instability (PB-80).

The playbook: a search space is suspicious if the best points sit near its boundary; expand it there. If everything
above a learning rate is infeasible and the best sit right below, it is not the space but training that limits: mend the
instability first. Here: each side of each numeric hyperparameter is tested by `statistics.boundary_tests`; where the
best points lie at one or near it, the scale that goes further is proposed, unless nothing can lie there.
"""

import dataclasses
from collections.abc import Sequence

from trialbook.tuning.findings.finding import Finding, finding_of
from trialbook.tuning.findings.statistics.boundary_tests import (
  FEW_PLACES,
  LEAST,
  LEAST_PLACES,
  LEAST_STEP,
  LEVEL,
  Side,
  level_of,
  testable,
  tested,
)
from trialbook.tuning.findings.statistics.expansion import allowed, bound_of, expanded, places_of
from trialbook.tuning.findings.statistics.points import (
  TriedPoint,
  is_learning_rate,
  is_numeric,
  points_of,
  rounded,
  searched,
  unit_of,
  value_at,
)
from trialbook.tuning.findings.statistics.separation import separation
from trialbook.tuning.findings.wording import many, p_value, region, shown
from trialbook.tuning.results import StudyResults
from trialbook.tuning.space.scales import ReverseLog, Scale

_finding = finding_of("PB-23", "boundary")

SHOWN = 3
"""Sides whose tests are named in one finding, the first ones: a reader sees what is asked."""
BEYOND, MOST_STEP = 0.1, 0.5
"""Share of the scale beyond the fitted optimum to which a side is moved out; more than a half would be guessed."""


def find(results: StudyResults) -> list[Finding]:
  """Return for each side at which the best points lie by how much to expand it, or that training is unstable beyond."""
  found = _untestable(results)
  axes = testable(results)
  if not axes:
    none = "No numeric hyperparameter is varied: there is no edge to be near to"
    return found or [_finding("ok", none, "Nothing to test.")]
  points, sides = points_of(results), tested(results)
  unsure: list[Side] = []
  for side in sides:
    if side.cliff is not None:
      # Of what cannot be expanded it is not asked whether it should be.
      found += [_unstable(side)] if side.is_limiting_or_near else []
      continue
    scale = _room(side, results)
    if side.limits:
      found.append(_expand(side, scale))
    elif scale is not None and not _often_infeasible(side, points):
      found += [_expand(side, scale)] if side.p_near is not None else []
      unsure += [side] if side.p_near is None and side.more is not None else []
  if unsure:
    found.append(_unsure(unsure, level_of(axes)))
  names = {side.one.name for side in sides}
  if short := [one.name for one in axes if one.name not in names]:
    found.append(
      _finding(
        "cannot_tell",
        f"Too few points to tell whether the best lie at an edge of {', '.join(short)}",
        f"The test takes {LEAST} points with a value (retrains count once) and {LEAST_PLACES} places on the scale.",
        action=f"Run until each has {LEAST} points with a value.",
      )
    )
  if not found:
    found.append(
      _finding(
        "ok",
        "No side of the space is shown to limit the best points",
        f"Towards none of {2 * len(axes)} sides do the good points still get better (p below {level_of(axes):.2g} would"
        " tell).",
        numbers={"p": {side.key: round(side.p, 6) for side in sides}},
      )
    )
  return found


def _untestable(results: StudyResults) -> list[Finding]:
  """Return a finding on the numeric hyperparameters that have no edge, or no known edge."""
  axes = [one for one in searched(results) if is_numeric(one)]
  found = []
  if unknown := [one.name for one in axes if one.inferred]:
    found.append(
      _finding(
        "cannot_tell",
        f"The bounds of {', '.join(unknown)} are not known, so that nobody can tell whether the best trials lie at"
        " them",
        "Their scales were inferred from the trials' values.",
        action="Give the min, max and scale of each: in study.json for tables, else with import --space=FILE.",
      )
    )
  if binary := [one.name for one in axes if not one.inferred and places_of(one) < LEAST_PLACES]:
    found.append(
      _finding(
        "cannot_tell",
        f"{', '.join(binary)} {'has' if len(binary) == 1 else 'have'} two values: there is no edge to test",
        "Of two values each is at an edge; that one is better does not say whether one beyond it is better still.",
        action="To learn that, give it a third value on the better side.",
      )
    )
  return found


def _where(side: Side, what: str) -> str:
  """Return how the best points lie before a side, in a clause that calls it `what`."""
  values = sorted(point.values[side.one.name] for point in side.points[: side.best])
  middle = shown(side.one, values[len(values) // 2])
  if side.at_last:
    before_it = f" before {what}" if side.cliff is not None else ""
    return f"{side.at_last} of the best {side.best} points have {middle}, the last value{before_it}"
  if places_of(side.one) <= FEW_PLACES:
    return f"the best {side.best} points have {middle} at the median"
  return f"the best points lie at a median distance of {side.distance:.0%} of the scale from {what}"


def _test(side: Side, note: str = "") -> str:
  """Return the test that found something, in a clause; `note` follows its p-value."""
  if side.limits:
    return f"{side.how} ({p_value(side.p)}{note})"
  where = "towards it" if places_of(side.one) <= FEW_PLACES else "a sixth of the scale before it"
  return f"a quadratic through the good points still falls {where} ({p_value(side.p_near or 0.0)}{note})"


def _room(side: Side, results: StudyResults) -> Scale | None:
  """Return the scale that goes further on this side; None if nothing lies beyond, or the config accepts none of it."""
  beyond = 0.0 if side.optimum is None else side.optimum - 1 if side.upper else -side.optimum
  scale = expanded(side.one, side.upper, min(max(beyond + BEYOND, LEAST_STEP), MOST_STEP))
  if scale is None or not allowed(side.one, bound_of(scale, side.upper), side.points[0], results):
    return None
  return scale


def _often_infeasible(side: Side, points: Sequence[TriedPoint]) -> bool:
  """Return whether points are infeasible more often on this side, so that it should not be expanded."""
  cut = separation(side.one, points, [not point.retrains for point in points])
  return cut is not None and cut.above == side.upper and cut.p < LEVEL


def _unstable(side: Side) -> Finding:
  cut, one = side.cliff, side.one
  assert cut is not None
  right = side.limits or side.at_last > 0
  beside, below = ("right beside", "right") if right else ("near", "not far")
  why = (
    f"{cut.inside[0]} of {many(cut.inside[1], 'point')} with {region(cut)} are infeasible or much worse,"
    f" {cut.outside[0]} of {cut.outside[1]} others; {_where(side, 'that cliff')}, and {_test(side)}."
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
      title=f"Training is unstable at {region(cut)}, and the best trials lie {below} below",
      why=f"{why} It {surely} instability that limits the learning rate, not the search space.",
      trials=side.trials,
      numbers=numbers,
      action="Do not expand the space. Look at the loss just above the cliff, then try warmup (PB-82), gradient"
      " clipping (PB-83), and the other remedies in their order (PB-84), and search again.",
      plot=f"axis:{one.name}",
    )
  return _finding(
    "note",
    f"The best trials lie {beside} the infeasible region, {region(cut)}",
    why,
    subject=one.name,
    trials=side.trials,
    numbers=numbers,
    action="See why trials are infeasible there; expanding the space on that side gains nothing.",
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
    else f"the best points lie at an edge of {', '.join(names)}"
  )
  tests = "; ".join(
    f"on the {side.word} side of {side.one.name} {side.how} ({p_value(side.p)})" for side in sides[:SHOWN]
  )
  return _finding(
    "cannot_tell",
    f"Whether {which} cannot be told from {many(count, 'point')} with a value",
    f"The tests of all sides together take p below {level:.2g}; {tests}"
    + (f"; and {many(len(sides) - SHOWN, 'more side')}." if len(sides) > SHOWN else "."),
    subject=names[0] if len(names) == 1 else None,
    numbers={"p": {side.key: round(side.p, 6) for side in sides}, "more": more},
    action=f"Run trials at {many(more, 'more point')} at least (retrains count once).",
    plot=f"axis:{names[0]}",
  )


def _expand(side: Side, scale: Scale | None) -> Finding:
  """Return the finding that an edge should move to this scale, or that nothing lies beyond it."""
  one = side.one
  bound = bound_of(one.scale, side.upper)
  test = _test(side, ", tested on all sides")
  why = f"{test[0].upper()}{test[1:]}; {_where(side, 'it')}."
  if side.optimum is not None and not side.at_last:
    optimum = value_at(one, min(max(side.optimum, -MOST_STEP), 1 + MOST_STEP))
    place = unit_of(one, {one.name: optimum})
    short = rounded(one, optimum, lambda new: abs(unit_of(one, {one.name: new}) - place) < LEAST_STEP / 4, 2)
    why += f" The fitted optimum is at {shown(one, short)}{' or beyond' if side.limits else ''}."
  at = "at" if side.limits or side.at_last else "near"
  title = f"The best trials lie {at} the {side.word} edge of {one.name} ({shown(one, bound)})"
  numbers = {
    "edge": bound,
    "side": side.word,
    "p": side.p if side.limits else side.p_near,
    "distance": side.distance,
  }
  plot = f"axis:{one.name}"
  if scale is None:
    return _finding(
      "note",
      f"{title}, which is the end of what it can be",
      why,
      subject=one.name,
      trials=side.trials,
      numbers=numbers,
      action="Nothing lies beyond: narrow the space to this side, or ask whether the extreme value itself is best.",
      plot=plot,
    )
  new = bound_of(scale, side.upper)
  numbers["new"] = new
  if bound > 0 and new > 0 and not isinstance(scale, ReverseLog):
    numbers["factor"] = new / bound
  by = f"by a factor of {max(new / bound, bound / new):.3g}, " if "factor" in numbers else ""
  if side.limits:
    reason = "better values may lie outside"
  else:
    reason = f"{'no' if side.at_last else 'few'} trials lie beyond the best value"
  return _finding(
    "warning" if side.limits else "note",
    title,
    why if side.limits else f"{why} That better ones lie beyond is not shown.",
    subject=one.name,
    trials=side.trials,
    numbers=numbers,
    action=f"Expand {one.name} {by}to {shown(one, new)}, and search again: {reason}.",
    space={one.name: dataclasses.replace(one, scale=scale).as_json()},
    plot=plot,
  )
