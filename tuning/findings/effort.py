"""Unequal effort in a comparison: settings that were tuned less than others (PB-13)."""

import scipy.stats

from trialbook.tuning.findings import comparison_words as words
from trialbook.tuning.findings.finding import Finding, finding_of
from trialbook.tuning.findings.statistics.contenders import Contender
from trialbook.tuning.findings.wording import many
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


def effort(results: StudyResults, field: list[Contender], clear: bool) -> list[Finding]:
  """Return a finding on settings that were tuned less than others, by tried points or by feasible ones.

  A pruned point was tried, and its training worked: it is effort, and it is feasible.

  Args:
    results: of the study.
    field: the settings.
    clear: whether one of them wins: it does so at equal numbers of points, so unequal ones do not change that.
  """
  most, least = max(field, key=lambda one: one.total), min(field, key=lambda one: one.total)
  if least.total == 0:
    return []
  counts = {one.setting.label: {"points": one.total, "feasible": len(one.costs), "pruned": one.pruned} for one in field}
  why = words.tried(results, field)
  if most.total >= EFFORT * least.total and most.total - least.total >= EFFORT_LEAST:
    more = most.total - least.total
    if clear:
      return [
        _finding(
          "note",
          f"Unequal effort: {most.named} was tried {most.total} times, {least.named} {least.total} times, but the"
          " winner is clear at equal numbers",
          f"{why} The comparison is made at {words.counted(field, least.total)} each.",
          subject=least.setting.label,
          numbers={"effort": counts},
          plot="comparison",
        )
      ]
    return [
      _finding(
        "warning",
        f"Unequal effort: {most.named} was tried {most.total} times, {least.named} {least.total} times",
        f"{why} More tries find better bests. The comparison is made at equal numbers of {words.noun(field)}, but the"
        f" best of {least.named} is known less well.",
        subject=least.setting.label,
        numbers={"effort": counts, "more": more},
        action=f"Run {many(more, 'more trial')} of {least.named}.",
        until=f"{many(more, 'more trial')} of {least.named}.",
        plot="comparison",
      )
    ]
  share = lambda one: (one.total - one.infeasible) / max(one.total, 1)  # noqa: E731
  rich, poor = max(field, key=share), min(field, key=share)
  table = [[one.total - one.infeasible, one.infeasible] for one in (rich, poor)]
  if share(rich) >= EFFORT * share(poor):
    p = float(scipy.stats.fisher_exact(table)[1]) * len(field) * (len(field) - 1) / 2  # pyright: ignore
    if p < EFFORT_LEVEL:
      return [
        _finding(
          "warning",
          f"Unequal effort: {poor.infeasible} of {words.counted(field, poor.total)} of {poor.named} were infeasible,"
          f" {rich.infeasible} of {rich.total} of {rich.named}",
          f"{why} An infeasible trial tunes nothing. A difference that large is not chance (Fisher's test:"
          f" p = {p:.1g}).",
          subject=poor.setting.label,
          numbers={"effort": counts, "p": p},
          action=f"Shrink the space of {poor.named} to where it trains, and run as many trials there as of the others.",
          plot="comparison",
        )
      ]
  return []
