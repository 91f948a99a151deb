"""The list of the plots that a study has."""

from collections.abc import Sequence

from altair.utils import schemapi

from trialbook.tuning.findings.comparison import compared_axes
from trialbook.tuning.reporting import curve_charts, trial_charts
from trialbook.tuning.reporting.plot import Plot
from trialbook.tuning.results import StudyResults

SHOWN = 5
"""Trials whose curves are drawn from the start: as many as people can distinguish by colour (PB-25)."""
TOLD_APART = 8
"""Settings that have a colour each; where there are more, none has."""
_OWN_NAMES = ("constructor", "__proto__", "hasOwnProperty", "isPrototypeOf", "toString", "toLocaleString", "valueOf")


def plots(results: StudyResults, names: Sequence[str], settings: Sequence[str]) -> list[Plot]:
  """Return all plots that a study has something for.

  Altair compares each part of each plot with the schema of Vega-Lite, which takes most of the time. The plots are the
  same for each study, so that tests do it.

  Args:
    results: of the study.
    names: of `results.varied`, as short as they are still distinct.
    settings: what is compared, by label; a single one: nothing is.
  """
  # Vega takes titles for keys of objects, and `constructor` is one of JavaScript's own; with a space of no width it is
  # none.
  names = [f"{name}\u200b" if name in _OWN_NAMES else name for name in names]
  coloured = settings if 1 < len(settings) <= TOLD_APART else ()
  with schemapi.debug_mode(False):
    return _plots(results, names, coloured)


def _plots(results: StudyResults, names: Sequence[str], coloured: Sequence[str]) -> list[Plot]:
  found = []
  if rows := sum(len(of_axis) for _, of_axis in compared_axes(results)):
    found.append(trial_charts.comparison(rows))
  found += [trial_charts.axis(number, one, names[number], coloured) for number, one in enumerate(results.varied)]
  found += [trial_charts.isolation(number, one, names[number]) for number, one in enumerate(results.varied)]
  found += [curve_charts.curves(), trial_charts.best_of_k(coloured)]
  if results.steps:
    found.append(trial_charts.selected_steps(results.steps))
  if "grad_norm" in results.metrics:
    found += [curve_charts.gradient_norm(), curve_charts.gradient_histogram()]
  return found
