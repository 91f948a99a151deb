"""Batch normalization: over the global batch, or over virtual batches of a size of its own.

Both compute their statistics in float32 whatever the dtype of x, and in two passes, since E[x²] - E[x]²
cancels; the result has x's dtype. The variance is the biased one, the mean of squared deviations, also in the
moving averages (PyTorch's are unbiased).

Both are written for the global batch. Ghost batch norm reads the number of replicas that share it from the
mesh that is set while it is traced: `with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):` around the
`trace` (lowering and compiling need none; devices need not be there). `layout.num_replicas` counts them.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from trialbook.models.hyperparameter import Hyperparameter
from trialbook.models.layout import data_axes, num_replicas

# Names of the variables that have one row per replica.
ROWS = ("replica_mean", "replica_var")


class BatchNorm(nnx.Module):
  """Batch normalization over the global batch (Ioffe & Szegedy 2015): over all axes but the last.

  Written for the whole array, so under jit on a mesh the statistics are synchronized over all devices.
  In training it normalizes by the batch and moves `mean` and `var` (float32, [features]) to
  `momentum * old + (1 - momentum) * batch`; in evaluation, or after the layer's `eval()`, it normalizes by these.

  Args:
    features: the size of the last axis.
    momentum: the name of the traced setting to read, or a constant, in [0, 1).
    epsilon: added to the variance.
    zero_init_scale: start with a scale of zero instead of one.
  """

  def __init__(
    self,
    features: int,
    *,
    momentum: str | float = "batch_norm_momentum",
    epsilon: float = 1e-5,
    zero_init_scale: bool = False,
    rngs: nnx.Rngs,
  ):
    del rngs  # The same call as layers that draw their parameters.
    self.scale, self.bias = affine(features, zero_init_scale)
    self.mean = nnx.BatchStat(jnp.zeros(features, jnp.float32))
    self.var = nnx.BatchStat(jnp.ones(features, jnp.float32))
    self.momentum = Hyperparameter.read(momentum)
    self.epsilon = epsilon
    self.use_running_average = False

  def __call__(self, x: Float[Array, "... features"], *, train: bool) -> Float[Array, "... features"]:
    x32 = x.astype(jnp.float32)
    if train and not self.use_running_average:
      mean, var = moments(x32, tuple(range(x.ndim - 1)))
      momentum = self.momentum[...]
      self.mean[...] = momentum * self.mean[...] + (1 - momentum) * mean.reshape(-1)
      self.var[...] = momentum * self.var[...] + (1 - momentum) * var.reshape(-1)
    else:
      mean, var = self.mean[...], self.var[...]
    standard = (x32 - mean) * jax.lax.rsqrt(var + self.epsilon)
    return scale_and_shift(standard, self.scale, self.bias).astype(x.dtype)


class GhostBatchNorm(nnx.Module):
  """Ghost batch normalization (Hoffer et al. 2017): each virtual batch has its own statistics.

  A virtual batch is `virtual_batch_size` consecutive examples of the global batch. A replica may hold several,
  and then nothing is exchanged between devices going forward; or one may span several neighbouring replicas,
  which then exchange two vectors of features. Results do not depend on the number of replicas.

  `replica_mean` and `replica_var` (float32, [replicas, features]) are moving averages as those of `BatchNorm`:
  the row of a replica follows the mean over the statistics of its virtual batches, or those of the one it
  takes part in. Evaluation normalizes by the mean over rows, which is the moving average over all virtual
  batches, as averages are linear.

  Args:
    features: the size of the last axis.
    virtual_batch_size: a divisor of the number of examples on a replica, or a multiple of it that divides the
      global batch. A call in training with another raises ValueError.
    momentum: the name of the traced setting to read, or a constant, in [0, 1).
    epsilon: added to the variance.
    zero_init_scale: start with a scale of zero instead of one.
  """

  def __init__(
    self,
    features: int,
    *,
    virtual_batch_size: int,
    momentum: str | float = "batch_norm_momentum",
    epsilon: float = 1e-5,
    zero_init_scale: bool = False,
    rngs: nnx.Rngs,
  ):
    del rngs
    self.scale, self.bias = affine(features, zero_init_scale)
    rows = (num_replicas(), features)
    self.replica_mean = nnx.BatchStat(jnp.zeros(rows, jnp.float32))
    self.replica_var = nnx.BatchStat(jnp.ones(rows, jnp.float32))
    self.momentum = Hyperparameter.read(momentum)
    self.virtual_batch_size = virtual_batch_size
    self.epsilon = epsilon
    self.use_running_average = False

  def __call__(self, x: Float[Array, "batch ... features"], *, train: bool) -> Float[Array, "batch ... features"]:
    x32 = x.astype(jnp.float32)
    if train and not self.use_running_average:
      standard = self._by_virtual_batch(x32)
    else:
      mean, var = collapse(self.replica_mean[...]), collapse(self.replica_var[...])
      standard = (x32 - mean) * jax.lax.rsqrt(var + self.epsilon)
    return scale_and_shift(standard, self.scale, self.bias).astype(x.dtype)

  def _by_virtual_batch(self, x: Float[Array, "batch ... features"]) -> Float[Array, "batch ... features"]:
    """Normalize x by its own statistics, and update the rows of moving averages."""
    replicas, features = self.replica_mean.shape
    if replicas != num_replicas():
      raise ValueError(
        f"ghost batch norm was made for {replicas} replicas but is called in training with {num_replicas()}; "
        "trace both in a mesh of the same size, or restore its rows by `spread`"
      )
    here, span = _fit(self.virtual_batch_size, x.shape[0], replicas)
    # [replicas, virtual batches on one, its examples there, ..., features]: a split within a device.
    grouped = _on_replicas(x.reshape(replicas, -1, here, *x.shape[1:]))
    axes = tuple(range(2, grouped.ndim - 1))
    # Replicas hold equal shares, so the mean over what each has alone is exact, and they exchange vectors.
    mean = _mean_of_neighbours(grouped.mean(axes, keepdims=True), span)
    centered = grouped - mean
    var = _mean_of_neighbours(jnp.square(centered).mean(axes, keepdims=True), span)
    momentum = self.momentum[...]
    for rows, new in ((self.replica_mean, mean), (self.replica_var, var)):
      new = new.reshape(replicas, -1, features).mean(1)
      rows[...] = _on_replicas(momentum * rows[...] + (1 - momentum) * new)
    return (centered * jax.lax.rsqrt(var + self.epsilon)).reshape(x.shape)


def collapse(rows: Float[Array | np.ndarray, "replicas features"]) -> Float[Array | np.ndarray, " features"]:
  """Return the mean of the rows, which stands for all of them in an evaluation, an export or a restore elsewhere."""
  return rows.mean(0)


def spread(rows: Float[Array, "replicas features"], replicas: int) -> Float[Array, "replicas2 features"]:
  """Return the rows for another number of replicas, each the mean of `rows`. The same number changes nothing."""
  return rows if rows.shape[0] == replicas else jnp.broadcast_to(collapse(rows), (replicas, *rows.shape[1:]))


def affine(features: int, zero_init_scale: bool) -> tuple[nnx.Param, nnx.Param]:
  """Return a normalization's scale and bias (float32, [features])."""
  scale = jnp.zeros if zero_init_scale else jnp.ones
  return nnx.Param(scale(features, jnp.float32)), nnx.Param(jnp.zeros(features, jnp.float32))


