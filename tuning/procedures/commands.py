"""The commands of the procedures, once their flags are parsed."""

import argparse
import importlib
import pathlib
import shlex
import sys
import tempfile
from typing import Any

from trialbook import errors
from trialbook.errors import UserError
from trialbook.object_store import StorePath
from trialbook.trainer.config_files import DEFAULT, load_config
from trialbook.trainer.overrides import parse_assignments
from trialbook.tuning import tables
from trialbook.tuning.execution.coordinator import prepare
from trialbook.tuning.procedures.conclusion import markdown, read, write_config
from trialbook.tuning.procedures.flags import PROCEDURES
from trialbook.tuning.procedures.lab import Lab
from trialbook.tuning.procedures.next_round import TRANSFERS, next_round
from trialbook.tuning.procedures.next_step import HEADINGS, checklist, next_step
from trialbook.tuning.procedures.study_source import write_study_file
from trialbook.tuning.results import StudyResults, read_results
from trialbook.tuning.study import Study


class _Planned(Exception):
  """The first study of a procedure has been printed, and nothing is run."""


def run(options: argparse.Namespace) -> int:
  """Execute `trialbook tune PROCEDURE`; exit code 3 if it could recommend nothing."""
  procedure = PROCEDURES[options.procedure]
  module = importlib.import_module(f"trialbook.tuning.procedures.{procedure.module}")
  config = load_config(options.config or DEFAULT).override(parse_assignments(options.set))
  own = {flag.lstrip("-").replace("-", "_"): None for flag, _ in procedure.flags}
  chosen = {name: value for name in own if (value := getattr(options, name)) is not None}
  if options.dry_run:
    with tempfile.TemporaryDirectory(prefix="trialbook-dry-run-") as name:
      lab = Lab(folder=pathlib.Path(name), config=config, workers=options.workers, runner=_planned)
      if hasattr(module, "preview"):  # It has no studies, or begins with something else.
        tables.console().print("\n".join(module.preview(lab, **chosen)), soft_wrap=True)
        return errors.DONE
      try:
        # One that would run nothing says why.
        sys.stdout.write(markdown(module.run(lab, **chosen)))
      except _Planned:
        tables.console().print(module.LATER, soft_wrap=True)
    return errors.DONE
  folder = options.dir
  if folder is None:
    raise UserError("--dir is missing: name a folder for the procedure, for example --dir=runs/procedure")
  if folder.exists() and not folder.is_dir():
    raise UserError(f"--dir={folder} is a file; name a folder")
  _check_free(folder, options.procedure)
  lab = Lab(folder=folder, config=config, workers=options.workers, progress=True)
  conclusion = module.run(lab, **chosen)
  sys.stdout.write(markdown(conclusion, cost=lab.cost))
  console = tables.console()
  console.print(f"  {folder / 'conclusion.md'}  the same text", soft_wrap=True)
  if conclusion.changes is not None:
    recommended = folder / "recommended" / "config.json"
    console.print(f"  {recommended}  the recommended config", soft_wrap=True)
    console.print(f"next: trialbook {_following(options.procedure, recommended, folder)}", soft_wrap=True)
  return errors.DONE if conclusion.changes is not None else errors.INFEASIBLE


def _check_free(folder: pathlib.Path, procedure: str) -> None:
  """Raise UserError if a folder holds something else than this procedure, some files of which would be replaced."""
  kinds = {"study.json": "a study", "round.json": "a round of studies", "run.json": "a run"}
  held = next((what for name, what in kinds.items() if (folder / name).exists()), None)
  if held is None and (known := read(folder)) is not None and known.procedure != procedure:
    held = f"the procedure {known.procedure}"
  if held is not None:
    raise UserError(f"--dir={folder} holds {held}; name another folder for {procedure}")


FOLLOWING = {"baseline": "batch-size", "batch-size": "max-steps", "max-steps": "stability"}
"""The procedure that comes after another one in the playbook."""


def _following(procedure: str, config: pathlib.Path, folder: pathlib.Path) -> str:
  """Return the command that goes on from a recommended config: the next procedure, or a training."""
  if procedure not in FOLLOWING:
    return f"train --config={shlex.quote(str(config))}"
  name = FOLLOWING[procedure]
  beside = folder.parent / name.replace("-", "_")
  return f"tune {name} --config={shlex.quote(str(config))} --dir={shlex.quote(str(beside))}"


def next_(options: argparse.Namespace) -> int:
  """Execute `trialbook tune next DIR`."""
  results = read_results(options.dir)
  if options.output is None and isinstance(options.dir, StorePath):
    raise UserError(
      f"{options.dir} is in an object store, from which no Python file is run; name a folder with --output"
    )
  output = options.output or options.dir / "next"
  if output.exists() and not output.is_dir():
    raise UserError(f"--output={output} is a file; name a folder")
  console = tables.console()
  if options.round is not None:
    _next_round(results, output, options.round)
    return errors.DONE
  found = next_step(results)
  for row in checklist(found.findings):
    console.print(f"{row['']:>2}  {row['id']}  {row['question']}: {row['answer']}", soft_wrap=True)
  console.print(f"\n{HEADINGS[found.kind]}")
  for number, reason in enumerate(found.reasons, start=1):
    console.print(f"  {number}. {reason}", soft_wrap=True)
  if found.study is not None:
    path = write_study_file(found.study, output, found.reasons)
    console.print(f"  {path}  the next study; edit it as you like", soft_wrap=True)
    folder = results.folder.parent / found.study.name
    console.print(f"next: trialbook tune run --study={shlex.quote(str(path))} --dir={shlex.quote(str(folder))}")
  elif found.command is not None:
    best = results.best
    if found.kind == "stability" and best is not None and results.study.config is not None:
      write_config(results.study.config.override(dict(best.changes)), output)
    if found.kind == "unsure":
      console.print("Answer these first, or decide about the best point all the same.")
    console.print(f"next: {found.command}", soft_wrap=True)
  return errors.DONE


def _next_round(results: StudyResults, output: pathlib.Path, steps: int) -> None:
  found = next_round(results, steps)
  console = tables.console()
  console.print(f"The next round trains for {steps:,} steps. {found.schedule}", soft_wrap=True)
  for name, likely in found.kept.items():
    console.print(f"  kept: {name} ({likely} to transfer)", soft_wrap=True)
  for name in found.searched:
    console.print(f"  searched again: {name}", soft_wrap=True)
  for what, likely in TRANSFERS:
    console.print(f"  transfers from shorter rounds: {what}: {likely}", soft_wrap=True)
  why = [found.schedule, *(f"{name} is kept, as it is {likely} to transfer." for name, likely in found.kept.items())]
  path = write_study_file(found.study, output, why)
  folder = results.folder.parent / found.study.name
  console.print(f"next: trialbook tune run --study={shlex.quote(str(path))} --dir={shlex.quote(str(folder))}")


def _planned(study: Study, folder: pathlib.Path, *, workers: int, **_: Any) -> StudyResults:
  """Print what the first study of a procedure would run, and what it costs."""
  del folder
  planned = prepare(study)
  console = tables.console()
  console.print(f"{study.name}: {study.goal}")
  trials = planned.preview()
  console.print(tables.planned(trials, planned.hyperparameters))
  if line := planned.measured_estimate(trials, workers):
    console.print(line)
  raise _Planned
