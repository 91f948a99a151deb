"""Runs studies, and says what they came to.

  python -m tuning run --study=experiments/studies/digits_optimizer.py --dir=runs/optimizer --workers=2
  python -m tuning status runs/optimizer
  python -m tuning best runs/optimizer
  python -m tuning report runs/optimizer

The same `run` goes on with a study that was stopped or killed. Exit codes: 0 done; 2 a mistake in the study, its
config, or the arguments (or a full disk), nothing is lost; 3 every trial was infeasible; 130 Ctrl-C; 1 a trial failed,
or a bug.
"""

import argparse
import pathlib
import sys
import time
from typing import Any, NoReturn

import rich.box
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trainer import UserError, exits
from trainer.channel import TryAgainError
from trialbook.metric_names import Mode, better
from trialbook.paths import as_path
from tuning import plan, records, reruns, roles, rounds, tables, tracking
from tuning.bayesian import BayesianOptimization
from tuning.importers import commands as importing_commands
from tuning.reporting import commands as reporting_commands
from tuning.results import StudyResults, read_results
from tuning.runner import PlannedStudy, prepare, run_study
from tuning.study import Objective, Round, Study
from tuning.study_files import load_study
from tuning.trial import guard_for, run_trial

_ROWS = 20
_WATCH_SECONDS = 1.0


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> NoReturn:
    self.exit(exits.USER_MISTAKE, f"{self.prog}: {message}; --help lists the flags\n")


