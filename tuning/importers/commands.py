"""The command `import` of `trialbook tune`."""

import argparse
import shlex
import sys

from trialbook import errors
from trialbook.command_line import this_command
from trialbook.tuning import tables
from trialbook.tuning.importers.importing import import_study
from trialbook.tuning.importers.metric_names import parse_renames
from trialbook.tuning.results import read_results


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
  console.print(f"next: trialbook tune report {shlex.quote(str(folders[0]))}", soft_wrap=True)
  return errors.DONE
