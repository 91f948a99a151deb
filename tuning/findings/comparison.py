"""Which scientific setting is best, and whether that is more than luck (PB-13, PB-30).

The playbook compares settings by the best trial of each over the nuisance hyperparameters, at equal budgets. The best
of a few trials is a lucky number: drawing k of them again and again (`tuning.best_of_k`) shows how lucky, but never
gives a value that was not seen, and alone calls one of two equal settings the winner in one study of four. The
difference is therefore taken between the medians of the best of k as the good end of each setting's distribution gives
them (`tuning.findings.tail`), too, and the wider one of both intervals counts. The form of that good end is an
assumption, which noise and many dimensions break, so that a winner is also held against chance without any: the
settings' points are dealt out again at random, and the difference that is seen must be rare among these. The
trials' own noise is in all of them.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import scipy.stats

from tuning import scientific
from tuning.best_of_k import cumulative, of_k
from tuning.findings.finding import Finding, Severity
from tuning.findings.noise import trial_noise
from tuning.findings.points import feasible, is_numeric, many, points_of, searched
from tuning.findings.tail import LEAST, Tail, tail_of
from tuning.results import StudyResults, Trial
from tuning.space import Hyperparameter

LEVEL = 0.1
"""Of an interval of a difference, over all settings that are held against the best: half of it lies on the other side,
so that an equal one is called worse in one study of twenty at most."""
LUCK = 0.04
"""The share of random deals with a difference as large as that which is seen, up to which it is not luck. It is exact
for any distribution of equal settings: the one of twenty that `LEVEL` means, less what `DEALS` leave uncertain."""
DRAWS = 4000
"""Of the medians: the quantiles of the difference are then sure to a few hundredths of its spread."""
DEALS = 1000
"""Of the points: a share of `LUCK` is then sure to 0.006."""
EFFORT = 2.0
"""Times as many trials: random sampling of 48 over two settings does that in one study of fifty."""
EFFORT_LEAST = 4
"""More points, too: of fewer, twice as many are a setting that has just begun, or one point against two."""
EFFORT_LEVEL = 0.01
"""Of the test that unequal feasible shares are not chance."""
MOST_TIMES = 10.0
"""As many trials as there are: what would take more is not worth settling."""


@dataclasses.dataclass(frozen=True)
class Contender:
  """A setting and what is known of the best of it.

  Attributes:
    setting: as `scientific.settings` gives it.
    costs: of its points with a value, in order: smaller is better. Retrains of a point are one try: their mean.
    total: of its points, those that gave nothing too.
    best: of the retrains of its best point the best one; None where no point has a value.
  """

  setting: scientific.Setting
  costs: tuple[float, ...]
  total: int
  best: Trial | None

  @property
  def named(self) -> str:
    """The setting, in a sentence."""
    return self.setting.named

  @property
  def infeasible(self) -> int:
    """Points that gave nothing."""
    return self.total - len(self.costs)

  @functools.cached_property
  def tail(self) -> Tail | None:
    """The good end of its costs."""
    return tail_of(self.costs, self.infeasible)


def contenders(results: StudyResults, settings: Sequence[scientific.Setting]) -> list[Contender]:
  """What is known of the best of each setting."""
  points, sign = points_of(results), results.objective.sign
  found = []
  for setting in settings:
    trials = {trial.trial: trial for trial in setting.trials}
    own = [point for point in points if point.trials[0] in trials]
    ordered = feasible(own)
    valued = [trials[n] for n in ordered[0].trials if trials[n].objective is not None] if ordered else []
    best = min(valued, key=lambda trial: sign * (trial.objective or 0.0), default=None)
    found.append(Contender(setting, tuple(point.cost for point in ordered), len(own), best))
  return found


def first_of(results: StudyResults, field: Sequence[Contender]) -> list[Contender]:
  """Those that have a value, the one with the best point first; among equals, that of the trial which ranks first."""
  best = results.best
  return sorted(
    (one for one in field if one.costs),
    key=lambda one: (one.costs[0], best is None or all(best.trial != trial.trial for trial in one.setting.trials)),
  )


def find(results: StudyResults) -> list[Finding]:
  """The winner and who is not told apart from it; unequal effort. Nothing where the study compares nothing.

  Of several scientific hyperparameters each is looked at by itself, at the best of the others: the trials of one
  combination are few.
  """
  axes = [one for one in searched(results) if one.role == "scientific"]
  if len(axes) == 1:
    return _of_settings(results, axes[0], scientific.settings(results))
  return [found for one in axes for found in _of_settings(results, one, scientific.buckets(one, results.trials))]


def _of_settings(results: StudyResults, axis: Hyperparameter, settings: Sequence[scientific.Setting]) -> list[Finding]:
  if len(settings) < 2:
    return []
  field = contenders(results, settings)
  # A slice of a continuous axis is no setting that somebody would choose, and its neighbours are alike by nature.
  sliced = is_numeric(axis) and any(isinstance(each.values.get(axis.name), tuple) for each in settings)
  return [_verdict(results, field, axis, sliced), *([] if sliced else _effort(field))]


def _verdict(results: StudyResults, field: list[Contender], axis: Hyperparameter, sliced: bool) -> Finding:
  plot = f"isolation:{axis.name}"
  known = first_of(results, field)
  numbers: dict[str, Any] = {
    "hyperparameter": axis.name,
    "settings": {one.setting.label: _summary(one, results) for one in field},
  }
  if len(known) < 2:
    return _finding(
      "cannot_tell",
      "Fewer than two settings have a complete trial: there is nothing to compare.",
      "; ".join(f"{one.named}: {len(one.costs)} of {one.total}" for one in field) + ".",
      numbers=numbers,
      action=f"Run until each setting has {LEAST} complete trials.",
      plot=plot,
    )
  winner, others = known[0], known[1:]
  sign = results.objective.sign
  equal = [one.named for one in known if one.costs[0] == winner.costs[0]]
  shown = f"{' and '.join(equal)} {'have equal best points' if len(equal) > 1 else 'has the best point'}"
  shown += f" ({sign * winner.costs[0]:.4g})"
  if winner.tail is None or any(one.tail is None for one in others):
    few = [one.named for one in known if one.tail is None]
    whose = "all have" if len(few) == len(known) else f"{', '.join(few)} {'has' if len(few) == 1 else 'have'}"
    return _finding(
      "note" if sliced else "cannot_tell",
      f"{shown}, but {whose} too few points that differ to compare.",
      f"{_sentence(field, results)} A comparison takes {LEAST} points with a value in each setting.",
      trials=_trials(known[:1]),
      numbers=numbers,
      action=f"Run until each setting has {LEAST} complete trials, or more where the best are equal.",
      plot=plot,
    )
  budget = min(one.total for one in known)
  rng = np.random.default_rng(0)
  medians = {id(one): one.tail.medians(budget, DRAWS, rng) for one in known if one.tail is not None}
  bests = {id(one): _bests(one, budget, rng) for one in known}
  level = LEVEL / len(others)
  ends = [level / 2, 1 - level / 2]
  open_, leads = [], {}
  for one in others:
    difference = medians[id(one)] - medians[id(winner)]
    low, high = (float(x) for x in np.quantile(difference, ends))
    drawn = [float(x) for x in np.quantile(bests[id(one)] - bests[id(winner)], ends)]
    low, high, middle = min(low, drawn[0]), max(high, drawn[1]), float(np.median(difference))
    luck = _luck(winner, one, budget, rng)
    leads[one.setting.label] = {
      "lead": middle,
      "low": low,
      "high": high,
      "bootstrap": {"low": drawn[0], "high": drawn[1]},
      "luck": luck,
    }
    if low <= 0 or luck > LUCK:
      # Intervals shrink with the root of the number of trials, and so does what chance makes up.
      shrink = (middle - low) / middle if middle > 0 else math.inf
      chance = scipy.stats.norm.isf(LUCK / 2) / scipy.stats.norm.isf(luck / 2) if luck < 1 else math.inf
      open_.append((one, max(shrink, float(chance), 1.0) ** 2))
  noise = trial_noise(results)
  numbers |= {"budget": budget, "leads": leads, "trial_noise": noise.deviation if noise else None}
  runner = others[0].named
  lead = leads[others[0].setting.label]
  apart = f"{lead['lead']:.2g} ({100 * (1 - level):.3g}% interval {lead['low']:.2g} to {lead['high']:.2g})"
  why = (
    f"{_sentence(field, results)} At equal budgets of {many(budget, 'point')}, the median of the best differs by"
    f" {apart} from that of {runner}; of random deals of their points, a share of"
    f" {lead['luck']:.2g} differ as much. "
    + (
      f"The seed-to-seed standard deviation is {noise.deviation:.2g}."
      if noise
      else "How much the best trials vary from seed to seed is not known beyond what the points show."
    )
  )
  if not open_:
    return _finding(
      "ok",
      f"{winner.named} wins: its best of {many(budget, 'point')} beats that of {runner} by {apart}.",
      why,
      subject=winner.setting.label,
      trials=_trials(known[:2]),
      numbers=numbers,
      plot=plot,
    )
  names = ", ".join(one.named for one, _ in open_ if one.named not in equal)
  if len(equal) > 1:
    title = f"{shown}: none of them wins" + (f", and {names} may be as good." if names else ".")
  else:
    title = f"{shown}, but is not told apart from {names}: the winner may be luck."
  most = max(times for _, times in open_)
  more = math.ceil(sum(one.total for one in known) * (most - 1)) if most < MOST_TIMES else None
  numbers["more"] = more
  return _finding(
    "note" if sliced else "warning",
    title,
    why,
    subject=winner.setting.label,
    trials=_trials([winner, *(one for one, _ in open_)]),
    numbers=numbers,
    action=f"About {many(more, 'more trial')} would settle it if the difference is as large as it looks."
    if more is not None
    else f"{MOST_TIMES:g} times as many trials might not settle it: take the simpler or cheaper one.",
    plot=plot,
  )


def _bests(one: Contender, budget: int, rng: np.random.Generator) -> np.ndarray:
  """The best of `budget` of its points, drawn with replacement: [DRAWS]. Points without a value are as bad as the
  worst one."""
  reached = cumulative(len(one.costs), budget, one.infeasible)
  places = np.searchsorted(reached, rng.random(DRAWS))
  return np.asarray(one.costs)[np.minimum(places, len(one.costs) - 1)]


def _luck(winner: Contender, other: Contender, budget: int, rng: np.random.Generator) -> float:
  """The share of deals of the points of both at random that differ as much as they do.

  By the mean best of half the budget: less is decided by single points than in the best of all, and more tells than in
  the mean. Exact, whatever the distribution, where both settings have the same.
  """
  worst = max(winner.costs[-1], other.costs[-1])
  sides = [np.array([*one.costs, *[worst] * one.infeasible]) for one in (winner, other)]
  count = len(sides[0])
  # Probabilities that the best of the draws is the first, the second, ... of a side.
  weights = [np.diff(cumulative(len(side), max(1, budget // 2)), prepend=0) for side in sides]
  dealt = rng.permuted(np.tile(np.concatenate(sides), (DEALS, 1)), axis=1)
  means = [
    np.sort(part, axis=1) @ each for part, each in zip((dealt[:, :count], dealt[:, count:]), weights, strict=True)
  ]
  seen = float(sides[1] @ weights[1] - sides[0] @ weights[0])
  # As it is dealt counts too, so that no share is 0; equal ones count in spite of rounding.
  return float(1 + np.sum(np.abs(means[1] - means[0]) >= seen - 1e-12 * abs(worst))) / (1 + DEALS)


def _summary(one: Contender, results: StudyResults) -> dict[str, Any]:
  """The best of a setting, and the quartiles of the best of half of its points."""
  sign = results.objective.sign
  if not one.costs:
    return {"points": one.total, "feasible": 0}
  half = of_k([sign * cost for cost in one.costs], sign, max(1, one.total // 2), one.infeasible)
  return {
    "points": one.total,
    "feasible": len(one.costs),
    "best": sign * one.costs[0],
    "half": {"k": half.k, "p25": half.p25, "median": half.median, "p75": half.p75},
  }


def _sentence(field: list[Contender], results: StudyResults) -> str:
  parts = []
  for one in field:
    best = f"best {results.objective.sign * one.costs[0]:.4g}" if one.costs else "none with a value"
    parts.append(f"{one.named}: {best} of {many(one.total, 'point')}")
  return "; ".join(parts) + "."


def _trials(field: list[Contender]) -> tuple[int, ...]:
  """The best trial of the best point of each."""
  return tuple(one.best.trial for one in field if one.best is not None)


def _effort(field: list[Contender]) -> list[Finding]:
  """Settings that were tuned less than others, by trials or by feasible ones."""
  most, least = max(field, key=lambda one: one.total), min(field, key=lambda one: one.total)
  if least.total == 0:
    return []
  counts = {one.setting.label: {"points": one.total, "feasible": len(one.costs)} for one in field}
  why = "; ".join(f"{name}: {n['points']} points, {n['feasible']} feasible" for name, n in counts.items()) + "."
  if most.total >= EFFORT * least.total and most.total - least.total >= EFFORT_LEAST:
    return [
      _finding(
        "warning",
        f"{most.named} was tuned with {most.total} points, {least.named} with {least.total}.",
        f"{why} More tries find better bests; the comparison is made at equal budgets, but more trials also say more.",
        subject=least.setting.label,
        numbers={"effort": counts},
        action=f"Run {most.total - least.total} more trials of {least.named}.",
        plot="comparison",
      )
    ]
  rich = max(field, key=lambda one: len(one.costs) / max(one.total, 1))
  poor = min(field, key=lambda one: len(one.costs) / max(one.total, 1))
  table = [[len(one.costs), one.infeasible] for one in (rich, poor)]
  if len(rich.costs) * poor.total >= EFFORT * len(poor.costs) * rich.total:
    p = float(scipy.stats.fisher_exact(table)[1]) * len(field) * (len(field) - 1) / 2  # pyright: ignore
    if p < EFFORT_LEVEL:
      return [
        _finding(
          "warning",
          f"{len(poor.costs)} of {poor.total} points of {poor.named} are feasible, {len(rich.costs)} of"
          f" {rich.total} of {rich.named}: it was tuned less.",
          f"{why} Fisher's test: p = {p:.1g}.",
          subject=poor.setting.label,
          numbers={"effort": counts, "p": p},
          action=f"Give {poor.named} a space that is feasible, and as many trials there.",
          plot="comparison",
        )
      ]
  return []


def _finding(severity: Severity, title: str, why: str, **more: Any) -> Finding:
  return Finding(id="PB-30", question="comparison", severity=severity, title=title, why=why, **more)
