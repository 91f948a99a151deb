"""Cloud TPU on this machine: its API, which the real gcloud asks, and machines with a real sshd, which come and go.

A machine is a process namespace with a home of its own: when it is taken away, all its processes die. Needs root,
gcloud and Debian's package openssh-server; touches nothing outside of its folder.
"""

import contextlib
import http.server
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from scripted import wait_for

PROJECT, ZONE = "p", "us-test1-a"
ADDRESSES = ("127.0.0.2", "127.0.0.3")
ACTIVE = ("ACCEPTED", "PROVISIONING", "ACTIVE")
"""States of a request that is granted; each is what one question finds, and the last one stays."""
_SSHD = "/usr/sbin/sshd"
_SSHD_CONFIG = """
ListenAddress {address}
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
PidFile none
MaxStartups 100
SetEnv GCE_METADATA_HOST=127.0.0.1:{port}/metadata/{address} MEGASCALE_COORDINATOR_ADDRESS=10.0.0.9:8080
"""
# The first process of the machine: a home, /run and /dev of its own, sshd, and whoever else starts with it.
_MACHINE = """
set -e
mkdir -p {folder}/home/.pyenv {folder}/dev
[ ! -d {home}/.pyenv ] || mount --bind {home}/.pyenv {folder}/home/.pyenv
mount --rbind {folder}/home {home}
mount -t tmpfs run /run
mkdir /run/sshd
mount -t tmpfs dev {folder}/dev
for name in null zero full random urandom tty; do
  touch {folder}/dev/$name
  mount --bind /dev/$name {folder}/dev/$name
done
mkdir {folder}/dev/shm {folder}/dev/vfio
touch {folder}/dev/vfio/0
ln -s /proc/self/fd {folder}/dev/fd
mount --rbind {folder}/dev /dev
{more}
[ ! -e {folder}/no_sshd ] && {sshd} -D -e -f {folder}/sshd_config &
wait
sleep infinity
"""
_DIRTY = "sleep infinity < /dev/vfio/0 &"


def missing() -> str:
  """What this machine lacks; empty if nothing."""
  if shutil.which("gcloud") is None:
    return "no gcloud: https://cloud.google.com/sdk/docs/install"
  if not os.path.exists(_SSHD):
    return "no sshd: apt-get install --no-install-recommends openssh-server"
  if os.getuid():
    return "machines with their own processes need root"
  probe = subprocess.run(["unshare", "--pid", "--mount", "--fork", "true"], capture_output=True, text=True)
  return f"no namespaces can be made here: {probe.stderr.strip()}" if probe.returncode else ""


