"""Findings on the order of a few values of one hyperparameter, of which the first or the last is the best (PB-23)."""

import dataclasses
from typing import Any

from trialbook.tuning.findings.finding import Finding, finding_of
from trialbook.tuning.findings.left_out import STATES
from trialbook.tuning.findings.statistics.boundary_tests import Side, is_searched_up_to
from trialbook.tuning.findings.statistics.expansion import bound_of
from trialbook.tuning.findings.statistics.points import is_learning_rate, unit_of
from trialbook.tuning.findings.statistics.sweeps import Sweep
from trialbook.tuning.findings.wording import SMALLEST_P, apart, listed, many, shown
from trialbook.tuning.results import StudyResults, Trial
from trialbook.tuning.space.scales import Hyperparameter, Scale

_finding = finding_of("PB-23", "boundary")


def last_is_best(side: Side, results: StudyResults, scale: Scale | None, end: str, ending: str) -> Finding:
  """Return the finding that the best value is the last one that was tried.

  Args:
    side: with a sweep whose last value is the best.
    results: of the study.
    scale: that goes further; None if nothing lies beyond.
    end: that nothing lies beyond, in a clause.
    ending: what to do then.
  """
  swept, one = side.sweep, side.one
  assert swept is not None
  last = swept.values[-1]
  word, more = ("largest", "larger") if side.upper else ("smallest", "smaller")
  title = _title(side, swept, results)
  numbers: dict[str, Any] = {
    "edge": last,
    "side": side.word,
    "p": side.p,
    "values": list(swept.values),
    "means": [results.objective.sign * cost for cost in swept.costs],
    "fall": swept.fall,
    "margin": swept.margin,
  }
  why = _why(side, swept, results)
  failed = [point for point in swept.beyond if point.infeasible]
  plot = f"axis:{one.name}"
  trials = side.trials
  if failed:
    values = sorted({point.values[one.name] for point in failed})
    there = shown(one, values[0]) if len(values) == 1 else f"{shown(one, values[0])} to {shown(one, values[-1])}"
    rate = is_learning_rate(one) and side.upper
    return Finding(
      id="PB-80" if rate else "PB-23",
      question="boundary",
      severity="warning" if side.limits and rate else "note",
      subject=one.name,
      title=f"{title}, and at {there} trials were infeasible",
      why=f"{why} {many(len(failed), 'point')} beyond it had no value."
      + (" It is probably instability that limits the learning rate." if rate else ""),
      trials=trials,
      numbers=numbers,
      action=f"Try values between {_between(one, last, values[0] if side.upper else values[-1])}."
      + (" To go beyond, fix the instability first: warmup (PB-82), then gradient clipping (PB-83)." if rate else ""),
      plot=plot,
    )
  if unknown := _without_result(side, results):
    values = sorted({trial.values[one.name] for trial in unknown})
    there = shown(one, values[0]) if len(values) == 1 else f"{shown(one, values[0])} to {shown(one, values[-1])}"
    states = listed(sorted({STATES[trial.state] for trial in unknown}))
    return _finding(
      "note",
      f"{title}: the {many(len(unknown), 'trial')} at {there} {'has' if len(unknown) == 1 else 'have'} no result",
      f"{why} Beyond it, {many(len(unknown), 'trial')} {'was' if len(unknown) == 1 else 'were'} {states}.",
      subject=one.name,
      trials=trials,
      numbers={**numbers, "more": len(values)},
      action=f"Run {one.name} {there} to the end before you try other values.",
      plot=plot,
    )
  if not one.inferred and not is_searched_up_to(one, swept):
    bound = bound_of(one.scale, side.upper)
    return _finding(
      "warning" if side.limits else "note",
      f"{title}: {more} ones, up to the edge of the space, were not tried"
      if side.upper
      else f"{title}: {more} ones, down to the edge of the space, were not tried",
      why,
      subject=one.name,
      trials=trials,
      numbers={**numbers, "more": len(swept.rows)},
      action=f"Try values of {one.name} between {_between(one, last, bound)}.",
      plot=plot,
    )
  if scale is None:
    return _finding(
      "note",
      f"{title}, {end}",
      why,
      subject=one.name,
      trials=trials,
      numbers=numbers,
      action=ending,
      plot=plot,
    )
  new = bound_of(scale, side.upper)
  numbers |= {"new": new, "more": len(swept.rows)}
  changed = dataclasses.replace(one, scale=scale, inferred=False)
  return _finding(
    "warning" if side.limits else "note",
    title if side.is_tied else f"{title}: {more} ones may be better",
    why if side.limits else f"{why} That {more} ones are better is not shown.",
    subject=one.name,
    trials=trials,
    numbers=numbers,
    action=f"Try {more} values of {one.name}, first {shown(changed, new)}, until the {word} is not the best.",
    until=f"{one.name} = {shown(changed, new)}, if it is worse than {shown(one, last)}.",
    space={one.name: changed.as_json()},
    plot=plot,
  )


