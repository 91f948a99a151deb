"""How the trials ended (PB-21): cut short, ended by a rule, collapsed, stuck, or far worse than their own retrains.

Infeasible points are a question of their own (`infeasible`). Here are the trials that look complete and are not, those
that a rule has censored, and the points at which some seeds train and others do not: training is unstable there, though
each trial alone looks like a result.
"""

import math
from collections.abc import Mapping, Sequence

from trialbook.tuning.endings import Ending
from trialbook.tuning.findings.finding import Finding, finding_of, trial_numbers
from trialbook.tuning.findings.lost_share import severity_of_share
from trialbook.tuning.findings.statistics.points import TriedPoint, feasible, is_numeric, points_ended, points_of
from trialbook.tuning.findings.statistics.regions import Region, region_of
from trialbook.tuning.findings.wording import held_by, listed, many, shown
from trialbook.tuning.results import StudyResults, Trial

_finding = finding_of("PB-21", "outcomes")

BEST, BEST_SHARE = 5, 0.25
"""Points, the best few, and the share of all that these are at most: of one of them, a seed that died decides what is
adopted."""
INFERRED = "cut short at step"
"""Beginning of the reason of trials that were not recorded as cut short."""
SHOWN = 3
"""Trials that are described one by one."""
DEAD = ("diverged", "stuck", "collapsed", "outlier")
"""Endings of a seed that died."""


def find(results: StudyResults) -> list[Finding]:
  """Return findings on trials that were cut short, censored, collapsed or stuck, and on seeds that died; an ok if all
  that ended ran to their end."""
  ended = [trial for trial in results.trials if trial.state not in ("pending", "running")]
  if not ended:
    return [_finding("cannot_tell", "No trial has ended", "There is nothing to look at.", action="Run trials.")]
  of = results.endings
  unstable = _unstable(results)
  seeds = {number for one in unstable for number in one.trials}
  found = [
    *_cut_short(results, ended, of),
    *_lengths(results),
    *_censored(ended, of),
    *unstable,
    *_lost(results, [t for t in ended if of[t.trial].kind == "collapsed" and t.trial not in seeds], of),
    *_lost(results, [t for t in ended if _is_stuck(t, of) and t.trial not in seeds], of),
  ]
  if found:
    return found
  finished = sum(of[trial.trial].kind == "finished" for trial in ended)
  if not any(len(trial.curve(results.objective.metric)[0]) > 1 for trial in ended):
    return [
      _finding(
        "cannot_tell",
        "Unknown whether trials were cut short, collapsed or stayed at their start: they have no curves",
        f"Only final values of {results.objective.metric} are known.",
        numbers={"ended": len(ended)},
        action=f"Log {results.objective.metric} during training.",
      )
    ]
  return [
    _finding(
      "ok",
      f"No trial was cut short, collapsed or stayed at its start; {finished} of {many(len(ended), 'trial')} ran to"
      " their end",
      _covered(results),
      numbers={"finished": finished, "ended": len(ended)},
    )
  ]


def _is_stuck(trial: Trial, of: Mapping[int, Ending]) -> bool:
  # Those whose state says so are counted as infeasible.
  return of[trial.trial].kind == "stuck" and trial.objective is not None


def _covered(results: StudyResults) -> str:
  """Return what was looked at."""
  curves = sum(len(trial.curve(results.objective.metric)[0]) > 1 for trial in results.trials)
  return f"Looked at: {many(curves, 'curve')} of {results.objective.metric}."


def _best_few(points: Sequence[TriedPoint]) -> set[int]:
  """Return the trials of the best few points."""
  found = feasible(points)
  return {number for point in found[: min(BEST, math.ceil(BEST_SHARE * len(found)))] for number in point.trials}


