"""The host's side of a job on other machines. It is sent over ssh with each request, and nothing of it stays there.

The `python3` of the host runs it, which may be 3.8 and has none of trialbook's packages. So it imports the standard
library alone. A request is a line of JSON on the input, and what has to be shipped follows it. The answer is a line of
JSON. All that belongs to a job is in `~/.trialbook/jobs/NAME` of the host.

The process of a host has a keeper, in a session of its own: it outlives the connection, and notes the exit code.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import io
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import urllib.request

MARK = "trialbook answer: "
"""The beginning of the line with the answer; a login may print others."""
JOB = "TRIALBOOK_JOB"
"""Environment variable by which all processes of a job are known."""
LOST = -9
"""Exit code of a process whose end nobody noted: its machine restarted, or its keeper was killed, too."""

_HOME = pathlib.Path.home() / ".trialbook"
_LONGEST_ANSWER = 1 << 20
_DEVICES = ("dev/vfio/[0-9]*", "dev/accel*")
_METADATA = "http://{host}/computeMetadata/v1/instance/{name}"


def look(folder: pathlib.Path, request: dict) -> dict:
  """Return what there is of the job here, and what is in its way."""
  del request
  code = {path.name for path in folder.glob("code-*") if not path.name.endswith(".new")}
  ids = [line.partition(": ")[::2] for line in _metadata("attributes/tpu-env").splitlines()]
  return {
    **_state(folder),
    "address": (os.environ.get("SSH_CONNECTION", "").split() or [""] * 4)[2],
    "tpu": {name: value.strip("'") for name, value in ids if name in ("WORKER_ID", "MEGASCALE_SLICE_ID")},
    "code": sorted(code),
    "busy": _busy_devices(),
  }


def ship(folder: pathlib.Path, request: dict) -> dict:
  """Unpack the archive that follows the request, unless it is here."""
  place = folder / ("code-" + request["digest"])
  archive = sys.stdin.buffer.read()
  if not place.exists():
    staging = place.with_name(place.name + ".new")
    shutil.rmtree(staging, ignore_errors=True)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
      # It is ours, so links may lead anywhere; later versions of Python ask which archive may do what.
      tar.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)
      tar.extractall(staging)
    # The folder in which the command runs may be empty, so that git knows nothing in it.
    (staging / "tree" / request["inside"]).mkdir(parents=True, exist_ok=True)
    staging.rename(place)
  return {}


def prepare(folder: pathlib.Path, request: dict) -> dict:
  """Make the environment of the job by lines of bash, unless one by the same lines is ready; return their error."""
  place = _HOME / "environments" / request["environment"]
  place.parent.mkdir(parents=True, exist_ok=True)
  with open(place.with_name(place.name + ".lock"), "w") as lock:
    # After a connection was lost, the first request may still be at it.
    fcntl.flock(lock, fcntl.LOCK_EX)
    if (place / "ready").exists():
      return {}
    shutil.rmtree(place, ignore_errors=True)
    made = subprocess.run(
      ["bash", "-euo", "pipefail", "-c", "\n".join(request["lines"])],
      cwd=folder / ("code-" + request["digest"]) / "tree" / request["inside"],
      env={**os.environ, "ENVIRONMENT": str(place)},
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
    )
    if made.returncode:
      return {"error": made.stdout.decode(errors="replace")[-2000:] or "it said nothing"}
    place.mkdir(exist_ok=True)
    (place / "ready").touch()
  return {}


def start(folder: pathlib.Path, request: dict) -> dict:
  """Start the host's process and its keeper; return when it runs. The same request again changes nothing."""
  found = _state(folder)
  if found["attempt"] == request["attempt"]:
    return found
  if found["state"] == "running":
    return {"error": "attempt {} is running".format(found["attempt"])}
  for name in ("state.json", "exit.json", "log"):
    with contextlib.suppress(FileNotFoundError):
      (folder / name).unlink()
  shutil.rmtree(folder / "exits", ignore_errors=True)
  (folder / "exits").mkdir()
  reader, writer = os.pipe()
  if os.fork() == 0:
    os.close(reader)
    os.setsid()
    if os.fork() == 0:
      _keep(folder, request, writer)
    os._exit(0)
  os.close(writer)
  os.wait()
  with open(reader, "rb") as pipe:
    problem = pipe.read().decode()
  return {"error": problem} if problem else _state(folder)


