"""The best compared setting, tested against chance (PB-13, PB-30).

The playbook compares settings by the best trial of each over the nuisance hyperparameters, at equal budgets. The best
of a few trials is a noisy number. Drawing k of them again and again (`statistics.best_of_k`) shows how noisy, but never
gives a value that was not seen, and alone calls one of two equal settings the winner in one study of four. The
difference is therefore taken between the medians of the best of k as the good end of each setting's distribution gives
them (`statistics.extreme_value`), too, and the wider one of both intervals counts. The form of that good end is an
assumption, which noise and many dimensions break. A winner is therefore also tested without any assumption: the
settings' points are permuted at random (`statistics.permutation_test`), and the observed difference must be rare among
the permutations. The trials' own noise is in all of them.

Points that a rule ended early because they were worse than others (pruned) count as tried, and as not among the best.
If so many were pruned that too few values are left for the fit, the observed distribution alone gives the interval. The
permutation test, which a winner needs as well, holds for it too.

Of several scientific hyperparameters each is looked at on its own, over all values of the others, as the points of one
combination are few. One setting may have had more of the others' better values than another. The intervals do not know
of that, but the permutation test does, and a winner needs both.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from trialbook.tuning.compared_settings import ComparedSetting, buckets, compared_settings, places
from trialbook.tuning.findings import comparison_words as words
from trialbook.tuning.findings.effort import effort
from trialbook.tuning.findings.finding import Finding, Severity, finding_of
from trialbook.tuning.findings.statistics.contenders import Contender, budget_of, contenders, first_of
from trialbook.tuning.findings.statistics.differences import LEVEL, Axis, differences
from trialbook.tuning.findings.statistics.extreme_value import LEAST
from trialbook.tuning.findings.statistics.points import is_numeric, searched
from trialbook.tuning.findings.statistics.seed_noise import noise_of
from trialbook.tuning.findings.wording import listed, many
from trialbook.tuning.results import StudyResults
from trialbook.tuning.space.scales import Hyperparameter

_finding = finding_of("PB-30", "comparison")

MOST_TIMES = 10.0
"""Most trials that are proposed, as a multiple of those run: a difference that takes more is not worth settling."""


def find(results: StudyResults) -> list[Finding]:
  """Return the winner and the settings that may be as good; unequal effort. Nothing where the study compares nothing.

  Of several scientific hyperparameters each has its own, over all values of the others.
  """
  compared = compared_axes(results)
  axes = [one for one in searched(results) if one.role == "scientific"]
  found = []
  for one, settings in compared:
    others = [other for other in axes if other is not one]
    of_others = places(others, results.trials)
    axis = Axis(
      name=one.name,
      others=tuple(other.name for other in others),
      places={trial.trial: place for trial, place in zip(results.trials, of_others, strict=True)},
      count=len(compared),
      sliced=is_numeric(one) and any(isinstance(each.values.get(one.name), tuple) for each in settings),
    )
    field = contenders(results, settings)
    verdict = _verdict(results, field, axis)
    found += [verdict, *([] if axis.sliced else effort(results, field, verdict.numbers["clear"]))]
  return found


def compared_axes(results: StudyResults) -> list[tuple[Hyperparameter, list[ComparedSetting]]]:
  """Return the scientific hyperparameters that have two settings at least, each with its settings."""
  axes = [one for one in searched(results) if one.role == "scientific"]
  if len(axes) == 1:
    # The trials without the only one are a setting of their own, "without NAME": nothing else stands for them.
    found = [(axes[0], compared_settings(results))]
  else:
    # Those without one of several have another value of the hyperparameter that it belongs to, whose verdict is theirs.
    found = [
      (one, [dataclasses.replace(each, label=f"{one.name}={each.label}") for each in buckets(one, results.trials)])
      for one in axes
    ]
  return [(one, settings) for one, settings in found if len(settings) > 1]


def _verdict(results: StudyResults, field: list[Contender], axis: Axis) -> Finding:
  known = first_of(results, field)
  # Settings of which all was pruned have lost, and have no value.
  lost = [one for one in field if not one.costs and one.pruned >= LEAST]
  said = words.tried(results, field)
  numbers: dict[str, Any] = {
    "hyperparameter": axis.name,
    "settings": {one.setting.label: _summary(one, results) for one in field},
    "clear": False,
    "more": None,
  }
  finding = functools.partial(_finding, numbers=numbers, plot="comparison")
  unsure: Severity = "note" if axis.sliced else "cannot_tell"
  if not known or len(known) + len(lost) < 2:
    numbers["more"], needed = _needed(field)
    return finding("cannot_tell", words.nothing_to_compare(field), said, action=needed)
  winner, others = known[0], [*known[1:], *lost]
  equal = [one for one in known if one.costs[0] == winner.costs[0]]
  unfit = [one for one in known if one.extreme_value is None and not one.is_known_by_pruning]
  if unfit:
    few = [one for one in field if len(one.costs) < LEAST and not one.is_known_by_pruning]
    flat = [one for one in unfit if one not in few]
    if few:
      numbers["more"], action = _needed(few)
    else:
      action = "Rank by a finer objective, such as a loss, in which the best trials differ."
    return finding(
      unsure,
      words.too_few(results, winner, equal, few, flat, field),
      f"{said} A comparison needs {LEAST} {words.noun(field, LEAST)} with a value in each setting, and their best third"
      " must not all be equal.",
      trials=_trials([winner]),
      action=action,
    )
  if targets := [one for one in known if one.at_target]:
    return finding(
      unsure,
      words.at_target(results, winner, equal, targets),
      f"{said} A trial that was ended at a target would have become better.",
      trials=_trials([winner, *targets]),
      action="Compare the number of steps to the target, or run the best trials of each setting equally long.",
    )
  return _tested(results, field, axis, [winner, *others], equal, finding, said, numbers)


def _tested(
  results: StudyResults,
  field: list[Contender],
  axis: Axis,
  known: list[Contender],
  equal: list[Contender],
  finding: Any,
  said: str,
  numbers: dict[str, Any],
) -> Finding:
  """Return the verdict on settings that all have enough points; the first one has the best."""
  winner, others = known[0], known[1:]
  budget = budget_of(known)
  typical, leads = differences(winner, others, axis, budget, np.random.default_rng(0))
  noise = noise_of(results)
  numbers |= {
    "budget": budget,
    "typical": results.objective.sign * typical,
    "leads": {one.setting.label: each.numbers for one, each in zip(others, leads, strict=True)},
    "noise": noise.deviation if noise else None,
  }
  pairs = list(zip(others, leads, strict=True))
  level = 100 * (1 - LEVEL / len(others))
  interval = functools.partial(words.interval, results, level=level)
  why = " ".join(
    [
      said,
      words.method(results, field, budget, pairs[0], axis, interval(pairs[0])),
      *words.pruning(field, results),
      *words.noise(noise),
    ]
  )
  finding = functools.partial(finding, why=why, subject=winner.setting.label)
  mixed = [(one, each) for one, each in pairs if each.test is None]
  if mixed:
    names = sorted({name for _, each in mixed for name in each.aliased}, key=axis.others.index)
    return finding(
      "note" if axis.sliced else "cannot_tell",
      words.varied_together(results, winner, equal, [one for one, _ in mixed], axis, names),
      trials=_trials([winner, *(one for one, _ in mixed)]),
      action=words.crossed(axis, names),
    )
  open_ = [(one, each) for one, each in pairs if not each.is_significant(axis.level)]
  if not open_:
    numbers |= {"clear": True, "winner": winner.named if "=" in winner.named else f"{axis.name}={winner.named}"}
    return finding(
      "ok",
      words.wins(winner, pairs[0], budget, field, interval(pairs[0])),
      trials=_trials(known[:2]),
      # With one of k points as good as the winner's best, the interval of the best of k holds 0: 1 - (1 - 1/k)^k > 0.6.
      until=words.until_undone(results, winner, others[0]),
    )
  confounded = any(each.confounded for _, each in open_)
  most = max(each.times_to_settle(axis.level) for _, each in open_)
  several = [winner, *(one for one, _ in open_)]
  until = None
  if confounded:
    action = words.crossed(axis, axis.others)
  elif most < MOST_TIMES:
    numbers["more"] = math.ceil(sum(one.total for one in known) * (most - 1))
    action, until = words.to_settle(numbers["more"], several)
  else:
    action = words.not_worth_settling(MOST_TIMES, several)
    until = words.until_many(math.ceil(sum(one.total for one in known) * (MOST_TIMES - 1)))
  return finding(
    "note" if axis.sliced else "warning",
    words.no_clear_winner(results, winner, [one for one, _ in open_], equal, axis if confounded else None),
    trials=_trials(several),
    action=action,
    until=until,
  )


def _needed(few: Sequence[Contender]) -> tuple[int, str]:
  """Return how many more points with a value settings need, and the action that asks for them."""
  missing = [(one, LEAST - len(one.costs)) for one in few if len(one.costs) < LEAST]
  more = sum(count for _, count in missing)
  parts = [f"{many(count, f'more {words.noun(few, 1)}')} of {one.named}" for one, count in missing]
  return more, f"Run {listed(parts)}, so that each setting has {LEAST} with a value."


def _summary(one: Contender, results: StudyResults) -> dict[str, Any]:
  """Return the best of a setting, what became of its points, and the quartiles of the best of half of them."""
  sign = results.objective.sign
  counts = {
    "points": one.total,
    "feasible": len(one.costs),
    "pruned": one.pruned,
    "infeasible": one.infeasible,
    "left_out": dict(one.left_out),
  }
  if not one.costs:
    return counts
  half = one.best_of(max(1, one.total // 2), sign)
  spread = {"k": half.k, "p25": half.p25, "median": half.median, "p75": half.p75}
  return {**counts, "best": sign * one.costs[0], "half": spread}


def _trials(field: Sequence[Contender]) -> tuple[int, ...]:
  """Return the best trial of the best point of each."""
  return tuple(one.best.trial for one in field if one.best is not None)
