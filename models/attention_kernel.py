"""Attention of equally many queries, keys and values by the fastest kernel that the platform of the program has."""

import contextlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from trialbook.models.layout import TENSOR, data_axes, divides

Kernel = Literal["splash", "cudnn", "xla"]
LANES = 128
"""Columns of a TPU's vector registers, which a block of keys must fill."""
LARGEST_BLOCK = 512
"""Positions of the largest block: three of float32 scores beside their inputs fit into a TPU core's memory."""

Heads = Float[Array, "batch length heads features"]


def kernel(platform: str, length: int, features: int, dtype: jnp.dtype, capability: float = 0.0) -> Kernel:
  """Return the fastest kernel for a platform, as jax names it, and the shapes and dtype of each head.

  TPUs have splash attention, and GPUs of NVIDIA's compute capability 8.0 and above have cuDNN's for 16-bit floats. Both
  keep no scores, so their memory grows with the length and not with its square. All else is done by XLA, which keeps
  them.
  """
  if platform == "tpu" and length % LANES == 0 and features % 64 == 0:
    return "splash"
  if capability >= 8 and dtype.itemsize == 2 and features % 8 == 0 and features <= 128:
    return "cudnn"
  return "xla"


def platform_of_trace() -> str:
  """Return the platform of the mesh that the program is traced for; "" without one, as in an export for several."""
  mesh = jax.sharding.get_abstract_mesh()
  device = getattr(mesh, "abstract_device", None)
  return "" if mesh.empty or device is None else device.platform


def compute_capability(platform: str) -> float:
  """Return NVIDIA's compute capability of this process's GPUs; 0.0 for other platforms and makers."""
  if platform not in ("gpu", "cuda"):
    return 0.0
  try:
    return float(getattr(jax.local_devices()[0], "compute_capability", 0))
  except ValueError:  # AMD's are names.
    return 0.0


def attend(query: Heads, key: Heads, value: Heads, *, causal: bool, kernel: Kernel, interpret: bool = False) -> Heads:
  """Return for each query the mean of the values, weighted by the softmax of its products with the keys.

  The softmax is computed in float32.

  Args:
    query: one for each position and head.
    key: likewise.
    value: likewise.
    causal: whether no position sees a later one.
    kernel: what computes it.
    interpret: whether a kernel of another platform is interpreted, for tests.
  """
  if kernel == "splash":
    return _splash(query, key, value, causal=causal, interpret=interpret)
  with jax.numpy_dtype_promotion("standard"):  # It asks jax what bfloat16 and float32 have in common.
    return jax.nn.dot_product_attention(query, key, value, is_causal=causal, implementation=kernel)


def _splash(query: Heads, key: Heads, value: Heads, *, causal: bool, interpret: bool) -> Heads:
  """Return `attend` by jax's kernel for TPUs, on each device for its part of the batch."""
  # Half a second to import, and not there on all platforms.
  from jax.experimental.pallas.ops.tpu import splash_attention as splash

  length = query.shape[1]
  block = next(size for size in (LARGEST_BLOCK, 256, LANES) if length % size == 0)
  backward = {"block_q_dkv": block, "block_kv_dkv": block, "block_q_dq": block, "block_kv_dq": block}
  sizes = splash.BlockSizes(block_q=block, block_kv=block, **backward)
  mask = (splash.CausalMask if causal else splash.FullMask)((length, length))

  def here(query: Array, key: Array, value: Array) -> Array:
    heads = splash.MultiHeadMask([mask] * query.shape[2])
    attention = splash.make_splash_mha(heads, block_sizes=sizes, head_shards=1, q_seq_shards=1, interpret=interpret)
    # The kernel takes [heads, length, features] of one example, and does not scale.
    query = query * np.asarray(query.shape[-1] ** -0.5, query.dtype)
    heads_first = (array.swapaxes(1, 2) for array in (query, key, value))
    return jax.vmap(attention)(*heads_first).swapaxes(1, 2).astype(value.dtype)

  # The kernel says nothing of how its results lie, so that cannot be checked.
  mesh = jax.sharding.get_abstract_mesh()
  spec = PartitionSpec(
    data_axes(), None, TENSOR if TENSOR in mesh.axis_names and divides(TENSOR, query.shape[2]) else None
  )
  sharded = jax.shard_map(here, in_specs=(spec,) * 3, out_specs=spec, check_vma=False) if data_axes() else here
  return _in_context_of_kernel(sharded)(query, key, value)


def _in_context_of_kernel(attention: Callable[..., Array]) -> Callable[..., Array]:
  """Return attention whose kernels are traced, going forward and going back, with the settings that they need."""

  def context(dtype: jnp.dtype) -> contextlib.ExitStack:
    stack = contextlib.ExitStack()
    stack.enter_context(jax.numpy_dtype_promotion("standard"))
    if dtype.itemsize == 2:
      # The program's precision is about float32. Mosaic refuses 16-bit operands that are to be multiplied in that.
      stack.enter_context(jax.default_matmul_precision("default"))
    return stack

  @jax.custom_vjp
  def apply(query: Array, key: Array, value: Array) -> Array:
    with context(query.dtype):
      return attention(query, key, value)

  def forward(query: Array, key: Array, value: Array) -> tuple[Array, Callable[..., Any]]:
    with context(query.dtype):
      return jax.vjp(attention, query, key, value)

  def backward(pull_back: Callable[..., Any], gradient: Array) -> Any:
    with context(gradient.dtype):
      return pull_back(gradient)

  apply.defvjp(forward, backward)
  return apply