def _cut_short(results: StudyResults, ended: Sequence[Trial], of: Mapping[int, Ending]) -> list[Finding]:
  cut = [trial for trial in ended if of[trial.trial].kind == "cut_short"]
  if not cut:
    return []
  steps = sorted(step for trial in cut if (step := of[trial.trial].step) is not None)
  usual = max((results.length(trial) or 0 for trial in cut), default=0)
  span = ""
  if steps:
    at = f"at step {steps[0]:,}" if steps[0] == steps[-1] else f"between step {steps[0]:,} and {steps[-1]:,}"
    span = f" {at}" + (f" of {usual:,}" if usual > steps[-1] else "")
  ranked = [trial for trial in cut if trial.objective is not None]
  values = (
    "Their values so far count, though they would have become better."
    if len(ranked) == len(cut)
    else "They are not ranked, because the values that they would have reached are unknown."
  )
  inferred = [trial for trial in cut if of[trial.trial].text.startswith(INFERRED)]
  reasons = [f"{len(cut) - len(inferred)} {_was(len(cut) - len(inferred))} recorded so."] if cut != inferred else []
  if inferred:
    reasons.append(
      f"The curves of {len(inferred)} end while those of others go on, for no reason that they show: they were still"
      " improving, and had reached no value at which others ended too."
    )
  points = points_ended(results, ("stopped", "infeasible", "pruned", "failed"))
  numbers = {trial.trial for trial in cut}
  bad = [bool(numbers & set(point.trials)) for point in points]
  where = _where(region_of(results, points, bad), points, bad) if 0 < sum(bad) < len(bad) else ""
  return [
    _finding(
      severity_of_share(len(cut), len(ended)),
      f"{len(cut)} of {many(len(ended), 'trial')} {_was(len(cut))} cut short{span}{where}",
      f"{' '.join(reasons)} {values} Examples: {_examples(cut, of)}.",
      trials=trial_numbers(cut),
      numbers={
        "cut_short": len(cut),
        "ended": len(ended),
        "first": steps[0] if steps else None,
        "last": steps[-1] if steps else None,
        "usual": usual,
      },
      action="Look at what ended them (preemption, a time limit, a lost log), and resume them or run them again before"
      " you rely on a ranking.",
      until="These trials, run to their end.",
      plot="curves",
    )
  ]


def _lengths(results: StudyResults) -> list[Finding]:
  """Return the finding that the settings of a hyperparameter are trained for different numbers of steps."""
  length, name = results.training_length, results.training_length.by_value
  one = None if name is None or results.study.config is not None else results.space.get(name)
  if name is None or one is None or is_numeric(one):
    return []  # That a batch size sets the number of steps is usual.
  steps = {str(trial.values.get(name)): round(length.of(trial.values)) for trial in results.trials}
  compared = one.role == "scientific"
  each = listed([f"{count:,} with {value}" for value, count in steps.items()])
  return [
    _finding(
      "warning" if compared else "note",
      f"The length of training differs with {name}: {each} steps",
      "Nothing else explains the different lengths: all trials of one value end at about the same step."
      + (" Longer training alone may make a setting better." if compared else ""),
      numbers=dict(steps),
      action=f"If this was not intended, look for a time limit, and run {name} again at equal steps."
      if compared
      else f"If this was not intended, look for a time limit that {name} reaches.",
      until="Trials of equal length.",
      plot="curves",
    )
  ]


def _censored(ended: Sequence[Trial], of: Mapping[int, Ending]) -> list[Finding]:
  """Return findings on trials that a target or a rule ended."""
  found = []
  targets = [trial for trial in ended if of[trial.trial].kind == "target"]
  if targets:
    found.append(
      _finding(
        "note",
        f"{len(targets)} of {many(len(ended), 'trial')} were ended at about the same value, probably a target",
        "They ended at different steps, each at its best value, which is the one that ranks them. What they would have"
        f" reached later is unknown. Examples: {_examples(targets, of)}.",
        trials=trial_numbers(targets),
        numbers={"target": len(targets), "ended": len(ended)},
        action="Compare such trials by the step at which they reached the target, or run all trials equally long.",
        plot="curves",
      )
    )
  pruned = [trial for trial in ended if of[trial.trial].kind == "pruned"]
  if pruned:
    found.append(
      _finding(
        "note",
        f"{len(pruned)} of {many(len(ended), 'trial')} were ended early because they were worse than others",
        "They count as tried, and as not among the best. Their final values are unknown, so findings about curves and"
        f" about the shape of the space are about the other {len(ended) - len(pruned)}. Examples:"
        f" {_examples(pruned, of)}.",
        trials=trial_numbers(pruned),
        numbers={"pruned": len(pruned), "ended": len(ended)},
      )
    )
  return found


