"""What is planted in curves, and which findings see it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.advice_benchmark.planted_curves import (
  early_best,
  following,
  gradient_outliers,
  hardly_begun,
  noisy_end,
  overfitting_best,
  overfitting_others,
  periodic,
  rising_training_loss,
  saturated_and_noisy,
  saturated_early,
  still_improving,
)
from trialbook.tuning.advice_benchmark.plants import Plant, found
from trialbook.tuning.findings import Finding
from trialbook.tuning.results import StudyResults

Seen = Callable[[Sequence[Finding], int], bool]


def _titled(*words: str) -> Seen:
  """Return whether a finding with such words says that something is wrong."""
  return lambda findings, _: any(
    one.severity in ("note", "warning", "problem") and any(word in one.title for word in words) for one in findings
  )


def _warned(*words: str) -> Seen:
  """Return the same, of a warning or a problem."""
  return lambda findings, _: any(
    one.severity in ("warning", "problem") and any(word in one.title for word in words) for one in findings
  )


PLANTS = (
  Plant(
    name="overfitting in the best trial",
    question="overfitting",
    unit="rise of the error, of itself",
    sizes=(0.05, 0.1, 0.2, 0.3, 0.5),
    reached=0.3,
    why="with the fall that goes on beside it, a net rise by a fifth: more than most comparisons are about",
    draw=overfitting_best,
    seen=_titled("of the best trial rises", "of the best trial of"),
  ),
  Plant(
    name="overfitting only in others",
    question="overfitting",
    unit="rise of the error, of itself",
    sizes=(0.02, 0.05, 0.1, 0.2),
    reached=0.1,
    why="such trials would be as good as the best, stopped earlier or regularized",
    draw=overfitting_others,
    seen=_titled("trials overfit"),
  ),
  Plant(
    name="noisy end",
    question="late_noise",
    unit="standard deviation of the error",
    sizes=(0.005, 0.01, 0.02, 0.03),
    reached=0.03,
    why="about a third of the best errors: the best of fifty evaluations flatters its trial by two of them",
    draw=noisy_end,
    seen=_titled("Late in training"),
  ),
  Plant(
    name="still improving",
    question="convergence",
    unit="fall over the last half, of the final error",
    sizes=(0.05, 0.1, 0.2, 0.3, 0.4),
    reached=0.3,
    why="a fifth more steps gain about 12% of the error: more than most hyperparameters do once tuned",
    draw=still_improving,
    seen=_warned("still improves"),
  ),
  Plant(
    name="saturated early",
    question="convergence",
    unit="share of the steps that is idle",
    sizes=(0.3, 0.5, 0.6, 0.7, 0.8),
    reached=0.6,
    why="the compute pays for more than two studies instead of one",
    draw=saturated_early,
    seen=_titled("improves by less than", "is no better at the end"),
  ),
  Plant(
    name="hardly begun, no learning rate logged",
    question="convergence",
    unit="power of the steps by which it improves",
    sizes=(0.1, 0.3, 0.5, 0.7, 1.0),
    reached=0.7,
    why="a fifth more steps gain more than a tenth of all that was gained: what is best now is what starts fastest",
    draw=hardly_begun,
    seen=_warned("still improves"),
  ),
  Plant(
    name="saturated early, noisy evaluations",
    question="convergence",
    unit="share of the steps that is idle",
    sizes=(0.3, 0.5, 0.6, 0.7, 0.8),
    reached=0.7,
    why="the compute pays for three studies instead of one",
    draw=saturated_and_noisy,
    seen=_titled("improves by less than", "is no better at the end"),
  ),
  Plant(
    name="rising training loss",
    question="convergence",
    unit="rise of the loss, of itself",
    sizes=(0.05, 0.1, 0.2, 0.4),
    reached=0.2,
    why="less is the sway of regularization and batches; a bug is seldom so small",
    draw=rising_training_loss,
    seen=_titled("Training loss rises"),
  ),
  Plant(
    name="periodic validation",
    question="periodicity",
    unit="amplitude of the error",
    sizes=(0.001, 0.002, 0.004, 0.006, 0.01),
    reached=0.004,
    why="a third above the noise of an evaluation on 10,000 examples: hardly seen in a single curve",
    draw=periodic,
    seen=_titled("period"),
  ),
  Plant(
    name="best step always early",
    question="selected_step",
    unit="share of the trials",
    sizes=(0.3, 0.6, 0.8, 1.0),
    reached=1.0,
    why="the playbook says always; at four fifths of a dozen trials the interval still holds one half",
    draw=early_best,
    seen=_titled("far too long"),
  ),
  Plant(
    name="gradient outliers",
    question="gradient_norm",
    unit="factor over the neighbours, in 2% of the steps",
    sizes=(2, 3, 4, 6),
    reached=4,
    why="an update that is four times as long; smaller ones are in the tail of healthy noise",
    draw=gradient_outliers,
    seen=_titled("Gradient norms have outliers"),
  ),
)
QUESTIONS = tuple(dict.fromkeys([*(plant.question for plant in PLANTS), "optimization"]))
"""Modules that look at curves."""


def false_alarms(world: Mapping[str, Any], seeds: Sequence[int]) -> dict[str, float]:
  """Return for each plant the share of healthy studies in which it is seen, and for each module that of those with a
  warning or a problem."""
  counts = dict.fromkeys([*(plant.name for plant in PLANTS), *QUESTIONS], 0)
  for seed in seeds:
    for name in alarms(planted.healthy(seed, **world), seed):
      counts[name] += 1
  return {name: count / len(seeds) for name, count in counts.items()}


def alarms(results: StudyResults, seed: int) -> list[str]:
  """Return the plants that are seen in a healthy study, and the modules with a warning or a problem."""
  by_question = {question: found(question, results) for question in QUESTIONS}
  graves = [name for name, all_ in by_question.items() if any(one.severity in ("warning", "problem") for one in all_)]
  return [*(plant.name for plant in PLANTS if plant.seen(by_question[plant.question], seed)), *graves]


def schedule_alarms(schedule: str, share: float, seeds: Sequence[int]) -> dict[str, float]:
  """Return for each module the share of studies of `following` with a warning or a problem; in turn logged and not."""
  halves = [
    false_alarms({"trials": 16, "reshape": following(schedule, share, logged=logged)}, seeds[logged::2])
    for logged in (False, True)
  ]
  return {name: (halves[0][name] + halves[1][name]) / 2 for name in QUESTIONS}
