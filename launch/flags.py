"""Run a job of several hosts, watch its processes, and restart it if that helps.

  trialbook launch local --hosts=2 --devices_per_host=2 -- -m trialbook train --workdir=runs/first

Each host runs Python with the arguments after `--`.

Exit codes:
  0    done
  2    a mistake in the config, the data or the arguments; never restarted
  3    infeasible; never restarted
  75   try again: restarts did not help, or SIGTERM came
  130  interrupted with Ctrl-C
  other  a bug
"""

import argparse

from trialbook.command_line import Parser, run
from trialbook.launch import Patience, Restarts, run_local
from trialbook.paths import as_path


def main(arguments: list[str]) -> int:
  """Run the command; return its exit code."""
  split = arguments.index("--") if "--" in arguments else len(arguments)
  options = _parser().parse_args(arguments[:split])
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
      arguments[split + 1 :],
      options.hosts,
      options.devices_per_host,
      workdir=options.workdir,
      restarts=restarts,
      patience=patience,
    ),
  )


def _parser() -> Parser:
  parser = Parser(prog="trialbook launch", description=__doc__)
  places = parser.add_subparsers(required=True, metavar="PLACE", parser_class=Parser)
  local = places.add_parser(
    "local",
    help="run all hosts on this machine, one process each",
    usage="trialbook launch local [--hosts=N] [--devices_per_host=N] [flags] -- ARGUMENTS OF PYTHON",
    description="Run a job of several hosts on this machine (Linux), as a pod would. No process is left behind.\n"
    "A job that exits with 75 (preempted, a host was lost) is restarted.",
    epilog="example: trialbook launch local --hosts=2 -- -m trialbook train --workdir=runs/first",
  )

  def flag(name: str, default: float, metavar: str, text: str) -> None:
    what = f"{text} (default {default:g})"
    local.add_argument(name, type=_at_least_zero(type(default)), default=default, metavar=metavar, help=what)

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
  return parser


def _at_least_zero(kind: type):
  def parse(text: str):
    value = kind(text)
    if not 0 <= value < float("inf"):
      raise argparse.ArgumentTypeError(f"{text} is not a number from 0")
    return value

  parse.__name__ = {int: "whole number", float: "number"}[kind]
  return parse
