"""Which trials gave nothing, and where in the space (PB-21).

The playbook: infeasible trials are points of the space to avoid; where they are many, the space should exclude that
region, or there is a bug. Here: the share with Wilson's interval; then, for each hyperparameter, the cut of its scale
(or the value) that tells infeasible from feasible trials best, by Fisher's exact test, corrected for all cuts that were
tried. If none does, although enough trials of both kinds would show it, nothing in the space explains them.
"""

import collections
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import scipy.stats

from tuning.findings.finding import Finding, Severity
from tuning.findings.points import (
  Point,
  is_numeric,
  many,
  points_of,
  rounded,
  searched,
  shown,
  unit_of,
  units_of,
  value_at,
)
from tuning.results import StudyResults
from tuning.space import Discrete, Hyperparameter, Integer, OneOf

WARNING_SHARE = 0.2
"""Of the trials: a fifth of the budget bought nothing but the knowledge of where not to look."""
CERTAIN_SHARE = 0.08
"""What the interval of the share must exceed for a warning: 2 of 8 trials may be chance."""
PROBLEM_SHARE = 0.5
"""More is lost than is learnt."""
LEVEL = 0.01
"""Of the test, over all cuts: a region to cut off is a claim about trials that will never be run."""
TELLING = 5
"""Infeasible and feasible trials each, for "nothing separates them": fewer pass the test in no space."""
CUT_MOVES = 0.02
"""Of the scale, by what a cut may move to be a short number: points of a study lie about as close as that."""


@dataclasses.dataclass(frozen=True)
class Separation:
  """What tells infeasible trials from feasible ones.

  Attributes:
    one: the hyperparameter.
    unit: where its scale is cut; NaN for a categorical one.
    above: whether the infeasible ones are above.
    value: at the cut, or the categorical value that is infeasible.
    inside: infeasible ones, and all, on the infeasible side.
    outside: the same on the other.
    p: of Fisher's test, corrected for the cuts of this hyperparameter.
  """

  one: Hyperparameter
  unit: float
  above: bool
  value: object
  inside: tuple[int, int]
  outside: tuple[int, int]
  p: float

  @property
  def text(self) -> str:
    if not is_numeric(self.one):
      return f"{self.one.name} = {self.value}"
    match self.one.scale:
      case Integer():
        first, last = self.edge + 1, self.edge - 1
      case Discrete(values):
        lost = [value for value in values if (self.one.scale.unit(value) < self.unit) != self.above]
        first, last = lost[0], lost[-1]
      case _:
        return f"{self.one.name} {'above' if self.above else 'below'} {shown(self.one, self.edge)}"
    return f"{self.one.name} from {first:.6g} on" if self.above else f"{self.one.name} up to {last:.6g}"

  @property
  def edge(self) -> float:
    """Of a numeric scale that is cut there: a short number near `value`; of whole numbers the last that is kept."""
    value = float(str(self.value))
    if isinstance(self.one.scale, Integer):
      return math.floor(value) if self.above else math.ceil(value)
    return rounded(self.one, value, lambda new: abs(unit_of(self.one, {self.one.name: new}) - self.unit) < CUT_MOVES, 2)


def separation(one: Hyperparameter, points: Sequence[Point], bad: Sequence[bool]) -> Separation | None:
  """The best cut of a hyperparameter between points that are bad and others; None if there are not both."""
  flags = np.asarray(bad, bool)
  if not is_numeric(one):
    return _by_value(one, points, flags)
  units = units_of(one, points)
  there = np.isfinite(units)
  order = np.argsort(units[there], kind="stable")
  units, flags = units[there][order], flags[there][order]
  count, total = len(units), int(flags.sum())
  cuts = np.flatnonzero(np.diff(units) > 1e-9) + 1
  if not len(cuts) or total in (0, count):
    return None
  below = np.cumsum(flags)[cuts - 1]
  chances = [
    scipy.stats.hypergeom.sf(below - 1, count, total, cuts),
    scipy.stats.hypergeom.sf(total - below - 1, count, total, count - cuts),
  ]
  side = int(min(chances[1]) <= min(chances[0]))
  position = int(np.argmin(chances[side]))
  cut, low = int(cuts[position]), int(below[position])
  unit = float((units[cut - 1] + units[cut]) / 2)
  parts = (low, cut), (total - low, count - cut)
  value = value_at(one, unit)
  p = min(1.0, float(chances[side][position]) * 2 * len(cuts))
  return Separation(one, unit, bool(side), value, parts[side], parts[1 - side], p)


def _by_value(one: Hyperparameter, points: Sequence[Point], flags: np.ndarray) -> Separation | None:
  values = [repr(point.values[one.name]) if one.name in point.values else None for point in points]
  having = [value for value in values if value is not None]
  options = list(dict.fromkeys(having))
  total = sum(bool(flag) for value, flag in zip(values, flags, strict=True) if value is not None)
  if len(options) < 2 or total in (0, len(having)):
    return None
  best = None
  for option in options:
    inside = [bool(flag) for value, flag in zip(values, flags, strict=True) if value == option]
    p = float(scipy.stats.hypergeom.sf(sum(inside) - 1, len(having), total, len(inside))) * len(options)
    if best is None or p < best.p:
      value = next(point.values[one.name] for point, v in zip(points, values, strict=True) if v == option)
      outside = total - sum(inside), len(having) - len(inside)
      best = Separation(one, float("nan"), False, value, (sum(inside), len(inside)), outside, min(1.0, p))
  return best


