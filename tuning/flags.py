"""The flags of `trialbook tune`. Nothing here imports jax: help and mistakes are quick."""

import argparse
import importlib

from trialbook.command_line import Parser, positive
from trialbook.command_line import run as run_command
from trialbook.paths import as_path
from trialbook.tuning.importers import KINDS
from trialbook.tuning.reporting import FORMATS

DESCRIPTION = """Runs studies, and shows their results.

  trialbook tune run --study=experiments/studies/digits_optimizer.py --dir=runs/optimizer --workers=2
  trialbook tune status runs/optimizer
  trialbook tune best runs/optimizer
  trialbook tune report runs/optimizer

A study that was stopped or killed resumes with the same `run`. Exit codes: 0 done; 2 a mistake in the study, its
config, or the arguments (or a full disk), nothing is lost; 3 every trial was infeasible; 130 Ctrl-C; 1 a trial failed,
or a bug.
"""


def main(arguments: list[str]) -> int:
  """Run the command; return its exit code."""
  options = _parser().parse_args(arguments)
  module, _, function = options.function.partition(":")
  return run_command(
    "trialbook tune", lambda: getattr(importlib.import_module(f"trialbook.tuning.{module}"), function)(options)
  )


def _parser() -> Parser:
  parser = Parser(prog="trialbook tune", description=DESCRIPTION)
  commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

  def command(name: str, what: str, function: str, *places: str) -> argparse.ArgumentParser:
    """Add a command; `function` is "module:name" in this room, imported when the command runs."""
    made = commands.add_parser(name, help=what, description=what)
    made.set_defaults(function=function)
    for place in places:
      made.add_argument(place, type=int if place == "trial" else as_path)
    return made

  run = command("run", "run a study, or resume it", "commands:run")
  run.add_argument("--study", required=True, type=as_path, help="Python file with a function get_study()")
  run.add_argument("--dir", type=as_path, help="folder of the study; created if absent")
  run.add_argument("--workers", type=positive, default=1, metavar="N", help="processes on this machine (default 1)")
  run.add_argument("--trials", type=positive, metavar="N", help="number of trials, also to extend a study")
  run.add_argument("--dry_run", action="store_true", help="print the trials and what they cost, and exit")
  run.add_argument("--retry_failed", action="store_true", help="try failed trials again")
  run.add_argument("--executor", choices=("local", "slurm"), default="local", help="where trials run (default local)")
  run.add_argument(
    "--slurm", action="append", default=[], metavar="NAME=VALUE", help="an option of the jobs, for example minutes=60"
  )

  report = command("report", "write the report of a study or a round", "reporting.commands:report_", "dir")
  report.add_argument(
    "--output", type=as_path, metavar="FILE", help="where to; - prints it (default: report.html in the folder)"
  )
  what = "a page, its text, its findings as JSON, or its plots (default html)"
  report.add_argument("--format", choices=FORMATS, default="html", help=what)
  compare = command("compare", "compare studies of one objective", "reporting.commands:compare")
  compare.add_argument("dirs", type=as_path, nargs="+", metavar="dir", help="folders of studies or rounds")
  compare.add_argument("--output", type=as_path, metavar="FILE", help="write a report of them, too")
  command("index", "write a page of all studies in the folders of a root", "reporting.commands:index", "root")

  _add_import(command("import", "make a study of trials that were run elsewhere", "importers.commands:import_"))
  command("list", "list the studies in the folders of a root", "commands:list_", "root")
  status = command("status", "show the trials of a study, also while it runs", "commands:status", "dir")
  status.add_argument("--watch", action="store_true", help="redraw while the study runs")
  best = command("best", "rank the trials of a study; print the best one's command", "commands:best", "dir")
  best.add_argument("--rows", type=positive, default=20, metavar="N", help="number of rows (default 20)")
  show = command("show", "show one trial", "commands:show", "dir", "trial")
  for made in (best, show, report, compare):
    made.add_argument("--objective", metavar="METRIC", help="rank by another logged metric")
    made.add_argument("--value", choices=("best", "last", "smoothed"), help="which of its values over the training")
    made.add_argument("--mode", choices=("min", "max"), help="which direction is better")
  rerun = command("rerun", "run a trial again with other seeds", "commands:rerun", "dir", "trial")
  rerun.add_argument("--seeds", type=positive, default=5, metavar="N", help="number of seeds (default 5)")
  rerun.add_argument("--workers", type=positive, default=1, metavar="N", help="processes on this machine (default 1)")
  command("trial", "run one trial of a study, for its coordinator", "commands:trial", "dir", "trial")
  return parser


def _add_import(made: argparse.ArgumentParser) -> None:
  made.add_argument("kind", choices=[*KINDS], help="of the source, see docs/tutorials/report.md")
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
