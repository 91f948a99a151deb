"""The command `import` of `trialbook tune`."""

import argparse
import shlex
import sys

from trialbook import errors
from trialbook.command_line import this_command
from trialbook.tuning import tables
from trialbook.tuning.importers.importing import import_study
from trialbook.tuning.importers.metric_names import parse_renames
from trialbook.tuning.results import StudyResults, read_results
from trialbook.tuning.space.scales import Discrete, Hyperparameter, Integer, OneOf

SHOWN = 20
"""Notes of a study that the command prints; all are in its `study.json` and its report."""

MOST_VALUES = 10
"""Values of a hyperparameter that the command prints."""


def import_(options: argparse.Namespace) -> int:
  """Execute `trialbook tune import KIND SOURCE DIR`."""
  folders = import_study(
    options.kind,
    options.source,
    options.dir,
    rename=parse_renames(options.rename),
    objective=options.objective,
    mode=options.mode,
    name=options.name,
    goal=options.goal,
    study=options.study,
    space=options.space,
    command=this_command() if "import" in sys.orig_argv else None,
  )
  console = tables.console()
  table = tables.empty("study", "trials", "points", "ranked by", "best")
  for folder in folders:
    results = read_results(folder)
    best = results.best
    value = tables.number(best.objective) if best else "none"
    row = [results.study.name, len(results.trials), len(results.points), results.objective.metric, value]
    table.add_row(*map(str, row))
  console.print(table)
  for folder in folders:
    console.print(f"  {folder}", soft_wrap=True)
    for line in decisions(read_results(folder)):
      console.print(f"    {line}", soft_wrap=True, markup=False, highlight=False)
  console.print(f"next: trialbook tune report {shlex.quote(str(folders[0]))}", soft_wrap=True)
  return errors.DONE


def decisions(results: StudyResults) -> list[str]:
  """Return what an import decided about a study, which its user may want to declare otherwise, in lines."""
  lines = list(results.study.warnings[:SHOWN])
  if len(results.study.warnings) > SHOWN:
    lines.append(f"{len(results.study.warnings) - SHOWN} more notes are in {results.folder / 'study.json'}.")
  inferred = [f"{one.name} {_scale(one)}" for one in results.space.values() if one.inferred]
  if inferred:
    lines.append(f"Scales and bounds, from the values of the trials: {'; '.join(inferred)}.")
  return lines


def _scale(one: Hyperparameter) -> str:
  """Return a hyperparameter's scale in words."""
  if isinstance(one.scale, OneOf | Discrete):
    values = list(map(str, one.scale.values))
    if len(values) == 1:
      return f"= {values[0]}"
    more = f" and {len(values) - MOST_VALUES} more" if len(values) > MOST_VALUES else ""
    return f"is one of {', '.join(values[:MOST_VALUES])}{more}"
  stored = one.scale.as_json()
  low, high = (
    str(stored[bound]) if isinstance(one.scale, Integer) else f"{stored[bound]:.4g}" for bound in ("min", "max")
  )
  return f"{stored['scale'].replace('_', ' ')} from {low} to {high}"
