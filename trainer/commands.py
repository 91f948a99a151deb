"""The work of `trialbook train`, `evaluate`, `export` and `profile`, once their flags are parsed."""

import json
import pathlib
import sys
import traceback

import jax
from absl import logging

from trialbook import command_line, errors, files
from trialbook.errors import ConfigError, TryAgainError, UserError
from trialbook.files import jsonable
from trialbook.trainer import config_files, flags, overrides
from trialbook.trainer.config import Config
from trialbook.trainer.hosts.shutdown_guard import Guard

_NO_WORKDIR = "--workdir is missing: name a folder for the run, for example --workdir=runs/first"


def train() -> int:
  """Train by the flags; return the exit code."""
  verbosity = flags.FLAGS["verbosity"]
  logging.use_absl_handler()
  logging.set_verbosity(logging.WARNING if verbosity.using_default_value else flags.FLAGS.verbosity)

  config, problem = None, None
  try:
    config = config_files.load_config(flags.CONFIG.value or config_files.DEFAULT)
    config = config.override(overrides.parse_assignments(flags.SET.value))
    if flags.PRINT_CONFIG.value:
      from trialbook.trainer import summary

      summary.print_config(config)
      return errors.DONE
    if flags.DEBUG.value is not None:
      return _debug(config)
    if not flags.WORKDIR.value:
      raise UserError(_NO_WORKDIR)
  except UserError as error:
    problem = error
  with Guard(config and config.job) as guard:
    code, cause = _train(config, problem, guard)
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


def _train(config: Config | None, problem: UserError | None, guard: Guard) -> tuple[int, str]:
  """Join the other hosts, and train; return the exit code and its cause."""
  workdir = flags.WORKDIR.value
  try:
    if flags.PLATFORM.value:
      jax.config.update("jax_platforms", flags.PLATFORM.value)
    here = guard.join(coordinator=flags.COORDINATOR.value, count=flags.HOST_COUNT.value, index=flags.HOST_INDEX.value)
    with guard.ending():
      if problem is not None:
        raise problem
      _check_platform()
    if here.count > 1:
      devices = f"{jax.local_device_count()} x {jax.devices()[0].device_kind}"
      print(f"host {here.index} of {here.count}, found by {here.found_by}, devices: {devices}", file=sys.stderr)
    assert config is not None
    assert workdir is not None
    # Training takes a second to import, and mistakes in the config are reported before.
    from trialbook.trainer import summary, timing
    from trialbook.trainer.train import run

    steps = flags.PROFILE_STEPS.value
    steps = timing.parse_range(steps, config.max_train_steps) if steps else range(0)
    result = run(config, workdir, progress=True, fork=flags.FORK.value, guard=guard, profile=steps)
  except UserError as error:
    found = error.problems
    if not workdir:
      found.append(_NO_WORKDIR)
    elif isinstance(error, ConfigError) and error.rest is not None:
      from trialbook.trainer import preflight

      found += preflight.problems(error.rest, workdir, None, guard.hosts)
    found = list(dict.fromkeys(found))
    return command_line.print_problems("trialbook train", found), "; ".join(found)
  except TryAgainError as error:
    print(f"trialbook train: {error}", file=sys.stderr)
    return errors.exit_code(error), str(error)
  except KeyboardInterrupt as error:
    print("trialbook train: interrupted; rerun the same command to resume", file=sys.stderr)
    return errors.exit_code(error), "interrupted"
  except SystemExit as error:
    problem = f"the code of the model, the task or the data called sys.exit({error.code!r}), which ends no training"
    return command_line.print_problems("trialbook train", [problem]), problem
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
