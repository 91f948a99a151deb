"""Queued resources: the request for TPU slices, which Cloud TPU grants when it has them, and the slices once granted.

A job has one, of the same name. Its description is in the metadata of the machines, so that a job is known by the API
alone.
"""

import json
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

from trialbook.launch.remote.calls import Interrupted, never
from trialbook.launch.remote.records import JobRecord, Slices, text_of_job
from trialbook.launch.tpu_vm.gcloud import GcloudError, GcloudUnavailableError, gcloud, gcloud_json

METADATA = "trialbook-job"
GRANTED = "ACTIVE"
WAITING = frozenset(("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "STATE_UNSPECIFIED"))
"""States of a queued resource that may yet be granted. All others have to be deleted: they still count for quota."""
_TAKEN = frozenset(("SUSPENDING", "SUSPENDED"))
_TAKEN_NODES = frozenset(("PREEMPTED", "TERMINATED"))
_QUEUED = ("compute", "tpus", "queued-resources")
_VM = ("compute", "tpus", "tpu-vm")
_DELETE_SECONDS = 900.0


class Resource(NamedTuple):
  """A queued resource.

  Attributes:
    name: of it, which is that of the job.
    state: in the API's words.
    reason: what the API says about a failure; may be empty.
    job: the job's description in the metadata of the machines; None if it is not of trialbook.
    nodes: names of the slices, in their order.
  """

  name: str
  state: str
  reason: str
  job: str | None
  nodes: tuple[str, ...]


class Node(NamedTuple):
  """A slice.

  Attributes:
    name: of it.
    state: in the API's words; "READY" if it can be used.
    health: in the API's words; empty if it says nothing.
    created: when, as the API has it; may be empty.
    addresses: internal addresses of its hosts, in their order.
  """

  name: str
  state: str
  health: str
  created: str
  addresses: tuple[str, ...]


def create(job: JobRecord) -> None:
  """Request the slices of a job. Raises GcloudError, GcloudUnavailableError, UserError."""
  tpu = job["tpu"]
  nodes = [f"--node-id={job['name']}"]
  if tpu["slices"] > 1:
    nodes = [f"--node-count={tpu['slices']}", f"--node-prefix={job['name']}"]
  capacity = {"on-demand": [], "spot": ["--spot"], "reserved": ["--reserved"]}[tpu["capacity"]]
  with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
    file.write(text_of_job(job))
    file.flush()
    gcloud(
      [
        *(*_QUEUED, "create", job["name"], *_where(tpu), *nodes, *capacity),
        f"--accelerator-type={tpu['accelerator_type']}",
        f"--runtime-version={tpu['runtime_version']}",
        f"--metadata-from-file={METADATA}={file.name}",
        *(["--internal-ips"] if tpu["internal_ip"] else []),
        *tpu["create_flags"],
      ]
    )


def describe(name: str, where: Slices | Sequence[str]) -> Resource | None:
  """Return a queued resource; None if there is none of this name. Raises GcloudError, GcloudUnavailableError."""
  try:
    return _resource(gcloud_json([*_QUEUED, "describe", name, *_where(where)]))
  except GcloudError as error:
    if error.status == "NOT_FOUND":
      return None
    raise


def list_all(where: Sequence[str]) -> list[Resource]:
  """Return the queued resources of a zone. Raises GcloudError, GcloudUnavailableError."""
  return [_resource(entry) for entry in gcloud_json([*_QUEUED, "list", *_where(where)])]


def delete(name: str, where: Slices) -> bool:
  """Delete a queued resource with its slices; return whether there was one. Raises GcloudError, ..."""
  try:
    gcloud([*_QUEUED, "delete", name, "--force", *_where(where)], _DELETE_SECONDS)
  except GcloudError as error:
    if error.status == "NOT_FOUND":
      return False
    raise
  return True


def delete_command(name: str, where: Slices) -> str:
  """Return the command that a person would delete it by."""
  return f"gcloud {' '.join([*_QUEUED, 'delete', name, '--force', *_where(where)])}"


def node(name: str, where: Slices) -> Node | None:
  """Return a slice; None if there is none of this name. Raises GcloudError, GcloudUnavailableError."""
  try:
    found = gcloud_json([*_VM, "describe", name, *_where(where)])
  except GcloudError as error:
    if error.status == "NOT_FOUND":
      return None
    raise
  return Node(
    name=name,
    state=found.get("state", ""),
    health=found.get("health", ""),
    created=found.get("createTime", ""),
    addresses=tuple(endpoint.get("ipAddress", "") for endpoint in found.get("networkEndpoints", [])),
  )


def ssh_commands(node: Node, where: Slices, interrupted: Interrupted = never) -> list[list[str]]:
  """Return, for each host of a slice, ssh with its options and the destination, as gcloud would call it.

  The first call lays the user's key on all hosts, and returns when each has answered.

  Raises:
    GcloudError, GcloudUnavailableError: naming the hosts that do not answer, in gcloud's words.
  """
  flags = [*_where(where), "--worker=all", *(["--internal-ip"] if where["internal_ip"] else [])]
  patience = ["--ssh-flag=-oConnectTimeout=15", "--ssh-flag=-oBatchMode=yes"]
  gcloud([*_VM, "ssh", node.name, *flags, *patience, "--command=true"], interrupted=interrupted)
  lines = gcloud([*_VM, "ssh", node.name, *flags, "--command=true", "--dry-run"]).splitlines()
  commands = [line.removesuffix(" -- true").split() for line in lines if line.endswith(" -- true")]
  if len(commands) != len(node.addresses):
    said = f"gcloud names {len(commands)} ssh commands for the {len(node.addresses)} hosts of {node.name}: {lines}"
    raise GcloudUnavailableError(said)
  return commands


def why_gone(resource: Resource | None, nodes: Sequence[Node | None]) -> str | None:
  """Return in words why slices that were granted can be used no more; None if they can.

  The API alone tells this: a process that ended, or a host that is silent, says nothing about its machine.
  """
  if resource is None:
    return "its queued resource is gone"
  if resource.state in _TAKEN or resource.state != GRANTED:
    return f"its queued resource is {resource.state}"
  for name, found in zip(resource.nodes, nodes, strict=True):
    if found is None:
      return f"slice {name} is gone"
    if found.state in _TAKEN_NODES or found.state != "READY":
      return f"slice {name} is {found.state}"
  return None


def _where(where: Slices | Sequence[str]) -> list[str]:
  project, zone = (where["project"], where["zone"]) if isinstance(where, dict) else where
  return [f"--project={project}", f"--zone={zone}"]


def _resource(found: Any) -> Resource:
  state = found.get("state", {})
  failure = state.get("failedData", {}).get("error", {})
  specs = found.get("tpu", {}).get("nodeSpec", [])
  nodes: list[str] = []
  for spec in specs:
    several = spec.get("multisliceParams") or spec.get("multiNodeParams")
    if several and not spec.get("nodeId"):
      prefix = several.get("nodeIdPrefix") or found["name"].rpartition("/")[2]
      nodes += [f"{prefix}-{index}" for index in range(int(several["nodeCount"]))]
    else:
      nodes.append(spec.get("nodeId", ""))
  metadata = specs[0].get("node", {}).get("metadata", {}) if specs else {}
  return Resource(
    name=found["name"].rpartition("/")[2],
    state=state.get("state", "STATE_UNSPECIFIED"),
    reason=failure.get("message", "") or (json.dumps(failure) if failure else ""),
    job=metadata.get(METADATA),
    nodes=tuple(nodes),
  )
