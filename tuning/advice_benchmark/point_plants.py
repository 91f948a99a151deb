"""What is planted about points, which findings name it, and healthy controls.

A finding has to name what was planted, such as the hyperparameter and the side, and not only that something is wrong.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from trialbook.tuning.advice_benchmark import planted
from trialbook.tuning.advice_benchmark.planted import SPACE, World
from trialbook.tuning.advice_benchmark.planted_points import (
  FIVE,
  LAYERS,
  RATE,
  cliff,
  contest,
  crossed,
  dimension,
  edge,
  equals,
  everywhere,
  feature,
  few,
  flat,
  idle,
  needle,
  pair,
  quick,
  region,
  shape,
  side,
)
from trialbook.tuning.advice_benchmark.plants import Plant, found
from trialbook.tuning.findings import Finding
from trialbook.tuning.results import StudyResults

EDGES = (-0.2, -0.1, 0.0, 0.1, 0.2, 0.4)
"""Distances from the edge to the optimum, as a share of the scale; at -0.2 it is well inside."""
QUESTIONS = ("infeasible", "boundary", "density", "stopping", "comparison", "importance")
"""Modules that look at points."""


def _edge_found(findings: Sequence[Finding], seed: int, severities: Sequence[str] = ("warning", "note")) -> bool:
  return any(
    one.id == "PB-23" and one.subject == SPACE[dimension(seed)].name and one.numbers.get("side") == side(seed)
    for one in findings
    if one.severity in severities
  )


def _ends(findings: Sequence[Finding], seed: int) -> bool:
  """Return whether one says that the optimum is at the end of what the hyperparameter can be."""
  return any("the end of what it can be" in one.title for one in findings) and _edge_found(findings, seed)


def _cliff_found(findings: Sequence[Finding], _: int) -> bool:
  return any(one.id == "PB-80" and one.subject == RATE for one in findings) and not any(
    one.subject == RATE and one.space for one in findings
  )


def _warned(findings: Sequence[Finding], _: int) -> bool:
  return any(one.severity in ("warning", "problem") for one in findings)


def _region_found(findings: Sequence[Finding], seed: int) -> bool:
  return any(one.subject == SPACE[dimension(seed)].name and "cut" in one.numbers for one in findings)


def _bug_found(findings: Sequence[Finding], _: int) -> bool:
  return any(one.severity == "problem" and one.subject is None for one in findings)


def _idle_found(findings: Sequence[Finding], seed: int) -> bool:
  return any(
    ("hardly matters" in one.title or "matters less" in one.title) and one.subject == SPACE[dimension(seed)].name
    for one in findings
  )


def _feature_removed(findings: Sequence[Finding], _: int) -> bool:
  return any("does not help" in one.title and one.subject == "dropout.present" for one in findings)


def _pair_found(findings: Sequence[Finding], seed: int) -> bool:
  wanted = {SPACE[(dimension(seed) + k) % 3].name for k in range(2)}
  return any({one.subject, one.numbers.get("with")} == wanted for one in findings)


def _luck_found(findings: Sequence[Finding], _: int) -> bool:
  return any(one.severity == "warning" and one.numbers.get("clear") is False for one in findings)


def _winner_found(findings: Sequence[Finding], _: int) -> bool:
  return any(one.numbers.get("clear") and one.subject == "relu" for one in findings)


PLANTS = (
  Plant(
    name="optimum near an edge, or beyond",
    question="boundary",
    unit="of the scale beyond",
    sizes=EDGES,
    reached=0.2,
    why=(
      "at 0.2 beyond the edge the error is lower by 0.015, five times the noise; in one study of six the edge is the"
      " end of what the hyperparameter can be, and that the best are near it is no finding"
    ),
    draw=edge,
    seen=_edge_found,
  ),
  Plant(
    name="optimum beyond an edge, warned of",
    question="boundary",
    unit="of the scale beyond",
    sizes=EDGES,
    reached=0.4,
    why="beyond the edge the error is lower by 0.07 (median), as much as its floor",
    draw=edge,
    seen=lambda findings, seed: _edge_found(findings, seed, ("warning",)) or _ends(findings, seed),
  ),
  Plant(
    name="instability near the best, or under it",
    question="boundary",
    unit="of the scale",
    sizes=EDGES,
    reached=0.2,
    why="the same distance, cut off by divergence: stable training would reach it",
    draw=cliff,
    seen=_cliff_found,
  ),
  Plant(
    name="instability under the best, warned of",
    question="boundary",
    unit="of the scale",
    sizes=EDGES,
    reached=0.4,
    why="as beyond an edge",
    draw=cliff,
    seen=lambda findings, seed: _cliff_found([one for one in findings if one.severity == "warning"], seed),
  ),
  Plant(
    name="too few points",
    question="density",
    unit="trials, 3 dimensions",
    sizes=(24, 16, 12, 10, 6),
    reached=10,
    why="a valley in 3 dimensions has 7 coefficients: 10 points leave 3 degrees of freedom, of which nothing is sure",
    draw=few,
    seen=_warned,
  ),
  Plant(
    name="best point alone",
    question="density",
    unit="of 48 points",
    sizes=(8, 4, 2, 1),
    reached=1,
    why="half of the study would have missed it every other time",
    draw=needle,
    seen=_warned,
  ),
  Plant(
    name="infeasible region",
    question="infeasible",
    unit="of a scale",
    sizes=(0.05, 0.1, 0.2, 0.3, 0.5),
    reached=0.2,
    why="a fifth of the trials are lost there, the share from which a finding warns",
    draw=region,
    seen=_region_found,
  ),
  Plant(
    name="infeasible everywhere",
    question="infeasible",
    unit="of the trials",
    sizes=(0.05, 0.1, 0.2, 0.3, 0.5),
    reached=0.3,
    why="crashes at random that cost a third of the budget; fewer pass as a note",
    draw=everywhere,
    seen=_bug_found,
  ),
  Plant(
    name="no effect",
    question="importance",
    unit="of the others",
    sizes=(0.3, 0.1, 0.03, 0.01, 0.0),
    reached=0.01,
    why=(
      "a hundredth of what the others do: it is said to matter less; one of twelve idle ones is said to hardly matter:"
      " 48 trials seldom rule out 2% of the error"
    ),
    draw=idle,
    seen=_idle_found,
  ),
  Plant(
    name="useless feature",
    question="importance",
    unit="higher error with it",
    sizes=(-0.05, -0.01, 0.0, 0.02, 0.05),
    reached=0.02,
    why="a quarter of the valley's floor of 0.08; a feature that helps at its best strength must never be removed",
    draw=feature,
    seen=_feature_removed,
  ),
  Plant(
    name="two interact",
    question="importance",
    unit="of the scale",
    sizes=(0.0, 0.2, 0.4, 0.6, 0.8),
    reached=0.8,
    why="the best value moves by most of the scale: fixing one and tuning the other misses the valley",
    draw=pair,
    seen=_pair_found,
  ),
  Plant(
    name="winner by luck",
    question="comparison",
    unit="lower error",
    sizes=(0.04, 0.02, 0.01, 0.0),
    reached=0.01,
    why="the best of 32 varies by 0.014 from study to study: settings closer than that must not be called apart",
    draw=contest,
    seen=_luck_found,
  ),
  Plant(
    name="real winner",
    question="comparison",
    unit="lower error",
    sizes=(0.0, 0.02, 0.04, 0.06, 0.08, 0.1),
    reached=0.1,
    why="five standard deviations of the difference of two bests of 32 (0.019); at 0.04 every third one is told",
    draw=contest,
    seen=_winner_found,
  ),
  Plant(
    name="unequal effort",
    question="comparison",
    unit="times the trials",
    sizes=(1.0, 1.5, 2.0, 3.0),
    reached=2.0,
    why="the best of twice as many is better by about 0.006 by effort alone",
    draw=lambda seed, effect: contest(seed, 0.2, shares=effect),
    seen=lambda found, _: any("effort" in one.numbers for one in found),
  ),
  Plant(
    name="search saturated",
    question="stopping",
    unit="of the differences",
    sizes=(1.0, 0.3, 0.1, 0.03),
    reached=0.1,
    why="doubling gains 0.0015, half of the noise; of the whole differences it gains 0.0048",
    draw=flat,
    seen=lambda found, _: any("stop" in one.title for one in found),
  ),
)

CONTROLS: Mapping[str, Callable[[int], StudyResults]] = {
  "48 trials, whole untidy curves": lambda seed: planted.healthy(seed, evaluations=8),
  "48 trials, skewed valleys": lambda seed: quick(seed, World(surface=shape(seed, SPACE))),
  "24 trials": lambda seed: quick(seed, World(surface=shape(seed, SPACE), trials=24)),
  "5 dimensions": lambda seed: quick(seed, World(space=FIVE, surface=shape(seed, FIVE))),
  "noise of 0.01": lambda seed: quick(seed, World(surface=shape(seed, SPACE), retrain=0.01, validation_examples=2000)),
  "accuracy": lambda seed: quick(seed, World(surface=shape(seed, SPACE)), better="max"),
  "96 trials": lambda seed: quick(seed, World(surface=shape(seed, SPACE), trials=96)),
  "two equal settings": lambda seed: contest(seed, 0.0),
  "two equal settings, a categorical nuisance": lambda seed: equals(seed),
  "two optimizers alike, and layers that matter": crossed,
  "two optimizers alike, nine of ten with layers of their own": lambda seed: crossed(seed, 0.9),
}
"""Studies in which nothing is wrong, and no setting is better, but for the number of layers."""


def alarms(results: StudyResults) -> set[str]:
  """Return the questions whose findings say of a healthy study that something is wrong, or claim what is not there."""
  return {question for question in QUESTIONS if any(map(_is_alarm, found(question, results)))}


def _is_alarm(one: Finding) -> bool:
  if one.question == "comparison":
    # Of settings that are equal "not told apart" is the truth; a winner or unequal effort is not.
    return (one.severity == "ok" and one.numbers["hyperparameter"] != LAYERS.name) or "effort" in one.numbers
  return one.severity in ("warning", "problem") or (one.severity == "note" and one.question != "stopping")


def false_alarms(control: str, seeds: Sequence[int]) -> dict[str, float]:
  """Return the share of seeds in which each question raises a false alarm, of those that do."""
  raised = [alarms(CONTROLS[control](seed)) for seed in seeds]
  names = sorted(set().union(*raised))
  return {name: float(np.mean([name in one for one in raised])) for name in names}
