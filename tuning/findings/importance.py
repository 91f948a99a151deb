"""The hyperparameters that matter (PB-32).

The playbook: which hyperparameters the objective is sensitive to, which interact and must be tuned together again,
which do not matter and can be fixed, which features do not help and can be removed. Here from a quadratic through the
good points (`statistics.response_surface`): Sobol's indices, which are its coefficients squared, with intervals from
the covariance of the coefficients. Shares of variance flatter what has a large bad region; whether a hyperparameter can
be fixed is therefore asked of its span, from its best to its worst value with the others held at good ones. A small
span that is clearly above the noise is an effect, and is not fixed. Retrains of a point count as one point, worth their
mean; points that a rule ended early are in no fit.
"""

import functools
import math
from typing import Any

import numpy as np
import scipy.stats

from trialbook.tuning.findings.finding import Finding, finding_of
from trialbook.tuning.findings.left_out import pruned_points
from trialbook.tuning.findings.statistics import response_surface
from trialbook.tuning.findings.statistics.finite_spaces import finite_space
from trialbook.tuning.findings.statistics.points import feasible, is_numeric, points_of, searched
from trialbook.tuning.findings.statistics.relevance import of_perfection
from trialbook.tuning.findings.statistics.response_surface import ResponseSurface
from trialbook.tuning.findings.statistics.seed_noise import noise_of
from trialbook.tuning.findings.wording import listed, many, p_value, percent, shown
from trialbook.tuning.results import StudyResults
from trialbook.tuning.space.scales import Hyperparameter

_finding = finding_of("PB-32", "importance")

EXPLAINED = 0.3
"""Share of the variance of points left out that the fit must explain: below it, more is unexplained than explained."""
INSENSITIVE = 0.2
"""Share of the way from the best to the median point, less than half of what counts as good (PB-24): a hyperparameter
with a smaller span moves few trials into the good region or out of it, and matters less than the others."""
LESSER = 0.08
"""Share of the span of the hyperparameter that matters most: one with a smaller span has less than 1% of its variance.
The others come first. With 0.1, up to 1 in 20 healthy studies has one that is not idle; with 0.08 it is 1 in 50."""
NOISE_TIMES = 2.0
"""Standard deviations of the noise: a smaller span, or lead, is not seen in one trial."""
CONFIDENCE = 0.9
"""Confidence that a span is below what matters: fixing one that matters a little costs less than to search one
dimension more."""
SURE = 0.01
"""Level of the test that a small effect is there."""
PRUNED = 0.2
"""Share of the tried points that were ended early, from which on the others do not show what matters little: of a
random hyperparameter, a fifth of its scale may be missing."""
INTERACTS = 0.05
"""Share of the variance of a pair: less is not worth tuning two together."""
ON_OFF = ((True, False), ("on", "off"))
"""Values of a feature that is there or not."""


def find(results: StudyResults) -> list[Finding]:
  """Return findings on the shares of the hyperparameters; then on what interacts, can be fixed and can be removed."""
  points, axes = points_of(results), searched(results)
  if not axes:
    return [_finding("ok", "No hyperparameter is varied", "There is nothing to compare.")]
  count, wanted = len(feasible(points)), response_surface.needed(axes)
  surface = response_surface.fit(points, axes)
  if surface is None and len(axes) == 1 and count > 1:
    (name,) = (one.name for one in axes)
    costs = [point.cost for point in feasible(points)]
    changes = (
      f"From the best to the worst of {many(count, 'point')} the objective changes by {costs[-1] - costs[0]:.2g}."
    )
    said = f"Only {name} is varied: there is nothing to rank"
    return [_finding("ok", said, changes, subject=name, numbers={"points": count}, plot=f"axis:{name}")]
  if surface is None:
    return [_unfitted(results, count, wanted, len(axes))]
  numbers: dict[str, Any] = {"explained": surface.explained, "points": count}
  survivors = _survivors(results, count)
  if surface.explained <= EXPLAINED:
    more = _more(results, count)
    which = f"Try {many(more, 'more point')}, or narrow" if more else "Narrow"
    return [
      _finding(
        "cannot_tell",
        "Importance is unknown: a quadratic model explains"
        f" {max(surface.explained, 0):.0%} of how good points differ, and {EXPLAINED:.0%} is needed",
        f"That is the share of the variance of points that were left out of the fit, over {many(count, 'point')} with a"
        f" value. The space may be too wide for a quadratic, or the differences may be noise.{survivors}",
        numbers={**numbers, **({"more": more} if more else {})},
        action=f"{which} the space around the best points.",
        until=f"{many(more, 'more point')}." if more else None,
      )
    ]
  draws = surface.draws()
  shares = _shares(surface, draws)
  ranking = sorted(shares, key=lambda name: -shares[name][0])
  numbers["shares"] = {name: [round(x, 4) for x in shares[name]] for name in ranking}
  text = ", ".join(f"{name} {percent(shares[name])}" for name in ranking)
  first = f"{ranking[0]} matters most: it explains {percent(shares[ranking[0]])} of the variation"
  found = [
    _finding(
      "ok",
      first if len(ranking) > 1 else f"Only {ranking[0]} is varied: there is nothing to rank",
      f"Shares of the fitted variance among good points, with those of interactions and 95% intervals: {text}. The fit"
      f" of {many(count, 'point')} explains {surface.explained:.0%} of the variance of points left out. Points far from"
      f" the best weigh little.{survivors}",
      subject=ranking[0],
      numbers=numbers,
      plot=f"axis:{ranking[0]}",
    )
  ]
  found += _interactions(surface, draws)
  # Of what the pruned points would have shown, nothing is known: their values may be bad ones of any hyperparameter.
  if not survivors:
    found += _insensitive(results, surface, draws, axes)
    found += _features(results, surface, axes)
  return found


