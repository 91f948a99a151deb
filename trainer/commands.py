"""The work of `trialbook train`, `evaluate`, `export` and `profile`, once their flags are parsed."""

import contextlib
import json
import pathlib
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import jax
from absl import logging

from trialbook import command_line, errors, files
from trialbook.errors import ConfigError, TryAgainError, UserError
from trialbook.files import jsonable
from trialbook.paths import as_path
from trialbook.trainer import config_files, flags, overrides
from trialbook.trainer.config import Config, Job
from trialbook.trainer.hosts.joining import Place, find_place
from trialbook.trainer.hosts.shutdown_guard import Guard

_NO_WORKDIR = "--workdir is missing: name a folder for the run, for example --workdir=runs/first"


def train() -> int:
  """Train by the flags; return the exit code."""
  verbosity = flags.FLAGS["verbosity"]
  logging.use_absl_handler()
  logging.set_verbosity(logging.WARNING if verbosity.using_default_value else flags.FLAGS.verbosity)

  config, problem, job = None, None, Job()
  try:
    changes = overrides.parse_assignments(flags.SET.value)
    job = _limits(job, changes)
    config = config_files.load_config(flags.CONFIG.value or config_files.DEFAULT)
    job = _limits(config.job, changes)
    config = config.override(changes)
    if flags.PRINT_CONFIG.value:
      from trialbook.trainer import summary

      summary.print_config(config)
      return errors.DONE
    if flags.DEBUG.value is not None:
      return _debug(config)
    if not flags.WORKDIR.value:
      raise UserError(_NO_WORKDIR)
    files.check_reachable(flags.WORKDIR.value)
  except TryAgainError as error:
    command_line.warn(f"trialbook train: {error}")
    return errors.exit_code(error)
  except UserError as error:
    problem = error
  with Guard(job) as guard:
    if problem is not None:
      code, cause = _refuse(problem, job, guard)
    else:
      assert config is not None
      code, cause = _train(config, job, guard)
    guard.leave(code, cause)
  return code


def evaluate(workdir: pathlib.Path, step: str, split: str) -> int:
  """Print the metrics of a checkpoint; return the exit code."""
  from trialbook.trainer.checkpoint_evaluation import evaluate_checkpoint

  print(json.dumps(jsonable(evaluate_checkpoint(workdir, step, split)), allow_nan=False))
  return errors.DONE


def export(workdir: pathlib.Path, step: str, to: pathlib.Path | None) -> int:
  """Export a checkpoint and print the folder; return the exit code."""
  from trialbook.trainer.export import export as export_checkpoint

  print(export_checkpoint(workdir, step, to))
  return errors.DONE


def profile(workdir: pathlib.Path, seconds: float) -> int:
  """Print where a run's time went; return the exit code."""
  from trialbook.trainer.profile import describe

  print("\n".join(describe(workdir, seconds)))
  return errors.DONE


def _limits(job: Job, changes: Mapping[str, Any]) -> Job:
  """Return a job with those of its changes that are valid: hosts wait for each other also if the config is wrong."""
  try:
    return Config(job=job).override({path: value for path, value in changes.items() if path.startswith("job.")}).job
  except ConfigError as error:
    return error.rest.job if error.rest is not None else job


def _refuse(problem: UserError, job: Job, guard: Guard) -> tuple[int, str]:
  """Print the problems before anything is waited for, and end the job on all hosts; return exit code and cause."""
  found, workdir = problem.problems, flags.WORKDIR.value
  if not workdir:
    found.append(_NO_WORKDIR)
  elif isinstance(problem, ConfigError) and problem.rest is not None:
    from trialbook.trainer import checks

    found += checks.problems(problem.rest, workdir)
  place = None
  try:
    place = _place(job)
  except UserError as error:
    found += error.problems
  found = list(dict.fromkeys(found))
  code, cause = command_line.print_problems("trialbook train", found), "; ".join(found)
  if place is not None and place.count > 1:
    print("the other hosts are told as soon as they come", file=sys.stderr, flush=True)
    with contextlib.suppress(KeyboardInterrupt):
      guard.report_problem(place, cause, **_secret())
  return code, cause


def _place(job: Job) -> Place:
  return find_place(
    job, coordinator=flags.COORDINATOR.value, count=flags.HOST_COUNT.value, index=flags.HOST_INDEX.value
  )


def _secret() -> dict[str, Any]:
  return {"secret_file": flags.SECRET_FILE.value, "open_job": flags.OPEN_JOB.value}


def _train(config: Config, job: Job, guard: Guard) -> tuple[int, str]:
  """Join the other hosts, and train; return the exit code and its cause."""
  workdir = flags.WORKDIR.value
  try:
    if flags.PLATFORM.value:
      jax.config.update("jax_platforms", flags.PLATFORM.value)
    here = guard.join(_place(job), **_secret())
    with guard.ending():
      _check_platform()
    if here.count > 1:
      devices = f"{jax.local_device_count()} x {jax.devices()[0].device_kind}"
      print(f"host {here.index} of {here.count}, found by {here.found_by}, devices: {devices}", file=sys.stderr)
    assert workdir is not None
    # Training takes a second to import, and mistakes in the config are reported before.
    from trialbook.trainer import summary, timing
    from trialbook.trainer.train import run

    steps = flags.PROFILE_STEPS.value
    steps = timing.parse_range(steps, config.max_train_steps) if steps else range(0)
    result = run(config, workdir, progress=True, fork=flags.FORK.value, guard=guard, profile=steps)
  except UserError as error:
    found = list(dict.fromkeys(error.problems))
    return command_line.print_problems("trialbook train", found), "; ".join(found)
  except TryAgainError as error:
    command_line.warn(f"trialbook train: {error}")
    return errors.exit_code(error), str(error)
  except KeyboardInterrupt as error:
    print("trialbook train: interrupted; rerun the same command to resume", file=sys.stderr)
    return errors.exit_code(error), "interrupted"
  except SystemExit as error:
    problem = f"the code of the model, the task or the data called sys.exit({error.code!r}), which ends no training"
    return command_line.print_problems("trialbook train", [problem]), problem
  except errors.OutOfMemoryError as error:
    problem = str(error)
    # The state is freed with the frames that have it.
    traceback.clear_frames(error.__traceback__)
    command_line.warn(f"trialbook train: {problem}")
    if here.count == 1:
      from trialbook.trainer import largest_batch

      command_line.warn(largest_batch.advice(config, as_path(workdir), command_line.warn))
    return errors.INFEASIBLE, problem
  except Exception as error:
    if (problem := files.limit_problem(error)) is not None:
      return command_line.print_problems("trialbook train", [problem]), problem
    traceback.print_exc()
    return errors.exit_code(error), errors.said(error)
  if here.is_lead:
    summary.print_result(result)
  return result.exit_code, result.reason or result.status


def _debug(config: Config) -> int:
  if flags.DEBUG.value not in ("", "eager"):
    raise UserError(f"--debug={flags.DEBUG.value}: must be --debug or --debug=eager")
  if flags.PLATFORM.value:
    jax.config.update("jax_platforms", flags.PLATFORM.value)
    _check_platform()
  from trialbook.trainer.debug import checks

  return checks.main(config, flags.DEBUG.value == "eager")


def _check_platform() -> None:
  """Raise UserError if there is no such device here."""
  try:
    jax.devices()
  except RuntimeError as error:
    if flags.PLATFORM.value is None:
      raise
    raise UserError(f"--platform={flags.PLATFORM.value}: {str(error).splitlines()[0]}") from None
