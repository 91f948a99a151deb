"""Hosts: the processes that train together, how they find each other, wait for each other, and agree.

A job of one process needs none of this: without a coordinator and without a cluster that jax knows, nothing is
started. What is here goes through our own `Channel` and not through collectives, so it works before the first
program runs, has a time limit, and names the missing hosts.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from jax._src import config as jax_config
from jax._src import distributed, xla_bridge
from jax._src.clusters import ClusterEnv
from jax._src.lib import _jax  # pyright: ignore[reportPrivateImportUsage]

from trialbook.errors import TryAgainError, UserError
from trialbook.paths import as_path
from trialbook.trainer.config import Job
from trialbook.trainer.hosts import addresses
from trialbook.trainer.hosts.channel import Channel
from trialbook.trainer.hosts.connection import Message
from trialbook.trainer.hosts.meeting import meet
from trialbook.trainer.hosts.secret import read_secret

# jax ends a process with 134, as a bug would, when it misses the heartbeats of a machine. Ours has seen that it is lost
# before, at any setting, and has ended this process with 75.
_JAX_HEARTBEATS, _JAX_MARGIN_SECONDS = 2.0, 60.0
# How long a file that the lead wrote may take to be seen by others: network file systems cache.
_SHARED_SECONDS = 30.0


class AgreedError(UserError):
  """A mistake that all hosts have found together, so that none has to report it to the others."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hosts:
  """This process among those that train together.

  Attributes:
    index: of this host, 0 to count - 1.
    count: number of hosts.
    found_by: how they found each other, in words.
    patience: seconds that hosts wait for each other.
    channel: to the others, if there are any.
  """

  index: int = 0
  count: int = 1
  found_by: str = "itself"
  patience: float = 900.0
  channel: Channel | None = None

  @property
  def is_lead(self) -> bool:
    """Return whether this is the host that writes what belongs to all."""
    return self.index == 0

  def gather(self, name: str, value: Any, seconds: float | None = None) -> "concurrent.futures.Future[list[Any]]":
    """Return the values (JSON) of all hosts, in their order; see `Channel.gather`. `seconds` None: `patience`."""
    if self.channel is not None:
      return self.channel.gather(name, value, self.patience if seconds is None else seconds)
    future: concurrent.futures.Future[list[Any]] = concurrent.futures.Future()
    future.set_result([value])
    return future

  def exchange(self, name: str, value: Any, seconds: float | None = None) -> list[Any]:
    """Gather the values of all hosts and wait for them. A host that does not take part in time ends the job."""
    return self.gather(name, value, seconds).result()

  def from_lead(self, name: str, value: Any) -> Any:
    """Return the lead's value, for what each host would otherwise read from files that may reach it late."""
    return self.exchange(name, value if self.is_lead else None)[0]

  def barrier(self, name: str, seconds: float | None = None) -> None:
    """Return when all hosts are here."""
    self.exchange(name, None, seconds)

  def agree(self, facts: Mapping[str, Any]) -> None:
    """Compare what must be the same on all hosts with the lead's.

    Raises:
      AgreedError: on every host, naming each fact that differs and on which host.
    """
    values = {name: json.dumps(value, sort_keys=True, default=str) for name, value in facts.items()}
    digests = self.exchange("agreement", hashlib.sha256(json.dumps(values).encode()).hexdigest())
    if len(set(digests)) == 1:
      return
    differs = self.is_lead or digests[self.index] != digests[0]
    everyone = self.exchange("the list of differences", values if differs else {})
    lead = everyone[0]
    problems = [
      f"host {host} disagrees on {name}: it has {other.get(name, 'none')}, host 0 has {lead.get(name, 'none')}"
      for host, other in enumerate(everyone)
      if other
      for name in {**lead, **other}
      if other.get(name) != lead.get(name)
    ]
    raise AgreedError(problems)

  def check_shared(self, folder: pathlib.Path) -> None:
    """Check that all hosts see the same folder, by a file that the lead writes into it or its nearest ancestor.

    Raises:
      AgreedError: naming the hosts that do not.
    """
    if self.count == 1:
      return
    while not folder.is_dir():
      folder = folder.parent
    name, text = f".shared-{secrets.token_hex(8)}", secrets.token_hex(16)
    if self.is_lead:
      (folder / name).write_text(text)
    try:
      place, text = self.exchange("a file in the workdir", [str(folder / name), text])[0]
      deadline = time.monotonic() + _SHARED_SECONDS
      while not (sees := _holds(as_path(place), text)) and time.monotonic() < deadline:
        time.sleep(0.1)
      blind = [host for host, answer in enumerate(self.exchange("the check of the shared workdir", sees)) if not answer]
    finally:
      if self.is_lead:
        (folder / name).unlink()
    if blind:
      raise AgreedError(
        f"the workdir is not shared: {', '.join(f'host {host}' for host in blind)} cannot see a file that host 0 has"
        f" written into {as_path(place).parent}; --workdir must lie on a file system that all hosts mount"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Place:
  """The place of this process in a job.

  Attributes:
    coordinator: address of the lead, "host:port"; None: there is no job, this is the only host.
    count: number of hosts.
    index: of this host.
    found_by: how it was found, in words.
    local_devices: which devices of the machine are this host's; None: all.
  """

  coordinator: str | None = None
  count: int = 1
  index: int = 0
  found_by: str = "itself"
  local_devices: Sequence[int] | None = None


def find_place(
  job: Job, *, coordinator: str | None = None, count: int | None = None, index: int | None = None
) -> Place:
  """Return this process's place, by the arguments; else by TRIALBOOK_COORDINATOR, _HOST_COUNT and _HOST_INDEX in the
  environment, which `trialbook launch local` sets; else by a cluster that jax detects (Slurm, Open MPI, TPU pods,
  Kubernetes); else it is the only host.

  Raises:
    UserError: if what is given is incomplete or does not fit together.
  """
  environment = os.environ
  found_by = f"--coordinator={coordinator}"
  if coordinator is None and "TRIALBOOK_COORDINATOR" in environment:
    coordinator = environment["TRIALBOOK_COORDINATOR"]
    found_by = f"TRIALBOOK_COORDINATOR={coordinator}"
    count, index = (_number(environment, f"TRIALBOOK_HOST_{name}") for name in ("COUNT", "INDEX"))
  elif coordinator is None and (count, index) != (None, None):
    raise UserError("--host_count and --host_index need --coordinator=HOST:PORT, an address of host 0")
  local_devices = None
  if coordinator is None:
    if not any(cluster.is_env_present() for cluster in ClusterEnv._cluster_types if not cluster.opt_in_only_method):
      return Place()
    found_by = "jax's cluster detection"
    coordinator, count, index, local_devices = ClusterEnv.auto_detect_unset_distributed_params(
      None, None, None, None, None, round(job.startup_seconds)
    )
    if environment.get("SLURM_NTASKS_PER_NODE") == "1":
      local_devices = None  # jax gives each task of a node one device; the only one has them all.
  if coordinator is None or count is None or index is None or not 0 <= index < count:
    raise UserError(f"hosts found by {found_by}: index {index} and count {count} do not name one of several hosts")
  addresses.split(coordinator)
  return Place(coordinator=coordinator, count=count, index=index, found_by=found_by, local_devices=local_devices)


def initialize(
  job: Job,
  place: Place,
  hear: Callable[[Message], None],
  joining: Callable[[Hosts], None] = lambda hosts: None,
  *,
  secret_file: pathlib.Path | None = None,
  open_job: bool = False,
) -> Hosts:
  """Join the other hosts, if there are any. Call it once, before jax is used.

  TRIALBOOK_LOCAL_DEVICES in the environment is the number of devices that a CPU is divided into.

  Args:
    job: how many hosts are expected, and how long they wait.
    place: of this process.
    hear: called with the messages that are sent to all hosts, see `Channel`.
    joining: called as soon as this host knows its index, before it receives a message; and when all are there.
    secret_file: holds the job's secret; see `read_secret`.
    open_job: whether the hosts may do without a secret.

  Raises:
    UserError: if the place is not what the job expects, the port is taken, or there is no secret.
    TryAgainError: if hosts do not come within `job.startup_seconds`.
  """
  here = Hosts(index=place.index, count=place.count, found_by=place.found_by, patience=job.startup_seconds)
  if job.hosts is not None and job.hosts != here.count:
    raise UserError(f"job.hosts = {job.hosts}, but the number of hosts is {here.count} (found by {here.found_by})")
  if place.coordinator is None:
    return here
  if xla_bridge.backends_are_initialized():
    raise UserError(
      "jax's devices were used before the hosts joined, perhaps in the --config file; use them only afterwards"
    )
  if devices := os.environ.get("TRIALBOOK_LOCAL_DEVICES"):
    jax.config.update("jax_num_cpu_devices", int(devices))
  # SIGTERM is ours: jax would swallow it.
  jax.config.update("jax_enable_preemption_service", False)
  joining(here)
  if here.count > 1:
    channel = Channel(
      place.coordinator,
      here.index,
      here.count,
      hear,
      secret=read_secret(secret_file, is_open=open_job),
      seconds=job.startup_seconds,
      silence=job.heartbeat_seconds,
    )
    here = dataclasses.replace(here, channel=channel)
    joining(here)
    coordinator = channel.coordinator
    _collect_at(channel.own_address)
  else:
    with addresses.open_port(place.coordinator) as listening:
      coordinator = addresses.join(*listening.getsockname()[:2])
  jax.distributed.initialize(
    coordinator,
    here.count,
    here.index,
    local_device_ids=place.local_devices,
    cluster_detection_method="deactivate",
    initialization_timeout=round(job.startup_seconds),
    heartbeat_timeout_seconds=round(_JAX_HEARTBEATS * job.heartbeat_seconds + _JAX_MARGIN_SECONDS),
    # Else it listens on all interfaces, and it asks nobody for a secret.
    coordinator_bind_address=coordinator,
  )
  return here


def report_problem(
  job: Job, place: Place, problem: str, *, secret_file: pathlib.Path | None = None, open_job: bool = False
) -> None:
  """End the job on the other hosts, for a mistake of this one's, as soon as all are there, or after 30 s."""
  if place.count > 1 and place.coordinator is not None:
    # What is wrong with the meeting matters less than the problem, which is known already.
    with contextlib.suppress(UserError, TryAgainError):
      secret = read_secret(secret_file, is_open=open_job)
      meet(place.coordinator, place.index, place.count, secret, job.startup_seconds, problem)


def _collect_at(address: str) -> None:
  """Let the collectives of CPUs use this address of the machine.

  By default they use that of the machine's own name, which many systems resolve to a loopback address.
  """

  def make_client() -> Any:
    collectives = _jax.make_gloo_tcp_collectives(distributed.global_state.client, hostname=address)
    return xla_bridge.make_cpu_client(collectives)

  if jax_config.cpu_collectives_implementation.value == "gloo":
    xla_bridge.register_backend_factory("cpu", make_client, priority=0, fail_quietly=False)


def _number(environment: Mapping[str, str], name: str) -> int:
  try:
    return int(environment[name])
  except (KeyError, ValueError):
    value = environment.get(name)
    raise UserError(f"TRIALBOOK_COORDINATOR is set, so {name} must be a number; it is {value!r}") from None


def _holds(path: pathlib.Path, text: str) -> bool:
  try:
    return path.read_text() == text
  except OSError:
    return False