class Machine:
  """A host of a slice."""

  def __init__(self, folder: pathlib.Path, address: str, port: int, *, dirty: bool, answers: bool):
    self.folder, self.address = folder, address
    folder.mkdir(parents=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host_key")], check=True)
    self.host_key = (folder / "host_key.pub").read_text().split()[1]
    (folder / "sshd_config").write_text(_SSHD_CONFIG.format(address=address, folder=folder, port=port))
    if not answers:
      (folder / "no_sshd").touch()
    script = _MACHINE.format(folder=folder, home=pathlib.Path.home(), sshd=_SSHD, more=_DIRTY if dirty else "")
    with (folder / "output").open("ab") as output:
      self._process = subprocess.Popen(
        ["unshare", "--pid", "--mount", "--fork", "--kill-child=KILL", "--mount-proc", "bash", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
      )

  @property
  def home(self) -> pathlib.Path:
    """Its home directory, seen from outside."""
    return self.folder / "home"

  def kill(self) -> None:
    """Take it away: the kernel ends all its processes."""
    self._process.kill()
    self._process.wait()


class TpuCloud:
  """The API and its machines.

  Args:
    folder: of everything.
    hosts: of a slice.

  Attributes:
    scripts: states of the requests to come, each a list like `ACTIVE`; when none is left, requests are granted.
    refusal: HTTP code, status and message with which requests are refused; None: they are not.
    failure: what is wrong with a request that is FAILED.
    dirty: how many machines to come have a process that uses the accelerator.
    silent: addresses whose machines to come have no sshd.
    requests: what was asked for: method and path.
    bodies: of the requests for slices.
  """

  def __init__(self, folder: pathlib.Path, hosts: int = 2):
    self._folder, self._hosts = folder, hosts
    self.scripts: list[Any] = []
    self.refusal: tuple[int, str, str] | None = None
    self.failure = {"code": 8, "message": "There is no more capacity in the zone"}
    self.dirty, self.silent = 0, set[str]()
    self.requests: list[str] = []
    self.bodies: list[dict[str, Any]] = []
    self.resources: dict[str, dict[str, Any]] = {}
    self.nodes: dict[str, dict[str, Any]] = {}
    self.machines: dict[str, list[Machine]] = {}
    self.preempted: set[str] = set()
    self.launchers: list[subprocess.Popen[bytes]] = []
    self._lock, self._count = threading.RLock(), 0
    self._results: dict[str, dict[str, str]] = {}
    handler = type("Handler", (_Handler,), {"cloud": self})
    self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    self.port = self._server.server_address[1]
    threading.Thread(target=self._server.serve_forever, daemon=True).start()
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True)
    key = home / ".ssh" / "google_compute_engine"
    subprocess.run(["ssh-keygen", "-q", "-t", "rsa", "-N", "", "-f", str(key)], check=True)
    (folder / "token").write_text("any")
    self.environment = {
      "HOME": str(home),
      "CLOUDSDK_CONFIG": str(folder / "gcloud"),
      "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": str(folder / "token"),
      "CLOUDSDK_API_ENDPOINT_OVERRIDES_TPU": f"http://127.0.0.1:{self.port}/",
      "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"http://127.0.0.1:{self.port}/compute/v1/",
      "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
      "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
    }
    """What gcloud needs to find this cloud and no other."""

  def close(self) -> None:
    """End everything."""
    for launcher in self.launchers:
      if launcher.poll() is None:
        launcher.kill()
        launcher.wait()
    self._server.shutdown()
    self._server.server_close()
    for machines in [*self.machines.values()]:
      for machine in machines:
        machine.kill()

  def preempt(self, state: str = "SUSPENDED", node_state: str = "PREEMPTED") -> None:
    """Take the machines of all slices away, as the API then tells it."""
    with self._lock:
      for resource in self.resources.values():
        resource["states"] = [state]
      for node in self.nodes.values():
        node["state"] = node_state
    for machines in self.machines.values():
      for machine in machines:
        machine.kill()

  def all_machines(self) -> list[Machine]:
    """The machines that are there."""
    return [machine for machines in self.machines.values() for machine in machines]

  # The API.

  def answer(self, method: str, path: str, query: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to a call. Raises KeyError for what is not there, _RefusedError for what is refused."""
    with self._lock:
      self.requests.append(f"{method} {path}")
      if "/compute/v1/" in path:
        return {"name": PROJECT, "kind": "compute#project", "commonInstanceMetadata": {"items": []}}
      parts = path.strip("/").split("/")
      place, kind = "/".join(parts[1:5]), parts[5]
      name = parts[6] if len(parts) > 6 else ""
      if kind == "operations":
        return {"name": f"{place}/operations/{name}", "done": True, "response": self._results[name]}
      if kind == "queuedResources":
        if method == "POST":
          self._create(re.findall(r"queuedResourceId=([^&]+)", query)[0], place, body)
        elif method == "DELETE":
          self._delete(name)
        elif not name:
          return {"queuedResources": [self._shown(name) for name in self.resources]}
        else:
          return self._described(name)
        return self._operation(place, {})
      node, _, verb = name.partition(":")
      if verb == "getGuestAttributes":
        chosen = [index for index in body.get("workerIds", []) if index]
        machines = self.machines[node]
        machines = [machines[int(index)] for index in chosen] if chosen else machines
        items = [[{"namespace": "hostkeys", "key": "ssh-ed25519", "value": machine.host_key}] for machine in machines]
        return {"guestAttributes": [{"queryValue": {"items": item}} for item in items]}
      if method == "PATCH":
        self.nodes[node]["metadata"] |= body["metadata"]
        self._lay_keys(node)
        return self._operation(place, {"name": self.nodes[node]["name"]})
      return self.nodes[node]

  def metadata(self, address: str, name: str) -> str:
    """Return what the metadata server of a machine says."""
    if name == "preempted":
      return "TRUE" if address in self.preempted else "FALSE"
    raise KeyError(name)

  def _create(self, name: str, place: str, body: dict[str, Any]) -> None:
    if self.refusal is not None:
      raise _RefusedError(*self.refusal)
    if name in self.resources:
      raise _RefusedError(409, "ALREADY_EXISTS", f"{name} already exists")
    self.bodies.append(body)
    script, self.scripts = (self.scripts[0], self.scripts[1:]) if self.scripts else (ACTIVE, [])
    states = list(script)
    self.resources[name] = {"name": f"{place}/queuedResources/{name}", **body, "states": states}

  def _delete(self, name: str) -> None:
    del self.resources[name]
    for node in [node for node, kept in self.nodes.items() if kept["queuedResource"] == name]:
      del self.nodes[node]
      for machine in self.machines.pop(node):
        machine.kill()

  def _described(self, name: str) -> dict[str, Any]:
    resource = self.resources[name]
    states = resource["states"]
    shown = self._shown(name)
    if states[0] == "ACTIVE" and not any(node["queuedResource"] == name for node in self.nodes.values()):
      self._grant(name)
    if len(states) > 1:
      states.pop(0)
    return shown

  def _shown(self, name: str) -> dict[str, Any]:
    resource = self.resources[name]
    state: dict[str, Any] = {"state": resource["states"][0]}
    if state["state"] == "FAILED":
      state["failedData"] = {"error": self.failure}
    return {**{key: value for key, value in resource.items() if key != "states"}, "state": state}

  def _grant(self, name: str) -> None:
    spec = self.resources[name]["tpu"]["nodeSpec"][0]
    several = spec.get("multisliceParams")
    names = [spec.get("nodeId")]
    if several:
      names = [f"{several['nodeIdPrefix']}-{index}" for index in range(several["nodeCount"])]
    addresses = iter(ADDRESSES)
    for node in names:
      self._count += 1
      mine = [next(addresses) for _ in range(self._hosts)]
      self.machines[node] = []
      for address in mine:
        is_dirty, self.dirty = self.dirty > 0, max(self.dirty - 1, 0)
        folder = self._folder / f"machine{self._count}-{address}"
        machine = Machine(folder, address, self.port, dirty=is_dirty, answers=address not in self.silent)
        self.machines[node].append(machine)
      self.nodes[node] = {
        "name": f"projects/{PROJECT}/locations/{ZONE}/nodes/{node}",
        "id": str(1000 + self._count),
        "state": "READY",
        "health": "HEALTHY",
        "apiVersion": "V2",
        "createTime": "2026-11-30T12:00:00.5Z",
        "acceleratorType": spec["node"]["acceleratorType"],
        "metadata": dict(spec["node"].get("metadata", {})),
        "networkEndpoints": [{"ipAddress": ip, "port": 8470, "accessConfig": {"externalIp": ip}} for ip in mine],
        "queuedResource": name,
      }

  def _lay_keys(self, node: str) -> None:
    """Do what the guest agent of a machine does with the keys in its metadata."""
    lines = [line.partition(":")[2] for line in self.nodes[node]["metadata"]["ssh-keys"].splitlines()]
    for machine in self.machines[node]:
      (machine.folder / "authorized_keys").write_text("\n".join(lines) + "\n")

  def _operation(self, place: str, result: dict[str, str]) -> dict[str, Any]:
    self._count += 1
    self._results[f"o{self._count}"] = result
    return {"name": f"{place}/operations/o{self._count}", "done": True, "response": result}


class _RefusedError(Exception):
  """HTTP code, status and message."""


class _Handler(http.server.BaseHTTPRequestHandler):
  cloud: TpuCloud

  def _answer(self) -> None:
    length = int(self.headers.get("Content-Length", 0))
    body = json.loads(self.rfile.read(length) or b"{}")
    path, _, query = self.path.partition("?")
    try:
      if path.startswith("/metadata/"):
        parts = path.split("/")
        self._send(200, self.cloud.metadata(parts[2], parts[-1]).encode())
        return
      self._send(200, json.dumps(self.cloud.answer(self.command, path, query, body)).encode())
    except KeyError as error:
      self._refuse(404, "NOT_FOUND", f"Resource {error} was not found")
    except _RefusedError as error:
      self._refuse(*error.args)

  do_GET = do_POST = do_PATCH = do_DELETE = _answer

  def _refuse(self, code: int, status: str, message: str) -> None:
    self._send(code, json.dumps({"error": {"code": code, "status": status, "message": message}}).encode())

  def _send(self, code: int, content: bytes) -> None:
    self.send_response(code)
    self.send_header("Content-Type", "application/json")
    self.send_header("Content-Length", str(len(content)))
    self.end_headers()
    with contextlib.suppress(OSError):
      self.wfile.write(content)

  def log_message(self, format: str, *arguments: Any) -> None:
    """Say nothing."""


@contextlib.contextmanager
def tpu_cloud(hosts: int = 2) -> Iterator[TpuCloud]:
  """Inside, gcloud finds this cloud, in this process's environment and in those of its children."""
  with tempfile.TemporaryDirectory(prefix="tpus-", ignore_cleanup_errors=True) as folder:
    cloud = TpuCloud(pathlib.Path(folder), hosts)
    try:
      yield cloud
    finally:
      cloud.close()


class Launcher:
  """A process of `trialbook launch ...` with a cloud.

  Args:
    cloud: what its gcloud finds.
    folder: in which it runs, and where its output goes.
    arguments: after `trialbook launch`.
  """

  _count = 0

  def __init__(self, cloud: TpuCloud, folder: pathlib.Path, *arguments: str):
    Launcher._count += 1
    self._output = folder / f"launcher{Launcher._count}.txt"
    root = str(pathlib.Path(__file__).resolve().parents[2])
    environment = {**os.environ, **cloud.environment, "PYTHONPATH": root, "PYTHONUNBUFFERED": "1"}
    with self._output.open("wb") as output:
      self.process = subprocess.Popen(
        [sys.executable, "-m", "trialbook", "launch", *arguments],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
      )
    cloud.launchers.append(self.process)

  def output(self) -> str:
    """What it has printed so far."""
    return self._output.read_text()

  def wait_for(self, text: str, seconds: float = 300.0) -> None:
    """Return once it has printed a text."""
    wait_for(lambda: text in self.output() or self.process.poll() is not None, seconds)
    assert text in self.output(), self.output()

  def end(self, seconds: float = 300.0) -> int:
    """Return its exit code."""
    try:
      return self.process.wait(seconds)
    except subprocess.TimeoutExpired:
      self.process.kill()
      raise AssertionError(self.output()) from None

  def send(self, number: signal.Signals) -> None:
    """Send it a signal."""
    os.kill(self.process.pid, number)
