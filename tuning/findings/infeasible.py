"""Trials that gave no value, and where in the space they lie (PB-21).

The playbook: infeasible trials are points of the space to avoid; where they are many, the space should exclude that
region, or there is a bug. Here: the share with Wilson's interval; then, for each hyperparameter, the cut of its scale
(or the value) that tells infeasible from feasible trials best, by Fisher's exact test, corrected for all cuts that were
tried. If none does, although enough trials of both kinds would show it, nothing in the space explains them.
"""

import collections

import scipy.stats

from trialbook.tuning.findings.finding import Finding, Severity, finding_of
from trialbook.tuning.findings.statistics.boundary_tests import tested
from trialbook.tuning.findings.statistics.points import is_learning_rate, points_of, searched
from trialbook.tuning.findings.statistics.separation import Separation, separation, without
from trialbook.tuning.findings.wording import many, p_value, region
from trialbook.tuning.results import StudyResults

_finding = finding_of("PB-21", "infeasible")

WARNING_SHARE = 0.2
"""Share of the trials: a fifth of the budget bought nothing but the knowledge of where not to look."""
CERTAIN_SHARE = 0.08
"""Share that the interval must exceed for a warning: 2 of 8 trials may be chance."""
PROBLEM_SHARE = 0.5
"""Share of the trials from which more is lost than is learnt."""
LEVEL = 0.01
"""Level of the test, over all cuts: a region to cut off is a claim about trials that will never be run."""
TELLING = 5
"""Infeasible and feasible trials each, for "nothing separates them": fewer pass the test in no space."""


def find(results: StudyResults) -> list[Finding]:
  """Return findings on infeasible trials (how many, where, whether the space explains them) and on those that
  failed."""
  return [*_infeasible(results), *_failed(results)]


def _failed(results: StudyResults) -> list[Finding]:
  """Return a finding on trials that crashed: their results are unknown, so they are not part of any other finding."""
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
    unstable, there = _limits(results, best), region(best)
    where = (
      f"{best.inside[0]} of {many(best.inside[1], 'point')} with {there} are infeasible, and {best.outside[0]} of"
      f" {best.outside[1]} others ({p_value(p)}, Fisher's test corrected for the cuts tried)"
    )
    numbers |= {"cut": best.value, "inside": list(best.inside), "outside": list(best.outside)}
    return [
      _finding(
        severity,
        f"{share}, most of them at {there}",
        f"{where}. Reasons: {_reasons(bad)}.",
        subject=best.one.name,
        trials=trials,
        numbers=numbers,
        action=f"Do not leave out {there} yet: the best trials lie beside it. Mend the instability first (PB-80),"
        " and search there again."
        if unstable
        else f"Leave out {there}, unless the best trials lie right beside it: then see whether it is instability"
        " that can be mended (PB-80).",
        space=None if unstable else without(best),
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


def _limits(results: StudyResults, cut: Separation) -> bool:
  """Return whether the cut is an instability that the best points lie beside, as PB-80 says."""
  if not (is_learning_rate(cut.one) and cut.above):
    return False
  sides = [side for side in tested(results) if side.one.name == cut.one.name and side.upper]
  return any(side.cliff is not None and side.is_limiting_or_near for side in sides)


def _reasons(trials) -> str:
  """Return the most frequent reasons, without the step or the value, which differ from trial to trial."""
  counts = collections.Counter((trial.reason or "none given").partition(" at step")[0] for trial in trials)
  return "; ".join(f"{reason} ({count})" for reason, count in counts.most_common(3))
