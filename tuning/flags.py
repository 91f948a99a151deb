"""The flags of `trialbook tune`. Nothing here imports jax: help and mistakes are quick."""

import argparse
import importlib

from trialbook.command_line import Parser, positive
from trialbook.command_line import run as run_command
from trialbook.paths import as_local_path, as_path
from trialbook.tuning.importers import KINDS
from trialbook.tuning.procedures import flags as procedures
from trialbook.tuning.reporting import FORMATS

DESCRIPTION = """Run studies, and show their results. A study compares many trainings, its trials.

  trialbook tune run --study=experiments/studies/digits_optimizer.py --dir=runs/optimizer --workers=2
  trialbook tune status runs/optimizer
  trialbook tune best runs/optimizer
  trialbook tune report runs/optimizer

To resume a study that was stopped or killed, repeat its `run` command.

Exit codes:
  0    done
  1    a trial failed, or a bug
  2    a mistake in the study, its config or the arguments, or a full disk; finished trials stay intact
  3    every trial was infeasible
  130  interrupted with Ctrl-C
"""

BENCHMARK = """Measure how often the findings are wrong, on simulated studies with a known truth.

  trialbook tune advice-benchmark --only=healthy
  trialbook tune advice-benchmark --only=harder --studies=100 --seed=1000

It prints these tables in Markdown. Each rate has a 95% interval (Clopper and Pearson).

  healthy   studies in which nothing is wrong: how many have a warning or a problem
  winners   studies that compare equally good settings: in how many one is called the winner
  harder    studies with retrains, censored trials, collapses or schedules: what is said of them, rightly and wrongly
  points    problems of the search space, planted in several sizes: how many are found
  curves    problems of training, the same

A study depends on its seed alone. All tables take about 20 minutes in two processes; --studies=40 takes a tenth.
"""

_PLACES = {"dir": "folder of the study", "root": "folder that holds folders of studies", "trial": "number of the trial"}


def main(arguments: list[str]) -> int:
  """Run the command; return its exit code."""
  options = _parser().parse_args(arguments)
  module, _, function = options.function.partition(":")
  return run_command(
    options.parser.prog, lambda: getattr(importlib.import_module(f"trialbook.tuning.{module}"), function)(options)
  )


