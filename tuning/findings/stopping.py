"""When to stop: what twice as many trials would gain (PB-24).

The playbook looks at how the best of k trials flattens. What lies beyond the last trial is extrapolated from the good
end of the distribution of trials (`statistics.extreme_value`): the gain that doubling is expected to bring, and its 5%
and 95%. It is worth having if it is more than what the same trial gains or loses with another seed. The extrapolation
assumes that further points are like those that were tried: of a search that learns from results the later half counts,
points that a rule ended early are worse than the best, and a grid that is complete has no further points.
"""

from collections.abc import Sequence

import numpy as np
import scipy.stats

from trialbook.tuning.findings.finding import Finding, finding_of
from trialbook.tuning.findings.left_out import left_out
from trialbook.tuning.findings.statistics.extreme_value import LEAST, fit_extreme_value
from trialbook.tuning.findings.statistics.finite_spaces import finite_space, instead
from trialbook.tuning.findings.statistics.points import TriedPoint, feasible, points_of, tried_points
from trialbook.tuning.findings.statistics.seed_noise import noise_of
from trialbook.tuning.findings.wording import apart, how_to_rerun, many
from trialbook.tuning.results import StudyResults

_finding = finding_of("PB-24", "stopping", plot="best_of_k")

LEARNS_LEVEL = 0.001
"""Level of the test whether later points are better than earlier ones: one study in a thousand that does not learn from
results is taken for one that does."""
LEARNS_LEAST = 16
"""Points with a value for that test: its halves take a fit of their own."""


def find(results: StudyResults) -> list[Finding]:
  """Return the finding on what doubling the trials is expected to gain, compared with noise."""
  tried, found = tried_points(results), feasible(points_of(results))
  space = finite_space(results)
  if space is not None and space.left == 0 and found:
    return [
      _finding(
        "ok",
        f"{space.said}: {'others could only repeat them' if space.is_declared else 'only new values would add to it'}",
        "The gain of further points can only be estimated if they are drawn like those that were tried.",
        numbers={"points": len(tried), "combinations": space.combinations, "left": 0},
        action=f"Retrain the best points with other seeds, or {instead(space, results)}.",
      )
    ]
  if len(found) < LEAST:
    short = LEAST - len(found)
    if space is not None:
      short = min(short, space.left)
    return [
      _finding(
        "cannot_tell",
        f"{many(len(found), 'point')} with a value {'is' if len(found) == 1 else 'are'} too few to estimate what more"
        " points would gain",
        f"The estimate needs {LEAST} points with a value.{left_out(results)}",
        numbers={"points": len(found), "more": short},
        action=f"To estimate what more points would gain, try {many(short, 'more point')}.",
        until=f"{many(short, 'more point')}.",
      )
    ]
  learns = _learns(results, tried)
  used = tried[len(tried) // 2 :] if learns else tried
  costs = [point.cost for point in feasible(used)]
  fit = fit_extreme_value(costs, len(used) - len(costs))
  best, more = found[0].cost, len(tried)
  if fit is None:
    return [
      _finding(
        "ok",
        f"The best third of {many(len(used), 'point')} are equal: more would gain nothing that this objective shows, so"
        " stop",
        f"They all have {apart([results.objective.sign * costs[0]])[0]}.",
        numbers={"gain": 0.0, "points": len(tried)},
        action="Stop. A larger validation set or a finer objective would show differences between them.",
      )
    ]
  left = "" if space is None or space.left >= more else f"the {space.left} combinations that are left"
  more = min(more, space.left) if space is not None else more
  mean, low, high = fit.gain(more, lead=fit.best - best)
  numbers = {"gain": mean, "low": low, "high": high, "points": len(tried), "doubled": len(tried) + more}
  which = left or f"{more} more points"
  gain = f"{which[0].upper()}{which[1:]} would gain about {mean:.2g} (90% interval {low:.2g} to {high:.2g})"
  better = float(fit.exceeds(np.array([fit.best - best]), more)[0])
  why = (
    f"Extrapolated from the best {fit.count} of {many(len(used), 'point')} by an extreme-value distribution. The chance"
    f" that {which} contain a better one is {better:.0%}."
  )
  if learns:
    why += (
      " The later points are better than the earlier ones, so the search learns from results, and only the later half"
      " is used."
    )
  if pruned := sum(not point.retrains and point.pruned > 0 for point in used):
    why += f" {many(pruned, 'point')} ended early as worse than others, and count as worse than the best."
  noise = noise_of(results)
  if noise is None:
    return [
      _finding(
        "note",
        f"{gain}; whether that is more than seed noise is not known",
        f"{why} No good point was run twice.",
        numbers=numbers,
        action=f"Rerun the best trial: {how_to_rerun(results)}. Stop if the gain is less than the standard deviation of"
        " the retrains.",
        until="Retrains of the best point.",
      )
    ]
  numbers["noise"] = noise.deviation
  against = f"the {noise.source}, {noise.deviation:.2g}"
  if mean < noise.deviation:
    return [
      _finding(
        "ok",
        f"{gain}, less than {against}: stop",
        why,
        numbers=numbers,
        action="Stop searching this space.",
        until=f"A seed noise below {mean:.2g}.",
      )
    ]
  return [
    _finding(
      "note",
      f"{gain}, more than {against}: worth continuing",
      why,
      numbers={**numbers, "more": more},
      action=f"Try {which}, or refine the space around the best points first.",
      until=f"{which[0].upper()}{which[1:]}, or a seed noise above {mean:.2g}.",
    )
  ]


def _learns(results: StudyResults, tried: Sequence[TriedPoint]) -> bool:
  """Return whether the search learns from results: by its name, or since later points are better than earlier ones."""
  costs = [point.cost for point in tried if point.retrains]
  if len(costs) < LEARNS_LEAST or len([point for point in tried[len(tried) // 2 :] if point.retrains]) < LEAST:
    return False
  if results.study.is_adaptive:
    return True
  test = scipy.stats.kendalltau(np.arange(len(costs)), costs)
  return float(test.statistic) < 0 and float(test.pvalue) / 2 < LEARNS_LEVEL  # pyright: ignore
