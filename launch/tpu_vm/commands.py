"""Jobs on TPU VMs that were launched before, perhaps elsewhere: found by the API or the workdir, and nothing else."""

import argparse
import base64
import contextlib
import queue
import sys
import time
from collections.abc import Callable, Iterator

from trialbook import errors
from trialbook.errors import TryAgainError, UserError
from trialbook.launch.records import read_restarted
from trialbook.launch.remote.records import JobRecord, job_of_text, read_lives
from trialbook.launch.remote.ssh_hosts import OPTIONS, Answer, SshHosts
from trialbook.launch.supervisor import newest_step
from trialbook.launch.tpu_vm import queued_resources
from trialbook.launch.tpu_vm.accelerators import slice_of
from trialbook.launch.tpu_vm.controller import (
  Following,
  follow,
  launch_folder,
  mark_stopped,
  recorded_job,
  unmark_stopped,
  workdir_here,
)
from trialbook.launch.tpu_vm.gcloud import GcloudError, GcloudUnavailableError
from trialbook.launch.tpu_vm.launching import project_and_zone
from trialbook.launch.tpu_vm.lives import LivesFile, chip_hours
from trialbook.launch.tpu_vm.platform import TpuVm
from trialbook.launch.tpu_vm.queued_resources import Node, Resource

_ANSWER_SECONDS = 60.0


def list_jobs(options: argparse.Namespace) -> int:
  """Print a table of the jobs in a zone; return the exit code."""
  with _api():
    resources = queued_resources.list_all(project_and_zone(options))
  rows = [("NAME", "STATE", "TYPE", "CAPACITY", "SLICES", "WORKDIR")]
  for resource in resources:
    if resource.job is None:
      continue
    job = job_of_text(resource.job, f"queued resource {resource.name}")
    tpu = job["tpu"]
    rows.append(
      (resource.name, resource.state, tpu["accelerator_type"], tpu["capacity"], str(tpu["slices"]), job["workdir"])
    )
  widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
  for row in rows:
    print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
  return errors.DONE


def status(options: argparse.Namespace) -> int:
  """Print what is known of a job; return the exit code."""
  job, resource = _find(options)
  tpu, folder, workdir = job["tpu"], launch_folder(job), workdir_here(job)
  slices = f"{tpu['slices']} x {tpu['accelerator_type']}, {tpu['capacity']}, in {tpu['zone']}"
  lines = [("job", job["name"]), ("command", " ".join(job["arguments"])), ("slices", slices)]
  lines.append(("queued resource", _state(resource)))
  if resource is not None and resource.state == queued_resources.GRANTED:
    with _api():
      nodes = [queued_resources.node(name, tpu) for name in resource.nodes]
    LivesFile(folder, slice_of(tpu["accelerator_type"]).chips, _warn).seen(nodes)
    for answer, name in _ask(job, nodes, "look"):
      said = answer if isinstance(answer, Exception) else _host_state(answer)
      lines.append((name, str(said)))
  if workdir is not None:
    step = newest_step(workdir)
    lines.append(("newest checkpoint", f"step {step}" if step >= 0 else "none"))
    if counts := read_restarted(workdir):
      lines.append(("restarts", f"{counts['preemptions']:,} preemptions, {counts['failures']:,} failures"))
  hours = chip_hours(read_lives(folder))
  cost = "" if options.price is None else f", {hours * options.price:,.2f} at {options.price:g} each"
  lines.append(("chip-hours", f"{hours:,.2f}{cost}"))
  width = max(len(name) for name, _ in lines)
  print("\n".join(f"{name:<{width}}  {value}" for name, value in lines))
  return errors.DONE


def logs(options: argparse.Namespace) -> int:
  """Print what the hosts of a job's last attempt have printed; return the exit code."""
  job, resource = _find(options)
  gathered = launch_folder(job) / "logs"
  if resource is not None and resource.state == queued_resources.GRANTED:
    with _api():
      nodes = [queued_resources.node(name, job["tpu"]) for name in resource.nodes]
    for answer, name in _ask(job, nodes, "poll", offset=0, metadata=False):
      print(f"== {name}")
      sys.stdout.write(str(answer) if isinstance(answer, Exception) else _text(answer["output"]))
    return errors.DONE
  attempts = sorted(gathered.glob("*"), key=lambda path: path.stat().st_mtime)
  if not attempts:
    raise UserError(f"job {job['name']} has no machines, and nothing of what it printed is in {gathered}")
  for path in sorted(attempts[-1].glob("*.log")):
    print(f"== {path.stem}")
    sys.stdout.write(path.read_text(errors="replace"))
  return errors.DONE


