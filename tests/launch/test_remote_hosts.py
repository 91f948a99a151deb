"""Hosts of a job on other machines: here each has a home of its own, and a shell in place of ssh."""

import base64
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

import pytest
from scripted import wait_for

from trialbook.errors import UserError
from trialbook.launch.remote import shipping
from trialbook.launch.remote.agent import JOB
from trialbook.launch.remote.calls import GivenUpError
from trialbook.launch.remote.lease import leased
from trialbook.launch.remote.shipping import Archive, pack
from trialbook.launch.remote.ssh_hosts import AgentError, SilentError, SshHosts

# As ssh does, it gives one string to a shell of the host.
SHELL = ("sh", "-c", 'exec sh -c "$1"')
SETTINGS = {"GCE_METADATA_HOST": "127.0.0.1:9", "PATH": "/usr/bin:/bin"}
"""A port on which nobody listens, and the path of a login."""


class Machines:
  """Machines that are folders."""

  def __init__(self, folder: pathlib.Path, count: int = 1):
    self.homes = [folder / f"home{index}" for index in range(count)]
    variables = [f"{name}={value}" for name, value in SETTINGS.items()]
    self.hosts = SshHosts(
      [["env", f"HOME={home}", "MEGASCALE_SLICE_ID=7", *variables, *SHELL] for home in self.homes],
      [f"host {index}" for index in range(count)],
    )
    for home in self.homes:
      home.mkdir()
    self.name = f"test-{os.getpid()}-{folder.name}"

  def ask(self, do: str, payload: bytes = b"", **more: Any) -> dict[str, Any]:
    """The answer of the first host."""
    request = {"do": do, "job": self.name, "digest": "d", "environment": "e", "inside": ".", **more}
    return self.hosts.ask_all(request, 30.0, payload)[0]

  def start(self, script: str, attempt: str = "a", **variables: str) -> dict[str, Any]:
    """Start a script of Python on all hosts."""
    self.ask("ship", archive_of({"tree/file": b"x"}).content)
    return self.ask("start", attempt=attempt, python=sys.executable, arguments=["-ISc", script], variables=variables)

  def poll(self, offset: int = 0) -> dict[str, Any]:
    """How the first host is, with its output as text."""
    found = self.ask("poll", offset=offset, metadata=False)
    return {**found, "output": base64.b64decode(found["output"]).decode()}

  def ended(self) -> dict[str, Any]:
    """`poll` once the process has ended."""
    wait_for(lambda: self.poll()["state"] == "ended")
    return self.poll()


@pytest.fixture
def machines(tmp_path: pathlib.Path) -> Any:
  made = Machines(tmp_path)
  yield made
  made.ask("stop", grace=0.0)


def archive_of(files: dict[str, bytes]) -> Archive:
  import io
  import tarfile

  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
    for name, content in files.items():
      entry = tarfile.TarInfo(name)
      entry.size = len(content)
      tar.addfile(entry, io.BytesIO(content))
  return Archive.of(buffer.getvalue(), ".")


def test_a_process_outlives_the_connection_and_its_code_output_and_cause_are_there_later(machines: Machines):
  script = """
import os, pathlib, sys, time
print("begins", os.getcwd(), flush=True)
pathlib.Path(os.environ["TRIALBOOK_EXITS"], "host_0.exit.json").write_text('{"code": 75}')
while not pathlib.Path("go").exists():
  time.sleep(0.01)
sys.exit(75)
"""
  assert machines.ask("look")["state"] == "none"
  assert machines.start(script)["state"] == "running"
  wait_for(lambda: "begins" in machines.poll()["output"])
  running = machines.poll()
  assert running["state"] == "running"
  tree = machines.homes[0] / ".trialbook" / "jobs" / machines.name / "code-d" / "tree"
  assert running["output"] == f"begins {tree}\n"
  # The same request again, as after a lost answer, starts nothing; another attempt is refused while this one runs.
  assert machines.start(script)["state"] == "running"
  with pytest.raises(AgentError, match="host 0: attempt a is running"):
    machines.start(script, attempt="b")
  (tree / "go").touch()
  end = machines.ended()
  assert (end["attempt"], end["code"], end["exits"]) == ("a", 75, {"host_0.exit.json": {"code": 75}})
  assert abs(end["time"] - time.time()) < 60
  assert machines.poll(offset=len("begins "))["output"] == f"{tree}\n"


