"""The flags of `trialbook launch tpu-vm`, and of the commands on jobs that were launched so. Nothing here is slow."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from trialbook.command_line import at_least_zero, positive, run
from trialbook.launch.watch import Patience
from trialbook.paths import as_path

DESCRIPTION = """Run a training, or a study, on Cloud TPU VMs, from the request for slices to their deletion.

Each host runs Python with the arguments after `--`, in the same folder of the same tree as here. What git ignores is
not shipped. Ctrl-C ends the job and deletes its slices; SIGTERM, or a closed terminal, ends only this launcher, and the
job goes on. docs/tutorials/first_pod_run.md shows a whole run.
"""


def add(places: Any) -> None:
  """Add the commands to those of `trialbook launch`."""
  _add_tpu_vm(places)
  jobs = (
    ("list", "list the jobs on TPU VMs in a zone"),
    ("status", "show how a job on TPU VMs is"),
    ("logs", "print what the hosts of a job on TPU VMs have printed"),
    ("stop", "end a job on TPU VMs, after a save, and delete its slices"),
    ("resume", "follow a job on TPU VMs, and recreate its slices, from any machine"),
  )
  for name, what in jobs:
    made = places.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
    made.set_defaults(place=_on_jobs, command=name)
    if name != "list":
      made.add_argument("job", metavar="JOB", help="name of the job")
      made.add_argument("--workdir", type=as_path, metavar="DIR", help="of the job, if it has no slices now")
    _add_where(made)
    if name == "status":
      made.add_argument("--price", type=at_least_zero(float), metavar="X", help="of a chip-hour, for the cost so far")
    if name == "stop":
      _add_grace(made)
    if name == "resume":
      _add_following(made)


def _add_tpu_vm(places: Any) -> None:
  made = places.add_parser(
    "tpu-vm",
    help="run a training or a study on Cloud TPU VMs, from the request to the deletion",
    usage="trialbook launch tpu-vm --name=NAME --accelerator_type=TYPE [flags] -- ARGUMENTS OF PYTHON",
    description=DESCRIPTION,
    epilog="example: trialbook launch tpu-vm --name=first --zone=us-west4-a --accelerator_type=v5litepod-16 --spot \\\n"
    "    -- -m trialbook train --config=experiments/resnet50.py --workdir=gs://bucket/runs/first",
  )
  made.set_defaults(place=_tpu_vm)
  flag = made.add_argument
  flag("--name", required=True, help="of the job, and of its queued resource")
  flag("--accelerator_type", required=True, metavar="TYPE", help="of a slice, such as v5litepod-16")
  flag("--slices", type=positive, default=1, metavar="N", help="number of slices (default 1)")
  _add_where(made)
  capacity = made.add_mutually_exclusive_group()
  capacity.add_argument("--spot", action="store_true", help="spot slices, which may be taken away at any moment")
  capacity.add_argument("--reserved", action="store_true", help="slices of the project's reservation")
  flag("--runtime_version", metavar="VERSION", help="software of the machines (default: the one for the type)")
  create = "another flag of `gcloud compute tpus queued-resources create`, such as --network=mine; may be repeated"
  flag("--create_flag", action="append", default=[], metavar="FLAG", help=create)
  flag("--internal_ip", action="store_true", help="machines without external addresses, reached from their network")
  setup = "line of bash that makes the environment in $ENVIRONMENT; may be repeated (default: from requirements.lock)"
  flag("--setup", action="append", default=[], metavar="LINE", help=setup)
  flag("--python", metavar="PATH", help="interpreter on the hosts that has all packages; then nothing is installed")
  flag("--env", action="append", default=[], metavar="NAME=VALUE", help="variable of the hosts; may be repeated")
  flag("--port", type=positive, default=8476, metavar="N", help="of the lead host, for the others (default 8476)")
  count = at_least_zero(int)
  what = "how often slices may be taken away (default 10000)"
  flag("--max_preemptions", type=count, default=10_000, metavar="N", help=what)
  what = "restarts after anything else (default 10); 3 in a row without a new checkpoint end the job, too"
  flag("--max_failures", type=count, default=10, metavar="N", help=what)
  _add_following(made)


def _add_where(made: argparse.ArgumentParser) -> None:
  made.add_argument("--project", help="of Google Cloud (default: that of gcloud's configuration)")
  made.add_argument("--zone", help="of the slices (default: that of gcloud's configuration)")


def _add_grace(made: argparse.ArgumentParser) -> None:
  what = "time for hosts to save and exit (default 60)"
  made.add_argument("--grace", type=at_least_zero(float), default=60.0, metavar="SECONDS", help=what)


def _add_following(made: argparse.ArgumentParser) -> None:
  number = at_least_zero(float)
  _add_grace(made)
  for name, default, metavar, text in (
    ("--poll_seconds", 15.0, "SECONDS", "time between two questions to the hosts"),
    ("--queue_hours", 168.0, "HOURS", "how long slices are waited for"),
    ("--first_delay", 1.0, "SECONDS", "wait before the first restart; doubles with each without a new checkpoint"),
    ("--longest_delay", 60.0, "SECONDS", "longest wait before a restart"),
  ):
    made.add_argument(name, type=number, default=default, metavar=metavar, help=f"{text} (default {default:g})")
  made.add_argument("--keep", action="store_true", help="keep the slices when the job has ended; they are paid for")
  made.add_argument("--detach", action="store_true", help="return once the job runs; nobody recreates its slices then")


def _tpu_vm(options: argparse.Namespace, python: Sequence[str]) -> int:
  def launch() -> int:
    from trialbook.launch.tpu_vm.launching import launch

    return launch(options, python, _following(options), _say)

  return run(options.parser.prog, launch)


def _on_jobs(options: argparse.Namespace, rest: Sequence[str]) -> int:
  if rest:
    options.parser.error(f"unexpected argument {rest[0]!r}")

  def do() -> int:
    from trialbook.launch.tpu_vm import commands

    if options.command == "resume":
      return commands.resume(options, _following(options), _say)
    actions = {"list": commands.list_jobs, "status": commands.status, "logs": commands.logs, "stop": commands.stop}
    return actions[options.command](options)

  return run(options.parser.prog, do)


def _following(options: argparse.Namespace) -> Any:
  from trialbook.launch.tpu_vm.controller import Following

  return Following(
    poll_seconds=options.poll_seconds,
    queue_seconds=options.queue_hours * 3600,
    keep=options.keep,
    detach=options.detach,
    patience=Patience(grace=options.grace),
    first_delay=options.first_delay,
    longest_delay=options.longest_delay,
  )


def _say(text: str) -> None:
  print(f"launch: {text}", file=sys.stderr, flush=True)
