"""How arrays lie on a mesh: which of its axes split a parameter, and how a layer gathers what it needs of one.

The mesh is that of the trace (`with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):`). Without one, nothing here
changes an array.
"""

import functools
import math
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array

DATA_AXES = ("data", "fsdp")
"""The mesh axes that may split the leading axis of a batch, the major first."""
TENSOR = "tensor"
"""The mesh axis that splits the work inside a layer."""
AXES = (*DATA_AXES, TENSOR)
"""The axes of a mesh, those with the most traffic last, so that they get the nearest neighbours."""
SMALLEST_SPLIT = 2**14
"""Elements of the smallest array that `fsdp` splits: gathering a smaller one takes longer than its copies are worth."""
PLACEMENT = "placement"
"""Name of the metadata of an `nnx.Param` that is its `Placement`."""

Axes = tuple[str | None, ...]
"""The mesh axis that splits each axis of an array, from the first; None: none."""


class Placement(NamedTuple):
  """How a parameter is to be split, whatever the sizes of the mesh.

  Attributes:
    axes: of the mesh, for the first axes of the parameter. `fsdp` splits one of the others if it is not among them.
    stacked: whether a first axis, which `axes` leaves out, counts the layers of a `Stack`. It is never split.
    kept: whether the backward pass keeps what the stack gathered of it.
    dtype: of the computation, to which the stack casts its layers; None: they stay as they are.
  """

  axes: Axes = ()
  stacked: bool = False
  kept: bool = False
  dtype: str | None = None


def split(shape: tuple[int, ...], placement: Placement, sizes: Mapping[str, int]) -> PartitionSpec:
  """Return how a parameter lies on a mesh with axes of these sizes.

  If nothing else is said, `fsdp` splits an array of `SMALLEST_SPLIT` elements or more along the largest axis that it
  divides, the first among equals. In a stack, these are the elements of a layer.
  """
  if placement.stacked:
    spec = split(shape[1:], placement._replace(stacked=False), sizes)
    return PartitionSpec(None, *spec) if len(spec) else spec
  named = [axis if axis is not None and sizes.get(axis, 1) > 1 else None for axis in placement.axes]
  spec = [*named, *[None] * (len(shape) - len(named))]
  fsdp = sizes.get("fsdp", 1)
  if fsdp > 1 and "fsdp" not in spec and math.prod(shape) >= SMALLEST_SPLIT:
    fitting = [axis for axis, size in enumerate(shape) if spec[axis] is None and size % fsdp == 0]
    if fitting:
      spec[max(fitting, key=lambda axis: shape[axis])] = "fsdp"
  while spec and spec[-1] is None:
    spec.pop()
  return PartitionSpec(*spec)


def gathered(array: Array, placement: Placement) -> Array:
  """Return a parameter whole along the axis that `fsdp` splits, for use inside jit.

  Its gradient is split again as soon as it is there. Without this, XLA may gather activations instead, and split
  layers where batches should be.
  """
  spec = split(array.shape, placement, jax.sharding.get_abstract_mesh().shape)
  return _gather(spec, array) if "fsdp" in spec else array


def gathered_layer(params: nnx.State) -> nnx.State:
  """Return the parameters of one layer of a stack, cast to the dtype of the computation and `gathered`."""
  found = {}
  for path, variable in nnx.to_flat_state(params):
    placement, array = placement_of(variable), variable.get_value()
    if placement.dtype is not None and jnp.issubdtype(array.dtype, jnp.floating):
      array = array.astype(placement.dtype)
    found[path] = variable.replace(gathered(array, placement._replace(stacked=False)))
  return nnx.from_flat_state(found)


def placement_of(param: nnx.Variable) -> Placement:
  """Return the placement of a parameter."""
  return param.get_metadata(PLACEMENT, Placement())


def activations(x: Array, *axes: str | tuple[str, ...] | None) -> Array:
  """Return x, its first axes split over these axes of the mesh, where parameters are split too; for use inside jit.

  Where each device has all parameters, XLA needs no help. An axis that the mesh does not divide stays whole. What is
  not said of later axes, XLA decides.
  """
  sizes = jax.sharding.get_abstract_mesh().shape
  if sizes.get("fsdp", 1) == sizes.get(TENSOR, 1) == 1:
    return x

  def fitting(size: int, axis: str | tuple[str, ...] | None) -> str | tuple[str, ...] | None:
    names = () if axis is None else (axis,) if isinstance(axis, str) else axis
    return axis if all(name in sizes for name in names) and size % math.prod(sizes[n] for n in names) == 0 else None

  spec = [fitting(size, axis) for size, axis in zip(x.shape, axes, strict=False)]
  rest = [PartitionSpec.UNCONSTRAINED] * (x.ndim - len(spec))
  return jax.lax.with_sharding_constraint(x, PartitionSpec(*spec, *rest))


def divides(axis: str, size: int) -> bool:
  """Return whether an axis of the mesh of the current trace divides a size; one that is not there divides all."""
  return size % jax.sharding.get_abstract_mesh().shape.get(axis, 1) == 0


def data_axes() -> tuple[str, ...]:
  """Return the axes in `DATA_AXES` that the mesh of the current trace has; none without a mesh."""
  return tuple(axis for axis in DATA_AXES if axis in jax.sharding.get_abstract_mesh().axis_names)


def num_replicas() -> int:
  """Return the number of replicas over which the mesh of the current trace splits a batch; 1 without a mesh."""
  shape = jax.sharding.get_abstract_mesh().shape
  return math.prod(shape[axis] for axis in data_axes())


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _gather(spec: PartitionSpec, array: Array) -> Array:
  whole = PartitionSpec(*(None if axis == "fsdp" else axis for axis in spec))
  return jax.lax.with_sharding_constraint(array, whole)


def _gather_forward(spec: PartitionSpec, array: Array) -> tuple[Array, None]:
  return _gather(spec, array), None


def _gather_backward(spec: PartitionSpec, _: None, gradient: Array) -> tuple[Array]:
  return (jax.lax.with_sharding_constraint(gradient, spec),)


_gather.defvjp(_gather_forward, _gather_backward)