def test_a_secret_is_in_the_environment_alone_and_no_variable_of_an_earlier_slice_is(machines: Machines):
  machines.start("import os, time; print(sorted(os.environ), flush=True); time.sleep(600)", TRIALBOOK_SECRET="hidden")
  wait_for(lambda: machines.poll()["output"])
  names = machines.poll()["output"]
  assert "TRIALBOOK_SECRET" in names
  assert JOB in names
  assert "MEGASCALE" not in names
  for path in machines.homes[0].rglob("*"):
    assert path.is_dir() or b"hidden" not in path.read_bytes(), path
  commands = [path.read_bytes() for path in pathlib.Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
  assert not [command for command in commands if b"hidden" in command and b"pytest" not in command]
  assert (machines.homes[0] / ".trialbook").stat().st_mode & 0o777 == 0o700


def test_stop_lets_the_process_save_and_ends_whatever_it_has_started(machines: Machines):
  script = """
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-ISc", "import time; time.sleep(600)"], start_new_session=True)
def save(*_):
  print("saved", flush=True)
  sys.exit(75)
signal.signal(signal.SIGTERM, save)
print(child.pid, flush=True)
time.sleep(600)
"""
  machines.start(script)
  wait_for(lambda: machines.poll()["output"].endswith("\n"))
  child = int(machines.poll()["output"])
  answer = machines.ask("stop", grace=30.0)
  assert (answer["state"], answer["code"], answer["left"]) == ("ended", 75, [])
  assert machines.poll()["output"] == f"{child}\nsaved\n"
  # It is gone once the first process of this machine has seen its end.
  wait_for(lambda: not pathlib.Path(f"/proc/{child}").exists())


def test_a_process_that_does_not_listen_is_killed_after_the_grace(machines: Machines):
  machines.start(
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('x', flush=True); time.sleep(600)"
  )
  wait_for(lambda: machines.poll()["output"])
  assert machines.ask("stop", grace=0.2)["code"] == -signal.SIGKILL


def test_a_process_whose_keeper_vanished_with_it_counts_as_lost(machines: Machines):
  machines.start("import time; time.sleep(600)")
  state = json.loads((machines.homes[0] / ".trialbook" / "jobs" / machines.name / "state.json").read_text())
  for name in ("keeper", "pid"):
    os.kill(state[name], signal.SIGKILL)
  assert machines.ended()["code"] == -signal.SIGKILL


def test_what_a_host_cannot_do_names_the_host_and_the_reason(machines: Machines, tmp_path: pathlib.Path):
  machines.ask("ship", archive_of({"tree/file": b"x"}).content)
  with pytest.raises(AgentError, match=r"host 0: .*No such file or directory: '/no/python'"):
    machines.ask("start", attempt="a", python="/no/python", arguments=[], variables={})
  with pytest.raises(AgentError, match="host 0: of no use"):
    machines.ask("prepare", lines=["echo of no use", "false", "echo never"])
  broken = SshHosts(
    [["sh", "-c", "echo what is this >&2; exit 3"], ["sh", "-c", "echo no route >&2; exit 255"]], ["a", "b"]
  )
  one, other = broken.ask([{"do": "look"}] * 2, 10.0)
  assert isinstance(one, AgentError)
  assert str(one) == "it answered 'look' with exit code 3: what is this"
  assert isinstance(other, SilentError)
  assert str(other) == "ssh failed: no route"
  (late,) = SshHosts([["sh", "-c", "sleep 600"]], ["a"]).ask([{"do": "look"}], 0.2)
  assert isinstance(late, SilentError)
  with pytest.raises(GivenUpError):
    SshHosts([["sh", "-c", "sleep 600"]], ["a"], lambda: True).ask([{"do": "look"}], 60.0)


def test_an_environment_is_made_once(machines: Machines):
  machines.ask("ship", archive_of({"tree/requirements.lock": b"x"}).content)
  lines = ["mkdir -p $ENVIRONMENT", "cat requirements.lock >> ../../made"]
  for _ in range(2):
    machines.ask("prepare", lines=lines)
  assert (machines.homes[0] / ".trialbook" / "jobs" / machines.name / "made").read_text() == "x"


def git(folder: pathlib.Path, *arguments: str) -> None:
  who = ("-c", "user.name=a", "-c", "user.email=a@b")
  subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)


