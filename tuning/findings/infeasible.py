"""Points that gave no value, and where in the space they lie (PB-21).

The playbook: infeasible trials are points of the space to avoid; where they are many, the space should exclude that
region, or there is a bug. Here: the share of the points, retrains of one being one, with Wilson's interval; then the
region that holds them (`statistics.regions`): one point, beyond a cut of one scale, or a corner of two. If they have no
region, although a test of enough points would show one, nothing in the space explains them.
"""

import collections
import re
from collections.abc import Sequence

from trialbook.tuning.findings.finding import Finding, Severity, finding_of
from trialbook.tuning.findings.lost_share import severity_of_share, wilson_interval
from trialbook.tuning.findings.statistics.boundary_tests import tested
from trialbook.tuning.findings.statistics.points import (
  TriedPoint,
  is_learning_rate,
  is_numeric,
  points_ended,
  points_of,
  searched,
  unit_of,
)
from trialbook.tuning.findings.statistics.regions import Region, region_of
from trialbook.tuning.findings.statistics.separation import Separation, without
from trialbook.tuning.findings.wording import held_by, listed, many, named_region, p_value, region, shown
from trialbook.tuning.results import StudyResults, Trial
from trialbook.tuning.space.scales import Hyperparameter

_finding = finding_of("PB-21", "infeasible")

PROBLEM_SHARE = 0.5
"""Share of the points from which more is lost than is learnt."""
TELLING = 5
"""Infeasible points without a feasible one, for a verdict."""
_STEP = re.compile(r",?(?: for the first time)? at step ([\d,]+)")
"""Where a reason says its step; what follows belongs to one trial."""
REASONS = 3
"""Reasons that are listed, the most frequent ones."""


def find(results: StudyResults) -> list[Finding]:
  """Return findings on infeasible points (how many, where, whether the space explains them) and on failed trials."""
  return [*_infeasible(results), *_failed(results)]


def _failed(results: StudyResults) -> list[Finding]:
  """Return a finding on trials that crashed: their results are unknown, so they are not part of any other finding."""
  failed = [trial for trial in results.trials if trial.state == "failed"]
  if not failed:
    return []
  ended = sum(results.count(state) for state in ("complete", "infeasible", "failed", "pruned"))
  points = points_ended(results, ("failed", "infeasible"))
  numbers = {trial.trial for trial in failed}
  bad = [not point.retrains and any(trial in numbers for trial in point.trials) for point in points]
  found = region_of(results, points, bad)
  why = f"Reasons: {_reasons(failed)}. Their values are unknown, and no other finding counts them."
  title = f"{len(failed)} of {many(ended, 'trial')} failed"
  trials = tuple(trial.trial for trial in failed)
  where = held_by(found)
  if found.kind == "point":
    point = next(point for point, is_bad in zip(points, bad, strict=True) if is_bad)
    inside = len(numbers & set(point.trials))
    how_many = "all" if inside == len(failed) else str(inside)
    title += f", {how_many} of them at one point: {_place(results, point)}"
  if where is None or len(failed) == ended:
    return [
      _finding(
        "problem" if len(failed) == ended else "warning",
        title,
        why if len(failed) == ended or found.kind == "point" else f"{why} {_nowhere(found)}",
        trials=trials,
        numbers={"failed": len(failed), "ended": ended},
        action=f"Read the log of trial {failed[0].trial}, fix the cause, and run the failed trials again.",
      )
    ]
  cut = found.cut if found.kind == "axis" else None
  diverged = cut is not None and is_learning_rate(cut.one) and cut.above
  return [
    _finding(
      "warning",
      f"{title}, {where}",
      f"{why} {_evidence(found)}"
      + (
        " That suggests that they diverged and were recorded as failures, as Optuna does when a trial returns NaN. It"
        " is a guess, because they logged no value that is not finite."
        if diverged
        else " Something about these values makes them fail."
      ),
      subject=cut.one.name if cut is not None else None,
      trials=trials,
      numbers={"failed": len(failed), "ended": ended, "p": found.p},
      action=f"Read the log of trial {failed[0].trial}. If its loss was not finite, record such trials as infeasible,"
      f" and leave out {named_region(found)}."
      if diverged
      else f"Read the log of trial {failed[0].trial}, and look first at what these values do.",
      plot=f"axis:{cut.one.name}" if cut is not None else None,
    )
  ]


