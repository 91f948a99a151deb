"""The hyperparameters that matter (PB-32).

The playbook: which hyperparameters the objective is sensitive to, which interact and must be tuned together again,
which do not matter and can be fixed, which features do not help and can be removed. Here from a quadratic through the
good points (`statistics.response_surface`): Sobol's indices, which are its coefficients squared, with intervals from
the covariance of the coefficients. Shares of variance flatter what has a large bad region; whether a hyperparameter can
be fixed is therefore asked of its span, from its best to its worst value with the others held at good ones. Retrains of
a point count as one point, worth their mean.
"""

import math
from typing import Any

import numpy as np
import scipy.stats

from trialbook.tuning.findings.finding import Finding, finding_of
from trialbook.tuning.findings.statistics import response_surface
from trialbook.tuning.findings.statistics.points import feasible, is_numeric, points_of, searched
from trialbook.tuning.findings.statistics.relevance import RELEVANT, of_perfection
from trialbook.tuning.findings.statistics.response_surface import ResponseSurface
from trialbook.tuning.findings.statistics.seed_noise import noise_of
from trialbook.tuning.findings.wording import many, p_value, percent
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
  if surface is None:
    equal = count >= wanted
    return [
      _finding(
        "cannot_tell",
        "Which hyperparameters matter cannot be told: the good points are equal"
        if equal
        else f"Which hyperparameters matter cannot be told from {count} points with a value",
        f"The fit of {len(axes)} hyperparameters takes {wanted} points that differ.",
        numbers={"points": count, "needed": wanted},
        action="Choose an objective that tells trials apart."
        if equal
        else f"Run trials at {many(max(wanted - count, 1), 'more point')}.",
      )
    ]
  numbers: dict[str, Any] = {"explained": surface.explained, "points": count}
  if surface.explained <= EXPLAINED:
    return [
      _finding(
        "cannot_tell",
        "Which hyperparameters matter cannot be told: a quadratic explains little of the good points",
        f"Of the variance of points left out it explains {max(surface.explained, 0):.0%}; {EXPLAINED:.0%} would do. The"
        " space may be too wide, or the differences noise.",
        numbers=numbers,
        action=f"Run trials at {count} more points, or narrow the space around the best ones.",
      )
    ]
  draws = surface.draws()
  shares = _shares(surface, draws)
  ranking = sorted(shares, key=lambda name: -shares[name][0])
  numbers["shares"] = {name: [round(x, 4) for x in shares[name]] for name in ranking}
  text = ", ".join(f"{name} {percent(shares[name])}" for name in ranking)
  found = [
    _finding(
      "ok",
      f"{ranking[0]} matters most: {percent(shares[ranking[0]])} of the variation",
      f"Total shares of the fitted variance with 95% intervals: {text}. The fit explains {surface.explained:.0%} of the"
      " variance of points left out; trials far from the best weigh little.",
      subject=ranking[0],
      numbers=numbers,
      plot=f"axis:{ranking[0]}",
    )
  ]
  found += _interactions(surface, draws)
  found += _insensitive(results, surface, draws, axes)
  found += _features(results, surface, axes)
  return found


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
        f"A product of both enters the fit with {p_value(p)}, corrected for all pairs.",
        subject=first,
        numbers={"with": second, "share": share, "low": low, "high": high, "p": p},
        action=f"When {first} is changed, tune {second} again with it.",
        plot=f"axis:{first}",
      )
    )
  return found


def _insensitive(
  results: StudyResults, surface: ResponseSurface, draws: np.ndarray, axes: list[Hyperparameter]
) -> list[Finding]:
  costs = np.array([point.cost for point in feasible(points_of(results))])
  noise = noise_of(results)
  # Others may matter so much that a fifth of that is not little: then it only matters less.
  little = INSENSITIVE * float(np.median(costs) - costs[0])
  seen = NOISE_TIMES * noise.deviation if noise is not None else 0.0
  relevant = max(min(little, of_perfection(results, results.objective.sign * float(costs[0]))), seen)
  fitted = {name for column in surface.columns for name in column.names}
  spans = {name: surface.spans(name, draws) for name in fitted}
  found = []
  for one in axes:
    # In a scientific hyperparameter, that it makes no difference is the answer, and PB-30 gives it.
    if one.name not in fitted or one.role == "scientific" or any(one.name in pair for pair in surface.pairs):
      continue
    span = float(surface.spans(one.name, surface.coefficients[None])[0])
    high = float(np.quantile(spans[one.name], CONFIDENCE))
    most = np.max([spans[name] for name in fitted if name != one.name], axis=0, initial=0.0)
    # Of a categorical one each difference is a choice, which the wide, bad ends of the others do not make small.
    share = float(np.quantile(spans[one.name] / np.maximum(most, 1e-300), CONFIDENCE)) if is_numeric(one) else math.inf
    if high >= max(little, relevant) and share >= LESSER:
      continue
    best = results.best
    value = best.values.get(one.name) if best is not None else None
    example = "" if value is None else f", for example at {value}"
    numbers = {"span": span, "high": high, "relevant": relevant}
    less = (
      f"less than a fifth ({little:.2g}) of the way from the best to the median point"
      if high < little
      else f"less than {LESSER:.0%} of what the one that matters most changes"
    )
    if high >= relevant:
      found.append(
        _finding(
          "note",
          f"{one.name} matters less than the others: from its best to its worst value the objective changes by"
          f" {span:.2g}",
          f"At most {high:.2g} with {CONFIDENCE:.0%} confidence. That is {less}, but may be more than {relevant:.2g},"
          " which would matter.",
          subject=one.name,
          numbers=numbers,
          action=f"Tune the others first. To fix it{example} may cost up to {high:.2g}.",
          plot=f"axis:{one.name}",
        )
      )
      continue
    found.append(
      _finding(
        "note",
        f"{one.name} hardly matters: from its best to its worst value the objective changes by {span:.2g}",
        f"At most {high:.2g} with {CONFIDENCE:.0%} confidence, less than {relevant:.2g}, which would matter"
        f" ({RELEVANT:.0%} of the distance from perfection, or twice the noise).",
        subject=one.name,
        numbers=numbers,
        action=f"Fix it next time{example}: each hyperparameter less makes the search denser.",
        # Under a value of another one, its field need not be there in the config.
        changes=one.changes(value) if results.study.config and value is not None and one.parent is None else None,
        plot=f"axis:{one.name}",
      )
    )
  return found


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
          f"It helps by {max(half - worse, 0):.2g} at most, with 95% confidence, the others held at good values"
          + (f" and {', '.join(under)} at the best." if under else "."),
          subject=one.name,
          numbers={"worse": worse, "error": error},
          action=f"Remove it: {one.name} = {off}.",
          changes=one.changes(off) if results.study.config is not None else None,
          plot=f"axis:{one.name}",
        )
      )
  return found