def inside(side: Side, results: StudyResults) -> str | None:
  """Return where the best value lies between worse ones, in a sentence; None if it is the first or the last, or about
  as good as that."""
  swept = side.sweep
  if swept is None:
    return None
  place = min(range(len(swept.costs)), key=lambda place: swept.costs[place])
  pruned = [point for point in swept.beyond if point.pruned]
  if place == len(swept.costs) - 1 and pruned:
    best, beyond = shown(side.one, swept.values[-1]), shown(side.one, pruned[0].values[side.one.name])
    return f"Beyond the best value of {side.one.name}, {best}, trials at {beyond} ended early as worse than others."
  if side.is_tied or not 0 < place < len(swept.costs) - 1:
    return None
  low, best, high = (shown(side.one, value) for value in swept.values[place - 1 : place + 2])
  below, at, above = apart([results.objective.sign * cost for cost in swept.costs[place - 1 : place + 2]])
  return (
    f"The best value of {side.one.name}, {best} ({results.objective.metric} {at}), lies between {low} ({below}) and"
    f" {high} ({above})."
  )


def undecided(side: Side) -> str | None:
  """Return why nothing is said of a last value that is the best or ties with it, in a sentence; None for others."""
  swept = side.sweep
  if swept is None or not (side.is_tied or swept.is_last_best):
    return None
  word = "largest" if side.upper else "smallest"
  last, before_it = (shown(side.one, value) for value in swept.values[:-3:-1])
  if side.is_tied:
    return f"The {word} two values of {side.one.name}, {before_it} and {last}, are about equally good."
  return (
    f"The {word} value of {side.one.name}, {last}, is the best by {swept.fall:.2g}, but the others have no clear order."
  )


def _title(side: Side, swept: Sweep, results: StudyResults) -> str:
  word = "largest" if swept.upper else "smallest"
  last, count, name = shown(swept.one, swept.values[-1]), len(swept.values), swept.one.name
  if side.is_tied:
    before_it = shown(swept.one, swept.values[-2])
    return (
      f"The {word} two of the {count} values of {name}, {before_it} and {last}, are the best, and about equally good"
    )
  if swept.is_monotone:
    verb = "falls" if results.objective.mode == "min" else "rises"
    towards = "up" if swept.upper else "down"
    return f"{results.objective.metric} {verb} at each of the {count} values of {name} {towards} to the {word}, {last}"
  return f"The {word} of the {count} values of {name} that were tried, {last}, is the best"


def _why(side: Side, swept: Sweep, results: StudyResults) -> str:
  sign = results.objective.sign
  costs = apart([sign * cost for cost in swept.costs])
  values = [f"{cost} at {shown(side.one, value)}" for value, cost in zip(swept.values, costs, strict=True)]
  of = []
  if swept.retrains > 1:
    of.append(f"over at least {swept.retrains} retrains")
  if len(swept.rows) > 1:
    of.append(f"over the {len(swept.rows)} best combinations of the other hyperparameters")
  mean = f" (means {' and '.join(of)})" if of else ""
  text = f"{results.objective.metric} is {', '.join(values)}{mean}."
  share = f"{100 * swept.p:.2g}%" if swept.p >= SMALLEST_P else "fewer than 0.0001%"
  text += f" By chance alone, {share} of the orders are as steady."
  text += f" The last value {'gains' if swept.fall > 0 else 'loses'} {abs(swept.fall):.2g}"
  if swept.margin:
    more = "more" if abs(swept.fall) > swept.margin else "not more"
    source = "noise" if swept.is_noise_known else "the draw of validation examples"
    return f"{text}, {more} than equal values differ by {source} ({swept.margin:.2g})."
  return f"{text}. How much of that is noise is not known, because no good point was run twice."


def _between(one: Hyperparameter, *ends: float) -> str:
  low, high = sorted(ends)
  return f"{shown(one, low)} and {shown(one, high)}"


def _without_result(side: Side, results: StudyResults) -> list[Trial]:
  """Return the trials beyond the last value whose value is not known."""
  swept, one = side.sweep, side.one
  assert swept is not None
  last = unit_of(one, {one.name: swept.values[-1]})
  found = []
  for trial in results.trials:
    place = unit_of(one, trial.values)
    if trial.state in ("stopped", "failed", "running") and (place > last if side.upper else place < last):
      found.append(trial)
  return found