def _parser() -> Parser:
  parser = Parser(prog="trialbook tune", description=DESCRIPTION)
  commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)

  def command(name: str, what: str, function: str, *places: str) -> argparse.ArgumentParser:
    """Add a command; `function` is "module:name" in this room, imported when the command runs."""
    made = commands.add_parser(name, help=what, description=what)
    made.set_defaults(function=function)
    for place in places:
      made.add_argument(place, type=int if place == "trial" else as_path, help=_PLACES[place])
    return made

  run = command("run", "run a study, or resume it", "commands:run")
  run.add_argument(
    "--study", required=True, type=as_local_path, metavar="FILE", help="Python file with a function get_study()"
  )
  run.add_argument("--dir", type=as_path, help="folder for all files of the study; created if absent")
  run.add_argument("--workers", type=positive, default=1, metavar="N", help="processes on this machine (default 1)")
  run.add_argument(
    "--trials", type=positive, metavar="N", help="number of trials, instead of the study's own; a larger one extends it"
  )
  run.add_argument("--dry_run", action="store_true", help="print the trials and their estimated cost, and exit")
  run.add_argument("--retry_failed", action="store_true", help="also run trials again that failed")
  run.add_argument("--executor", choices=("local", "slurm"), default="local", help="where trials run (default local)")
  run.add_argument(
    "--slurm",
    action="append",
    default=[],
    metavar="NAME=VALUE",
    help="an option of the Slurm jobs, for example minutes=60; may be repeated",
  )

  report = command("report", "write the report of a study, a round or a procedure", "procedures.report:report_", "dir")
  report.add_argument(
    "--output", type=as_path, metavar="FILE", help="file to write, or - to print it (default report.html in the folder)"
  )
  what = "page, text, findings as JSON, or plots as pictures (default html)"
  report.add_argument("--format", choices=FORMATS, default="html", help=what)
  compare = command("compare", "compare studies that have the same objective", "reporting.commands:compare")
  compare.add_argument("dirs", type=as_path, nargs="+", metavar="dir", help="folders of studies or rounds")
  compare.add_argument("--output", type=as_path, metavar="FILE", help="also write a report of the comparison")
  command("index", "write a page with all studies in a folder", "reporting.commands:index", "root")

  _add_import(command("import", "import a study that another tool ran", "importers.commands:import_"))
  command("list", "list all studies in a folder", "commands:list_", "root")
  status = command("status", "show the progress of a study", "commands:status", "dir")
  status.add_argument("--watch", action="store_true", help="keep showing it while the study runs")
  best = command("best", "rank the trials, and print the command that repeats the best one", "commands:best", "dir")
  best.add_argument("--rows", type=positive, default=20, metavar="N", help="number of rows (default 20)")
  show = command("show", "show the values and the result of one trial", "commands:show", "dir", "trial")
  for made in (best, show, report, compare):
    made.add_argument("--objective", metavar="METRIC", help="rank by this metric instead of the study's own objective")
    made.add_argument(
      "--value",
      choices=("best", "last", "smoothed"),
      help="which of its values in a training: the best, the last, or the median of the last few",
    )
    made.add_argument("--mode", choices=("min", "max"), help="whether smaller (min) or larger (max) values are better")
  rerun = command("rerun", "repeat a trial with other seeds", "commands:rerun", "dir", "trial")
  rerun.add_argument("--seeds", type=positive, default=5, metavar="N", help="number of seeds (default 5)")
  rerun.add_argument("--workers", type=positive, default=1, metavar="N", help="processes on this machine (default 1)")
  _add_benchmark(
    command("advice-benchmark", "measure how often the findings are wrong", "advice_benchmark.commands:run")
  )
  procedures.add(command)
  command("trial", "run one trial; `run` and Slurm jobs start this", "commands:trial", "dir", "trial")
  return parser


def _add_benchmark(made: argparse.ArgumentParser) -> None:
  made.description = BENCHMARK
  what = "number of healthy studies, and of studies of equal settings (default 400)"
  made.add_argument("--studies", type=positive, default=400, metavar="N", help=what)
  made.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the first study of each kind (default 0)")
  what = "a table (healthy, winners, harder, points, curves), or the rows whose name contains the word"
  made.add_argument("--only", metavar="WORD", help=what)
  made.add_argument("--workers", type=positive, default=2, metavar="N", help="processes on this machine (default 2)")
  made.add_argument("--json", action="store_true", help="print all rates, and each false alarm with its seed, as JSON")


def _add_import(made: argparse.ArgumentParser) -> None:
  made.add_argument(
    "kind", choices=[*KINDS], help="kind of the source; docs/tutorials/import_a_study.md describes each"
  )
  made.add_argument("source", help="folder to read, or the file of a table or of an Optuna storage")
  made.add_argument(
    "dir", type=as_local_path, help="folder to write: of the study, or of all studies if the source has several"
  )
  made.add_argument(
    "--rename",
    action="append",
    default=[],
    metavar="METRIC=NAME",
    help="name of a metric here, for example top1=validation/accuracy; may be repeated",
  )
  made.add_argument("--objective", metavar="METRIC", help="metric that ranks the trials")
  made.add_argument(
    "--mode", choices=("min", "max"), help="whether smaller (min) or larger (max) values of it are better"
  )
  made.add_argument("--name", help="name of the study")
  made.add_argument("--goal", help="goal of the study, in words")
  made.add_argument("--study", help="import only this study of an Optuna storage")
  what = "JSON file with roles, scales and bounds of hyperparameters (as in a table's study.json), such as "
  made.add_argument(
    "--space",
    type=as_local_path,
    metavar="FILE",
    help=what + '{"hyperparameters": {"dropout": {"min": 0, "max": 0.5}}}',
  )