def _unstable(results: StudyResults) -> list[Finding]:
  """Return the finding on points at which some seeds died and others trained."""
  groups = [(results, trials[0].trial, trials) for trials in results.points]
  groups += [(study, number, study.trials) for number, study in results.reruns.items()]
  hit: list[tuple[int, int]] = []
  numbers: set[int] = set()
  dead: list[str] = []
  kinds: set[str] = set()
  all_seeds = repeated = 0
  for study, number, trials in groups:
    ends = [(trial, study.endings[trial.trial]) for trial in trials]
    ends = [(trial, end) for trial, end in ends if end.kind in ("finished", *DEAD)]
    if len(ends) < 2:
      continue
    repeated += 1
    all_seeds += len(ends)
    died = [(trial, end) for trial, end in ends if end.kind in DEAD]
    if died and len(died) < len(ends):
      hit.append((number, len(ends)))
      kinds |= {end.kind for _, end in died}
      numbers |= {trial.trial for trial, _ in died} if study is results else {number}
      dead += [f"{'' if study is results else f'rerun of trial {number}, '}trial {t.trial}: {e.text}" for t, e in died]
  if not hit:
    return []
  best = _best_few(points_of(results))
  seeds, among_best = sum(count for _, count in hit), any(number in best for number, _ in hit)
  values = _values(results, hit[0][0])
  where = f"{len(dead)} of {seeds} seeds of {'one point' if len(hit) == 1 else f'{len(hit)} points'}"
  words = {"diverged": "diverged", "stuck": "learned nothing", "collapsed": "collapsed", "outlier": "got far worse"}
  what = (
    "trained far worse than the others"
    if kinds == {"outlier"}
    else f"{listed([words[kind] for kind in sorted(kinds)], 'or')} while the others trained"
  )
  return [
    Finding(
      id="PB-80",
      question="outcomes",
      severity="warning" if among_best else "note",
      title=f"{where} {what}: training is unstable there",
      why=f"{values}{_first(dead)}. Of all {all_seeds} seeds of {many(repeated, 'point')} with retrains, {len(dead)}"
      " died while others of their point did not. Means of points and the noise between seeds are given without them.",
      trials=tuple(sorted(numbers)),
      numbers={"dead": len(dead), "seeds": seeds, "points": len(hit), "all_seeds": all_seeds},
      action="Find the instability before you adopt such a point: try warmup, gradient clipping, then a smaller"
      " learning rate (PB-84). Report how many seeds died beside the mean of the others.",
      plot="curves",
    )
  ]


def _lost(results: StudyResults, trials: Sequence[Trial], of: Mapping[int, Ending]) -> list[Finding]:
  """Return the finding on trials that collapsed, or that stayed at their start, of points that have no other seeds."""
  if not trials:
    return []
  collapsed = of[trials[0].trial].kind == "collapsed"
  points = points_of(results)
  numbers = {trial.trial for trial in trials}
  bad = [any(number in numbers for number in point.trials) for point in points]
  found = region_of(results, points, bad)
  best = _best_few(points)
  among_best = sorted(numbers & best)
  count, total = len(trials), sum(trial.objective is not None for trial in results.trials)
  they = "it" if count == 1 else "they"
  what = f"collapsed: {they} got better and suddenly fell back" if collapsed else f"stayed where {they} began"
  severity = "warning" if collapsed and among_best else severity_of_share(sum(bad), len(bad))
  where = _where(found, points, bad)
  return [
    Finding(
      id="PB-80" if collapsed else "PB-21",
      question="outcomes",
      severity=severity,
      title=f"{count} of {total} complete trials {what}{where}",
      why=f"{_examples(trials, of)}. "
      + (
        f"{len(among_best)} of them {'is' if len(among_best) == 1 else 'are'} among the best points. "
        if among_best
        else ""
      )
      + (
        (
          "The best value of such a trial counts, but it lasts only until the collapse."
          if results.objective.value == "best"
          else "Its last value counts, which is the one after the collapse."
        )
        if collapsed
        else "They have learned nothing, and rank as what they are: the worst."
      ),
      trials=trial_numbers(trials),
      numbers={"count": count, "complete": total, "region": found.kind},
      action="Look at the gradient norm before the collapse. Try warmup or gradient clipping first, then a smaller"
      " learning rate (PB-84)."
      if collapsed
      else "Leave out their region if the best trials are not next to it."
      if found.kind in ("axis", "corner")
      else f"Look at the curves of trial {trials[0].trial}.",
      plot="curves",
    )
  ]


def _where(found: Region, points: Sequence[TriedPoint], bad: Sequence[bool]) -> str:
  """Return the region for the end of a title."""
  if (held := held_by(found)) is not None:
    return f", {held}"
  if found.kind == "point":
    point = next(point for point, is_bad in zip(points, bad, strict=True) if is_bad)
    return f", all at one point (trial {point.trials[0]})" if len(point.trials) > 1 else ""
  return ", everywhere in the space" if found.kind == "everywhere" else ""


def _values(results: StudyResults, number: int) -> str:
  """Return the hyperparameters of a trial's point, in a sentence before another one; empty if it has none."""
  values = next((trial.values for trial in results.trials if trial.trial == number), {})
  space = {name: one for name, one in results.space.items() if one.path != "seed" and name in values}
  texts = [f"{n} = {shown(one, values[n]) if is_numeric(one) else values[n]}" for n, one in space.items()]
  return f"The point of trial {number} has {', '.join(texts)}. " if texts else ""


def _was(count: int) -> str:
  return "was" if count == 1 else "were"


def _examples(trials: Sequence[Trial], of: Mapping[int, Ending]) -> str:
  return _first([f"trial {trial.trial}: {of[trial.trial].text}" for trial in trials])


def _first(told: Sequence[str]) -> str:
  more = len(told) - SHOWN
  return "; ".join(told[:SHOWN]) + (f"; and {more} more" if more > 0 else "")