def poll(folder: pathlib.Path, request: dict) -> dict:
  """Return the state of the process, what it wrote about its end, and its output from `offset` on."""
  state = _state(folder)
  output, size = b"", 0
  with contextlib.suppress(FileNotFoundError), open(folder / "log", "rb") as log:
    size = log.seek(0, os.SEEK_END)
    log.seek(request["offset"])
    output = log.read(_LONGEST_ANSWER)
  exits = {}
  for path in sorted((folder / "exits").glob("host_*.exit.json")):
    with contextlib.suppress(OSError, ValueError):
      exits[path.name] = json.loads(path.read_text())
  preempted = bool(request["metadata"]) and _metadata("preempted") == "TRUE"
  return {**state, "output": base64.b64encode(output).decode(), "size": size, "exits": exits, "preempted": preempted}


def stop(folder: pathlib.Path, request: dict) -> dict:
  """End all processes of the job: SIGTERM to the host's own, which may save, and SIGKILL to all after `grace` seconds.

  Return what is left, which cannot be ended.
  """
  known, deadline = _read(folder / "state.json"), time.monotonic() + request["grace"]
  if known and _alive(known["pid"], known["started"]):
    with contextlib.suppress(ProcessLookupError):
      os.kill(known["pid"], signal.SIGTERM)
    while _alive(known["pid"], known["started"]) and time.monotonic() < deadline:
      time.sleep(0.05)
  for pid in _of_job(request["job"]):
    with contextlib.suppress(OSError):
      os.kill(pid, signal.SIGKILL)
  deadline = time.monotonic() + 10.0
  while (left := _of_job(request["job"]) + _keeper(known)) and time.monotonic() < deadline:
    time.sleep(0.05)
  return {**_state(folder), "left": [_command(pid) for pid in left], "busy": _busy_devices()}


def _keep(folder: pathlib.Path, request: dict, writer: int) -> None:
  """Run the host's process until it ends. Never returns."""
  try:
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
      os.dup2(nothing, stream)
    with open(folder / "log", "ab") as log:
      process = subprocess.Popen(
        _argv(folder, request),
        cwd=folder / ("code-" + request["digest"]) / "tree" / request["inside"],
        env=_environment(folder, request),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
      )
    keeper = os.getpid()
    _write(
      folder / "state.json",
      {
        "attempt": request["attempt"],
        "pid": process.pid,
        "started": _started(process.pid),
        "keeper": keeper,
        "keeper_started": _started(keeper),
      },
    )
    os.close(writer)
    code = process.wait()
    _write(folder / "exit.json", {"attempt": request["attempt"], "code": code, "time": time.time()})
  except OSError as error:
    with contextlib.suppress(OSError):
      os.write(writer, str(error).encode())
  finally:
    os._exit(0)


def _argv(folder: pathlib.Path, request: dict) -> list:
  python = request["python"] or str(_HOME / "environments" / request["environment"] / "bin" / "python")
  return [os.path.expanduser(python), *request["arguments"]]


def _environment(folder: pathlib.Path, request: dict) -> dict:
  """Return the environment of the host's process: no MEGASCALE_ variable of an earlier slice, which would make it
  wait for a coordinator that is gone."""
  kept = {name: value for name, value in os.environ.items() if not name.startswith("MEGASCALE_")}
  code = folder / ("code-" + request["digest"])
  path = [str(code / "tree"), str(code / "package"), *filter(None, [kept.get("PYTHONPATH")])]
  ours = {"PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1", "TRIALBOOK_EXITS": str(folder / "exits")}
  return {**kept, **ours, **request["variables"], JOB: request["job"]}