def _unfitted(results: StudyResults, count: int, wanted: int, axes: int) -> Finding:
  """Return the finding that there are too few points for a fit, or that they are equal."""
  fit = f"The fit of {many(axes, 'hyperparameter')} needs {wanted} points with a value that differ."
  numbers = {"points": count, "needed": wanted}
  if count >= wanted:
    return _finding(
      "cannot_tell",
      "Importance is unknown: the good points are equal",
      fit,
      numbers=numbers,
      action="Choose an objective that shows differences between the trials.",
    )
  more = _more(results, wanted - count)
  return _finding(
    "cannot_tell",
    f"Importance is unknown: {many(count, 'point')} with a value, and {wanted} are needed",
    fit,
    numbers={**numbers, **({"more": more} if more else {})},
    action=f"To estimate which hyperparameters matter, try {many(more, 'more point')}."
    if more
    else "Compare the points in their table: all combinations were tried, so that each difference can be read there.",
    until=f"{many(more, 'more point')}." if more else None,
  )


def _more(results: StudyResults, wanted: int) -> int:
  """Return how many more points can be asked for, of those that are wanted."""
  space = finite_space(results)
  return max(wanted, 1) if space is None else min(max(wanted, 1), space.left)


def _survivors(results: StudyResults, count: int) -> str:
  """Return that many points were pruned and are not in the fit, in a sentence after a space; empty if they are few."""
  pruned = len(pruned_points(results))
  if pruned < PRUNED * (count + pruned):
    return ""
  return (
    f" {many(pruned, 'point')} ended early as worse than others and are not in the fit: what made them worse does not"
    " show, so no hyperparameter is said to matter little."
  )


def _shares(surface: ResponseSurface, draws: np.ndarray) -> dict[str, tuple[float, float, float]]:
  """Return the total Sobol index of each hyperparameter: the estimate, and its 2.5% and 97.5% quantiles."""
  names = {name for column in surface.columns for name in column.names}
  found = {}
  estimate, drawn = surface.variances(surface.coefficients[None]), surface.variances(draws)
  for name in sorted(names):

    def index(parts: Any, name: str = name) -> np.ndarray:
      whole = sum(parts.values())
      return sum(value for key, value in parts.items() if name in key) / np.maximum(whole, 1e-300)

    low, high = np.quantile(index(drawn), [0.025, 0.975])
    found[name] = (float(index(estimate)[0]), float(low), float(high))
  return found


def _interactions(surface: ResponseSurface, draws: np.ndarray) -> list[Finding]:
  found = []
  parts, drawn = surface.variances(surface.coefficients[None]), surface.variances(draws)
  whole, wholes = sum(parts.values()), sum(drawn.values())
  for (first, second), p in surface.pairs.items():
    share = float(parts[first, second][0] / whole[0])  # pyright: ignore[reportIndexIssue]
    low, high = (float(x) for x in np.quantile(drawn[first, second] / wholes, [0.025, 0.975]))
    if share < INTERACTS:
      continue
    found.append(
      _finding(
        "note",
        f"{first} and {second} interact: together they explain {percent((share, low, high))} of the variation",
        f"The product of both improves the fit ({p_value(p)}, corrected for all pairs).",
        subject=first,
        numbers={"with": second, "share": share, "low": low, "high": high, "p": p},
        action=f"If {first} changes, tune {second} again with it.",
        plot=f"axis:{first}",
      )
    )
  return found


