"""Trains one model by a config.

  python -m trainer --config=experiments/digits_resnet.py --workdir=runs/first
  python -m trainer --workdir=runs/second --set optimizer.name=adam --set optimizer.learning_rate=0.001
  python -m trainer --config=experiments/digits_resnet.py --print_config

Every field of the config can be set by its path; --print_config lists them. The same command again goes on with
a run that was interrupted. Exit codes: 0 done; 2 a mistake in the config, the data or the arguments (or a full
disk), nothing is lost; 3 infeasible, the loss or the parameters stopped being finite; 75 try again.
"""

import pathlib
import sys

import jax
from absl import flags, logging

from trainer import config_files, exits, hosts, overrides, preparation, summary, train

_NO_WORKDIR = "--workdir is missing: name a folder for the run, for example --workdir=runs/first"

FLAGS = flags.FLAGS

_CONFIG = flags.DEFINE_string(
  "config", None, "Experiment file with a function get_config(). Default: the digits ResNet that comes along."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for everything that the run writes; made if absent.")
_SET = flags.DEFINE_multi_string(
  "set", [], "PATH=VALUE, a change to the config, for example optimizer.learning_rate=0.1; repeatable."
)
_PRINT_CONFIG = flags.DEFINE_bool(
  "print_config", False, "Print every field with its kind (static, traced, host) and value, and leave."
)
_FORK = flags.DEFINE_string("fork", None, "Workdir of another run, from whose newest checkpoint this new run starts.")
_PLATFORM = flags.DEFINE_enum("platform", None, ["cpu", "cuda", "tpu"], "Kind of devices. Default: jax's choice.")


def main(argv: list[str] | None = None) -> int:
  """Runs the command; returns its exit code."""
  arguments = sys.argv if argv is None else argv
  if any(argument in ("--help", "-h", "-help", "--helpshort") for argument in arguments[1:]):
    print(__doc__)
    print(FLAGS.module_help(sys.modules[__name__]))
    return exits.DONE
  try:
    rest = FLAGS(arguments)[1:]
  except flags.Error as error:
    return _mistake([f"{error}; --help lists the flags"])
  if rest:
    return _mistake([f"unexpected argument {rest[0]!r}; flags are written --name=value, see --help"])
  logging.use_absl_handler()
  logging.set_verbosity(logging.WARNING if FLAGS["verbosity"].using_default_value else FLAGS.verbosity)

  try:
    here = hosts.initialize()
    config = config_files.load_config(_CONFIG.value or config_files.DEFAULT)
    config = config.override(overrides.parse_assignments(_SET.value))
    if _PRINT_CONFIG.value:
      summary.print_config(config)
      return exits.DONE
    _use_platform(_PLATFORM.value)
    if not _WORKDIR.value:
      return _mistake([_NO_WORKDIR])
    result = train.run(config, _WORKDIR.value, progress=True, fork=_FORK.value)
  except overrides.UserError as error:
    found = error.problems
    if not _WORKDIR.value:
      found.append(_NO_WORKDIR)
    elif isinstance(error, overrides.ConfigError) and error.rest is not None:
      found += preparation.problems(error.rest, pathlib.Path(_WORKDIR.value))
    return _mistake(list(dict.fromkeys(found)))
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    return exits.INTERRUPTED
  if here.is_lead:
    summary.print_result(result)
  return result.exit_code


def _use_platform(platform: str | None) -> None:
  """Raises UserError if there is no such device here."""
  if platform is None:
    return
  jax.config.update("jax_platforms", platform)
  try:
    jax.devices()
  except RuntimeError as error:
    raise overrides.UserError(f"--platform={platform}: {str(error).splitlines()[0]}") from None


def _mistake(problems: list[str]) -> int:
  count = f"{len(problems)} problems" if len(problems) > 1 else "a problem"
  print(f"trainer: {count}:", *(f"  - {problem}" for problem in problems), sep="\n", file=sys.stderr)
  return exits.USER_MISTAKE


if __name__ == "__main__":
  sys.exit(main())