def names(archive: Archive, folder: pathlib.Path) -> Sequence[str]:
  folder.mkdir()
  subprocess.run(["tar", "-xz"], cwd=folder, input=archive.content, check=True)
  paths = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
  return sorted(str(path.relative_to(folder)) for path in paths)


def test_the_working_tree_is_shipped_as_it_is_without_what_git_ignores_and_with_this_package(tmp_path: pathlib.Path):
  tree = tmp_path / "tree"
  (tree / "inner").mkdir(parents=True)
  git(tree, "init")
  for name, text in ((".gitignore", "*.big"), ("inner/a.py", "1"), ("gone.py", "1"), ("data.big", "1")):
    (tree / name).write_text(text)
  git(tree, "add", "--all")
  git(tree, "commit", "--message=all")
  (tree / "gone.py").unlink()
  (tree / "inner" / "a.py").write_text("2")
  (tree / "new.py").write_text("3")
  (tree / "link").symlink_to("inner")
  archive = pack(tree / "inner")
  assert archive.inside == "inner"
  found = names(archive, tmp_path / "unpacked")
  mine = [name for name in found if name.startswith("tree/")]
  assert mine == ["tree/.gitignore", "tree/inner/a.py", "tree/link", "tree/new.py"]
  assert (tmp_path / "unpacked" / "tree" / "inner" / "a.py").read_text() == "2"
  package = tmp_path / "unpacked" / "package" / "trialbook"
  assert (package / "launch" / "remote" / "agent.py").is_file()
  assert not [path for path in package.rglob("*") if path.is_symlink()]
  # By its content alone.
  os.utime(tree / "new.py", (1, 1))
  assert pack(tree).digest == archive.digest
  (tree / "new.py").write_text("4")
  assert pack(tree).digest != archive.digest


def test_a_folder_without_git_and_a_tree_that_is_too_large_are_refused(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  with pytest.raises(UserError, match="belongs to no working tree of git"):
    pack(tmp_path)
  git(tmp_path, "init")
  (tmp_path / "weights").write_bytes(bytes(2_000_000))
  monkeypatch.setattr(shipping, "MOST_BYTES", 1_000_000)
  with pytest.raises(UserError, match=r"The largest files are weights \(2 MB\)"):
    pack(tmp_path)


def test_a_job_has_one_launcher_and_the_one_that_was_taken_over_is_told(tmp_path: pathlib.Path):
  path, told = tmp_path / "launcher.json", []
  with leased(path, "job x", lambda: told.append(1), 0.2):
    with (
      pytest.raises(UserError, match=rf"job x is followed by process {os.getpid()} on "),
      leased(path, "job x", lambda: None, 0.2),
    ):
      pass
    assert not told
    # Another one that heard no beat, as when this machine slept.
    path.write_text(json.dumps({"launcher": "another", "process": 1, "machine": "elsewhere", "beat": 0}))
    wait_for(lambda: bool(told))
  assert json.loads(path.read_text())["launcher"] == "another"
  with leased(path, "job x", lambda: None, 0.1):
    assert json.loads(path.read_text())["process"] == os.getpid()
  assert not path.exists()
