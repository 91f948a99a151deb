"""The mesh of devices, and how arrays lie on it.

Batches are split over both axes, `data` and `fsdp`; large arrays of the state over `fsdp`; all else is replicated.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from trialbook.errors import UserError
from trialbook.models.batch_norm import DATA_AXES, ROWS, data_axes, num_replicas
from trialbook.trainer.checkpoints.array_names import flatten, map_named
from trialbook.trainer.config import MeshSettings

# All of them split batches; an axis that splits the work inside a layer would come last, among nearest neighbours.
AXES = DATA_AXES
SMALLEST_SPLIT = 2**14
"""Elements of the smallest array that is split: gathering a smaller one takes longer than its copies are worth."""


_ONE_COPY = MeshSettings()


def make_mesh(settings: MeshSettings = _ONE_COPY, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Make a mesh of all devices, in rows of `fsdp` neighbours.

  Each host's devices stay together, in the order of hosts: replica i, counted along `data` first, has slice i of
  a batch, so a host has the slice that it reads, and parameters are split inside a host if they can be.

  Raises:
    UserError: if `fsdp` does not divide the devices.
  """
  devices = sorted(jax.devices() if devices is None else devices, key=lambda device: device.process_index)
  count = len(devices)
  if count % settings.fsdp:
    fitting = ", ".join(str(size) for size in range(1, count + 1) if count % size == 0)
    raise UserError(f"mesh.fsdp = {settings.fsdp} does not divide the {count} devices; these do: {fitting}")
  return Mesh(np.asarray(devices).reshape(-1, settings.fsdp), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """Return the sharding of an array that is whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def state(mesh: Mesh, shapes: Any) -> Any:
  """Return where each array of a state lies, by its name and shape.

  Statistics that every replica has for itself (`ROWS`) lie on it. With `fsdp`, an array of `SMALLEST_SPLIT`
  elements or more is split over it along the largest axis that it divides, the first among equals; so what an
  optimizer or an average keeps of a parameter lies where the parameter does. All else is on every device.
  """

  def place(name: str, leaf: Any) -> NamedSharding:
    return batch(mesh) if is_rows(name) else NamedSharding(mesh, _split(leaf.shape, mesh.shape))

  return map_named(place, shapes)


def gathered(tree: Any) -> Any:
  """Return parameters or variables as a model needs them, for use inside jit: whole on every device but for `ROWS`.

  Without it XLA may gather activations instead, and split layers where batches should be. The gradient of what is
  gathered here is split again as soon as it is there. The mesh is that of the trace.
  """
  sizes = jax.sharding.get_abstract_mesh().shape
  if sizes.get("fsdp", 1) == 1:
    return tree

  def gather(name: str, array: Array) -> Array:
    return array if is_rows(name) else _gather(_split(array.shape, sizes), array)

  return map_named(gather, tree)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(spec: PartitionSpec, array: Array) -> Array:
  return jax.lax.with_sharding_constraint(array, PartitionSpec())


def _gather_forward(spec: PartitionSpec, array: Array) -> tuple[Array, None]:
  return _gather(spec, array), None


def _gather_backward(spec: PartitionSpec, _: None, gradient: Array) -> tuple[Array]:
  return (jax.lax.with_sharding_constraint(gradient, spec),)


_gather.defvjp(_gather_forward, _gather_backward)


def is_rows(name: str) -> bool:
  """Return whether the array of that name has a row for each replica."""
  return name.rpartition("/")[2] in ROWS


def _split(shape: tuple[int, ...], sizes: Mapping[str, int]) -> PartitionSpec:
  fitting = [axis for axis, size in enumerate(shape) if size % sizes["fsdp"] == 0]
  if sizes["fsdp"] == 1 or math.prod(shape) < SMALLEST_SPLIT or not fitting:
    return PartitionSpec()
  chosen = max(fitting, key=lambda axis: shape[axis])
  return PartitionSpec(*[None] * chosen, "fsdp")


def to_host(tree: Any, *, keep: bool) -> Any:
  """Return the arrays of a tree as whole NumPy arrays; all hosts take part.

  One array after the other is gathered, so the devices need room for the largest one only.

  Args:
    tree: of arrays on the mesh.
    keep: whether this host needs them; None is returned in place of each array if not.
  """

  def one(leaf: Array) -> np.ndarray | None:
    if leaf.is_fully_replicated or leaf.is_fully_addressable:
      return jax.device_get(leaf) if keep else None
    whole = multihost_utils.process_allgather(leaf, tiled=True)
    return whole if keep else None

  return jax.tree.map(one, tree)


def parts(batch: Mapping[str, Array], count: int) -> dict[str, Array]:
  """Return a batch as arrays [count, examples of a part, ...], for use inside jit.

  Each part has the same number of examples of every replica.
  """
  replicas = num_replicas()

  def cut(x: Array) -> Array:
    # Within each replica, so that nothing moves between devices.
    x = x.reshape(replicas, count, -1, *x.shape[1:]).swapaxes(0, 1)
    if axes := data_axes():
      rest = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 2)
      x = jax.lax.with_sharding_constraint(x, PartitionSpec(None, axes, *rest))
    return x.reshape(count, -1, *x.shape[3:])

  return {key: cut(value) for key, value in batch.items()}


def bytes_per_device(mesh: Mesh, shapes: Any) -> int:
  """Return the bytes of a state on each device."""
  return sum(array.here for array in _placed(mesh, shapes))


def table(mesh: Mesh, shapes: Any) -> list[str]:
  """Return lines that show a person how a state lies: a row for each part of it and way to lie, the largest first."""
  arrays = [array for array in _placed(mesh, shapes) if array.name != "step"]
  groups: dict[tuple[str, str], list[_Placed]] = {}
  for array in arrays:
    groups.setdefault((array.name.partition("/")[0], array.lies), []).append(array)
  largest_first = sorted(groups.items(), key=lambda group: -sum(array.total for array in group[1]))
  rows = [("part", "placed", "arrays", "MB", "MB a device", "largest")]
  for (part, lies), members in [*largest_first, (("all", ""), arrays)]:
    total, here = (f"{sum(sizes) / 1e6:,.2f}" for sizes in zip(*((a.total, a.here) for a in members), strict=True))
    largest = max(members, key=lambda array: array.total)
    rows.append((part, lies, f"{len(members):,}", total, here, f"{largest.name} {list(largest.shape)}" if lies else ""))
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  sizes = ", ".join(f"{axis} {size}" for axis, size in mesh.shape.items())
  return [
    f"mesh of {mesh.size} devices: {sizes}",
    *("  ".join(f"{cell:{'<<>>><'[i]}{widths[i]}}" for i, cell in enumerate(row)).rstrip() for row in rows),
  ]


class _Placed(NamedTuple):
  """An array of a state: how it lies in words, and its bytes in all and on each device."""

  name: str
  shape: tuple[int, ...]
  lies: str
  total: int
  here: int


def _placed(mesh: Mesh, shapes: Any) -> list[_Placed]:
  arrays, places = flatten(shapes), flatten(state(mesh, shapes))

  def one(name: str, leaf: Any, place: NamedSharding) -> _Placed:
    axes = [axis for entry in place.spec if entry is not None for axis in np.atleast_1d(entry)]
    total, here = (math.prod(s) * leaf.dtype.itemsize for s in (leaf.shape, place.shard_shape(leaf.shape)))
    return _Placed(name, leaf.shape, f"split over {', '.join(axes)}" if axes else "on every device", total, here)

  return [one(name, leaf, places[name]) for name, leaf in arrays.items()]


def put_batch(mesh: Mesh, host_batch: Mapping[str, np.ndarray], paths: Sequence[str] | None = None) -> dict[str, Array]:
  """Put this host's slice of a global batch on its devices, as parts of global arrays; of `paths` only, if given."""
  if paths is not None:
    host_batch = {path: host_batch[path] for path in paths}
  if mesh.is_multi_process:
    return {key: jax.make_array_from_process_local_data(batch(mesh), value) for key, value in host_batch.items()}
  return jax.device_put(dict(host_batch), batch(mesh))


def put_replicated(mesh: Mesh, values: Mapping[str, np.ndarray]) -> dict[str, Array]:
  """Put the same values on every device; each host has them."""
  if not mesh.is_multi_process:
    return jax.device_put(dict(values), replicated(mesh))
  return {
    name: jax.make_array_from_callback(value.shape, replicated(mesh), value.__getitem__)
    for name, value in values.items()
  }


def batch(mesh: Mesh) -> NamedSharding:
  """Return the sharding that splits the leading axis over the replicas."""
  return NamedSharding(mesh, PartitionSpec(DATA_AXES))