def _infeasible(results: StudyResults) -> list[Finding]:
  bad = [trial for trial in results.trials if trial.state == "infeasible"]
  complete = [trial for trial in results.trials if trial.objective is not None]
  count, total = len(bad), len(bad) + len(complete)
  if total == 0:
    said = "No trial is complete or infeasible", "There is nothing to look at."
    return [_finding("cannot_tell", *said, action="Run trials.")]
  points = points_of(results)
  without_value = [point for point in points if not point.retrains]
  if total == count:
    few = len(points) < TELLING
    return [
      _finding(
        "cannot_tell" if few else "problem",
        f"All {many(total, 'trial')} are infeasible" if total > 1 else "The only trial is infeasible",
        f"Reasons: {_reasons(bad)}.",
        trials=tuple(t.trial for t in bad),
        numbers={"infeasible": count, "ended": total},
        action="Look for a bug in the model, the data or the loss first, then try a much smaller learning rate."
        + (f" {TELLING} points without a feasible one would be a verdict." if few else ""),
      )
    ]
  low, high = wilson_interval(len(without_value), len(points))
  numbers = {
    "infeasible": count,
    "ended": total,
    "points": len(points),
    "infeasible_points": len(without_value),
    "share": len(without_value) / len(points),
    "low": low,
    "high": high,
  }
  if not count:
    why = f"All {many(total, 'trial')} at {many(len(points), 'point')} have a value."
    return [_finding("ok", "No trial is infeasible", why, numbers=numbers)]
  if not without_value:
    return [
      _finding(
        "ok",
        f"No point is infeasible in all of its retrains, but {many(count, 'trial')} {'is' if count == 1 else 'are'}",
        f"Reasons: {_reasons(bad)}. Other seeds of the same points have values.",
        trials=tuple(trial.trial for trial in bad),
        numbers=numbers,
      )
    ]
  # Points of which some seeds have a value and others have not say that training is unstable there, not where.
  clear = [point for point in points if bool(point.retrains) != bool(point.infeasible)]
  found = region_of(results, clear, [not point.retrains for point in clear])
  severity: Severity = severity_of_share(len(without_value), len(points))
  if severity == "warning" and len(without_value) / len(points) >= PROBLEM_SHARE:
    severity = "problem"
  return [_located(results, bad, without_value, found, severity, numbers)]


def _located(
  results: StudyResults,
  bad: Sequence[Trial],
  without_value: Sequence[TriedPoint],
  found: Region,
  severity: Severity,
  numbers: dict,
) -> Finding:
  """Return the finding on infeasible points, by where they lie."""
  trials = tuple(trial.trial for trial in bad)
  numbers |= {"p": found.p, "region": found.kind}
  share = _share(numbers, bad)
  reasons = f"Reasons: {_reasons(bad)}."
  if found.kind == "point":
    point = without_value[0]
    return _finding(
      "note",
      f"{share}: {_place(results, point)}",
      f"{_seeds(point)} {reasons} One point is no region: it shows neither a bug nor where to cut the space."
      + _extremes(results, point),
      trials=trials,
      numbers=numbers,
      action="Nothing, if other values are better. Otherwise run trials next to it to see where the infeasible region"
      " begins.",
    )
  held, where = held_by(found), named_region(found)
  if found.kind == "axis" and found.cut is not None:
    cut = found.cut
    unstable = _limits(results, cut)
    numbers |= {"cut": cut.value, "inside": list(cut.inside), "outside": list(cut.outside)}
    return _finding(
      severity,
      f"{share}, {held}",
      f"{_evidence(found)} {reasons}",
      subject=cut.one.name,
      trials=trials,
      numbers=numbers,
      action=f"Do not leave out {where} yet, because the best trials lie next to it. Fix the instability first (PB-80),"
      " and search there again."
      if unstable
      else f"Leave out {where}. If the best trials lie right next to it, first see whether it is an instability that"
      " can be fixed (PB-80).",
      until=f"{many(len(without_value), 'point')} with {where} that train to their end.",
      space=None if unstable else without(cut),
      plot=f"axis:{cut.one.name}",
    )
  if found.kind == "corner" and found.corner is not None:
    first, second = (one.name for one in found.corner.axes)
    numbers |= {"corner": [first, second], "inside": list(found.corner.inside), "outside": list(found.corner.outside)}
    return _finding(
      severity,
      f"{share}, {held}",
      f"{_evidence(found)} The infeasible points have {_ranges(found.corner.axes, without_value)}. {reasons}",
      subject=first,
      trials=trials,
      numbers=numbers,
      action=f"Search {first} and {second} together: choose {second} relative to {first}, so that this corner is left"
      f" out, or narrow one of them. If the best trials lie next to the corner, fix the instability first (PB-80).",
      until=f"{many(len(without_value), 'point')} in this corner that train to their end.",
      plot=f"axis:{first}",
    )
  if found.interval is not None:
    return _finding(
      severity,
      f"{share}, {held}",
      f"{_evidence(found)} {reasons}",
      trials=trials,
      numbers=numbers,
      action=f"Look at why trials with {where} do not train, then leave that part out.",
      until="Points there that train to their end.",
    )
  if found.kind == "everywhere" and severity != "note":
    return _finding(
      "problem",
      f"{share}, everywhere in the space: this points at a bug",
      f"No interval of one hyperparameter and no corner of two has more of them, and infeasible points do not lie"
      f" closer to each other than to feasible ones ({p_value(found.p)}). Most regions of their number would have been"
      f" seen. {reasons}",
      trials=trials,
      numbers=numbers,
      action="Read the logs of two of them: data that is sometimes not finite, a loss that can divide by zero, memory,"
      " or a machine.",
    )
  if found.kind == "together":
    return _finding(
      severity,
      f"{share}, close to each other",
      f"They lie closer to each other than to feasible points ({p_value(found.p)}), but no interval of"
      f" one hyperparameter and no corner of two numeric ones holds most of them. {reasons} A bug would be everywhere.",
      trials=trials,
      numbers=numbers,
      action=f"Compare the values of trials {listed([str(number) for number in trials])}; then leave that part out.",
    )
  return _finding(
    severity,
    f"{share}; where they lie is not clear",
    f"{_nowhere(found)} {reasons}",
    trials=trials,
    numbers=numbers,
    action=f"Read the log of trial {trials[0]}." if trials else None,
  )


