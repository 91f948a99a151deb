"""The answer to a study's question in a sentence or two, and what to do next."""

from collections.abc import Sequence
from typing import TypedDict

from trialbook.tuning import tables
from trialbook.tuning.findings import Finding
from trialbook.tuning.results import StudyResults


class Answer(TypedDict):
  """The text at the top of a report.

  Attributes:
    sentence: what was found.
    next: the action of the gravest finding; None if nothing is to be done.
    because: that finding's title.
  """

  sentence: str
  next: str | None
  because: str | None


def answer(results: StudyResults, findings: Sequence[Finding]) -> Answer:
  """Return the answer of a study, given its findings with the gravest first, as `trialbook.tuning.findings.findings`
  gives them."""
  best = results.best
  if best is None:
    sentence = "No trial has a value yet." if results.trials else "No trial has begun."
    if results.trials and all(trial.state == "infeasible" for trial in results.trials):
      sentence = "Every trial was infeasible."
  else:
    compared = [f"{one.title}." for one in findings if one.question == "comparison" and "settings" in one.numbers]
    value = f"{results.objective.metric} {tables.number(best.objective)}"
    values = tables.values_text(best.values, results.study.hyperparameters)
    count = results.count("complete")
    whose = f"The best of {count} complete trials is" if count > 1 else "The only complete trial is"
    equal = sum(trial.objective == best.objective for trial in results.ranked) - 1
    tie = "" if not equal else "; another one is as good" if equal == 1 else f"; {equal} others are as good"
    sentence = f"{whose} trial {best.trial}: {value}{f' with {values}' if values else ''}{tie}."
    # Of several scientific hyperparameters each has its own.
    sentence = " ".join([*compared, sentence])
  waiting = results.count("pending") + results.count("running")
  if waiting and results.study.source is None:
    action = f"Wait for the other {waiting} trials, or go on with them: {results.study.command}"
    return Answer(sentence=sentence, next=action, because="The study is not at its end.")
  urgent = next((one for one in findings if one.action and one.severity in ("problem", "warning", "note")), None)
  if urgent is None or urgent.question == "fixed":
    unknown = [one for one in findings if one.action and one.severity == "cannot_tell"]
    # What cannot be told of the study's own question first.
    urgent = min(unknown, key=lambda one: one.question != "comparison", default=None)
  return Answer(sentence=sentence, next=urgent and urgent.action, because=urgent and urgent.title)
