"""The flags of `trialbook train`, `evaluate`, `export` and `profile`. It imports no jax: help is quick."""

import pathlib
import sys

from absl import flags, logging

from trialbook import errors
from trialbook.command_line import Parser, print_problems, run
from trialbook.naming import nearest
from trialbook.paths import as_local_path, as_path

TRAIN = """Train one model. A config says which model, on which data, and how.

  trialbook train --config=experiments/digits_resnet.py --workdir=runs/first
  trialbook train --workdir=runs/second --set optimizer.name=adam --set optimizer.learning_rate=0.001
  trialbook train --config=experiments/digits_resnet.py --print_config
  trialbook train --config=experiments/digits_resnet.py --debug

--set changes any field of the config by its path, and --print_config lists all fields. To resume an interrupted run,
repeat its command.

Exit codes:
  0    done
  1    a bug, or a failed check of --debug
  2    a mistake in the config, the data or the arguments, or a full disk; saved checkpoints stay intact
  3    infeasible: the loss or the parameters stopped being finite
  75   try again: the run was preempted, or lost a host
  130  interrupted with Ctrl-C
"""

EVALUATE = """Evaluate a checkpoint of a run on one of its splits.

Prints one JSON object: the step, and the metrics of the split. The exit codes are those of `trialbook train`.
"""

EXPORT = """Export a checkpoint of a run as files that run with jax, numpy and flatbuffers alone.

Prints the folder: WORKDIR/export, or WORKDIR/export_STEP for a step that is not the best one. The exit codes are those
of `trialbook train`. The folder holds

  model.stablehlo  the model as a function of weights and inputs, for any batch size, on CPU, CUDA and TPU
  weights.npz      the weights, arrays by name
  card.json        step, metrics, form of inputs and outputs, dataset, config, versions
  example.py       a program that runs the model
"""

PROFILE = """Show where a run's time went and, if it waited for data, which stage is slow and what to change (PB-65).

The first part comes from the run's files. If the run waited for data, this command then measures each stage of its data
pipeline. The exit codes are those of `trialbook train`. For a trace of single steps, train with --profile=START:STOP.
"""

FLAGS = flags.FLAGS


class _PathParser(flags.ArgumentParser):
  def parse(self, argument: str) -> pathlib.Path:
    return as_path(argument)

  def flag_type(self) -> str:
    return "path"


class _LocalPathParser(_PathParser):
  def parse(self, argument: str) -> pathlib.Path:
    return as_local_path(argument)


_PATH = _PathParser()
CONFIG = flags.DEFINE(
  _PATH, "config", None, "Python file with a function get_config(). Default: a small ResNet on handwritten digits."
)
WORKDIR = flags.DEFINE(_PATH, "workdir", None, "Folder for all files of the run; created if absent. Required to train.")
SET = flags.DEFINE_multi_string(
  "set", [], "PATH=VALUE: change a field of the config, for example --set optimizer.learning_rate=0.1; may be repeated"
)
PRINT_CONFIG = flags.DEFINE_bool(
  "print_config", False, "Print all fields of the config with their kinds (static, traced, host) and values, and exit."
)
FORK = flags.DEFINE(_PATH, "fork", None, "Workdir of another run. The new run continues from its newest checkpoint.")
PLATFORM = flags.DEFINE_enum("platform", None, ["cpu", "cuda", "tpu"], "Kind of devices to use. Default: jax's choice.")
DEBUG = flags.DEFINE_string(
  "debug",
  None,
  "Check data, model, loss and learning rate instead of training. --debug=eager runs without jit, for breakpoint().",
)
PROFILE_STEPS = flags.DEFINE_string("profile", None, "START:STOP: write a trace of these steps to WORKDIR/profile.")
COORDINATOR = flags.DEFINE_string(
  "coordinator",
  None,
  "HOST:PORT of the lead host (index 0). Default: set by `trialbook launch`, or by the cluster that jax detects.",
)
HOST_COUNT = flags.DEFINE_integer("host_count", None, "Number of hosts. Goes with --coordinator.", lower_bound=1)
HOST_INDEX = flags.DEFINE_integer(
  "host_index", None, "Index of this host, from 0. Goes with --coordinator.", lower_bound=0
)
SECRET_FILE = flags.DEFINE(
  _LocalPathParser(),
  "secret_file",
  None,
  "File with the secret that the hosts of the job share. Default: TRIALBOOK_SECRET in the environment, which `trialbook"
  " launch` and studies on Slurm set.",
)
OPEN_JOB = flags.DEFINE_bool(
  "open_job", False, "Let the hosts do without a secret: whoever reaches the lead's port can end the job or join it."
)