def moments(x: Float[Array, "..."], axes: tuple[int, ...]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
  """Return the mean and the biased variance over `axes`, which are kept with size one."""
  mean = x.mean(axes, keepdims=True)
  return mean, jnp.square(x - mean).mean(axes, keepdims=True)


def scale_and_shift(x: Float[Array, "... features"], scale: nnx.Param, bias: nnx.Param) -> Float[Array, "... features"]:
  """Return x * scale + bias, computed in x's dtype."""
  return x * scale[...].astype(x.dtype) + bias[...].astype(x.dtype)


def _fit(size: int, batch: int, replicas: int) -> tuple[int, int]:
  """Return how many examples of a virtual batch one replica holds, and how many replicas the virtual batch spans.

  Raises:
    ValueError: replicas would hold unequal numbers of whole virtual batches, or of shares of one.
  """
  problem = f"model.virtual_batch_size = {size}: "
  if batch % replicas:
    raise ValueError(f"{problem}{replicas} replicas cannot share a batch of {batch} examples evenly")
  share = batch // replicas
  if share % size == 0:
    return size, 1
  if size % share == 0 and batch % size == 0:
    return share, size // share
  fitting = [n for n in range(1, batch + 1) if batch % n == 0 and (share % n == 0 or n % share == 0)]
  each = f", and divide the {share} of each of {replicas} replicas or be a multiple of them" if replicas > 1 else ""
  raise ValueError(
    f"{problem}it must divide the batch of {batch} examples{each}; these do: {', '.join(map(str, fitting))}"
  )


def _on_replicas(x: Float[Array, "replicas ..."]) -> Float[Array, "replicas ..."]:
  """Return x with each replica's row placed on that replica."""
  axes = data_axes()
  if not axes:
    return x
  rest = [PartitionSpec.UNCONSTRAINED] * (x.ndim - 1)
  return jax.lax.with_sharding_constraint(x, PartitionSpec(axes, *rest))


def _mean_of_neighbours(x: Float[Array, "replicas ..."], span: int) -> Float[Array, "replicas ..."]:
  """Replace each replica's row by the mean over the `span` neighbours that share a virtual batch."""
  if span == 1:
    return x
  shared = x.reshape(-1, span, *x.shape[1:])
  return _on_replicas(jnp.broadcast_to(shared.mean(1, keepdims=True), shared.shape).reshape(x.shape))
