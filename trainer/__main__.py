"""Trains one model by a config.

  python -m trainer --config=experiments/digits_resnet.py --workdir=runs/first
  python -m trainer --workdir=runs/second --set optimizer.name=adam --set optimizer.learning_rate=0.001
  python -m trainer --config=experiments/digits_resnet.py --print_config
  python -m trainer --config=experiments/digits_resnet.py --debug

Every field of the config can be set by its path; --print_config lists them. The same command again goes on with
a run that was interrupted. Exit codes: 0 done; 2 a mistake in the config, the data or the arguments (or a full
disk), nothing is lost; 3 infeasible, the loss or the parameters stopped being finite; 75 try again; 1 a bug, or a
check of --debug that failed.
"""

import pathlib
import sys
import traceback

import jax
from absl import flags, logging

from trainer import config_files, exits, overrides, preparation, stopwatch, summary, train
from trainer.channel import TryAgainError
from trainer.config import Config
from trainer.guard import Guard
from trialbook.paths import as_path

_NO_WORKDIR = "--workdir is missing: name a folder for the run, for example --workdir=runs/first"

FLAGS = flags.FLAGS


class _PathParser(flags.ArgumentParser):
  def parse(self, argument: str) -> pathlib.Path:
    return as_path(argument)

  def flag_type(self) -> str:
    return "path"


_PATH = _PathParser()
_CONFIG = flags.DEFINE(
  _PATH, "config", None, "Experiment file with a function get_config(). Default: the digits ResNet that comes along."
)
_WORKDIR = flags.DEFINE(_PATH, "workdir", None, "Folder for everything that the run writes; made if absent.")
_SET = flags.DEFINE_multi_string(
  "set", [], "PATH=VALUE, a change to the config, for example optimizer.learning_rate=0.1; repeatable."
)
_PRINT_CONFIG = flags.DEFINE_bool(
  "print_config", False, "Print every field with its kind (static, traced, host) and value, and leave."
)
_FORK = flags.DEFINE(_PATH, "fork", None, "Workdir of another run, from whose newest checkpoint this new run starts.")
_PLATFORM = flags.DEFINE_enum("platform", None, ["cpu", "cuda", "tpu"], "Kind of devices. Default: jax's choice.")
_DEBUG = flags.DEFINE_string(
  "debug", None, "Examine the config instead of training: data, model, loss, learning rate. --debug=eager: without jit."
)
_PROFILE = flags.DEFINE_string("profile", None, "START:STOP, the steps of which a trace is written to WORKDIR/profile.")
_COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "HOST:PORT of the lead host. Default: from the environment, or the cluster that jax detects."
)
_HOST_COUNT = flags.DEFINE_integer("host_count", None, "Number of hosts; with --coordinator.", lower_bound=1)
_HOST_INDEX = flags.DEFINE_integer("host_index", None, "Index of this host, from 0; with --coordinator.", lower_bound=0)


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  arguments = sys.argv if argv is None else argv
  if any(argument in ("--help", "-h", "-help", "--helpshort") for argument in arguments[1:]):
    print(__doc__)
    print(FLAGS.module_help(sys.modules[__name__]))
    return exits.DONE
  # absl's strings need a value.
  arguments = ["--debug=" if argument in ("--debug", "-debug") else argument for argument in arguments]
  try:
    rest = FLAGS(arguments)[1:]
  except flags.Error as error:
    return _mistake([f"{error}; --help lists the flags"])
  if rest:
    return _mistake([f"unexpected argument {rest[0]!r}; flags are written --name=value, see --help"])
  logging.use_absl_handler()
  logging.set_verbosity(logging.WARNING if FLAGS["verbosity"].using_default_value else FLAGS.verbosity)

  config, problem = None, None
  try:
    config = config_files.load_config(_CONFIG.value or config_files.DEFAULT)
    config = config.override(overrides.parse_assignments(_SET.value))
    if _PRINT_CONFIG.value:
      summary.print_config(config)
      return exits.DONE
    if _DEBUG.value is not None:
      return _debug(config)
    if not _WORKDIR.value:
      raise overrides.UserError(_NO_WORKDIR)
  except overrides.UserError as error:
    problem = error
  with Guard(config and config.job) as guard:
    code, cause = _train(config, problem, guard)
    guard.leave(code, cause)
  return code


def _train(config: Config | None, problem: overrides.UserError | None, guard: Guard) -> tuple[int, str]:
  """Joins the other hosts, and trains; returns the exit code and what it is for."""
  try:
    if _PLATFORM.value:
      jax.config.update("jax_platforms", _PLATFORM.value)
    here = guard.join(coordinator=_COORDINATOR.value, count=_HOST_COUNT.value, index=_HOST_INDEX.value)
    with guard.ending():
      if problem is not None:
        raise problem
      _check_platform()
    if here.count > 1:
      devices = f"{jax.local_device_count()} x {jax.devices()[0].device_kind}"
      print(f"host {here.index} of {here.count}, found by {here.found_by}, devices: {devices}", file=sys.stderr)
    assert config is not None
    assert _WORKDIR.value is not None
    steps = stopwatch.parse_range(_PROFILE.value, config.max_train_steps) if _PROFILE.value else range(0)
    result = train.run(config, _WORKDIR.value, progress=True, fork=_FORK.value, guard=guard, profile=steps)
  except overrides.UserError as error:
    found = error.problems
    if not _WORKDIR.value:
      found.append(_NO_WORKDIR)
    elif isinstance(error, overrides.ConfigError) and error.rest is not None:
      found += preparation.problems(error.rest, _WORKDIR.value, None, guard.hosts)
    found = list(dict.fromkeys(found))
    return _mistake(found), "; ".join(found)
  except TryAgainError as error:
    print(f"trainer: {error}", file=sys.stderr)
    return exits.TRY_AGAIN, str(error)
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    return exits.INTERRUPTED, "interrupted"
  except Exception as error:
    traceback.print_exc()
    return 1, f"{type(error).__name__}: {error}"
  if here.is_lead:
    summary.print_result(result)
  return result.exit_code, result.reason or result.status


def _debug(config: Config) -> int:
  if _DEBUG.value not in ("", "eager"):
    raise overrides.UserError(f"--debug={_DEBUG.value}: must be --debug or --debug=eager")
  if _PLATFORM.value:
    jax.config.update("jax_platforms", _PLATFORM.value)
    _check_platform()
  from trainer import debug  # Not needed to train.

  return debug.main(config, _DEBUG.value == "eager")


def _check_platform() -> None:
  """Raises UserError if there is no such device here."""
  try:
    jax.devices()
  except RuntimeError as error:
    if _PLATFORM.value is None:
      raise
    raise overrides.UserError(f"--platform={_PLATFORM.value}: {str(error).splitlines()[0]}") from None


def _mistake(problems: list[str]) -> int:
  count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
  print(f"trainer: {count}:", *(f"  - {problem}" for problem in problems), sep="\n", file=sys.stderr)
  return exits.USER_MISTAKE


if __name__ == "__main__":
  sys.exit(main())
