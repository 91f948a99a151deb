"""The mesh of devices, and how arrays lie on it.

Batches are split over `data` and `fsdp`; large arrays of the state over `fsdp`, and those that the model's rules name
over `tensor`; all else is replicated.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from trialbook.errors import UserError
from trialbook.input_pipeline import Slices
from trialbook.models import layout
from trialbook.models.batch_norm import ROWS
from trialbook.models.layout import AXES, DATA_AXES, TENSOR, Placement, data_axes, num_replicas
from trialbook.trainer.checkpoints.array_names import flatten, map_named
from trialbook.trainer.config import MeshSettings

Placements = Mapping[str, Placement]
"""Placements of parameters, by name."""
_NONE: Placements = MappingProxyType({})
_ONE_COPY = MeshSettings()
# What an optimizer or an average keeps of a parameter has a name that ends with the parameter's.
_OF_PARAMETERS = ("params/", "average/params/", "opt_state/")


def make_mesh(settings: MeshSettings = _ONE_COPY, devices: Sequence[jax.Device] | None = None) -> Mesh:
  """Make a mesh of all devices, in the order of the network between them.

  On TPUs, neighbours along an axis of the mesh are neighbours in the torus, and `data` goes through the slices first.
  Elsewhere the devices of a host stay together, in the order of hosts.

  Raises:
    UserError: if `fsdp` and `tensor` do not divide the devices, or those of a slice.
  """
  devices = list(jax.devices() if devices is None else devices)
  _check_fit(settings, len(devices), "devices")
  sizes = [len(devices) // (settings.fsdp * settings.tensor), settings.fsdp, settings.tensor]
  if len(devices) > 1 and devices[0].platform == "tpu":
    ordered = _by_torus(settings, sizes, devices)
  else:
    ordered = np.asarray(sorted(devices, key=lambda device: device.process_index)).reshape(sizes)
  return Mesh(ordered, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _check_fit(settings: MeshSettings, count: int, what: str) -> None:
  """Raise UserError if `fsdp` and `tensor` together do not divide a number of devices."""
  both = settings.fsdp * settings.tensor
  if count % both == 0:
    return
  fitting = [str(size) for size in range(1, count + 1) if count % (size * settings.tensor) == 0]
  if settings.tensor == 1:
    raise UserError(f"mesh.fsdp = {settings.fsdp} does not divide the {count} {what}; these do: {', '.join(fitting)}")
  found = f"mesh.fsdp = {settings.fsdp} times mesh.tensor = {settings.tensor} does not divide the {count} {what}"
  if fitting:
    raise UserError(f"{found}; with this mesh.tensor, these mesh.fsdp do: {', '.join(fitting)}")
  alone = [str(size) for size in range(1, count + 1) if count % size == 0]
  raise UserError(f"{found}; mesh.tensor must divide them itself: {', '.join(alone)}")


def _by_torus(settings: MeshSettings, sizes: list[int], devices: list[jax.Device]) -> np.ndarray:
  """Return TPU devices [data, fsdp, tensor], so that a step along an axis is a step in the torus, if it can be."""
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  _check_fit(settings, len(devices) // slices, f"devices of each of {slices} slices")
  inside = [sizes[0] // slices, *sizes[1:]]

  def order(split_axes: bool) -> np.ndarray:
    if slices == 1:
      return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=split_axes)
    return mesh_utils.create_hybrid_device_mesh(inside, [slices, 1, 1], devices, allow_split_physical_axes=split_axes)

  try:
    return order(split_axes=False)
  except NotImplementedError:
    # Sizes that no axes of the torus have.
    return order(split_axes=True)


def replicas(mesh: Mesh) -> int:
  """Return over how many devices, or groups of devices that `tensor` connects, a batch is split."""
  return math.prod(mesh.shape[axis] for axis in DATA_AXES)


def host_slices(mesh: Mesh) -> Slices:
  """Return the slices of each batch that this host's devices hold. Hosts that `tensor` connects hold the same."""
  if not mesh.is_multi_process:
    return Slices()
  return Slices(_slices(batch(mesh).addressable_devices_indices_map((replicas(mesh),))), replicas(mesh))


def hosts_share_slices(mesh: Mesh) -> bool:
  """Return whether several hosts hold the same slice of a batch."""
  of_host: dict[int, dict[Any, Any]] = {}
  for device, index in batch(mesh).devices_indices_map((replicas(mesh),)).items():
    of_host.setdefault(device.process_index, {})[device] = index
  return sum(len(_slices(held)) for held in of_host.values()) > replicas(mesh)


def _slices(held: Mapping[Any, Any]) -> tuple[int, ...]:
  """Return the numbers of the slices that devices hold, each once, in order."""
  return tuple(sorted({index[0].start or 0 for index in held.values()}))


