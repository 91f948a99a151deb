"""The best compared setting, tested against chance (PB-13, PB-30).

The playbook compares settings by the best trial of each over the nuisance hyperparameters, at equal budgets. The best
of a few trials is a noisy number. Drawing k of them again and again (`statistics.best_of_k`) shows how noisy, but never
gives a value that was not seen, and alone calls one of two equal settings the winner in one study of four. The
difference is therefore taken between the medians of the best of k as the good end of each setting's distribution gives
them (`statistics.extreme_value`), too, and the wider one of both intervals counts. The form of that good end is an
assumption, which noise and many dimensions break. A winner is therefore also tested without any assumption: the
settings' points are permuted at random (`statistics.permutation_test`), and the observed difference must be rare among
the permutations. The trials' own noise is in all of them.

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
import scipy.stats

from trialbook.tuning.compared_settings import buckets, compared_settings, places
from trialbook.tuning.findings.finding import Finding, Severity, finding_of
from trialbook.tuning.findings.statistics.contenders import Contender, budget_of, contenders, first_of
from trialbook.tuning.findings.statistics.differences import LEVEL, Axis, Difference, differences
from trialbook.tuning.findings.statistics.extreme_value import LEAST
from trialbook.tuning.findings.statistics.points import is_numeric, searched
from trialbook.tuning.findings.statistics.seed_noise import trial_noise
from trialbook.tuning.findings.wording import NAMED, listed, many
from trialbook.tuning.results import StudyResults

_finding = finding_of("PB-30", "comparison")

EFFORT = 2.0
"""Least ratio of the numbers of points for unequal effort: random sampling of 48 over two settings reaches it in one
study of fifty."""
EFFORT_LEAST = 4
"""Least difference of the numbers of points for unequal effort: with fewer, a setting with twice as many points has
just begun, or has two points against one."""
EFFORT_LEVEL = 0.01
"""Level of the test that unequal feasible shares are not chance."""
MOST_TIMES = 10.0
"""Most trials that are proposed, as a multiple of those run: a difference that takes more is not worth settling."""
ENOUGH = f"{LEAST} points with a value"
"""The least that a comparison needs of each setting, in words."""


def find(results: StudyResults) -> list[Finding]:
  """Return the winner and the settings that may be as good; unequal effort. Nothing where the study compares nothing.

  Of several scientific hyperparameters each has its own, over all values of the others.
  """
  axes = [one for one in searched(results) if one.role == "scientific"]
  if len(axes) == 1:
    # The trials without the only one are a setting of their own, "without NAME": nothing else stands for them.
    compared = [(axes[0], compared_settings(results))]
  else:
    # Those without one of several have another value of the hyperparameter that it belongs to, whose verdict is theirs.
    compared = [(one, buckets(one, results.trials)) for one in axes]
    compared = [
      (one, [dataclasses.replace(each, label=f"{one.name}={each.label}") for each in settings])
      for one, settings in compared
    ]
  compared = [(one, settings) for one, settings in compared if len(settings) > 1]
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
    found += [_verdict(results, field, axis), *([] if axis.sliced else _effort(field, axis))]
  return found


def _verdict(results: StudyResults, field: list[Contender], axis: Axis) -> Finding:
  known = first_of(results, field)
  sentence = _sentence(field, results)
  numbers: dict[str, Any] = {
    "hyperparameter": axis.name,
    "settings": {one.setting.label: _summary(one, results) for one in field},
  }
  finding = functools.partial(_finding, numbers=numbers, plot=f"isolation:{axis.name}")
  until = f"Run until each setting has {ENOUGH} (retrains count once)."
  if len(known) < 2:
    return finding(
      "cannot_tell", "Fewer than two settings have a value: there is nothing to compare", sentence, action=until
    )
  winner, others = known[0], known[1:]
  equal = [one.named for one in known if one.costs[0] == winner.costs[0]]
  shown = _best_point(winner, equal, results)
  unsure: Severity = "note" if axis.sliced else "cannot_tell"
  if any(one.extreme_value is None for one in known):
    few = [one for one in field if len(one.costs) < LEAST]
    flat = [one.named for one in known if one.extreme_value is None and one not in few]
    reasons = [
      *([_few(few, len(field))] if few else []),
      *([f"the best points of {listed(flat)} are equal"] if flat else []),
    ]
    return finding(
      unsure,
      f"{shown}, but {' and '.join(reasons)}",
      f"{sentence} A comparison takes {ENOUGH} in each setting, whose best third are not all equal.",
      trials=_trials([winner]),
      action=until if few else "Rank by a finer objective, such as a loss, by which the best points differ.",
    )
  budget = budget_of(known)
  rng = np.random.default_rng(0)
  leads = differences(winner, others, axis, budget, rng)
  noise = trial_noise(results)
  numbers |= {
    "budget": budget,
    "leads": {one.setting.label: each.numbers for one, each in zip(others, leads, strict=True)},
    "trial_noise": noise.deviation if noise else None,
  }
  runner, lead = others[0].named, leads[0]
  apart = f"{lead.lead:.2g} ({100 * (1 - LEVEL / len(others)):.3g}% interval {lead.low:.2g} to {lead.high:.2g})"
  why = (
    f"{sentence} At equal budgets of {many(budget, 'point')}, the median of the best differs by {apart} from that of"
    f" {runner}{_chance(lead, axis)}. "
    + (
      f"The seed-to-seed standard deviation is {noise.deviation:.2g}."
      if noise
      else "How much the best trials vary from seed to seed is not known beyond what the points show."
    )
  )
  finding = functools.partial(finding, why=why, subject=winner.setting.label)
  pairs = list(zip(others, leads, strict=True))
  mixed = [(one, each) for one, each in pairs if each.test is None]
  if mixed:
    names = sorted({name for _, each in mixed for name in each.aliased}, key=axis.others.index)
    return finding(
      unsure,
      f"{shown}, but {axis.name} and {listed(names)} were varied together: too few points of {winner.named} and of"
      f" {listed([one.named for one, _ in mixed])} have the same {listed(names)}",
      trials=_trials([winner, *(one for one, _ in mixed)]),
      action=_crossed(axis, names),
    )
  open_ = [(one, each) for one, each in pairs if not each.is_significant(axis.level)]
  if not open_:
    return finding(
      "ok",
      f"{winner.named} wins: its best of {many(budget, 'point')} beats that of {runner} by {apart}",
      trials=_trials(known[:2]),
    )
  names = [one.named for one, _ in open_ if one.named not in equal]
  confounded = any(each.confounded for _, each in open_)
  if len(equal) > 1:
    title = f"{shown}: none of them wins" + (f", and {listed(names)} may be as good" if names else "")
  else:
    title = f"{shown}, but is not told apart from {listed(names)}: the winner may be luck"
    title += f", or better by {listed(axis.others)} alone" if confounded else ""
  most = max(each.times_to_settle(axis.level) for _, each in open_)
  more = None
  if confounded:
    action = _crossed(axis, axis.others)
  else:
    several = [winner.named, *(one.named for one, _ in open_)]
    better = "better" if len(several) == 2 else "best"
    which = (
      f"whether {listed(several, 'or')} is {better}"
      if len(several) <= NAMED
      else f"which of {len(several)} settings is best"
    )
    if most < MOST_TIMES:
      more = math.ceil(sum(one.total for one in known) * (most - 1))
      action = f"About {many(more, 'more trial')} would settle {which}, if the difference is as large as it looks."
    else:
      action = f"{MOST_TIMES:g} times as many trials might not settle {which}: take the simpler or cheaper one."
  numbers["more"] = more
  return finding(
    "note" if axis.sliced else "warning",
    title,
    trials=_trials([winner, *(one for one, _ in open_)]),
    action=action,
  )


def _best_point(winner: Contender, equal: Sequence[str], results: StudyResults) -> str:
  """Return the settings with the best point, in words."""
  retrains = len(winner.points[0].retrains)
  value = f"{results.objective.sign * winner.costs[0]:.4g}"
  if len(equal) > 1:
    return f"{listed(equal)} have equal best points ({value})"
  return f"{equal[0]} has the best point ({value}{f', the mean of its {retrains} retrains' if retrains > 1 else ''})"


def _few(few: Sequence[Contender], count: int) -> str:
  """Return which of the `count` settings have too few points, in words."""
  if len(few) == 1:
    return f"{few[0].named} has fewer than {ENOUGH}"
  if len(few) == count:
    return f"{'neither setting' if count == 2 else f'none of the {count} settings'} has {ENOUGH}"
  return f"{len(few)} of {count} settings have fewer than {ENOUGH}"


def _crossed(axis: Axis, others: Sequence[str]) -> str:
  """Return the action that separates the effects of these hyperparameters."""
  return f"Run each value of {axis.name} with the same values of {listed(others)}, or draw them independently."


def _chance(lead: Difference, axis: Axis) -> str:
  """Return how rare a difference is among permutations, in words that follow those on the difference."""
  if lead.test is None:
    return ""
  said = f"; of random deals of their points, a share of {lead.test.p_value:.2g} differ as much"
  if axis.others:
    said += f" (dealt among points with the same {listed(axis.others)}, which make up {lead.test.expected:.2g} of"
    said += f" {lead.test.observed:.2g} at half the budget)"
  return said


def _summary(one: Contender, results: StudyResults) -> dict[str, Any]:
  """Return the best of a setting, and the quartiles of the best of half of its points."""
  sign = results.objective.sign
  if not one.costs:
    return {"points": one.total, "feasible": 0}
  half = one.best_of(max(1, one.total // 2), sign)
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
  """Return the best trial of the best point of each."""
  return tuple(one.best.trial for one in field if one.best is not None)


def _effort(field: list[Contender], axis: Axis) -> list[Finding]:
  """Return a finding on settings that were tuned less than others, by trials or by feasible ones."""
  most, least = max(field, key=lambda one: one.total), min(field, key=lambda one: one.total)
  if least.total == 0:
    return []
  counts = {one.setting.label: {"points": one.total, "feasible": len(one.costs)} for one in field}
  why = "; ".join(f"{name}: {n['points']} points, {n['feasible']} feasible" for name, n in counts.items()) + "."
  if most.total >= EFFORT * least.total and most.total - least.total >= EFFORT_LEAST:
    return [
      _finding(
        "warning",
        f"{most.named} was tuned with {most.total} points, {least.named} with {least.total}",
        f"{why} More tries find better bests; the comparison is made at equal budgets, but more trials also say more.",
        subject=least.setting.label,
        numbers={"effort": counts},
        action=f"Run {most.total - least.total} more trials of {least.named}.",
        plot=axis.plot,
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
          f" {rich.total} of {rich.named}: it was tuned less",
          f"{why} Fisher's test: p = {p:.1g}.",
          subject=poor.setting.label,
          numbers={"effort": counts, "p": p},
          action=f"Give {poor.named} a space that is feasible, and as many trials there.",
          plot=axis.plot,
        )
      ]
  return []
