"""Each model gives the same with its batch and parameters split over devices as on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from trialbook import models
from trialbook.models.hyperparameter import Hyperparameter, fill

TINY = {
  "mlp": {"widths": (4,), "embeddings": ({"column": 1, "categories": 3, "width": 2},)},
  "cnn": {"widths": (4,), "convolutions_per_stage": 1},
  "resnet": {"stage_sizes": (1,), "width": 4},
  "wide_resnet": {"depth": 10, "widen_factor": 1},
  "vit": {"width": 8, "depth": 2, "heads": 2},
  "transformer": {"width": 8, "depth": 2, "heads": 2},
}
RNG = np.random.default_rng(0)
INPUTS = {
  "mlp": RNG.integers(3, size=(4, 3)).astype(np.float32),
  "transformer": RNG.integers(3, size=(4, 6)).astype(np.int32),
}
IMAGES = RNG.normal(size=(4, 4, 4, 1)).astype(np.float32)


def spread(mesh, leaf):
  """The largest axis that the devices divide split over `fsdp`."""
  axes = [axis for axis in np.argsort(leaf.shape)[::-1] if leaf.shape[axis] % 2 == 0]
  spec = [None] * leaf.ndim
  if axes:
    spec[axes[0]] = "fsdp"
  return NamedSharding(mesh, PartitionSpec(*spec))


@pytest.mark.slow
@pytest.mark.parametrize("name", models.MODELS)
def test_a_model_split_over_data_and_fsdp_computes_the_same(name):
  config_class, _ = models.MODELS[name]
  config = config_class(**TINY[name], dropout_rate=0.5) if name != "mlp" else config_class.model_validate(TINY[name])
  x = INPUTS.get(name, IMAGES)

  def init():
    model = models.build(config, input_shape=x.shape[1:], num_outputs=4, rngs=nnx.Rngs(params=0, dropout=1))
    return nnx.split(model, nnx.Param, Hyperparameter, ...)

  graph, params, hyperparameters, rest = jax.jit(init)()

  def outputs(params, x):
    filled = fill(hyperparameters, {"dropout_rate": jnp.float32(0.5), "batch_norm_momentum": jnp.float32(0.9)})
    return nnx.merge(graph, params, filled, rest, copy=True)(x, train=True)

  def gradient(params, x):
    return jax.grad(lambda params: jnp.square(outputs(params, x)).mean())(params)

  mesh = Mesh(np.asarray(jax.devices()).reshape(1, 2), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
  split = jax.device_put(params, jax.tree.map(lambda leaf: spread(mesh, leaf), params))
  batch = jax.device_put(x, NamedSharding(mesh, PartitionSpec(("data", "fsdp"))))
  # The gradients of convolutions take long to compile, and are made of convolutions.
  for function in (outputs, gradient) if name in ("mlp", "transformer") else (outputs,):
    expected = jax.jit(function)(params, x)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
      lowered = jax.jit(function).lower(split, batch)
    found = lowered.compile()(split, batch)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