def train(arguments: list[str]) -> int:
  """Run `trialbook train`; return its exit code."""
  if any(argument in ("--help", "-h", "-help", "--helpshort") for argument in arguments):
    print(TRAIN)
    print(FLAGS.module_help(sys.modules[__name__]))
    return errors.DONE
  # absl's strings need a value.
  arguments = ["--debug=" if argument in ("--debug", "-debug") else argument for argument in arguments]
  # absl keeps flags for as long as the process lives; those of an earlier command must not count for this one.
  for flag in (*FLAGS.get_flags_for_module(__name__), *FLAGS.get_flags_for_module(logging)):
    flag.unparse()
  try:
    rest = FLAGS(["trialbook train", *arguments])[1:]
  except flags.UnrecognizedFlagError as error:
    known = nearest(f"--{error.flagname}", [f"--{flag.name}" for flag in FLAGS.get_flags_for_module(__name__)])
    return print_problems("trialbook train", [f"unknown flag --{error.flagname}{known}; --help lists the flags"])
  except flags.Error as error:
    return print_problems("trialbook train", [f"{error}; --help lists the flags"])
  if rest:
    problem = f"unexpected argument {rest[0]!r}; flags are written --name=value, see --help"
    return print_problems("trialbook train", [problem])
  from trialbook.trainer import commands

  return commands.train()


def evaluate(arguments: list[str]) -> int:
  """Run `trialbook evaluate`; return its exit code."""
  parser = _parser("evaluate", EVALUATE)
  parser.add_argument(
    "--split",
    default="validation",
    metavar="SPLIT",
    help="validation, test, train_subset, or another split of the dataset (default validation)",
  )
  options = parser.parse_args(arguments)
  from trialbook.trainer import commands

  return run(parser.prog, lambda: commands.evaluate(options.workdir, options.step, options.split))


def export(arguments: list[str]) -> int:
  """Run `trialbook export`; return its exit code."""
  parser = _parser("export", EXPORT)
  parser.add_argument(
    "--to", type=as_path, metavar="DIR", help="folder to write (default WORKDIR/export, or WORKDIR/export_STEP)"
  )
  options = parser.parse_args(arguments)
  from trialbook.trainer import commands

  return run(parser.prog, lambda: commands.export(options.workdir, options.step, options.to))


def profile(arguments: list[str]) -> int:
  """Run `trialbook profile`; return its exit code."""
  parser = Parser(prog="trialbook profile", description=PROFILE)
  parser.add_argument("workdir", type=as_path, help="folder of the run")
  parser.add_argument("--seconds", type=float, default=8.0, help="seconds to measure the data pipeline (default 8)")
  options = parser.parse_args(arguments)
  from trialbook.trainer import commands

  return run(parser.prog, lambda: commands.profile(options.workdir, options.seconds))


def _parser(name: str, description: str) -> Parser:
  parser = Parser(prog=f"trialbook {name}", description=description)
  parser.add_argument("workdir", type=as_path, help="folder of the run")
  parser.add_argument(
    "--step", default="best", metavar="STEP", help="checkpoint: best, last, or the number of a step (default best)"
  )
  return parser
