"""Which of the best points of some searches is the final one. Fresh seeds choose: the best of many values is partly
luck (PB-40)."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from trialbook.trainer import Config
from trialbook.tuning.findings.statistics.points import feasible, points_of
from trialbook.tuning.procedures.lab import MOST_SEEDS, Lab
from trialbook.tuning.results import StudyResults, Trial

CONTENDERS = 3
"""Points among which fresh seeds choose, without a number of one's own."""
CHOICE_SEEDS = 3
"""Fresh seeds of each contender."""


@dataclasses.dataclass(frozen=True)
class Contender:
  """A point of a search.

  Attributes:
    config: of its trainings.
    name: of its trial and study, in words.
    cost: mean of its values, where small is good.
  """

  config: Config
  name: str
  cost: float


@dataclasses.dataclass(frozen=True)
class Chosen:
  """The final configuration, how it was chosen in sentences, and numbers of the conclusion."""

  config: Config
  evidence: list[str]
  numbers: dict[str, Any]


def contenders_of(results: StudyResults) -> list[Contender]:
  """Return the points of a study of trainings that have a value."""
  base = results.study.config
  assert base is not None
  trials: Mapping[int, Trial] = {trial.trial: trial for trial in results.trials}
  found = []
  for point in feasible(points_of(results)):
    changes = {path: value for path, value in trials[point.trials[0]].changes.items() if path != "seed"}
    found.append(Contender(base.override(changes), f"trial {point.trials[0]} of {results.study.name}", point.cost))
  return found


def choose(lab: Lab, known: Sequence[Contender], count: int) -> Chosen:
  """Return the best of some points: of those with the best values, the one with the best mean over fresh seeds.

  Args:
    lab: where they are trained.
    known: at least one.
    count: how many are compared; 1: none is trained, and the best value decides.
  """
  ranked = sorted(known, key=lambda one: one.cost)[:count]
  sign, metric = lab.ranked_by.sign, lab.ranked_by.metric
  if len(ranked) == 1:
    [best] = ranked
    said = f"The best point is {best.name}: {metric} {sign * best.cost:.4g}. No fresh seeds have confirmed it."
    return Chosen(best.config, [said], {"best": sign * best.cost})
  values = []
  for place, one in enumerate(ranked, start=1):
    goal = f"How good is {one.name} with other seeds?"
    # The final trainings have the seeds before these: what has chosen a point is too good to measure it.
    results = lab.retrained(f"contender_{place}", goal, one.config, one.config.seed + MOST_SEEDS + 1, CHOICE_SEEDS)
    values.append([trial.objective for trial in results.trials if trial.objective is not None])
  means = [statistics.fmean(own) if own else None for own in values]

  def cost(place: int) -> tuple[int, float, float]:
    """Return what is small for a good point: the seeds that died, then the mean, then the value it was known by."""
    return CHOICE_SEEDS - len(values[place]), sign * (means[place] or 0.0), ranked[place].cost

  order = sorted(range(len(ranked)), key=cost)
  told = [
    f"{ranked[place].name} has {'no value' if means[place] is None else f'{means[place]:.4g}'}" for place in order
  ]
  best = ranked[order[0]]
  chose = (
    f"Of the {len(ranked)} points with the best values, the mean of {metric} over {CHOICE_SEEDS} fresh seeds chose one"
  )
  had = f"{best.name[0].upper()}{best.name[1:]} had {sign * best.cost:.4g} in its search."
  evidence = [f"{chose}: {', '.join(told)}.", had]
  return Chosen(best.config, evidence, {"best": sign * best.cost, "contenders": means, "contender": order[0] + 1})
