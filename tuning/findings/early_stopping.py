"""Whether a rule could have ended bad trials early (PB-69).

The playbook asks for no early stopping within a training, because the best checkpoint can be chosen afterwards. To end
trials that are worse than others is another question: it saves steps, and it loses trials that learn slowly and end
well. On a study whose trials ran to their end, a rule can be replayed: `statistics.stopping_replay`.
"""

import math
import shlex
from collections.abc import Sequence

import scipy.stats

from trialbook.tuning.early_stopping import QuantileStopping
from trialbook.tuning.findings.finding import Finding, finding_of
from trialbook.tuning.findings.statistics.finite_spaces import finite_space
from trialbook.tuning.findings.statistics.relevance import relevant
from trialbook.tuning.findings.statistics.stopping_replay import ORDERS, Curve, Replay, best_few, curves, replays
from trialbook.tuning.findings.wording import many, short
from trialbook.tuning.results import StudyResults, Trial

_finding = finding_of("PB-69", "early_stopping", plot="curves")

SHARES = (0.25, 0.5)
"""Shares of the steps at which rules are tried: what is ended later saves less than a quarter of the steps."""
QUANTILES = (0.5, 0.75)
"""Quantiles that are tried: rules that end more than half of the trials lose good ones, and rules that end fewer than a
quarter save little."""
AFTER = QuantileStopping().after
"""Points that run to their end before any is compared."""
LEAST = 2 * AFTER
"""Points of a replay: as many as are never compared are compared."""
WORTHWHILE = 0.1
"""Share of the steps that a rule must save: one trial in ten more. Less is not worth a rule."""
SAFE = 0.05
"""Largest probability with which a safe rule ends a best trial, or loses more than is relevant."""

_Points = Sequence[Sequence[Curve]]


def find(results: StudyResults) -> list[Finding]:
  """Return the finding on the rules that are tried, or on what a rule has saved that ended trials of this study."""
  if pruned := [trial for trial in results.trials if trial.state == "pruned"]:
    return [_was_used(results, pruned)]
  points = curves(results, SHARES)
  valued = sum(any(math.isfinite(curve.cost) for curve in point) for point in points)
  if len(points) < LEAST or valued < AFTER:
    return [_too_few(results, points, valued)]
  best = results.best
  margin = 0.0 if best is None or best.objective is None else relevant(results, best.objective)
  tried = replays(points, SHARES, QUANTILES, AFTER, margin)
  worthwhile = [one for one in tried if one.saved >= WORTHWHILE]
  safest = min(worthwhile, key=lambda one: (round(one.risk, 2), -one.saved), default=None)
  numbers = {
    "points": len(points),
    "left_out": _left_out(results, points),
    "relevant": margin,
    "rules": [_numbers(one) for one in tried],
  }
  if safest is None:
    return [_saves_little(results, max(tried, key=lambda one: one.saved), points, numbers)]
  numbers |= _numbers(safest)
  return [(_recommended if safest.risk <= SAFE else _unsafe)(results, safest, points, numbers)]


def _recommended(results: StudyResults, one: Replay, points: _Points, numbers: dict[str, object]) -> Finding:
  few = best_few(points)
  # The best few points of one study are the sample from which the risk in another one is known.
  high = float(scipy.stats.binomtest(round(one.top * few), few).proportion_ci(0.95, method="exact").high)
  return _finding(
    "note",
    f"Ending bad trials early would have saved {one.saved:.0%} of the steps ({_interval(one)}) and kept the best trial"
    " of this study",
    f"{_how(results, points)} The rule: {_rule(one)}. It ends the best trial in {one.lost:.0%} of the orders, and one"
    f" of the best {best_few(points)} with a probability of {one.top:.1%}; a rule with more than {SAFE:.0%} is not"
    f" proposed. From {many(few, 'point')}, the risk for one of the best in another such study is known to be at most"
    f" {high:.0%} (95% confidence).",
    numbers={**numbers, "risk_at_most": high},
    action=f"In the next study of this kind, write {_declaration(results, one)}, if that risk is worth the saving.",
    until=f"{_until(points)} Trainings of another length need a replay of their own.",
  )


def _unsafe(results: StudyResults, one: Replay, points: _Points, numbers: dict[str, object]) -> Finding:
  lost = f"the best trial in {one.lost:.0%} of the orders"
  if one.lost > 0:
    lost += f", which makes the best {results.objective.metric} worse by {short(one.loss)} on average"
  return _finding(
    "ok",
    "No rule that ends bad trials early is safe here: the safest one ends a best trial with a probability of"
    f" {max(one.top, one.lost):.0%}",
    f"{_how(results, points)} The safest rule that saves {WORTHWHILE:.0%}: {_rule(one)}. It saves {one.saved:.0%} of"
    f" the steps ({_interval(one)}). It ends {lost}, and one of the best {best_few(points)} with a probability of"
    f" {one.top:.1%}. Both may be at most {SAFE:.0%}.",
    numbers=numbers,
    action="Run each trial to its end.",
    until=_until(points),
  )


