"""When to stop: what twice as many trials would gain (PB-24).

The playbook looks at how the best of k trials flattens. What lies beyond the last trial is extrapolated from the good
end of the distribution of trials (`statistics.extreme_value`): the gain that doubling is expected to bring, and its 5%
and 95%. It is worth having if it is more than what the same trial gains or loses with another seed.
"""

import numpy as np

from trialbook.tuning.findings.finding import Finding, finding_of
from trialbook.tuning.findings.statistics.extreme_value import LEAST, fit_extreme_value
from trialbook.tuning.findings.statistics.points import feasible, points_of
from trialbook.tuning.findings.statistics.seed_noise import noise_of
from trialbook.tuning.findings.wording import how_to_rerun
from trialbook.tuning.results import StudyResults

_finding = finding_of("PB-24", "stopping", plot="best_of_k")

_NOTHING = np.zeros(1)


def find(results: StudyResults) -> list[Finding]:
  """Return the finding on what doubling the trials is expected to gain, compared with noise."""
  points = points_of(results)
  costs = [point.cost for point in feasible(points)]
  if len(costs) < LEAST:
    short = LEAST - len(costs)
    return [
      _finding(
        "cannot_tell",
        f"{len(costs)} points with a value are too few to say what more trials would gain",
        f"The distribution of the best trials takes {LEAST} points.",
        numbers={"points": len(costs)},
        action=f"Run {short} more, feasible ones.",
      )
    ]
  total = len(points)
  noise = noise_of(results)
  fit = fit_extreme_value(costs, total - len(costs))
  if fit is None:
    return [
      _finding(
        "ok",
        f"The best third of {total} points are equal: more trials would gain nothing that this objective shows: stop",
        f"They all have {results.objective.sign * costs[0]:.4g}.",
        numbers={"gain": 0.0, "points": total},
        action="Stop; a larger validation set would tell them apart.",
      )
    ]
  mean, low, high = fit.gain(total)
  numbers = {"gain": mean, "low": low, "high": high, "points": total, "doubled": 2 * total}
  gain = f"Doubling to {2 * total} points is expected to gain {mean:.2g} (90% interval {low:.2g} to {high:.2g})"
  why = (
    f"Extrapolated from the best {fit.count} of {total} points, by a generalised Pareto distribution whose shape and"
    f" end are weighed by how well they explain these. The chance that another {total} contain a better one at all is"
    f" {float(fit.exceeds(_NOTHING, total)[0]):.0%}."
  )
  if noise is None:
    return [
      _finding(
        "note",
        f"{gain}; nothing is known of how much a trial varies by itself",
        why,
        numbers=numbers,
        action=f"Rerun the best trial: {how_to_rerun(results)}; stop if the"
        " gain is less than their standard deviation.",
      )
    ]
  numbers["noise"] = noise.deviation
  against = f"the {noise.source}, {noise.deviation:.2g}"
  if mean < noise.deviation:
    return [
      _finding("ok", f"{gain}, less than {against}: stop", why, numbers=numbers, action="Stop searching this space.")
    ]
  return [
    _finding(
      "note",
      f"{gain}, more than {against}: worth going on",
      why,
      numbers=numbers,
      action=f"Run {total} more trials, or refine the space around the best ones first.",
    )
  ]
