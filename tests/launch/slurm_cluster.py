"""A Slurm cluster on this machine: a controller and two nodes, for as long as a `with` lasts.

Needs root and Debian's packages slurm-wlm and munge; touches nothing outside of its folder.
"""

import contextlib
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator

from scripted import wait_for

from trialbook.launch.local import free_port

NODES = ("127.0.0.1", "127.0.0.2")
"""Names that resolve by themselves: hosts look for the lead by the name of its node."""

# cred_expire is also how long a job that was queued again waits; below 5 Slurm takes 120.
_CONFIG = """
ClusterName=tests
SlurmctldHost={machine}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=3
KillWait=15
MessageTimeout=5
BatchStartTimeout=5
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0,batch_sched_delay=0
PartitionName=main Nodes=ALL Default=YES
"""
_NODE = "NodeName={name} NodeHostname={machine} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=64000\n"


def missing() -> str:
  """What this machine lacks for a cluster; empty if nothing."""
  programs = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
  if programs:
    return f"no {', '.join(programs)}: apt-get install --no-install-recommends slurm-wlm munge"
  return "Slurm's daemons need root" if os.getuid() else ""


class SlurmCluster:
  """The daemons of a cluster, and what can happen to them."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._daemons: dict[str, subprocess.Popen[bytes]] = {}
    machine = socket.gethostname().partition(".")[0]
    self.config = folder / "slurm.conf"
    self.config.write_text(
      _CONFIG.format(machine=machine, folder=folder, port=free_port())
      + "".join(_NODE.format(name=name, machine=machine, port=free_port()) for name in NODES)
    )
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))

  def start(self) -> None:
    """Starts all daemons; returns when the nodes are ready."""
    places = [f"--{name}-file={self._folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
    self._start("munged", "--foreground", "--force", f"--socket={self._folder}/munge.socket", *places)
    wait_for((self._folder / "munge.socket").exists)
    self.start_controller()
    for node in NODES:
      self.start_node(node)
    wait_for(lambda: self.ask("sinfo", "-hN", "-o%t").split() == ["idle"] * len(NODES))

  def start_controller(self) -> None:
    """Starts the controller with what it knew before; returns when it answers."""
    self._start("slurmctld", "-D")
    wait_for(lambda: subprocess.run(["scontrol", "ping"], env=self._environment, capture_output=True).returncode == 0)

  def stop_controller(self) -> None:
    """Stops the controller as for a restart."""
    self._daemons["slurmctld"].terminate()
    self._daemons["slurmctld"].wait()

  def start_node(self, node: str) -> None:
    """Starts a node, again if it was killed."""
    self._start("slurmd", "-D", "-N", node)

  def kill_node(self, node: str) -> None:
    """What the death of a machine does: its processes, and nobody who could tell of it."""
    self._daemons[f"slurmd {node}"].kill()
    self._daemons[f"slurmd {node}"].wait()
    ran_here = [pid for pid, here in self._jobs().items() if here == node]
    keepers = [int(parent) for pid in ran_here if _command(parent := _parent(pid)).startswith("slurmstepd")]
    for pid in [*keepers, *ran_here]:
      _kill(pid)

  def ask(self, *command: str) -> str:
    """What one of Slurm's programs prints."""
    return subprocess.run(command, env=self._environment, check=True, capture_output=True, text=True).stdout

  def stop(self) -> None:
    """Leaves nothing that runs, neither daemons nor jobs."""
    for daemon in reversed(self._daemons.values()):
      daemon.kill()
      daemon.wait()
    for pid in [*self._jobs(), *self._keepers()]:
      _kill(pid)

  @property
  def _environment(self) -> dict[str, str]:
    return {**os.environ, "SLURM_CONF": str(self.config)}

  def _start(self, program: str, *arguments: str) -> None:
    name = " ".join([program, *(argument for argument in arguments if argument in NODES)])
    with (self._folder / f"{name}.output").open("ab") as output:
      self._daemons[name] = subprocess.Popen(
        [program, *arguments],
        cwd=self._folder,
        env=self._environment,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
      )

  def _jobs(self) -> dict[int, str]:
    """Ids of the processes of jobs, and on which node each is."""
    found = {}
    for pid in _processes():
      variables = dict(
        variable.split("=", 1) for variable in _read(f"/proc/{pid}/environ").split("\0") if "=" in variable
      )
      if variables.get("SLURM_CONF") == str(self.config) and "SLURMD_NODENAME" in variables:
        found[pid] = variables["SLURMD_NODENAME"]
    return found

  def _keepers(self) -> list[int]:
    """Slurm's own processes beside those of jobs; they hide their environment behind what `ps` shows."""
    return [pid for pid in _processes() if _command(pid).startswith("slurmstepd") and _is_in(pid, self._folder)]


@contextlib.contextmanager
def slurm_cluster() -> Iterator[SlurmCluster]:
  """Inside, a cluster runs, and is the one that Slurm's programs find."""
  before = os.environ.get("SLURM_CONF")
  # pytest's own folders have names that are too long for a socket.
  with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder:
    cluster = SlurmCluster(pathlib.Path(folder))
    os.environ["SLURM_CONF"] = str(cluster.config)
    try:
      cluster.start()
      yield cluster
    finally:
      cluster.stop()
      if before is None:
        del os.environ["SLURM_CONF"]
      else:
        os.environ["SLURM_CONF"] = before


def _processes() -> list[int]:
  return [int(path.name) for path in pathlib.Path("/proc").iterdir() if path.name.isdigit()]


def _command(pid: int) -> str:
  return _read(f"/proc/{pid}/cmdline")


def _parent(pid: int) -> int:
  # The name before it, in parentheses, may hold anything.
  return int((_read(f"/proc/{pid}/stat").rpartition(")")[2].split() or [0, 0])[1])


def _read(path: str) -> str:
  try:
    return pathlib.Path(path).read_bytes().decode(errors="replace")
  except OSError:
    return ""


def _is_in(pid: int, folder: pathlib.Path) -> bool:
  try:
    return pathlib.Path(f"/proc/{pid}/cwd").readlink().is_relative_to(folder)
  except OSError:
    return False


def _kill(pid: int) -> None:
  with contextlib.suppress(ProcessLookupError):
    os.kill(pid, signal.SIGKILL)
