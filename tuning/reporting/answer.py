"""The answer to a study's question: who is left, what was found, what to do next, and one number of further trials.

A study has one question: which setting is best, if it compares settings, or else which trial is best, and by more than
noise. The findings that answer it come first, and set the next step. Others do so only if they are problems, under
which no conclusion holds, or if the answer needs nothing more.
"""

import collections
from collections.abc import Mapping, Sequence
from typing import TypedDict

from trialbook.tuning import tables
from trialbook.tuning.findings import Finding, asked
from trialbook.tuning.findings.statistics.points import feasible, points_of
from trialbook.tuning.findings.wording import listed, many
from trialbook.tuning.results import StudyResults, Trial

MANY = 0.2
"""Share of the trials that did not run to their end from which the answer begins with it: a fifth of the study is not
in what follows."""
VALUES = 8
"""Values of the best trial in the answer; its card and the table have all."""
TRIALS_ONLY = ("density", "stopping")
"""Questions whose action asks for more trials of the same space."""
DOUBTS = ("outcomes", "infeasible", "boundary", "convergence")
"""Questions whose warnings may undo a decided comparison: trials are missing, or the loser's best is outside of the
space, or later in training."""
_LOST = {
  "cut_short": ("was cut short", "were cut short"),
  "target": ("was ended at a target", "were ended at a target"),
  "pruned": ("was pruned as worse than others", "were pruned as worse than others"),
  "infeasible": ("was infeasible", "were infeasible"),
  "failed": ("failed", "failed"),
}


class Answer(TypedDict):
  """The text at the top of a report.

  Attributes:
    sentence: who is left, if many trials did not run to their end; the study's question answered; and the best trial.
    next: what to do next; None if nothing is to be done.
    because: the title of the finding that asks for it, or another reason.
    more: number of further trials that the answer asks for, one number for all findings; None if it asks for none, or
      if that is not known.
    further: the same in words: a number, "none" or "unknown".
    more_because: why.
    findings: places of the findings that answer the question, in the list that was given.
    retrains: number of trials with a value at the best point; 0 if there is none.
  """

  sentence: str
  next: str | None
  because: str | None
  more: int | None
  further: str
  more_because: str | None
  findings: list[int]
  retrains: int


def answer(results: StudyResults, findings: Sequence[Finding]) -> Answer:
  """Return the answer of a study, given its findings with the gravest first, as `trialbook.tuning.findings.findings`
  gives them."""
  question = asked(findings)
  own = [number for number, one in enumerate(findings) if _answers(one, question)]
  next_, because = _next(results, findings, question)
  more, further, more_because = _further(results, findings, question)
  return Answer(
    sentence=" ".join(_sentences(results, findings, question)),
    next=next_,
    because=because,
    more=more,
    further=further,
    more_because=more_because,
    findings=own,
    retrains=len(retrains_of(results, results.best)) if results.best is not None else 0,
  )


def retrains_of(results: StudyResults, trial: Trial) -> list[Trial]:
  """Return the trials with a value of the point that a trial belongs to, itself among them."""
  point = next(trials for trials in results.points if any(one.trial == trial.trial for one in trials))
  return [one for one in point if one.objective is not None]


def _answers(one: Finding, question: str) -> bool:
  return one.question == "comparison" if question == "comparison" else one.id == "PB-40"


def _sentences(results: StudyResults, findings: Sequence[Finding], question: str) -> list[str]:
  best = results.best
  if best is None:
    if not results.trials:
      return ["No trial has begun."]
    if all(trial.state == "infeasible" for trial in results.trials):
      return ["Every trial was infeasible."]
    return [*_who_is_left(results), "No trial has a value yet."]
  titles = [f"{one.title}." for one in findings if _answers(one, question)]
  if question == "comparison":
    # Of several scientific hyperparameters each has its own.
    verdicts = [f"{one.title}." for one in findings if one.question == "comparison" and "settings" in one.numbers]
    return [*_who_is_left(results), *verdicts, _best(results, best)]
  return [*_who_is_left(results), _best(results, best), *titles]


def _who_is_left(results: StudyResults) -> list[str]:
  """Return what became of the trials, if many did not run to their end."""
  kinds: collections.Counter[str] = collections.Counter()
  for trial in results.trials:
    kind = results.endings[trial.trial].kind
    if kind != "unfinished":
      kinds["infeasible" if trial.state == "infeasible" else kind] += 1
  lost, ended = sum(kinds[kind] for kind in _LOST), sum(kinds.values())
  if not ended or lost < MANY * ended:
    return []
  parts = [f"{kinds[kind]} {words[kinds[kind] > 1]}" for kind, words in _LOST.items() if kinds[kind]]
  return [f"Of {many(ended, 'trial')} that ended, {ended - lost} ran to the end: {listed(parts)}."]