def _insensitive(
  results: StudyResults, surface: ResponseSurface, draws: np.ndarray, axes: list[Hyperparameter]
) -> list[Finding]:
  found = feasible(points_of(results))
  costs = np.array([point.cost for point in found])
  noise = noise_of(results)
  # Others may matter so much that a fifth of that is not little: then it only matters less.
  little = INSENSITIVE * float(np.median(costs) - costs[0])
  seen = NOISE_TIMES * noise.deviation if noise is not None else 0.0
  relevant = max(min(little, of_perfection(results, results.objective.sign * float(costs[0]))), seen)
  deviation = noise.deviation if noise is not None else surface.deviation
  fitted = {name for column in surface.columns for name in column.names}
  spans = {name: surface.spans(name, draws) for name in fitted}
  claims = []
  for one in axes:
    # In a scientific hyperparameter, that it makes no difference is the answer, and PB-30 gives it.
    if one.name not in fitted or one.role == "scientific" or any(one.name in pair for pair in surface.pairs):
      continue
    span = float(surface.spans(one.name, surface.coefficients[None])[0])
    low, high = (float(np.quantile(spans[one.name], share)) for share in (1 - CONFIDENCE, CONFIDENCE))
    most = np.max([spans[name] for name in fitted if name != one.name], axis=0, initial=0.0)
    # Of a categorical one each difference is a choice, which the wide, bad ends of the others do not make small.
    share = float(np.quantile(spans[one.name] / np.maximum(most, 1e-300), CONFIDENCE)) if is_numeric(one) else math.inf
    if high >= max(little, relevant) and share >= LESSER:
      continue
    # Both are needed: an effect may be small beside the range and be there.
    sure = surface.effect_p(one.name) < SURE and low > NOISE_TIMES * deviation
    value = found[0].values.get(one.name)
    example = "" if value is None else f", for example at {shown(one, value) if is_numeric(one) else value}"
    numbers = {"span": span, "low": low, "high": high, "relevant": relevant, "noise": deviation}
    less = (
      f"less than a fifth ({little:.2g}) of the way from the best to the median point"
      if high < little
      else f"less than {LESSER:.0%} of what the one that matters most changes"
    )
    title = f"{one.name} %s: from its best to its worst value the objective changes by {span:.2g}"
    finding = functools.partial(_finding, "note", subject=one.name, numbers=numbers, plot=f"axis:{one.name}")
    if sure:
      whose, noisy = (
        (f"the {noise.source}", "noise")
        if noise is not None
        else ("the standard deviation of good points around the fit (no seed noise is known)", "scatter around the fit")
      )
      claims.append(
        finding(
          title=title % "has a small but clear effect" + f", {span / deviation:.0f} times the {noisy}",
          why=f"Between {low:.2g} and {high:.2g} with {2 * CONFIDENCE - 1:.0%} confidence. That is {less}, but clearly"
          f" above {whose}, {deviation:.2g}.",
          action=f"Tune the others first, and do not fix {one.name} yet: a bad value of it costs up to {high:.2g}.",
        )
      )
    elif high >= relevant:
      claims.append(
        finding(
          title=title % "matters less than the others",
          why=f"At most {high:.2g} with {CONFIDENCE:.0%} confidence. That is {less}, but may be more than"
          f" {relevant:.2g}, which would matter.",
          action=f"Tune the others first. To fix it{example} may cost up to {high:.2g}.",
        )
      )
    else:
      claims.append(
        finding(
          title=title % "hardly matters",
          why=f"At most {high:.2g} with {CONFIDENCE:.0%} confidence, and a change of {relevant:.2g} would matter.",
          action=f"Fix it next time{example}: with fewer hyperparameters the search is denser.",
          # Under a value of another one, its field need not be there in the config.
          changes=one.changes(value) if results.study.config and value is not None and one.parent is None else None,
        )
      )
  return claims


def _features(results: StudyResults, surface: ResponseSurface, axes: list[Hyperparameter]) -> list[Finding]:
  """Return a finding on features that are no better than nothing."""
  found = []
  points = feasible(points_of(results))
  noise = noise_of(results)
  deviation = noise.deviation if noise is not None else 0.0
  for one in axes:
    if is_numeric(one) or one.name not in surface.levels:
      continue
    levels = surface.levels[one.name]
    pairs = [(on, off) for on, off in ON_OFF if {repr(on), repr(off)} <= set(levels)]
    pairs += [(v, None) for v in one.scale.as_json()["values"] if v is not None and {repr(v), "None"} <= set(levels)]
    for on, off in pairs:
      under = [child.name for child in axes if child.parent == (one.name, on)]
      worse, error = surface.differences(one.name, repr(on), repr(off), under)
      having = [point for point in points if one.name in point.values]
      best = [min(point.cost for point in having if repr(point.values[one.name]) == repr(v)) for v in (on, off)]
      # What the fit says against the points themselves is a misfit.
      if best[1] - best[0] > NOISE_TIMES * deviation:
        continue
      half = float(scipy.stats.t.ppf(0.95, surface.degrees_of_freedom)) * error
      # What it may help at most has to be less than what could be seen.
      if not (math.isfinite(half) and half - worse < deviation):
        continue
      found.append(
        _finding(
          "note",
          f"{one.name} = {on} does not help: it changes the objective by {results.objective.sign * worse:.2g}",
          f"With 95% confidence it helps by at most {max(half - worse, 0):.2g}, with the others held at good values"
          + (f" and {listed(under)} at the best." if under else "."),
          subject=one.name,
          numbers={"worse": worse, "error": error},
          action=f"Remove it: {one.name} = {off}.",
          changes=one.changes(off) if results.study.config is not None else None,
          plot=f"axis:{one.name}",
        )
      )
  return found