def _share(numbers: dict, bad: Sequence[Trial]) -> str:
  """Return how many points are infeasible, and how many trials if these are more."""
  count, total = numbers["infeasible_points"], numbers["points"]
  interval = f"{count / total:.0%}, 95% interval {numbers['low']:.0%} to {numbers['high']:.0%}"
  noun = "points" if numbers["ended"] > total else "trials"
  own = f"{count} of {total} {noun} {'is' if count == 1 else 'are'} infeasible ({interval}"
  return f"{own}; {many(len(bad), 'trial')})" if len(bad) > count else f"{own})"


def _evidence(found: Region) -> str:
  """Return the counts in a region and outside of it, with the test."""
  if found.interval is not None:
    return (
      f"No other interval of one hyperparameter has as many more, or fewer, of them ({p_value(found.p)} over all"
      " intervals, by permutation)."
    )
  part = found.corner if found.kind == "corner" else found.cut
  if part is None:
    return ""
  tried = "all cuts and corners tried" if found.kind == "corner" else "all cuts tried"
  return (
    f"There, {part.inside[0]} of {many(part.inside[1], 'point')} have no value; elsewhere it is {part.outside[0]} of"
    f" {part.outside[1]} ({p_value(found.p)}, Fisher's test corrected for {tried})."
  )


def _ranges(axes: Sequence[Hyperparameter], points: Sequence[TriedPoint]) -> str:
  """Return between which values some points lie, in words."""
  ends = []
  for one in axes:
    values = sorted(value for point in points if isinstance(value := point.values.get(one.name), int | float))
    ends.append(f"{one.name} from {shown(one, values[0])} to {shown(one, values[-1])}")
  return listed(ends)


def _nowhere(found: Region) -> str:
  """Return that no region was found, and what is known all the same."""
  if found.kind == "everywhere":
    return "They lie all over the space."
  if found.cut is None:
    return "No hyperparameter was varied that could explain them."
  if found.cut.outside[0] == 0 and found.cut.inside[0] == found.cut.inside[1]:
    return (
      f"All of them, and no others, have {region(found.cut)}, but {many(found.bad, 'point')} can do so by chance"
      f" ({p_value(found.p)})."
    )
  return f"No hyperparameter separates {many(found.bad, 'point')} from the others with certainty ({p_value(found.p)})."


def _place(results: StudyResults, point: TriedPoint) -> str:
  values = [
    f"{one.name}={shown(one, point.values[one.name]) if is_numeric(one) else point.values[one.name]}"
    for one in searched(results)
    if point.values.get(one.name) is not None
  ]
  return f"trial {point.trials[0]}" + (f", {', '.join(values)}" if values else "")


def _seeds(point: TriedPoint) -> str:
  count = point.infeasible
  return f"{count} infeasible trials are retrains of this point." if count > 1 else "It was run once."


def _extremes(results: StudyResults, point: TriedPoint) -> str:
  """Return at which ends of the tried values a point lies."""
  ends = []
  for one in searched(results):
    units = [unit_of(one, other.values) for other in points_of(results)]
    own = unit_of(one, point.values)
    if is_numeric(one) and own == own and len({unit for unit in units if unit == unit}) > 1:
      if all(not unit > own for unit in units):
        ends.append(f"largest {one.name}")
      elif all(not unit < own for unit in units):
        ends.append(f"smallest {one.name}")
  return f" It has the {listed(ends)} of all points." if ends else ""


def _limits(results: StudyResults, cut: Separation) -> bool:
  """Return whether the cut is an instability that the best points lie beside, as PB-80 says."""
  if not (is_learning_rate(cut.one) and cut.above):
    return False
  sides = [side for side in tested(results) if side.one.name == cut.one.name and side.upper]
  return any(side.cliff is not None and side.is_limiting_or_near for side in sides)


def _reasons(trials: Sequence[Trial]) -> str:
  """Return the most frequent reasons, each with the first and the last of the steps at which it happened."""
  steps: dict[str, list[int]] = {}
  counts: collections.Counter[str] = collections.Counter()
  for trial in trials:
    reason = trial.reason or "none recorded"
    if (at := _STEP.search(reason)) is not None:
      reason = reason[: at.start()]
      steps.setdefault(reason, []).append(int(at[1].replace(",", "")))
    counts[reason] += 1
  return "; ".join(f"{reason}{_span(steps.get(reason, []))} ({count})" for reason, count in counts.most_common(REASONS))


def _span(steps: Sequence[int]) -> str:
  if not steps:
    return ""
  return f" at step {min(steps):,}" + (f" to {max(steps):,}" if max(steps) > min(steps) else "")
