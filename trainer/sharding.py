"""The mesh of devices, and what lies on it how: batches are split over `data`, everything else is replicated."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

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


def batch(mesh: Mesh) -> NamedSharding:
  """The leading axis split over the replicas."""
  return NamedSharding(mesh, PartitionSpec("data"))
