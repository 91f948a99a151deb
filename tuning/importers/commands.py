"""The command `import` of `python -m tuning`."""

import argparse
import shlex
import sys
from collections.abc import Callable

from trainer import exits
from trialbook.paths import as_path
from tuning import tables
from tuning.importers import KINDS, import_study, parse_renames
from tuning.results import read_results


def import_(options: argparse.Namespace) -> int:
  """`python -m tuning import KIND SOURCE DIR`."""
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
    command=shlex.join(["python", "-m", "tuning", *sys.argv[1:]]) if sys.argv[1:2] == ["import"] else None,
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
  console.print(f"next: python -m tuning report {shlex.quote(str(folders[0]))}", soft_wrap=True)
  return exits.DONE


def add_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
  """Adds it to the parser."""
  made = command("import", "make a study of trials that were run elsewhere", import_)
  made.add_argument("kind", choices=list(KINDS), help="of the source, see docs/tutorials/report.md")
  made.add_argument("source", help="a folder; of Optuna the file of a storage")
  made.add_argument("dir", type=as_path, help="folder of the study, or of the studies where the source has several")
  made.add_argument(
    "--rename", action="append", default=[], metavar="METRIC=NAME", help="call a metric as studies here do"
  )
  made.add_argument("--objective", metavar="METRIC", help="to rank by")
  made.add_argument("--mode", choices=("min", "max"), help="which direction of it is better")
  made.add_argument("--name", help="of the study")
  made.add_argument("--goal", help="of the study, in words")
  made.add_argument("--study", help="of an Optuna storage, only this one")
  what = "a JSON file with hyperparameters' roles, scales and bounds (tables have them in their study.json): "
  made.add_argument(
    "--space", type=as_path, metavar="FILE", help=what + '{"hyperparameters": {"dropout": {"min": 0, "max": 0.5}}}'
  )
