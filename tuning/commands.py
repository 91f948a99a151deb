"""The commands of `trialbook tune`, once their flags are parsed; each function returns its command's exit code."""

import argparse
import pathlib
import sys
import time
from typing import Any

import rich.box
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trialbook import errors, files
from trialbook.command_line import warn
from trialbook.errors import TryAgainError, UserError
from trialbook.tuning import plan, ranking, records, reruns, role_advice, rounds, tables, tracking
from trialbook.tuning.execution.coordinator import run_study
from trialbook.tuning.execution.planned_study import PlannedStudy, prepare
from trialbook.tuning.results import StudyResults, read_results
from trialbook.tuning.search.bayesian import BayesianOptimization
from trialbook.tuning.study import Round, Study
from trialbook.tuning.study_files import load_study

_ROWS = 20
_WATCH_SECONDS = 1.0


def run(options: argparse.Namespace) -> int:
  """Execute `trialbook tune run`."""
  study = load_study(options.study)
  folder = options.dir
  if folder is not None and folder.exists() and not folder.is_dir():
    raise UserError(f"--dir={folder} is a file; name a folder")
  if isinstance(study, Round) and (problems := rounds.problems(study, options.trials)):
    raise UserError(problems)
  if options.dry_run:
    for one in study.studies if isinstance(study, Round) else [study]:
      _dry_run(prepare(one, options.trials), options.workers)
    return errors.DONE
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
    return errors.BUG if errors.BUG in codes else min(codes)
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
  from trialbook.tuning.execution.slurm_jobs import SlurmJobs, parse_options

  for one in study.studies if isinstance(study, Round) else [study]:
    parse_options(options.slurm, one)  # What is wrong with them is told before any study runs.
  return lambda one, folder, events: SlurmJobs(folder, events, options=parse_options(options.slurm, one))


def _dry_run(planned: PlannedStudy, workers: int) -> None:
  console = tables.console()
  console.print(f"{planned.study.name}: {planned.study.goal}")
  if isinstance(planned.study.search, BayesianOptimization):
    console.print("Later trials depend on results. The first ones come from a scrambled Halton sequence:")
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
  if (rule := planned.study.stopping) is not None:
    length = None if planned.config is None else planned.config.max_train_steps
    console.print(f"early stopping: {rule.describe(length)}", soft_wrap=True)
  for warning in role_advice.warnings(planned.study, planned.hyperparameters):
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
  return errors.exit_code_of_study([trial.state for trial in results.trials], has_best=results.best is not None)


def list_(options: argparse.Namespace) -> int:
  """Execute `trialbook tune list ROOT`."""
  root = options.root
  if not root.is_dir():
    raise UserError(f"{root}: there is no such folder")
  shelf = tracking.read(root)
  rows = shelf.rows
  for problem in shelf.passed_over:
    warn(f"warning: {problem}")
  if not rows:
    raise UserError(f"{root} has no studies in its folders")
  console = tables.console()
  table = Table("study", "goal", "trials", "best", box=rich.box.SIMPLE_HEAD)
  for row in rows:
    table.add_row(*(Text(row[column]) for column in ("study", "goal", "trials", "best")))
  console.print(table)
  for row in rows:
    console.print(f"{row['study']}: {row['config']}; again: {row['reproduce']}", soft_wrap=True)
  return errors.DONE


def _study_folder(options: argparse.Namespace) -> pathlib.Path:
  folder = options.dir
  if (folder / "round.json").exists():
    names = ", ".join(str(results.folder) for results in rounds.read_round(folder)[1])
    raise UserError(f"{folder} holds a round; name one of its studies: {names or 'none has begun'}")
  return folder


def ranked_by(results: StudyResults, options: argparse.Namespace) -> StudyResults:
  """Return the results, ranked as `--objective`, `--mode` and `--value` say; print what must be known of that."""
  found = ranking.ranked(results, options.objective, options.mode, options.value)
  if (options.objective or options.mode or options.value) and (told := ranking.warning(found.objective.metric)):
    warn(f"warning: {told}")
  return found


def status(options: argparse.Namespace) -> int:
  """Execute `trialbook tune status DIR`."""
  folder = options.dir
  console = tables.console()
  if (folder / "round.json").exists():
    stored, studies = rounds.read_round(folder)
    _print_round(stored["goal"], studies)
    return errors.DONE
  if not options.watch:
    console.print(_status_table(folder))
    return errors.DONE
  with Live(_status_table(folder), console=console, auto_refresh=False) as live:
    while files.is_locked(records.study_lock(folder)):
      time.sleep(_WATCH_SECONDS)
      live.update(_status_table(folder), refresh=True)
  return errors.DONE


def _status_table(folder: pathlib.Path) -> Table:
  results = read_results(folder)
  table = tables.running(results)
  table.title = f"{results.study.name}: {tables.states(results)}"
  unended = results.count("running") + results.count("pending")
  if results.study.source is not None:
    table.title += f"; imported from {results.study.source}"
  elif unended and not files.is_locked(records.study_lock(folder)):
    table.title += "; not running. Rerun the same command to resume"
  best = results.best
  if best is not None:
    table.caption = f"best: trial {best.trial}, {results.objective.metric} {tables.number(best.objective)}"
  return table


def best(options: argparse.Namespace) -> int:
  """Execute `trialbook tune best DIR`."""
  folder = options.dir
  if (folder / "round.json").exists():
    stored, studies = rounds.read_round(folder)
    _print_round(stored["goal"], [ranked_by(results, options) for results in studies])
    return errors.DONE
  tables.show_results(ranked_by(read_results(folder), options), options.rows, tables.console())
  return errors.DONE


def show(options: argparse.Namespace) -> int:
  """Execute `trialbook tune show DIR TRIAL`."""
  results = ranked_by(read_results(_study_folder(options)), options)
  trial = next((one for one in results.trials if one.trial == options.trial), None)
  if trial is None:
    raise UserError(f"{results.folder} has no trial {options.trial}; it has {len(results.trials)}, from 0")
  tables.show(results, trial, tables.console())
  return errors.DONE


def rerun(options: argparse.Namespace) -> int:
  """Execute `trialbook tune rerun DIR TRIAL`."""
  study, folder = reruns.of_trial(_study_folder(options), options.trial, options.seeds)
  results = run_study(study, folder, workers=options.workers, progress=True)
  tables.show_results(results, None, tables.console())
  spread = reruns.spread(results)
  if spread is None or spread.deviation is None:
    print("No standard deviation: fewer than two seeds finished")
    return _exit_code(results)
  print(
    f"{results.objective.metric} over {len(spread.values)} seeds: mean {tables.number(spread.mean)},"
    f" standard deviation {tables.number(spread.deviation)}"
  )
  return _exit_code(results)


def trial(options: argparse.Namespace) -> int:
  """Execute `trialbook tune trial DIR NUMBER`."""
  from trialbook.tuning.execution.trial import guard_for, run_trial

  study = options.dir
  with guard_for(study) as guard:
    guard.join()
    try:
      record = run_trial(study, records.trial_folder(study, options.trial), guard=guard)
      cause, code = record.state, errors.exit_code(record.state)
      if record.reason is not None:
        warn(f"trialbook tune trial: {record.reason}")
    except (UserError, TryAgainError) as error:
      cause, code = str(error).replace("\n", "; "), errors.exit_code(error)
      warn(f"trialbook tune trial: {cause}")
    guard.leave(code, cause)
  return code