def _state(folder: pathlib.Path) -> dict:
  known, end = _read(folder / "state.json"), _read(folder / "exit.json")
  if not known:
    return {"state": "none", "attempt": None}
  found = {"state": "running", "attempt": known["attempt"]}
  if end and end["attempt"] == known["attempt"]:
    return {**found, "state": "ended", "code": end["code"], "time": end["time"]}
  if _alive(known["pid"], known["started"]) or _keeper(known):
    return found
  return {**found, "state": "ended", "code": LOST, "time": time.time()}


def _keeper(known: dict | None) -> list:
  return [known["keeper"]] if known and _alive(known["keeper"], known["keeper_started"]) else []


def _busy_devices() -> list:
  """Return the accelerators that a process uses. A slice on which one is left cannot be used."""
  devices = sorted(str(path) for pattern in _DEVICES for path in pathlib.Path("/").glob(pattern))
  users = {}
  for link in pathlib.Path("/proc").glob("[0-9]*/fd/*") if devices else ():
    with contextlib.suppress(OSError):
      users.setdefault(os.readlink(link), link.parts[2])
  busy = []
  for device in devices:
    if device in users:
      busy.append(f"{device} is in use by process {users[device]} ({_command(int(users[device]))})")
      continue
    try:
      os.close(os.open(device, os.O_RDWR))
    except OSError as error:
      if error.errno == errno.EBUSY:
        busy.append(f"{device} is busy")
  return busy


def _metadata(name: str) -> str:
  """Return a value that the platform tells its machine; empty if there is none, as on other machines."""
  host = os.environ.get("GCE_METADATA_HOST", "metadata.google.internal")
  request = urllib.request.Request(_METADATA.format(host=host, name=name), headers={"Metadata-Flavor": "Google"})
  # An environment's proxy does not reach it.
  opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
  try:
    with opener.open(request, timeout=2) as answer:
      return answer.read().decode().strip()
  except (OSError, ValueError):
    return ""


def _of_job(job: str) -> list:
  """Return the ids of all processes of a job."""
  found = []
  for path in pathlib.Path("/proc").glob("[0-9]*/environ"):
    with contextlib.suppress(OSError):
      if f"{JOB}={job}\0".encode() in path.read_bytes() and _alive(int(path.parts[2])):
        found.append(int(path.parts[2]))
  return found


def _alive(pid: int, started: str | None = None) -> bool:
  """Return whether there is a process that has not ended; if its start is given, only that one."""
  found = _stat(pid)
  return found is not None and found[0] not in ("Z", "X") and started in (None, found[19])


def _started(pid: int) -> str:
  found = _stat(pid)
  return found[19] if found else ""


def _stat(pid: int) -> list | None:
  """Return the fields of a process after its name, which may hold anything: state, ..., time of the start."""
  try:
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
  except OSError:
    return None


def _command(pid: int) -> str:
  with contextlib.suppress(OSError):
    return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200].strip()
  return ""


def _read(path: pathlib.Path) -> dict | None:
  try:
    return json.loads(path.read_text())
  except (OSError, ValueError):
    return None


def _write(path: pathlib.Path, value: dict) -> None:
  new = path.with_name(path.name + ".new")
  new.write_text(json.dumps(value))
  new.rename(path)


def main() -> None:
  """Do what the request says, and print the answer."""
  request = json.loads(sys.stdin.buffer.readline())
  folder = _HOME / "jobs" / request["job"]
  folder.mkdir(parents=True, exist_ok=True)
  _HOME.chmod(0o700)
  action = {"look": look, "ship": ship, "prepare": prepare, "start": start, "poll": poll, "stop": stop}[request["do"]]
  sys.stdout.write(MARK + json.dumps(action(folder, request)) + "\n")
  sys.stdout.flush()


if __name__ == "__main__":
  main()
