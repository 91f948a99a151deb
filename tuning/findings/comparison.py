"""Which scientific setting is best, and whether that is more than luck (PB-13, PB-30).

The playbook compares settings by the best trial of each over the nuisance hyperparameters, at equal budgets. The best
of a few trials is a lucky number: drawing k of them again and again (`tuning.best_of_k`) shows how lucky, but never
gives a value that was not seen, and calls one of two equal settings the winner in one study of four. The difference is
therefore taken between the medians of the best of k as the good end of each setting's distribution gives them
(`tuning.findings.tail`), with an interval. The trials' own noise is in these distributions.
"""

import dataclasses
import math
from typing import Any

import numpy as np
import scipy.stats

from tuning import scientific
from tuning.best_of_k import of_k
from tuning.findings.finding import Finding, Severity
from tuning.findings.noise import trial_noise
from tuning.findings.points import is_numeric, many, searched
from tuning.findings.tail import LEAST, Tail, tail_of
from tuning.results import StudyResults

LEVEL = 0.1
"""Of an interval of a difference, over all settings that are held against the best: one of twenty equal ones is then
called worse, since half of the level lies on the other side."""
DRAWS = 4000
"""Of the medians: the quantiles of the difference are then sure to a few hundredths of its spread."""
EFFORT = 2.0
"""Times as many trials: random sampling of 48 over two settings does that in one study of fifty."""
EFFORT_LEVEL = 0.01
"""Of the test that unequal feasible shares are not chance."""
MOST_TIMES = 10.0
"""As many trials as there are: what would take more is not worth settling."""


@dataclasses.dataclass(frozen=True)
class Contender:
  """A setting and what is known of the best of it; costs are smaller for better ones."""

  setting: scientific.Setting
  costs: tuple[float, ...]
  total: int
  tail: Tail | None


def find(results: StudyResults) -> list[Finding]:
  """The winner and who is not told apart from it; unequal effort. Nothing where the study compares nothing."""
  axes = [one for one in searched(results) if one.role == "scientific"]
  settings = scientific.settings(results)
  if not axes or len(settings) < 2:
    return []
  sign = results.objective.sign
  field = []
  for setting in settings:
    # Retrains of a point are one try: their mean.
    groups: dict[str, list[float]] = {}
    nothing: set[str] = set()
    for trial in setting.trials:
      key = repr(sorted((name, repr(value)) for name, value in trial.values.items() if name not in _seeds(results)))
      if trial.objective is not None:
        groups.setdefault(key, []).append(sign * trial.objective)
      elif trial.state == "infeasible":
        nothing.add(key)
    costs = sorted(math.fsum(values) / len(values) for values in groups.values())
    infeasible = len(nothing - set(groups))
    field.append(Contender(setting, tuple(costs), len(costs) + infeasible, tail_of(costs, infeasible)))
  return [_verdict(results, field, axes), *_effort(field)]


def _seeds(results: StudyResults) -> set[str]:
  return {one.name for one in results.space.values() if one.path == "seed"}


def _verdict(results: StudyResults, field: list[Contender], axes) -> Finding:
  plot = f"isolation:{axes[0].name}" if len(axes) == 1 else "comparison"
  # Among equals, that of the trial which ranks first.
  best = results.best
  first = lambda one: (one.costs[0], best is None or best not in one.setting.trials)  # noqa: E731
  known = sorted((one for one in field if one.costs), key=first)
  numbers: dict[str, Any] = {"settings": {one.setting.label: _summary(one, results) for one in field}}
  if len(known) < 2:
    return _finding(
      "cannot_tell",
      "Fewer than two settings have a complete trial: there is nothing to compare.",
      "; ".join(f"{one.setting.label}: {len(one.costs)} of {one.total}" for one in field) + ".",
      numbers=numbers,
      action=f"Run until each setting has {LEAST} complete trials.",
      plot=plot,
    )
  winner, others = known[0], known[1:]
  sign = results.objective.sign
  shown = f"{winner.setting.label} has the best trial ({sign * winner.costs[0]:.4g})"
  # A slice of a continuous axis is no setting that somebody would choose, and its neighbours are alike by nature.
  sliced = any(isinstance(value, tuple) and is_numeric(one) for one in axes for value in _values(field, one.name))
  if winner.tail is None or any(one.tail is None for one in others):
    few = [one.setting.label for one in known if one.tail is None]
    return _finding(
      "note" if sliced else "cannot_tell",
      f"{shown}, but {', '.join(few)} {'has' if len(few) == 1 else 'have'} too few trials that differ to compare.",
      f"{_sentence(field, results)} A comparison takes {LEAST} complete trials in each setting.",
      trials=_trials(known[:1]),
      numbers=numbers,
      action=f"Run until each setting has {LEAST} complete trials, or more where the best are equal.",
      plot=plot,
    )
  budget = min(one.total for one in known)
  rng = np.random.default_rng(0)
  medians = {id(one): one.tail.medians(budget, DRAWS, rng) for one in known if one.tail is not None}
  level = LEVEL / len(others)
  open_, leads = [], {}
  for one in others:
    difference = medians[id(one)] - medians[id(winner)]
    low, high = (float(x) for x in np.quantile(difference, [level / 2, 1 - level / 2]))
    middle = float(np.median(difference))
    leads[one.setting.label] = {"lead": middle, "low": low, "high": high}
    if low <= 0:
      # The interval shrinks with the root of the number of trials.
      times = ((middle - low) / middle) ** 2 if middle > 0 else math.inf
      open_.append((one, times))
  noise = trial_noise(results)
  numbers |= {"budget": budget, "leads": leads, "trial_noise": noise.deviation if noise else None}
  runner = others[0].setting.label
  lead = leads[runner]
  apart = f"{lead['lead']:.2g} ({100 * (1 - level):.3g}% interval {lead['low']:.2g} to {lead['high']:.2g})"
  why = (
    f"{_sentence(field, results)} At equal budgets of {many(budget, 'point')}, the median of the best differs by"
    f" {apart} from that of {runner}. "
    + (
      f"The seed-to-seed standard deviation is {noise.deviation:.2g}."
      if noise
      else "How much the best trials vary from seed to seed is not known beyond what the points show."
    )
  )
  if not open_:
    return _finding(
      "ok",
      f"{winner.setting.label} wins: its best of {many(budget, 'point')} beats that of {runner} by {apart}.",
      why,
      subject=winner.setting.label,
      trials=_trials(known[:2]),
      numbers=numbers,
      plot=plot,
    )
  names = ", ".join(one.setting.label for one, _ in open_)
  most = max(times for _, times in open_)
  more = math.ceil(sum(one.total for one in known) * (most - 1)) if most < MOST_TIMES else None
  numbers["more"] = more
  return _finding(
    "note" if sliced else "warning",
    f"{shown}, but is not told apart from {names}: the winner may be luck.",
    why,
    subject=winner.setting.label,
    trials=_trials([winner, *(one for one, _ in open_)]),
    numbers=numbers,
    action=f"About {many(more, 'more trial')} would settle it if the difference is as large as it looks."
    if more is not None
    else f"{MOST_TIMES:g} times as many trials might not settle it: take the simpler or cheaper one.",
    plot=plot,
  )