def _best(results: StudyResults, best: Trial) -> str:
  points = points_of(results)
  own = next((point for point in points if best.trial in point.trials), None)
  costs = [point.cost for point in feasible(points)]
  having = f" with {values}" if (values := _values(results, best)) else ""
  equal = sum(cost == costs[0] for cost in costs) - 1
  value = tables.number(results.objective.sign * costs[0], tables.digits(results))
  tie = "" if not equal else "; another one is as good" if equal == 1 else f"; {equal} others are as good"
  if own is not None and len(own.retrains) + own.dead > 1:
    whose = f"The best of {len(costs)} points is" if len(costs) > 1 else "The only point is"
    of = f"{len(own.retrains)} retrains" + (f" ({own.dead} more died)" if own.dead else "")
    return (
      f"{whose} that of trial {_named(best)}: {results.objective.metric} {value}, the mean of its {of},{having}{tie}."
    )
  count = results.count("complete")
  whose = f"The best of {count} complete trials is" if count > 1 else "The only complete trial is"
  return f"{whose} trial {_named(best)}: {results.objective.metric} {value}{having}{tie}."


def _named(trial: Trial) -> str:
  """Return a trial's number, and the name that it had where it was made."""
  return f"{trial.trial}" if trial.source in (None, str(trial.trial)) else f"{trial.trial} ({trial.source})"


def _values(results: StudyResults, best: Trial) -> str:
  """Return the values of a trial in words; of many, those that the trials vary first."""
  names = [one.name for one in results.varied if one.name in best.values]
  names += [name for name in best.values if name not in names]
  shown = set(names if len(names) <= VALUES else names[:VALUES])
  values = {name: value for name, value in best.values.items() if name in shown}
  text = tables.values_text(values, results.study.hyperparameters)
  return text if len(names) <= VALUES else f"{text} and {len(names) - VALUES} other values"


def _next(results: StudyResults, findings: Sequence[Finding], question: str) -> tuple[str | None, str | None]:
  """Return what to do next, and why."""
  acting = [one for one in findings if one.action and one.question != "fixed"]
  if problem := next((one for one in acting if one.severity == "problem"), None):
    return problem.action, problem.title
  if (waiting := _waiting(results)) and results.study.source is None:
    command = results.study.command
    action = f"Wait for the other {many(waiting, 'trial')}" + (f", or resume them: {command}" if command else ".")
    return action, "The study has not ended."
  if question == "comparison":
    return _next_of_comparison(acting, findings)
  own = [one for one in acting if one.question == question]
  found = (
    _first(acting, ("warning",))
    or _first([one for one in acting if _asks(one, question)], ("note",))
    or _first(own, ("note", "cannot_tell"))
    or _first(acting, ("note", "cannot_tell"))
  )
  found = _most(found, [one for one in acting if _asks(one, question)])
  return (found.action, found.title) if found else (None, None)


def _next_of_comparison(acting: Sequence[Finding], findings: Sequence[Finding]) -> tuple[str | None, str | None]:
  own = [one for one in acting if one.question == "comparison"]
  if found := _most(_first(own, ("warning", "note", "cannot_tell")), own):
    return found.action, found.title
  if found := _first([one for one in acting if one.question in DOUBTS], ("warning",)):
    return found.action, found.title
  clear = [one for one in findings if one.question == "comparison" and one.numbers.get("clear")]
  if clear:
    return f"Adopt {listed([one.numbers.get('winner') or one.subject or '' for one in clear])}.", None
  return None, None


def _most(found: Finding | None, others: Sequence[Finding]) -> Finding | None:
  """Return a finding, or if it asks for more trials, that of the others which asks for the most: findings ask for
  different numbers, and the largest is enough for all of them."""
  if found is None or _more(found) is None:
    return found
  sure = [one for one in others if one.severity == found.severity or one.severity != "cannot_tell"]
  return max(sure, key=lambda one: _more(one) or 0, default=found)


def _first(findings: Sequence[Finding], severities: Sequence[str]) -> Finding | None:
  for severity in severities:
    for one in findings:
      if one.severity == severity:
        return one
  return None


def _further(results: StudyResults, findings: Sequence[Finding], question: str) -> tuple[int | None, str, str | None]:
  """Return the one number of further trials, the same in words, and why it is that, or why there is none."""
  if results.study.source is None and (waiting := _waiting(results)):
    return waiting, f"{waiting:,}", "These were planned and have not ended."
  asking = [one for one in findings if _asks(one, question)]
  if asking:
    most = max(asking, key=lambda one: _more(one) or 0)
    return _more(most), f"{_more(most):,}", f"{most.title}."
  if question == "comparison":
    verdicts = [one for one in findings if one.question == "comparison" and "settings" in one.numbers]
    if verdicts and all(one.numbers.get("clear") for one in verdicts):
      return None, "none", "The comparison is decided."
    unclear = next((one for one in verdicts if one.action), None)
    if unclear is not None and unclear.until is not None:
      return None, "none", unclear.until
    return None, "unknown", unclear and f"{unclear.title}."
  for wanted in reversed(TRIALS_ONLY):
    for one in findings:
      if one.question == wanted:
        return None, "none" if one.severity == "ok" else "unknown", f"{one.title}."
  return None, "unknown", None


def _asks(one: Finding, question: str) -> bool:
  """Return whether a finding asks for further trials that the study's question needs."""
  if not _more(one) or one.severity == "ok":
    return False
  if question == "comparison":
    return one.question == "comparison"
  return one.severity != "cannot_tell" or one.question in TRIALS_ONLY


def _more(one: Finding) -> int | None:
  more = one.numbers.get("more")
  return None if isinstance(more, bool | Mapping) or more is None else int(more)


def _waiting(results: StudyResults) -> int:
  return results.count("pending") + results.count("running")
