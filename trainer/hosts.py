"""Hosts: the processes that train together, how they find each other, and how they wait for each other.

A job of one process needs none of this: without a coordinator in the environment and without a cluster that jax
knows, nothing is started. What is here goes through jax's coordination service and not through collectives, so it
works before the first program runs, has a time limit, and names who is missing.
"""

import dataclasses
import itertools
import json
import os
from collections.abc import Mapping
from typing import Any

import jax
from jax._src import distributed
from jax._src.clusters import ClusterEnv

from trainer.overrides import UserError

START_SECONDS = 900
"""How long hosts wait for each other at the start: a cold pod takes minutes, and not all hosts the same."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hosts:
  """This process among those that train together.

  Attributes:
    index: of this host, 0 to count - 1.
    count: number of hosts.
    found_by: how they found each other, in words.
  """

  index: int
  count: int
  found_by: str

  @property
  def is_lead(self) -> bool:
    """Whether this is the host that writes what belongs to all."""
    return self.index == 0


def initialize() -> Hosts:
  """Joins the other hosts, if there are any: by TRIALBOOK_COORDINATOR (with TRIALBOOK_HOST_COUNT, _HOST_INDEX and,
  on CPUs, _LOCAL_DEVICES), which `python -m launch local` sets; or by a cluster that jax detects (Slurm, Open MPI,
  TPU pods, Kubernetes); else this is the only host. To be called once, before jax is used.

  Raises:
    UserError: if the environment is incomplete, or hosts do not come within `START_SECONDS`.
  """
  environment = os.environ
  if devices := environment.get("TRIALBOOK_LOCAL_DEVICES"):
    jax.config.update("jax_num_cpu_devices", int(devices))
  address = environment.get("TRIALBOOK_COORDINATOR")
  if address is None:
    if not any(cluster.is_env_present() for cluster in ClusterEnv._cluster_types if not cluster.opt_in_only_method):
      return Hosts(index=0, count=1, found_by="itself")
    jax.distributed.initialize(initialization_timeout=START_SECONDS)
    return dataclasses.replace(current(), found_by="jax's cluster detection")
  try:
    count, index = int(environment["TRIALBOOK_HOST_COUNT"]), int(environment["TRIALBOOK_HOST_INDEX"])
  except (KeyError, ValueError) as error:
    raise UserError(f"TRIALBOOK_COORDINATOR is set, and not TRIALBOOK_HOST_COUNT and _HOST_INDEX: {error}") from None
  jax.distributed.initialize(
    address, count, index, initialization_timeout=START_SECONDS, cluster_detection_method="deactivate"
  )
  return Hosts(index=index, count=count, found_by=f"TRIALBOOK_COORDINATOR={address}")


def current() -> Hosts:
  """This process among the hosts, as `initialize` (or `jax.distributed.initialize`) left it; touches no device."""
  state = distributed.global_state
  if state.client is None:
    return Hosts(index=0, count=1, found_by="itself")
  return Hosts(index=state.process_id, count=state.num_processes or 1, found_by="jax.distributed")


_uses = itertools.count()


def barrier(name: str, seconds: float = START_SECONDS) -> None:
  """Returns when all hosts are here. All must pass the same barriers in the same order.

  Raises:
    RuntimeError: after `seconds`, naming the hosts that did not come.
  """
  client = distributed.global_state.client
  if client is not None:
    client.wait_at_barrier(f"trialbook/{next(_uses)}/{name}", round(1000 * seconds))


def check_agreement(facts: Mapping[str, Any], seconds: float = START_SECONDS) -> None:
  """Compares what must be the same on all hosts with the lead's.

  Raises:
    UserError: on every host, naming each fact that differs and on which host.
  """
  client, hosts = distributed.global_state.client, current()
  if client is None or hosts.count == 1:
    return
  use, wait = next(_uses), round(1000 * seconds)
  values = {name: json.dumps(value, sort_keys=True, default=str) for name, value in facts.items()}
  client.key_value_set(f"trialbook/{use}/agree/{hosts.index}", json.dumps(values))
  everyone = [
    json.loads(client.blocking_key_value_get(f"trialbook/{use}/agree/{host}", wait)) for host in range(hosts.count)
  ]
  differing = [
    f"host {host} disagrees on {name}: it has {other.get(name)}, host 0 has {everyone[0].get(name)}"
    for host, other in enumerate(everyone)
    for name in everyone[0]
    if other.get(name) != everyone[0].get(name)
  ]
  if differing:
    raise UserError(differing)
