"""The flags of `trialbook train`, `evaluate`, `export` and `profile`. It imports no jax: help is quick."""

import pathlib
import sys

from absl import flags

from trialbook import errors
from trialbook.command_line import Parser, print_problems, run
from trialbook.paths import as_path

TRAIN = """Trains one model by a config.

  trialbook train --config=experiments/digits_resnet.py --workdir=runs/first
  trialbook train --workdir=runs/second --set optimizer.name=adam --set optimizer.learning_rate=0.001
  trialbook train --config=experiments/digits_resnet.py --print_config
  trialbook train --config=experiments/digits_resnet.py --debug

Every field of the config can be set by its path; --print_config lists them. An interrupted run resumes with the same
command. Exit codes: 0 done; 2 a mistake in the config, the data or the arguments (or a full disk), nothing is lost; 3
infeasible, the loss or the parameters stopped being finite; 75 try again; 1 a bug, or a check of --debug that failed.
"""

EVALUATE = """Evaluates a checkpoint of a run.

Prints one JSON object: the step, and the metrics of the split. Exit codes as for `trialbook train`.
"""

EXPORT = """Exports a checkpoint of a run as files that only need jax, numpy and flatbuffers to run.

Prints the folder: WORKDIR/export, or WORKDIR/export_STEP for a step that is not the best one. Exit codes as for
`trialbook train`. The folder holds

  model.stablehlo  the serialized model, for any batch size, on CPU, CUDA and TPU
  weights.npz      its first argument, arrays by name; the second are inputs as the dataset gives them
  card.json        step, metrics, input, output, dataset, config, versions
  example.py       how to run it
"""

PROFILE = """Shows where a run's time went and, if it waited for data, which stage is slow and what to change (PB-65).

The first part is what the run recorded. If it waited for data, the stages of its pipeline are measured here, one after
the other. Exit codes as for `trialbook train`. `trialbook train --profile=START:STOP` writes a trace of single steps.
"""

FLAGS = flags.FLAGS


class _PathParser(flags.ArgumentParser):
  def parse(self, argument: str) -> pathlib.Path:
    return as_path(argument)

  def flag_type(self) -> str:
    return "path"


_PATH = _PathParser()
CONFIG = flags.DEFINE(
  _PATH, "config", None, "Experiment file with a function get_config(). Default: a ResNet on handwritten digits."
)
WORKDIR = flags.DEFINE(_PATH, "workdir", None, "Folder for everything that the run writes; created if absent.")
SET = flags.DEFINE_multi_string(
  "set", [], "PATH=VALUE, a change to the config, for example optimizer.learning_rate=0.1; repeatable."
)
PRINT_CONFIG = flags.DEFINE_bool(
  "print_config", False, "Print every field with its kind (static, traced, host) and value, and exit."
)
FORK = flags.DEFINE(_PATH, "fork", None, "Workdir of another run, from whose newest checkpoint this new run starts.")
PLATFORM = flags.DEFINE_enum("platform", None, ["cpu", "cuda", "tpu"], "Kind of devices. Default: jax's choice.")
DEBUG = flags.DEFINE_string(
  "debug", None, "Check data, model, loss and learning rate instead of training. --debug=eager: without jit."
)
PROFILE_STEPS = flags.DEFINE_string("profile", None, "START:STOP, steps whose trace is written to WORKDIR/profile.")
COORDINATOR = flags.DEFINE_string(
  "coordinator", None, "HOST:PORT of the lead host. Default: from the environment, or the cluster that jax detects."
)
HOST_COUNT = flags.DEFINE_integer("host_count", None, "Number of hosts; with --coordinator.", lower_bound=1)
HOST_INDEX = flags.DEFINE_integer("host_index", None, "Index of this host, from 0; with --coordinator.", lower_bound=0)


def train(arguments: list[str]) -> int:
  """Run `trialbook train`; return its exit code."""
  if any(argument in ("--help", "-h", "-help", "--helpshort") for argument in arguments):
    print(TRAIN)
    print(FLAGS.module_help(sys.modules[__name__]))
    return errors.DONE
  # absl's strings need a value.
  arguments = ["--debug=" if argument in ("--debug", "-debug") else argument for argument in arguments]
  try:
    rest = FLAGS(["trialbook train", *arguments])[1:]
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
  parser.add_argument("--split", default="validation", choices=["validation", "test", "train_subset"])
  options = parser.parse_args(arguments)
  from trialbook.trainer import commands

  return run(parser.prog, lambda: commands.evaluate(options.workdir, options.step, options.split))


def export(arguments: list[str]) -> int:
  """Run `trialbook export`; return its exit code."""
  parser = _parser("export", EXPORT)
  parser.add_argument("--to", type=as_path, metavar="DIR", help="where to; default: WORKDIR/export")
  options = parser.parse_args(arguments)
  from trialbook.trainer import commands

  return run(parser.prog, lambda: commands.export(options.workdir, options.step, options.to))


def profile(arguments: list[str]) -> int:
  """Run `trialbook profile`; return its exit code."""
  parser = Parser(prog="trialbook profile", description=PROFILE)
  parser.add_argument("workdir", type=as_path, help="of the run")
  parser.add_argument("--seconds", type=float, default=8.0, help="how long the pipeline is measured (default 8)")
  options = parser.parse_args(arguments)
  from trialbook.trainer import commands

  return run(parser.prog, lambda: commands.profile(options.workdir, options.seconds))


def _parser(name: str, description: str) -> Parser:
  parser = Parser(prog=f"trialbook {name}", description=description)
  parser.add_argument("workdir", type=as_path, help="of the run")
  parser.add_argument("--step", default="best", metavar="STEP", help="best, last, or a number (default best)")
  return parser