def _values(field: list[Contender], name: str) -> list[Any]:
  return [one.setting.values.get(name) for one in field]


def _summary(one: Contender, results: StudyResults) -> dict[str, Any]:
  """The best of a setting, and the quartiles of the best of half of its points."""
  sign = results.objective.sign
  if not one.costs:
    return {"points": one.total, "feasible": 0}
  half = of_k([sign * cost for cost in one.costs], sign, max(1, one.total // 2), one.total - len(one.costs))
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
    parts.append(f"{one.setting.label}: {best} of {many(one.total, 'point')}")
  return "; ".join(parts) + "."


def _trials(field: list[Contender]) -> tuple[int, ...]:
  """The best trial of each."""
  found = []
  for one in field:
    valued = [trial for trial in one.setting.trials if trial.objective is not None]
    target = abs(one.costs[0])
    found.append(min(valued, key=lambda trial: (abs(abs(trial.objective or 0.0) - target), trial.trial)).trial)
  return tuple(found)


def _effort(field: list[Contender]) -> list[Finding]:
  """Settings that were tuned less than others, by trials or by feasible ones."""
  most, least = max(field, key=lambda one: one.total), min(field, key=lambda one: one.total)
  if least.total == 0 or any(isinstance(value, tuple) for value in field[0].setting.values.values()):
    return []
  counts = {one.setting.label: {"points": one.total, "feasible": len(one.costs)} for one in field}
  why = "; ".join(f"{name}: {n['points']} points, {n['feasible']} feasible" for name, n in counts.items()) + "."
  if most.total >= EFFORT * least.total and most.total - least.total >= 4:
    return [
      _finding(
        "warning",
        f"{most.setting.label} was tuned with {most.total} points, {least.setting.label} with {least.total}.",
        f"{why} More tries find better bests; the comparison is made at equal budgets, but more trials also say more.",
        subject=least.setting.label,
        numbers={"effort": counts},
        action=f"Run {most.total - least.total} more trials of {least.setting.label}.",
        plot="comparison",
      )
    ]
  rich = max(field, key=lambda one: len(one.costs) / max(one.total, 1))
  poor = min(field, key=lambda one: len(one.costs) / max(one.total, 1))
  table = [[len(one.costs), one.total - len(one.costs)] for one in (rich, poor)]
  if len(rich.costs) * poor.total >= EFFORT * len(poor.costs) * rich.total:
    p = float(scipy.stats.fisher_exact(table)[1]) * len(field) * (len(field) - 1) / 2  # pyright: ignore
    if p < EFFORT_LEVEL:
      return [
        _finding(
          "warning",
          f"{len(poor.costs)} of {poor.total} points of {poor.setting.label} are feasible, {len(rich.costs)} of"
          f" {rich.total} of {rich.setting.label}: it was tuned less.",
          f"{why} Fisher's test: p = {p:.1g}.",
          subject=poor.setting.label,
          numbers={"effort": counts, "p": p},
          action=f"Give {poor.setting.label} a space that is feasible, and as many trials there.",
          plot="comparison",
        )
      ]
  return []


def _finding(severity: Severity, title: str, why: str, **more: Any) -> Finding:
  return Finding(id="PB-30", question="comparison", severity=severity, title=title, why=why, **more)