def main(arguments: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  options = _parser().parse_args(arguments)
  try:
    return options.command(options)
  except UserError as error:
    count = f"{len(error.problems)} problems" if len(error.problems) > 1 else "a problem"
    print(f"tuning: {count}:", *(f"  - {problem}" for problem in error.problems), sep="\n", file=sys.stderr)
    return exits.USER_MISTAKE
  except (NotADirectoryError, FileExistsError, PermissionError) as error:
    print(f"tuning: a problem:\n  - {error.filename}: {error.strerror}", file=sys.stderr)
    return exits.USER_MISTAKE
  except KeyboardInterrupt:
    print("stopped; the same command goes on", file=sys.stderr)
    return exits.INTERRUPTED


def _run(options: argparse.Namespace) -> int:
  study = load_study(options.study)
  folder = options.dir
  if folder is not None and folder.exists() and not folder.is_dir():
    raise UserError(f"--dir={folder} is a file; name a folder")
  if isinstance(study, Round) and (problems := rounds.problems(study, options.trials)):
    raise UserError(problems)
  if options.dry_run:
    for one in study.studies if isinstance(study, Round) else [study]:
      _dry_run(prepare(one, options.trials), options.workers)
    return exits.DONE
  if folder is None:
    raise UserError("--dir is missing: name a folder for the study, for example --dir=runs/study")
  with_options = {
    "workers": options.workers,
    "trials": options.trials,
    "retry_failed": options.retry_failed,
    "progress": True,
    "executor": _executor(options, study),
  }
  if isinstance(study, Round):
    found = list(rounds.run_round(study, folder, **with_options).values())
    _print_round(study.goal, found)
    codes = {_exit_code(results) for results in found}
    return 1 if 1 in codes else min(codes)
  planned = prepare(study, options.trials)
  _print_plan(planned, sys.stderr)
  results = run_study(study, folder, **with_options)
  tables.show_results(results, _ROWS, tables.console())
  return _exit_code(results)


def _executor(options: argparse.Namespace, study: Study | Round) -> Any:
  if options.executor == "local":
    if options.slurm:
      raise UserError("--slurm is for --executor=slurm")
    return None
  from tuning.slurm_jobs import SlurmJobs, parse_options

  for one in study.studies if isinstance(study, Round) else [study]:
    parse_options(options.slurm, one)  # What is wrong with them is told before any study runs.
  return lambda one, folder, events: SlurmJobs(folder, events, options=parse_options(options.slurm, one))


def _dry_run(planned: PlannedStudy, workers: int) -> None:
  console = tables.console()
  console.print(f"{planned.study.name}: {planned.study.goal}")
  if isinstance(planned.study.search, BayesianOptimization):
    console.print("its trials depend on results; those of a scrambled Halton sequence come first:")
  trials = planned.preview()
  console.print(tables.planned(trials, planned.hyperparameters))
  _print_plan(planned, sys.stdout)
  if line := planned.measured_estimate(trials, workers):
    console.print(line)


def _print_plan(planned: PlannedStudy, stream: Any) -> None:
  console = tables.console(stream)
  trials = planned.preview()
  of = plan.balance(planned.hyperparameters, [trial.values for trial in trials])
  for line in tables.balance(of, trials, planned.hyperparameters):
    console.print(line, soft_wrap=True)
  for warning in roles.warnings(planned.study, planned.hyperparameters):
    console.print(f"warning: {warning}", soft_wrap=True)


def _print_round(goal: str, studies: list[StudyResults]) -> None:
  console = tables.console()
  console.print(goal)
  table = Table("study", "trials", "best", "trial", box=rich.box.SIMPLE_HEAD)
  key = lambda results: (results.best is None, results.best and results.objective.sign * results.best.objective)  # noqa: E731
  for results in sorted(studies, key=key):
    best = results.best
    cells = [tables.number(best.objective), str(best.trial)] if best else ["", ""]
    table.add_row(Text(results.study.name), tables.states(results), *cells)
  console.print(table)
  winner = min(studies, key=key, default=None)
  if winner is not None:
    tables.show_best(winner, console)


def _exit_code(results: StudyResults) -> int:
  if results.count("failed"):
    return 1
  return exits.INFEASIBLE if results.trials and results.best is None else exits.DONE


def _list(options: argparse.Namespace) -> int:
  root = options.root
  if not root.is_dir():
    raise UserError(f"{root}: there is no such folder")
  rows = tracking.rows(root)
  if not rows:
    raise UserError(f"{root} has no studies in its folders")
  console = tables.console()
  table = Table("study", "goal", "trials", "best", box=rich.box.SIMPLE_HEAD)
  for row in rows:
    table.add_row(*(Text(row[column]) for column in ("study", "goal", "trials", "best")))
  console.print(table)
  for row in rows:
    console.print(f"{row['study']}: {row['config']}; again: {row['reproduce']}", soft_wrap=True)
  return exits.DONE


def _study_folder(options: argparse.Namespace) -> pathlib.Path:
  folder = options.dir
  if (folder / "round.json").exists():
    names = ", ".join(str(results.folder) for results in rounds.read_round(folder)[1])
    raise UserError(f"{folder} holds a round; name one of its studies: {names or 'none has begun'}")
  return folder


def _by(results: StudyResults, options: argparse.Namespace) -> StudyResults:
  if options.objective is None and options.value is None and options.mode is None:
    return results
  metric = options.objective or results.objective.metric
  own = results.objective.mode if metric == results.objective.metric else None
  mode: Mode | None = options.mode or own or better(metric)
  if mode is None:
    results.by(Objective(metric, "min"))  # An unknown metric is told first.
    raise UserError(f"--objective={metric}: say which direction is better, --mode=min or --mode=max")
  if metric.startswith("test/"):
    print(
      f"warning: ranking by {metric} selects on the test set; its value is then no estimate of anything",
      file=sys.stderr,
    )
  return results.by(Objective(metric, mode, options.value or results.objective.value))


def _status(options: argparse.Namespace) -> int:
  folder = options.dir
  console = tables.console()
  if (folder / "round.json").exists():
    stored, studies = rounds.read_round(folder)
    _print_round(stored["goal"], studies)
    return exits.DONE
  if not options.watch:
    console.print(_status_table(folder))
    return exits.DONE
  with Live(_status_table(folder), console=console, auto_refresh=False) as live:
    while records.is_locked(folder, "study"):
      time.sleep(_WATCH_SECONDS)
      live.update(_status_table(folder), refresh=True)
  return exits.DONE


def _status_table(folder: pathlib.Path) -> Table:
  results = read_results(folder)
  table = tables.running(results)
  table.title = f"{results.study.name}: {tables.states(results)}"
  unended = results.count("running") + results.count("pending")
  if results.study.source is not None:
    table.title += f"; imported from {results.study.source}"
  elif unended and not records.is_locked(folder, "study"):
    table.title += "; nobody works on it, the same `run` goes on"
  best = results.best
  if best is not None:
    table.caption = f"best: trial {best.trial}, {results.objective.metric} {tables.number(best.objective)}"
  return table


def _best(options: argparse.Namespace) -> int:
  folder = options.dir
  if (folder / "round.json").exists():
    stored, studies = rounds.read_round(folder)
    _print_round(stored["goal"], [_by(results, options) for results in studies])
    return exits.DONE
  tables.show_results(_by(read_results(folder), options), options.rows, tables.console())
  return exits.DONE


def _show(options: argparse.Namespace) -> int:
  results = _by(read_results(_study_folder(options)), options)
  trial = next((one for one in results.trials if one.trial == options.trial), None)
  if trial is None:
    raise UserError(f"{results.folder} has no trial {options.trial}; it has {len(results.trials)}, from 0")
  tables.show(results, trial, tables.console())
  return exits.DONE


def _rerun(options: argparse.Namespace) -> int:
  study, folder = reruns.of_trial(_study_folder(options), options.trial, options.seeds)
  results = run_study(study, folder, workers=options.workers, progress=True)
  tables.show_results(results, None, tables.console())
  spread = reruns.spread(results)
  if spread is None or spread.deviation is None:
    print("too few seeds came to an end to tell a variance")
    return _exit_code(results)
  print(
    f"{results.objective.metric} over {len(spread.values)} seeds: mean {tables.number(spread.mean)},"
    f" standard deviation {tables.number(spread.deviation)}"
  )
  return _exit_code(results)


def _trial(options: argparse.Namespace) -> int:
  study = options.dir
  with guard_for(study) as guard:
    guard.join()
    try:
      state = run_trial(study, records.trial_folder(study, options.trial), guard=guard).state
      code = {"infeasible": exits.INFEASIBLE, "stopped": exits.TRY_AGAIN, "pending": 1, "failed": 1}.get(
        state, exits.DONE
      )
    except UserError as error:
      state, code = "; ".join(error.problems), exits.USER_MISTAKE
      print(f"tuning: {state}", file=sys.stderr)
    except TryAgainError as error:
      state, code = str(error), exits.TRY_AGAIN
      print(f"tuning: {state}", file=sys.stderr)
    guard.leave(code, state)
  return code


def _parser() -> argparse.ArgumentParser:
  layout = argparse.RawDescriptionHelpFormatter
  parser = _Parser(prog="python -m tuning", description=__doc__, formatter_class=layout, allow_abbrev=False)
  commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)

  def command(name: str, what: str, run: Any, *places: str) -> argparse.ArgumentParser:
    made = commands.add_parser(name, help=what, description=what, allow_abbrev=False)
    made.set_defaults(command=run)
    for place in places:
      made.add_argument(place, type=int if place == "trial" else as_path)
    return made

  run = command("run", "run a study, or go on with it", _run)
  run.add_argument("--study", required=True, type=as_path, help="Python file with a function get_study()")
  run.add_argument("--dir", type=as_path, help="folder of the study; made if absent")
  run.add_argument("--workers", type=_positive, default=1, metavar="N", help="processes on this machine (default 1)")
  run.add_argument("--trials", type=_positive, metavar="N", help="number of trials, also to extend a study")
  run.add_argument("--dry_run", action="store_true", help="print the trials and what they cost, and leave")
  run.add_argument("--retry_failed", action="store_true", help="try trials again that failed")
  run.add_argument("--executor", choices=("local", "slurm"), default="local", help="where trials run (default local)")
  run.add_argument(
    "--slurm", action="append", default=[], metavar="NAME=VALUE", help="an option of the jobs, for example minutes=60"
  )

  reports = reporting_commands.add_commands(command, _by)
  importing_commands.add_commands(command)
  command("list", "the studies in the folders of a root", _list, "root")
  status = command("status", "the trials of a study, also while it runs", _status, "dir")
  status.add_argument("--watch", action="store_true", help="redraw while somebody works on it")
  best = command("best", "the trials of a study, ranked, and the best one's command", _best, "dir")
  best.add_argument("--rows", type=_positive, default=_ROWS, metavar="N", help=f"how many (default {_ROWS})")
  show = command("show", "one trial", _show, "dir", "trial")
  for made in (best, show, *reports):
    made.add_argument("--objective", metavar="METRIC", help="rank by another logged metric")
    made.add_argument("--value", choices=("best", "last", "smoothed"), help="which of its values over the training")
    made.add_argument("--mode", choices=("min", "max"), help="which direction is better")
  rerun = command("rerun", "run a trial again with other seeds", _rerun, "dir", "trial")
  rerun.add_argument("--seeds", type=_positive, default=5, metavar="N", help="how many (default 5)")
  rerun.add_argument("--workers", type=_positive, default=1, metavar="N", help="processes on this machine (default 1)")
  command("trial", "run one trial of a study that a coordinator has handed out", _trial, "dir", "trial")
  return parser


def _positive(text: str) -> int:
  if not text.isdecimal() or int(text) < 1:
    raise argparse.ArgumentTypeError(f"{text!r} should be a whole number from 1 on")
  return int(text)


if __name__ == "__main__":
  # The current directory, for the user's modules, is on the path already, and last where the console command ran.
  exits.leave(main())