def replicated(mesh: Mesh) -> NamedSharding:
  """Return the sharding of an array that is whole on every device."""
  return NamedSharding(mesh, PartitionSpec())


def state(mesh: Mesh, shapes: Any, placements: Placements = _NONE) -> Any:
  """Return where each array of a state lies, by its name and shape.

  Statistics that every replica has for itself (`ROWS`) lie on it. Parameters are split by `layout.split`, and what an
  optimizer or an average keeps of a parameter lies where the parameter does, if it has its shape. Other arrays are
  split in the same way.

  Args:
    mesh: of the devices.
    shapes: the state.
    placements: those of parameters of which the model says more than their shapes do.
  """

  params = flatten(shapes.get("params", {}))

  def place(name: str, leaf: Any) -> NamedSharding:
    if is_rows(name):
      return batch(mesh)
    parameter = _parameter(name, placements)
    placement = placements.get(parameter, Placement())
    if parameter in params and params[parameter].shape != leaf.shape:
      placement = Placement()
    return NamedSharding(mesh, layout.split(leaf.shape, placement, mesh.shape))

  return map_named(place, shapes)


def _parameter(name: str, parameters: Collection[str]) -> str:
  """Return the parameter to which an array of a state belongs, the longest name with which its own ends; "": none."""
  steps = name.split("/") if name.startswith(_OF_PARAMETERS) else []
  ends = ("/".join(steps[start:]) for start in range(1, len(steps)))
  return next((end for end in ends if end in parameters), "")


def gathered(tree: Any, placements: Placements = _NONE) -> Any:
  """Return parameters or variables as a model needs them, for use inside jit: `layout.gathered`, but for `ROWS`.

  Stacks gather what they need by themselves. The mesh is that of the trace.
  """

  def gather(name: str, array: Array) -> Array:
    placement = placements.get(name, Placement())
    return array if is_rows(name) or placement.stacked else layout.gathered(array, placement)

  return map_named(gather, tree)


def warnings(mesh: Mesh, params: Any, placements: Placements, dtype: str) -> list[str]:
  """Return what splitting parameters costs, and would not have to.

  Args:
    mesh: of the devices.
    params: shapes and shardings.
    placements: of the parameters.
    dtype: in which they are gathered.
  """
  kept = sum(
    math.prod(leaf.shape) * np.dtype(dtype).itemsize // (mesh.shape[TENSOR] if TENSOR in leaf.sharding.spec else 1)
    for name, leaf in flatten(params).items()
    if placements[name].kept and "fsdp" in leaf.sharding.spec
  )
  text = (
    f"mesh.fsdp = {mesh.shape['fsdp']}, but the model computes nothing again in the backward pass: each device keeps"
    f" the gathered parameters of all layers, about {kept / 2**30:.3g} GiB (estimated from their shapes). Set"
    " model.remat=full, dots, names or offload."
  )
  return [text] if kept else []


def is_rows(name: str) -> bool:
  """Return whether the array of that name has a row for each replica."""
  return name.rpartition("/")[2] in ROWS


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


def bytes_per_device(template: Any) -> int:
  """Return the bytes of a state on each device, by its shapes and shardings."""
  return sum(array.here for array in _placed(template))


def table(mesh: Mesh, template: Any) -> list[str]:
  """Return lines that show a person how a state lies: a row for each part of it and way to lie, the largest first."""
  arrays = [array for array in _placed(template) if array.name != "step"]
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


def _placed(template: Any) -> list[_Placed]:
  def one(name: str, leaf: Any) -> _Placed:
    axes = [axis for entry in leaf.sharding.spec if entry is not None for axis in np.atleast_1d(entry)]
    total, here = (math.prod(s) * leaf.dtype.itemsize for s in (leaf.shape, leaf.sharding.shard_shape(leaf.shape)))
    return _Placed(name, leaf.shape, f"split over {', '.join(axes)}" if axes else "on every device", total, here)

  return [one(name, leaf) for name, leaf in flatten(template).items()]


def put_batch(mesh: Mesh, host_batch: Mapping[str, np.ndarray], paths: Sequence[str] | None = None) -> dict[str, Array]:
  """Put this host's slices of a global batch on its devices, as parts of global arrays; of `paths` only, if given."""
  if paths is not None:
    host_batch = {path: host_batch[path] for path in paths}
  if not mesh.is_multi_process:
    return jax.device_put(dict(host_batch), batch(mesh))
  slices = host_slices(mesh)

  def put(value: np.ndarray) -> Array:
    size = len(value) // len(slices.mine)

    def held(index: tuple[slice, ...]) -> np.ndarray:
      start = slices.mine.index((index[0].start or 0) // size) * size
      return value[start : start + size]

    return jax.make_array_from_callback((size * slices.count, *value.shape[1:]), batch(mesh), held)

  return {key: put(value) for key, value in host_batch.items()}


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
