"""What the real gcloud says, by a function in its place, and machines that are folders: for quick tests.

`test_tpu_vm.py` has the same with the real gcloud and a real sshd.
"""

import json
import pathlib
import re
import subprocess
from collections.abc import Mapping, Sequence
from typing import Any

PROJECT, ZONE = "p", "us-test1-a"
WHERE = (f"--project={PROJECT}", f"--zone={ZONE}")
ACTIVE = ("ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE")
_SSH = """#!/bin/sh
while [ "$1" != -- ]; do host=$1; shift; done
[ ! -e {folder}/down ] || {{ echo "connect to host $host: Connection timed out" >&2; exit 255; }}
export HOME={folder}/$host SSH_CONNECTION="127.0.0.1 1 127.0.0.1 22" GCE_METADATA_HOST=127.0.0.1:9
PATH=/usr/bin:/bin exec sh -c "$2"
"""


class RecordedGcloud:
  """The program gcloud, and the cloud behind it.

  Args:
    folder: of its machines.

  Attributes:
    hosts: of a slice.
    scripts: states of the requests to come, see `ACTIVE`; when none is left, requests are granted.
    refusals: what gcloud says to the requests to come, as its exit code and its words.
    resources: what is allocated.
    calls: the arguments of all calls.
  """

  def __init__(self, folder: pathlib.Path):
    self.folder, self.hosts = folder, 1
    self.scripts: Sequence[Sequence[str]] = []
    self.refusals: list[tuple[int, str]] = []
    self.failure = "There is no more capacity in the zone"
    self.resources: dict[str, dict[str, Any]] = {}
    self.calls: list[list[str]] = []
    self.node_state, self._machines = "READY", 0
    folder.mkdir(exist_ok=True)
    (folder / "ssh").write_text(_SSH.format(folder=folder))
    (folder / "ssh").chmod(0o755)

  def call(
    self, command: Sequence[str], seconds: float, interrupted: Any = None, *, environment: Mapping[str, str]
  ) -> subprocess.CompletedProcess[bytes]:
    """Take the place of `calls.call` for gcloud."""
    del seconds, interrupted
    assert environment["CLOUDSDK_CORE_DISABLE_PROMPTS"] == "1"
    assert command[0] == "gcloud"
    arguments = list(command[1:])
    self.calls.append(arguments)
    if arguments[:2] == ["config", "list"]:
      return _said(command, "{}")
    assert set(WHERE) <= {*arguments}, arguments
    kind, verb, name = arguments[2], arguments[3], arguments[4]
    if (kind, verb) == ("queued-resources", "create"):
      return self._create(command, name, arguments)
    if (kind, verb) == ("queued-resources", "list"):
      return _said(command, json.dumps([self._shown(name) for name in self.resources]))
    if kind == "queued-resources" and name not in self.resources:
      return _refused(command, verb, "NOT_FOUND: Resource was not found")
    if (kind, verb) == ("queued-resources", "describe"):
      shown = self._shown(name)
      if len(states := self.resources[name]["states"]) > 1:
        states.pop(0)
      return _said(command, json.dumps(shown))
    if (kind, verb) == ("queued-resources", "delete"):
      assert "--force" in arguments
      del self.resources[name]
      return _said(command, "")
    if (kind, verb) == ("tpu-vm", "describe"):
      ends = [{"ipAddress": "127.0.0.1"}] * self.hosts
      created = "2026-11-30T12:00:00.5Z"
      return _said(command, json.dumps({"state": self.node_state, "createTime": created, "networkEndpoints": ends}))
    assert (kind, verb) == ("tpu-vm", "ssh")
    if "--dry-run" not in arguments:
      return _said(command, "")
    lines = [f"{self.folder}/ssh -T -i key user@m{self._machines}h{index} -- true" for index in range(self.hosts)]
    return _said(command, "\n".join(lines))

  def host(self, index: int = 0) -> pathlib.Path:
    """The home of a machine of the newest slice."""
    return self.folder / f"user@m{self._machines}h{index}"

  def take_away(self) -> None:
    """Let the API say that the slices are gone, and their hosts be silent."""
    for resource in self.resources.values():
      resource["states"] = ["SUSPENDED"]
    (self.folder / "down").touch()

  def _create(self, command: Sequence[str], name: str, arguments: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
    if self.refusals:
      code, words = self.refusals.pop(0)
      return subprocess.CompletedProcess(command, code, b"", words.encode())
    file = next(
      re.match(r"--metadata-from-file=trialbook-job=(.*)", argument) for argument in arguments if "job=" in argument
    )
    assert file is not None
    count = [int(argument.partition("=")[2]) for argument in arguments if argument.startswith("--node-count=")]
    spec = {"nodeId": name, "node": {"metadata": {"trialbook-job": pathlib.Path(file[1]).read_text()}}}
    if count:
      spec = {"multisliceParams": {"nodeCount": count[0], "nodeIdPrefix": name}, "node": spec["node"]}
    script, self.scripts = (self.scripts[0], self.scripts[1:]) if self.scripts else (ACTIVE, [])
    states = list(script)
    self.resources[name] = {"tpu": {"nodeSpec": [spec]}, "states": states}
    (self.folder / "down").unlink(missing_ok=True)
    self._machines += 1
    for index in range(self.hosts):
      self.host(index).mkdir()
    return _said(command, "")

  def _shown(self, name: str) -> dict[str, Any]:
    resource = self.resources[name]
    state: dict[str, Any] = {"state": resource["states"][0]}
    if state["state"] == "FAILED":
      state["failedData"] = {"error": {"code": 8, "message": self.failure}}
    return {"name": f"projects/p/locations/z/queuedResources/{name}", "tpu": resource["tpu"], "state": state}


def _said(command: Sequence[str], text: str) -> subprocess.CompletedProcess[bytes]:
  return subprocess.CompletedProcess(command, 0, text.encode(), b"")


def _refused(command: Sequence[str], verb: str, words: str) -> subprocess.CompletedProcess[bytes]:
  said = f"ERROR: (gcloud.compute.tpus.queued-resources.{verb}) {words}"
  return subprocess.CompletedProcess(command, 1, b"", said.encode())