def stop(options: argparse.Namespace) -> int:
  """End a job, after its hosts have saved, and give its slices back; return the exit code."""
  job, resource = _find(options)
  # First, so that a launcher elsewhere does not recreate the slices.
  mark_stopped(job)
  if resource is None:
    print(f"job {job['name']} has no slices")
    return errors.DONE
  if resource.state == queued_resources.GRANTED:
    with _api():
      nodes = [queued_resources.node(name, job["tpu"]) for name in resource.nodes]
    for answer, name in _ask(job, nodes, "stop", grace=options.grace):
      print(f"{name}: {answer if isinstance(answer, Exception) else _host_state(answer)}")
  lives = LivesFile(launch_folder(job), slice_of(job["tpu"]["accelerator_type"]).chips, _warn)
  platform = TpuVm(job, lives, lambda: True, queue.SimpleQueue(), 0.0, 0.0, _warn)
  return errors.DONE if platform.adopt(resource).release() else errors.TRY_AGAIN


def resume(options: argparse.Namespace, how: Following, say: Callable[[str], None]) -> int:
  """Follow a job, and recreate its slices where that helps, until it has ended; return its exit code."""
  job, _ = _find(options)
  unmark_stopped(job)
  return follow(job, how, say)


def _find(options: argparse.Namespace) -> tuple[JobRecord, Resource | None]:
  """Return a job and its queued resource, if there is one. Raises UserError if the job is unknown."""
  project, zone = project_and_zone(options)
  with _api():
    resource = queued_resources.describe(options.job, (project, zone))
  if resource is not None:
    if resource.job is None:
      raise UserError(f"queued resource {options.job} is not of trialbook")
    return job_of_text(resource.job, f"queued resource {options.job}"), resource
  if options.workdir is not None:
    job = recorded_job(options.workdir)
    if job is not None and (job["name"], job["tpu"]["project"], job["tpu"]["zone"]) == (options.job, project, zone):
      return job, None
  where = "" if options.workdir is None else f", nor does {options.workdir} hold it"
  raise UserError(
    f"there is no queued resource {options.job} in project {project}, zone {zone}{where}; trialbook launch list shows"
    " the jobs of a zone, and --workdir=DIR names the workdir of one that has no slices now"
  )


def _ask(job: JobRecord, nodes: list[Node | None], do: str, **more: object) -> Iterator[tuple[Answer, str]]:
  """Yield the answer and the name of each host."""
  request = {"do": do, "job": job["name"], **more}
  for node in nodes:
    if node is None or node.state != "READY":
      continue
    try:
      commands = queued_resources.ssh_commands(node, job["tpu"])
    except GcloudUnavailableError as error:
      print(f"{node.name} cannot be reached by ssh: {error}", file=sys.stderr)
      continue
    names = [f"host {index} of {node.name}" for index in range(len(commands))]
    hosts = SshHosts([[*command[:-1], *OPTIONS, command[-1]] for command in commands], names)
    seconds = _ANSWER_SECONDS + float(str(more.get("grace", 0.0)))
    yield from zip(hosts.ask([request] * len(hosts), seconds), names, strict=True)


@contextlib.contextmanager
def _api() -> Iterator[None]:
  """Raise errors of the API as those of a command."""
  try:
    yield
  except GcloudError as error:
    raise UserError(f"Cloud TPU refuses: {error}") from None
  except GcloudUnavailableError as error:
    raise TryAgainError(f"the API does not answer: {error}") from None


def _state(resource: Resource | None) -> str:
  if resource is None:
    return "none: it has ended, or waits for a launcher"
  return f"{resource.state}{f': {resource.reason}' if resource.reason else ''}"


def _host_state(answer: dict[str, object]) -> str:
  if answer["state"] != "ended":
    return {"none": "nothing runs"}.get(str(answer["state"]), str(answer["state"]))
  ended = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(float(str(answer["time"]))))
  return f"ended with {answer['code']} at {ended}"


def _text(encoded: str) -> str:
  return base64.b64decode(encoded).decode(errors="replace")


def _warn(text: str) -> None:
  print(f"launch: {text}", file=sys.stderr, flush=True)
