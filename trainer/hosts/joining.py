"""Hosts: the processes that train together, how they find each other, wait for each other, and agree.

A job of one process needs none of this: without a coordinator and without a cluster that jax knows, nothing is
started. What is here goes through our own `Channel` and not through collectives, so it works before the first
program runs, has a time limit, and names the missing hosts.
"""

import concurrent.futures
import dataclasses
import hashlib
import json
import os
import pathlib
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax._src import xla_bridge
from jax._src.clusters import ClusterEnv

from trialbook.errors import UserError
from trialbook.trainer.config import Job
from trialbook.trainer.hosts.channel import Channel, Message, open_port, split

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
      while not (sees := _holds(pathlib.Path(place), text)) and time.monotonic() < deadline:
        time.sleep(0.1)
      blind = [host for host, answer in enumerate(self.exchange("the check of the shared workdir", sees)) if not answer]
    finally:
      if self.is_lead:
        (folder / name).unlink()
    if blind:
      raise AgreedError(
        f"the workdir is not shared: {', '.join(f'host {host}' for host in blind)} cannot see a file that host 0 has"
        f" written into {pathlib.Path(place).parent}; --workdir must lie on a file system that all hosts mount"
      )


def initialize(
  job: Job,
  hear: Callable[[Message], None],
  joining: Callable[[Hosts], None] = lambda hosts: None,
  *,
  coordinator: str | None = None,
  count: int | None = None,
  index: int | None = None,
) -> Hosts:
  """Join the other hosts, if there are any. Call it once, before jax is used.

  They are found by the arguments; else by TRIALBOOK_COORDINATOR, _HOST_COUNT and _HOST_INDEX in the environment,
  which `trialbook launch local` sets; else by a cluster that jax detects (Slurm, Open MPI, TPU pods, Kubernetes);
  else this is the only host. TRIALBOOK_LOCAL_DEVICES is the number of devices that a CPU is divided into.

  Args:
    job: how many hosts are expected, and how long they wait.
    hear: called with the messages that are sent to all hosts, see `Channel`.
    joining: called as soon as this host knows its index, before it receives a message; and when all are there.
    coordinator: address of the lead, "host:port".
    count: number of hosts.
    index: of this host.

  Raises:
    UserError: if what is given is incomplete or does not fit together, or the port is taken.
    TryAgainError: if hosts do not come within `job.startup_seconds`.
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
      _check_count(job, Hosts())
      return Hosts(patience=job.startup_seconds)
    found_by = "jax's cluster detection"
    coordinator, count, index, local_devices = ClusterEnv.auto_detect_unset_distributed_params(
      None, None, None, None, None, round(job.startup_seconds)
    )
    if environment.get("SLURM_NTASKS_PER_NODE") == "1":
      local_devices = None  # jax gives each task of a node one device; the only one has them all.
  if coordinator is None or count is None or index is None or not 0 <= index < count:
    raise UserError(f"hosts found by {found_by}: index {index} and count {count} do not name one of several hosts")
  _check_count(job, here := Hosts(index=index, count=count, found_by=found_by, patience=job.startup_seconds))
  if xla_bridge.backends_are_initialized():
    raise UserError(
      "jax's devices were used before the hosts joined, perhaps in the --config file; use them only afterwards"
    )
  if devices := environment.get("TRIALBOOK_LOCAL_DEVICES"):
    jax.config.update("jax_num_cpu_devices", int(devices))
  # SIGTERM is ours: jax would swallow it.
  jax.config.update("jax_enable_preemption_service", False)
  limits = {"seconds": job.startup_seconds, "silence": job.heartbeat_seconds}
  joining(here)
  if count > 1:
    here = dataclasses.replace(here, channel=Channel(coordinator, index, count, hear, **limits))
    joining(here)
  else:
    open_port(split(coordinator)[1]).close()
  jax.distributed.initialize(
    coordinator,
    count,
    index,
    local_device_ids=local_devices,
    cluster_detection_method="deactivate",
    initialization_timeout=round(job.startup_seconds),
    heartbeat_timeout_seconds=round(job.heartbeat_seconds),
  )
  return here


def _number(environment: Mapping[str, str], name: str) -> int:
  try:
    return int(environment[name])
  except (KeyError, ValueError):
    value = environment.get(name)
    raise UserError(f"TRIALBOOK_COORDINATOR is set, so {name} must be a number; it is {value!r}") from None


def _check_count(job: Job, here: Hosts) -> None:
  if job.hosts is not None and job.hosts != here.count:
    raise UserError(f"job.hosts = {job.hosts}, but the number of hosts is {here.count} (found by {here.found_by})")


def _holds(path: pathlib.Path, text: str) -> bool:
  try:
    return path.read_text() == text
  except OSError:
    return False