def _saves_little(results: StudyResults, one: Replay, points: _Points, numbers: dict[str, object]) -> Finding:
  return _finding(
    "ok",
    f"Ending bad trials early would have saved only {one.saved:.0%} of the steps ({_interval(one)})",
    f"{_how(results, points)} That is the most of {len(SHARES) * len(QUANTILES)} rules: {_rule(one)}. From"
    f" {WORTHWHILE:.0%} on, a rule is worth it.",
    numbers=numbers | _numbers(one),
    until=_until(points),
  )


def _too_few(results: StudyResults, points: _Points, valued: int) -> Finding:
  metric = results.objective.metric
  if not any(len(trial.curve(metric)[0]) > 1 for trial in results.trials):
    return _finding(
      "cannot_tell",
      "What early stopping would save is unknown: the trials have no curves",
      f"A rule compares trials in the middle of their training, and only final values of {metric} were logged.",
      numbers={"points": 0, "needed": LEAST},
      action=f"Log {metric} at every eighth of the steps, in {LEAST} points.",
    )
  missing = max(LEAST - len(points), AFTER - valued)
  space = finite_space(results)
  return _finding(
    "cannot_tell",
    f"What early stopping would save is unknown: {many(len(points), 'point')} can be replayed, and it takes {LEAST}",
    "A point can be replayed if a trial of it ran to its end, and has an evaluation soon after a quarter and after half"
    f" of its steps. An infeasible one counts too, but {AFTER} points must have a value.{_excluded(results, points)}",
    numbers={"points": len(points), "valued": valued, "needed": LEAST},
    action=None
    if space is not None and space.is_exhausted_grid
    else f"Run {many(missing, 'more point')} to their end, with an evaluation at every eighth of the steps.",
  )


def _was_used(results: StudyResults, pruned: Sequence[Trial]) -> Finding:
  """Return the finding on a study in which a rule was at work."""
  ended = [trial for trial in results.trials if trial.state in ("complete", "infeasible", "pruned")]
  made = sum(trial.last_step for trial in ended)
  saved = sum(max((results.length(trial) or 0) - trial.last_step, 0) for trial in pruned)
  share = saved / max(made + saved, 1)
  action = None
  if curved := [trial for trial in pruned if len(trial.curve(results.objective.metric)[1])]:
    sign = results.objective.sign
    best = min(curved, key=lambda one: (sign * float(one.curve(results.objective.metric)[1][-1]), one.trial))
    action = f"To see whether the rule lost something, train trial {best.trial} to its end"
    if results.study.source is None and results.study.config is not None:
      config = shlex.quote(str(best.folder / "config.json"))
      action += f": trialbook train --config={config} --workdir=runs/to_its_end"
  return _finding(
    "note",
    f"Early stopping ended {len(pruned)} of {many(len(ended), 'trial')}, which saved {share:.0%} of the steps",
    "Counted by the steps that these trials had left. Whether one of them would have become the best is unknown,"
    " because none ran to its end.",
    trials=tuple(trial.trial for trial in pruned),
    numbers={"pruned": len(pruned), "ended": len(ended), "saved": share},
    action=action,
  )


def _how(results: StudyResults, points: _Points) -> str:
  text = f"Replayed in {ORDERS} random orders of {len(points)} points, with one trial of each."
  if results.study.is_adaptive:
    text += " But this search chose later points by results, so in its own order the later ones are better."
  elif results.study.search.get("name") == "imported":
    text += " If the search chose later points by results, the later ones are better in its own order."
  return text + _excluded(results, points)


def _excluded(results: StudyResults, points: _Points) -> str:
  left_out = _left_out(results, points)
  if not left_out:
    return ""
  verb = "was" if left_out == 1 else "were"
  return f" {many(left_out, 'trial')} {verb} left out: cut short, failed, or with too few evaluations."


def _left_out(results: StudyResults, points: _Points) -> int:
  ended = sum(trial.state not in ("pending", "running") for trial in results.trials)
  return ended - sum(map(len, points))


def _rule(one: Replay) -> str:
  [share] = one.rule.at
  limit = "the median" if one.rule.quantile == 0.5 else f"{one.rule.quantile:.0%}"
  where = {0.25: "a quarter", 0.5: "half"}[share]
  return f"end a trial after {where} of its steps if it is worse there than {limit} of all trials before it"


def _declaration(results: StudyResults, one: Replay) -> str:
  [at] = one.rule.at
  if results.study.config is None and results.study.source is None:
    at = max(round(at * (results.steps or 1)), 1)  # A function counts its values, and knows no share of them.
  return f"stopping=QuantileStopping(quantile={one.rule.quantile}, at=({at},), after={one.rule.after})"


def _numbers(one: Replay) -> dict[str, object]:
  [share] = one.rule.at
  fields = ("saved", "low", "high", "lost", "worse", "loss", "top")
  return {"share": share, "quantile": one.rule.quantile, **{name: getattr(one, name) for name in fields}}


def _interval(one: Replay) -> str:
  return f"95% interval {one.low:.0%} to {one.high:.0%}"


def _until(points: _Points) -> str:
  return f"With {2 * len(points)} points, the interval would be about 30% narrower."