def without(found: Separation) -> dict[str, object] | None:
  """The space without the infeasible side, as `Hyperparameter.as_json`; None where nothing would be left to vary."""
  scale = found.one.scale
  if isinstance(scale, OneOf):
    left = [value for value in scale.values if value != found.value]
    new = OneOf(left) if len(left) > 1 else None
  elif isinstance(scale, Discrete):
    left = [value for value in scale.values if (scale.unit(value) < found.unit) == found.above]
    new = Discrete(tuple(left)) if len(left) > 1 else None
  else:
    new = dataclasses.replace(scale, **{"max" if found.above else "min": found.edge})  # pyright: ignore
  if new is None or new.problems():
    return None
  return {found.one.name: dataclasses.replace(found.one, scale=new).as_json()}


def find(results: StudyResults) -> list[Finding]:
  """Infeasible trials: how many, where, and whether the space explains them; and those that failed."""
  return [*_infeasible(results), *_failed(results)]


def _failed(results: StudyResults) -> list[Finding]:
  """Trials that crashed: what they would have come to is not known, so they are no part of any other finding."""
  failed = [trial for trial in results.trials if trial.state == "failed"]
  if not failed:
    return []
  ended = sum(results.count(state) for state in ("complete", "infeasible", "failed"))
  return [
    _finding(
      "problem" if len(failed) == ended else "warning",
      f"{len(failed)} of {many(ended, 'trial')} failed",
      f"Reasons: {_reasons(failed)}. They say nothing of their values, and no other finding counts them.",
      trials=tuple(trial.trial for trial in failed),
      numbers={"failed": len(failed), "ended": ended},
      action=f"Read the log of trial {failed[0].trial}, mend what made it fail, and run the failed ones again.",
    )
  ]


def _infeasible(results: StudyResults) -> list[Finding]:
  bad = [trial for trial in results.trials if trial.state == "infeasible"]
  complete = [trial for trial in results.trials if trial.objective is not None]
  count, total = len(bad), len(bad) + len(complete)
  if total == 0:
    said = "No trial is complete or infeasible", "There is nothing to look at."
    return [_finding("cannot_tell", *said, action="Run trials.")]
  if total == count:
    few = total < TELLING
    return [
      _finding(
        "cannot_tell" if few else "problem",
        f"All {total} trials are infeasible",
        f"Reasons: {_reasons(bad)}.",
        trials=tuple(t.trial for t in bad),
        numbers={"infeasible": count, "ended": total},
        action="Look for a bug in the model, the data or the loss first, then at a much smaller learning rate."
        + (f" {TELLING} trials without a feasible one would be a verdict." if few else ""),
      )
    ]
  low, high = scipy.stats.binomtest(count, total).proportion_ci(0.95, method="wilson")
  share = f"{count} of {total} trials are infeasible ({count / total:.0%}, 95% interval {low:.0%} to {high:.0%})"
  numbers = {"infeasible": count, "ended": total, "share": count / total, "low": float(low), "high": float(high)}
  if not count:
    return [_finding("ok", "No trial is infeasible", f"{share}.", numbers=numbers)]
  points = [point for point in points_of(results) if bool(point.retrains) != bool(point.infeasible)]
  cuts = [separation(one, points, [not point.retrains for point in points]) for one in searched(results)]
  known = [cut for cut in cuts if cut is not None]
  best = min(known, key=lambda cut: cut.p, default=None)
  p = min(1.0, best.p * len(known)) if best is not None else 1.0
  severity: Severity = "note"
  if count / total >= WARNING_SHARE and low > CERTAIN_SHARE:
    severity = "problem" if count / total >= PROBLEM_SHARE else "warning"
  trials = tuple(trial.trial for trial in bad)
  numbers["p"] = p
  if best is not None and p < LEVEL:
    where = (
      f"{best.inside[0]} of {many(best.inside[1], 'point')} with {best.text} are infeasible, and {best.outside[0]} of"
      f" {best.outside[1]} others (p = {p:.1g}, Fisher's test corrected for the cuts tried)"
    )
    numbers |= {"cut": best.value, "inside": list(best.inside), "outside": list(best.outside)}
    return [
      _finding(
        severity,
        f"{share}, most of them at {best.text}",
        f"{where}. Reasons: {_reasons(bad)}.",
        subject=best.one.name,
        trials=trials,
        numbers=numbers,
        action=f"Leave out {best.text}, unless the best trials lie right beside it: then see whether it is instability"
        " that can be mended (PB-80).",
        space=without(best),
        plot=f"axis:{best.one.name}",
      )
    ]
  feasible_count = total - count
  if severity != "note" and min(count, feasible_count) >= TELLING:
    return [
      _finding(
        "problem",
        f"{share}, everywhere in the space: this points at a bug",
        f"No hyperparameter tells them from feasible trials (the best has p = {p:.2g}). Reasons: {_reasons(bad)}.",
        trials=trials,
        numbers=numbers,
        action="Read the logs of two of them: data that is now and then not finite, a loss that can divide by zero, "
        "memory, or a machine.",
      )
    ]
  return [
    _finding(
      severity,
      f"{share}; which hyperparameter is behind it cannot be told",
      f"No hyperparameter separates them (p = {p:.2g}). Reasons: {_reasons(bad)}.",
      trials=trials,
      numbers=numbers,
      action=f"Read the log of trial {trials[0]}." if trials else None,
    )
  ]


def _reasons(trials) -> str:
  """The most frequent ones; a step or a value in them differs from trial to trial."""
  counts = collections.Counter((trial.reason or "none given").partition(" at step")[0] for trial in trials)
  return "; ".join(f"{reason} ({count})" for reason, count in counts.most_common(3))


def _finding(severity: Severity, title: str, why: str, **more) -> Finding:
  return Finding(id="PB-21", question="infeasible", severity=severity, title=title, why=why, **more)
