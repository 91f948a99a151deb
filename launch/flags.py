"""Run a job of several hosts, watch its processes, and restart it if that helps; or see first what it would be.

  trialbook launch local --hosts=2 --devices_per_host=2 -- -m trialbook train --workdir=runs/first
  trialbook launch preflight --config=experiments/transformer_1b.py --topology=v5e:16x16

Exit codes:
  0    done
  2    a mistake in the config, the data or the arguments; never restarted
  3    infeasible, as what does not fit into memory; never restarted
  75   try again: restarts did not help, or SIGTERM came
  130  interrupted with Ctrl-C
  other  a bug
"""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from trialbook import errors
from trialbook.command_line import Parser, at_least_zero, positive, run
from trialbook.launch import Patience, Restarts, run_local
from trialbook.launch.preflight import chips
from trialbook.launch.tpu_vm import flags as tpu_vm
from trialbook.paths import as_local_path, as_path

PREFLIGHT = """Compile a config for chips that are not here, by their own compiler, and report what it would be there.

  trialbook launch preflight --config=experiments/transformer_1b.py --topology=v5e:16x16
  trialbook launch preflight --config=experiments/resnet50.py --topology=v5e:16x16 --html=preflight.html
  trialbook launch preflight --config=experiments/transformer_1b.py --topology=v6e:4x4 --find_batch_size

It says whether the program fits into the memory of a chip, and bounds the time of a step by compute, memory and
interconnect. It lists every collective, and warns of what is probably not meant. docs/pods.md shows how to read it.
Data are not needed. Nothing is trained, and no chip is used.
"""


def main(arguments: list[str]) -> int:
  """Run the command; return its exit code."""
  split = arguments.index("--") if "--" in arguments else len(arguments)
  options = _parser().parse_args(arguments[:split])
  return options.place(options, arguments[split + 1 :])


def _parser() -> Parser:
  parser = Parser(prog="trialbook launch", description=__doc__)
  places = parser.add_subparsers(required=True, metavar="PLACE", parser_class=Parser)
  _add_local(places)
  _add_slurm(places)
  tpu_vm.add(places)
  _add_preflight(places)
  _add_goodput(places)
  return parser


def _add_local(places: Any) -> None:
  local = places.add_parser(
    "local",
    help="run all hosts on this machine, one process each",
    usage="trialbook launch local [--hosts=N] [--devices_per_host=N] [flags] -- ARGUMENTS OF PYTHON",
    description="Run a job of several hosts on this machine (Linux), as a pod would. No process is left behind.\n"
    "Each host runs Python with the arguments after `--`. A job that exits with 75 (preempted, a host was lost) is\n"
    "restarted.",
    epilog="example: trialbook launch local --hosts=2 -- -m trialbook train --workdir=runs/first",
  )
  local.set_defaults(place=_local)

  def flag(name: str, default: float, metavar: str, text: str) -> None:
    what = f"{text} (default {default:g})"
    local.add_argument(name, type=at_least_zero(type(default)), default=default, metavar=metavar, help=what)

  flag("--hosts", 1, "N", "number of hosts")
  flag("--devices_per_host", 1, "N", "number of devices of each host")
  what = "folder of the job (default: the --workdir among the arguments after `--`)"
  local.add_argument("--workdir", type=as_path, metavar="DIR", help=what)
  flag("--max_preemptions", 10_000, "N", "restarts after SIGTERM to a host")
  flag("--max_failures", 10, "N", "restarts after anything else; 3 in a row without a new checkpoint end the job, too")
  flag("--first_delay", 1.0, "SECONDS", "wait before the first restart; doubles with each without a new checkpoint")
  flag("--longest_delay", 60.0, "SECONDS", "longest wait before a restart")
  flag("--grace", 30.0, "SECONDS", "time for hosts to exit after one of them failed or a signal came")
  flag("--kill_after", 5.0, "SECONDS", "after --grace hosts receive SIGTERM, and this much later SIGKILL")


def _local(options: argparse.Namespace, python: Sequence[str]) -> int:
  restarts = Restarts(
    preemptions=options.max_preemptions,
    failures=options.max_failures,
    first_delay=options.first_delay,
    longest_delay=options.longest_delay,
  )
  patience = Patience(grace=options.grace, kill_after=options.kill_after)
  return run(
    options.parser.prog,
    lambda: run_local(
      list(python),
      options.hosts,
      options.devices_per_host,
      workdir=options.workdir,
      restarts=restarts,
      patience=patience,
    ),
  )


def _add_slurm(places: Any) -> None:
  slurm = places.add_parser(
    "slurm",
    help="submit a training as one job of a Slurm cluster, and follow it",
    usage="trialbook launch slurm --logs=DIR [--hosts=N] [flags] -- ARGUMENTS OF PYTHON",
    description="Submit a job of several hosts to Slurm, one process on each node, and follow it until it has ended.\n"
    "Slurm starts it again when a node fails or it is preempted, and it queues itself again when it exits with 75.\n"
    "Ctrl-C ends the following only.",
    epilog="example: trialbook launch slurm --hosts=2 --logs=runs/a.slurm -- -m trialbook train --workdir=runs/a",
  )
  slurm.set_defaults(place=_slurm)
  slurm.add_argument(
    "--logs", required=True, type=as_local_path, metavar="DIR", help="shared folder for what the hosts print"
  )
  slurm.add_argument("--name", default="trialbook", help="name of the job in Slurm's lists")
  for name, default, text in (
    ("hosts", 1, "number of nodes"),
    ("cores", 1, "cores of each"),
    ("gpus", 0, "GPUs of each"),
    ("minutes", 60, "time limit from each start"),
    ("seconds_to_save", 60, "how long before the limit SIGTERM comes"),
  ):
    slurm.add_argument(f"--{name}", type=int, default=default, metavar="N", help=f"{text} (default {default})")
  slurm.add_argument("--memory", metavar="SIZE", help="of each node, such as 16G")
  slurm.add_argument("--partition", help="where the job waits")
  slurm.add_argument("--account", help="which account pays")
  setup = "line of bash before the command, such as 'module load cuda'; may be repeated"
  slurm.add_argument("--setup", action="append", default=[], metavar="LINE", help=setup)
  slurm.add_argument("--detach", action="store_true", help="return once the job is submitted")


