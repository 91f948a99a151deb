"""A new job on TPU VMs: everything that can be wrong with it is found before anything is requested."""

import argparse
import hashlib
import pathlib
import re
from collections.abc import Callable, Sequence

from trialbook import files
from trialbook.errors import UserError
from trialbook.launch.local import named_workdir
from trialbook.launch.remote.records import JobRecord, Slices
from trialbook.launch.remote.shipping import Archive, pack
from trialbook.launch.tpu_vm import queued_resources
from trialbook.launch.tpu_vm.accelerators import runtime_problem, slice_of
from trialbook.launch.tpu_vm.controller import Following, follow, write_job
from trialbook.launch.tpu_vm.gcloud import GcloudError, GcloudUnavailableError, gcloud_json

SETUP = (
  "if command -v python3.11; then python3.11 -m venv $ENVIRONMENT",
  "else python3 -m pip install --quiet --user uv",
  "  ~/.local/bin/uv venv --quiet --seed --python 3.11 $ENVIRONMENT",
  "fi",
  "$ENVIRONMENT/bin/python -m pip install --quiet --requirement requirements.lock",
  "version=$($ENVIRONMENT/bin/python -c 'import importlib.metadata as m; print(m.version(\"jax\"))')",
  '$ENVIRONMENT/bin/python -m pip install --quiet "jax[tpu]==$version"',
)
"""Lines of bash that make the environment of a job: the locked versions, and the TPU runtime of their jax."""

_NAME = re.compile(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?")
_HASH_CHARACTERS = 16


def launch(options: argparse.Namespace, arguments: Sequence[str], how: Following, say: Callable[[str], None]) -> int:
  """Launch the job that the flags describe, and follow it; return its exit code.

  Raises:
    UserError: naming all mistakes of the flags, before anything is requested; or the API refuses.
    TryAgainError: if slices are not granted in time.
  """
  project, zone = project_and_zone(options)
  job, archive = describe_job(options, arguments, project, zone)
  name = job["name"]
  try:
    found = queued_resources.describe(name, job["tpu"])
  except (GcloudError, GcloudUnavailableError) as error:
    raise UserError(f"Cloud TPU refuses --project={project} --zone={zone}: {error}") from None
  if found is not None:
    raise UserError(
      f"queued resource {name} is there already ({found.state}); choose another --name, or go on with it by"
      f" trialbook launch resume {name} --project={project} --zone={zone}"
    )
  write_job(job, archive)
  return follow(job, how, say)


def project_and_zone(options: argparse.Namespace) -> tuple[str, str]:
  """Return project and zone, by the flags or else by gcloud's configuration. Raises UserError if one is missing."""
  found = {"project": options.project, "zone": options.zone}
  if not all(found.values()):
    try:
      config = gcloud_json(["config", "list"])
    except (GcloudError, GcloudUnavailableError) as error:
      raise UserError(f"gcloud does not show its configuration: {error}") from None
    found["project"] = found["project"] or config.get("core", {}).get("project")
    found["zone"] = found["zone"] or config.get("compute", {}).get("zone")
  problems = [
    f"--{name} is missing, and gcloud's configuration has none; name it, or run gcloud config set {key} ..."
    for name, key in (("project", "project"), ("zone", "compute/zone"))
    if not found[name]
  ]
  if problems:
    raise UserError(problems)
  return found["project"], found["zone"]


def describe_job(
  options: argparse.Namespace, arguments: Sequence[str], project: str, zone: str
) -> tuple[JobRecord, Archive]:
  """Return the job and its code. Raises UserError, naming all mistakes of the flags."""
  problems = []
  if not arguments:
    problems.append("there is no command to run; write it after `--`")
  if not _NAME.fullmatch(options.name):
    problems.append(
      f"--name={options.name} is not a name: at most 40 lower-case letters, digits and dashes, a letter first"
    )
  hosts = 1
  runtime = options.runtime_version
  try:
    found = slice_of(options.accelerator_type)
    hosts = found.hosts * options.slices
    runtime = runtime or found.runtime
    problems += filter(None, [runtime_problem(options.accelerator_type, runtime)])
  except UserError as error:
    problems += error.problems
  problems += _command_problems(arguments, hosts)
  variables = {}
  for text in options.env:
    variable, equals, value = text.partition("=")
    variables[variable] = value
    if not equals or not variable.isidentifier():
      problems.append(f"--env={text} is not NAME=VALUE")
  if problems:
    raise UserError(problems)
  archive = pack(pathlib.Path.cwd())
  setup: list[str] = [*(options.setup or SETUP)]
  tpu: Slices = {
    "project": project,
    "zone": zone,
    "accelerator_type": options.accelerator_type,
    "runtime_version": runtime,
    "capacity": "spot" if options.spot else "reserved" if options.reserved else "on-demand",
    "slices": options.slices,
    "create_flags": list(options.create_flag),
    "internal_ip": options.internal_ip,
  }
  return {
    "format": files.FORMAT,
    "name": options.name,
    "arguments": list(arguments),
    "workdir": _workdir(arguments) or "",
    "variables": variables,
    "python": options.python,
    "setup": setup,
    "digest": archive.digest,
    "inside": archive.inside,
    "environment": "" if options.python else _environment(setup),
    "port": options.port,
    "preemptions": options.max_preemptions,
    "failures": options.max_failures,
    "tpu": tpu,
  }, archive


def _command_problems(arguments: Sequence[str], hosts: int) -> list[str]:
  """Return what is wrong with a command for slices of so many hosts."""
  problems = []
  if (workdir := _workdir(arguments)) and not workdir.startswith("/") and "://" not in workdir:
    problems.append(
      f"the workdir {workdir} would be on the disk of a machine, which is deleted with it; name a folder of a file"
      " system that all hosts mount, with its whole path, or gs://..."
    )
  if hosts > 1 and list(arguments[:3]) == ["-m", "trialbook", "tune"]:
    problems.append(
      f"a study runs on a slice of one host, and this would have {hosts}; take a smaller --accelerator_type, such as"
      " v5litepod-8, and --slices=1"
    )
  return problems


def _workdir(arguments: Sequence[str]) -> str | None:
  """Return the folder of the training or the study that a command names."""
  return named_workdir(arguments) or named_workdir(arguments, "dir")


def _environment(setup: Sequence[str]) -> str:
  """Return by what an environment is known: the lines that make it, and the versions that they read."""
  lock = pathlib.Path("requirements.lock")
  if list(setup) == list(SETUP) and not lock.is_file():
    raise UserError(
      "requirements.lock is not in this folder, so the hosts would not know which versions to install; run the command"
      " where it is, or say by --setup or --python how the hosts get them"
    )
  content = lock.read_bytes() if lock.is_file() else b""
  return hashlib.sha256("\n".join(setup).encode() + b"\0" + content).hexdigest()[:_HASH_CHARACTERS]
