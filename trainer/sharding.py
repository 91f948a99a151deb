"""The mesh of devices, and what lies on it how: batches are split over `data`, everything else is replicated."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from models.batch_norm import ROWS
from trainer.names import map_named

AXES = ("data",)


def make_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
  """All devices in one row along `data`."""
  devices = jax.devices() if devices is None else devices
  return Mesh(np.asarray(devices), AXES, axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
  """The same array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def state(mesh: Mesh, shapes: Any) -> Any:
  """Where each array of a state lies: statistics that every replica has for itself on it, all others everywhere."""
  rows = NamedSharding(mesh, PartitionSpec("data"))
  return map_named(lambda name, _: rows if name.rpartition("/")[2] in ROWS else replicated(mesh), shapes)


def put_batch(mesh: Mesh, host_batch: Mapping[str, np.ndarray]) -> dict[str, Array]:
  """This host's slice of a global batch on its devices, as part of the global arrays."""
  if mesh.is_multi_process:
    return {key: jax.make_array_from_process_local_data(batch(mesh), value) for key, value in host_batch.items()}
  return jax.device_put(dict(host_batch), batch(mesh))


def put_replicated(mesh: Mesh, values: Mapping[str, np.ndarray]) -> dict[str, Array]:
  """The same values on every device; each host brings them along."""
  if not mesh.is_multi_process:
    return jax.device_put(dict(values), replicated(mesh))
  return {
    name: jax.make_array_from_callback(value.shape, replicated(mesh), value.__getitem__)
    for name, value in values.items()
  }


def batch(mesh: Mesh) -> NamedSharding:
  """The leading axis split over the replicas."""
  return NamedSharding(mesh, PartitionSpec("data"))