def _slurm(options: argparse.Namespace, python: Sequence[str]) -> int:
  from trialbook.launch.slurm import SlurmOptions
  from trialbook.launch.slurm_job import run_slurm

  if not python:
    options.parser.error("there is no command to run; write it after `--`")
  names = ("hosts", "cores", "gpus", "minutes", "seconds_to_save", "memory", "partition", "account", "setup")

  def submit() -> int:
    wanted = SlurmOptions(**{name: getattr(options, name) for name in names})
    return run_slurm(python, str(options.logs), wanted, name=options.name, wait=not options.detach, say=_say)

  return run(options.parser.prog, submit)


def _say(text: str) -> None:
  print(f"launch: {text}", file=sys.stderr, flush=True)


def _add_goodput(places: Any) -> None:
  goodput = places.add_parser(
    "goodput",
    help="show what the wall time of a run went into, over all restarts",
    description="Show what the wall time of a run went into, over all its restarts, and write goodput.json there.",
    epilog="example: trialbook launch goodput runs/first",
  )
  goodput.set_defaults(place=_goodput)
  goodput.add_argument("workdir", type=as_path, metavar="WORKDIR", help="of the run")


def _goodput(options: argparse.Namespace, rest: Sequence[str]) -> int:
  from trialbook.launch import goodput

  if rest:
    options.parser.error(f"unexpected argument {rest[0]!r}")

  def show() -> int:
    print("\n".join(goodput.write(options.workdir)))
    return errors.DONE

  return run(options.parser.prog, show)


def _add_preflight(places: Any) -> None:
  preflight = places.add_parser(
    "preflight",
    help="compile a config for chips that are not here, and report memory, collectives and times",
    usage="trialbook launch preflight --config=FILE --topology=CHIP:SHAPE [flags]",
    description=PREFLIGHT,
    epilog=f"topologies: {', '.join(chips.known())}",
  )
  preflight.set_defaults(place=_preflight)

  what = preflight.add_mutually_exclusive_group()

  def flag(name: str, to: Any = preflight, **more: Any) -> None:
    to.add_argument(name, **more)
    if "_" in name:
      # Accepted and not shown: most commands elsewhere spell flags so.
      to.add_argument(name.replace("_", "-"), **{**more, "dest": name.removeprefix("--"), "help": argparse.SUPPRESS})

  flag("--config", required=True, type=as_local_path, metavar="FILE", help="Python file with a function get_config()")
  flag("--set", action="append", default=[], metavar="PATH=VALUE", help="change a field of the config; may be repeated")
  flag("--topology", required=True, metavar="CHIP:SHAPE", help="chips of a slice, for example v5e:16x16; or h100:8")
  flag("--slices", type=positive, default=1, metavar="N", help="number of slices (default 1)")
  flag(
    "--info_from", type=as_path, metavar="DIR", help="workdir of a run elsewhere, whose run.json has the shapes of data"
  )
  flag("--json", type=as_local_path, metavar="FILE", help="write the report as JSON")
  flag("--html", type=as_local_path, metavar="FILE", help="write the report as a page")
  flag("--find_batch_size", what, action="store_true", help="find the largest batch size that fits (PB-03)")
  flag("--sweep_mesh", what, action="store_true", help="compile all meshes, and name the fastest that fits")
  flag("--compare", what, type=as_local_path, metavar="FILE", help="another config, to compare with")
  speed = "assumed speed of a host's saves (default 0.5)"
  flag("--save_speed", type=_above_zero, default=0.5, metavar="GB/S", help=speed)
  grace = "time from the platform's warning to the end of a machine (default 30)"
  flag("--grace", type=_above_zero, default=30.0, metavar="SECONDS", help=grace)


def _preflight(options: argparse.Namespace, rest: Sequence[str]) -> int:
  from trialbook.launch.preflight.commands import Wanted, preflight
  from trialbook.launch.preflight.request import Request

  if rest:
    options.parser.error(f"unexpected argument {rest[0]!r}")
  request = Request(
    config=str(options.config),
    topology=options.topology,
    slices=options.slices,
    assignments=options.set,
    info_from=None if options.info_from is None else str(options.info_from),
    bytes_per_second=options.save_speed * 1e9,
    grace_seconds=options.grace,
  )
  wanted = Wanted(
    request=request,
    compare=None if options.compare is None else str(options.compare),
    find_batch_size=options.find_batch_size,
    sweep_mesh=options.sweep_mesh,
    json=options.json,
    html=options.html,
  )
  return run(options.parser.prog, lambda: preflight(wanted))


def _above_zero(text: str) -> float:
  try:
    value = float(text)
  except ValueError:
    value = 0.0
  if not 0 < value < float("inf"):
    raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
  return value
