import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from trialbook.models.normalization import BatchNorm, GhostBatchNorm, GroupNorm, LayerNorm, norm

EPSILON = 1e-5
RNG = np.random.default_rng(0)
SHAPE = (6, 3, 2, 8)


def standardized(x, axes):
  """In float64: x with mean 0 and (biased) variance 1 over `axes`."""
  x = np.asarray(x, np.float64)
  centered = x - x.mean(axes, keepdims=True)
  return centered / np.sqrt((centered**2).mean(axes, keepdims=True) + EPSILON)


def with_parameters(layer):
  """Gives a layer a scale and a bias that are not one and zero; returns them in float64."""
  scale, bias = RNG.normal(size=(2, SHAPE[-1]))
  layer.scale[...] = jnp.asarray(scale, jnp.float32)
  layer.bias[...] = jnp.asarray(bias, jnp.float32)
  return scale, bias


def inputs(dtype=jnp.float32):
  return jnp.asarray(3 + 2 * RNG.normal(size=SHAPE), dtype)


def test_batch_norm_standardizes_over_all_axes_but_the_last():
  layer = BatchNorm(8, momentum=0.9, rngs=nnx.Rngs(0))
  scale, bias = with_parameters(layer)
  x = inputs()
  expected = standardized(x, (0, 1, 2)) * scale + bias
  np.testing.assert_allclose(layer(x, train=True), expected, atol=3e-6)


@pytest.mark.slow
def test_batch_norm_gradient_is_the_closed_form():
  layer = BatchNorm(8, momentum=0.9, rngs=nnx.Rngs(0))
  scale, _ = with_parameters(layer)
  x, cotangent = inputs(), RNG.normal(size=SHAPE)
  graph, params, rest = nnx.split(layer, nnx.Param, ...)

  def loss(params, x):
    y = nnx.merge(graph, params, rest, copy=True)(x, train=True)
    return (y * jnp.asarray(cotangent, jnp.float32)).sum()

  by_params, by_x = jax.grad(loss, argnums=(0, 1))(params, x)
  axes, standard = (0, 1, 2), standardized(x, (0, 1, 2))
  deviation = np.sqrt(np.asarray(x, np.float64).var(axes) + EPSILON)
  inner = cotangent - cotangent.mean(axes) - standard * (cotangent * standard).mean(axes)
  np.testing.assert_allclose(by_x, scale / deviation * inner, atol=2e-6)
  np.testing.assert_allclose(by_params["scale"][...], (cotangent * standard).sum(axes), atol=2e-5)
  np.testing.assert_allclose(by_params["bias"][...], cotangent.sum(axes), atol=2e-5)


def test_batch_norm_moves_its_statistics_in_training_and_uses_them_in_evaluation():
  layer = BatchNorm(8, momentum=0.75, rngs=nnx.Rngs(0))
  mean, var = np.zeros(8), np.ones(8)
  for _ in range(3):
    x = inputs()
    layer(x, train=True)
    x = np.asarray(x, np.float64)
    mean = 0.75 * mean + 0.25 * x.mean((0, 1, 2))
    var = 0.75 * var + 0.25 * x.var((0, 1, 2))
  np.testing.assert_allclose(layer.mean[...], mean, rtol=2e-6)
  np.testing.assert_allclose(layer.var[...], var, rtol=2e-6)

  x = inputs()
  expected = (np.asarray(x, np.float64) - mean) / np.sqrt(var + EPSILON)
  np.testing.assert_allclose(layer(x, train=False), expected, atol=3e-6)
  np.testing.assert_allclose(layer.mean[...], mean, rtol=2e-6)


def test_batch_norm_statistics_span_the_devices_of_a_mesh():
  mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
  layer = BatchNorm(8, momentum=0.0, rngs=nnx.Rngs(0))
  graph, state = nnx.split(layer)
  # The halves differ by far, so that statistics of one device would show.
  x = np.asarray(inputs()) + 10 * (np.arange(6) >= 3)[:, None, None, None]
  sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
  y = jax.jit(lambda x: nnx.merge(graph, state, copy=True)(x, train=True))(sharded)
  np.testing.assert_allclose(y, standardized(x, (0, 1, 2)), atol=3e-6)


def test_the_variance_does_not_cancel_for_a_large_mean():
  x = jnp.asarray(1000 + RNG.normal(size=SHAPE), jnp.float32)
  for layer, axes in (
    (BatchNorm(8, momentum=0.9, rngs=nnx.Rngs(0)), (0, 1, 2)),
    (LayerNorm(8, rngs=nnx.Rngs(0)), (-1,)),
  ):
    # One pass in float32, E[x²] - E[x]², is off by 0.1 here.
    np.testing.assert_allclose(layer(x, train=True), standardized(x, axes), atol=2e-3)


def test_layer_norm_standardizes_each_position():
  layer = LayerNorm(8, rngs=nnx.Rngs(0))
  scale, bias = with_parameters(layer)
  x = inputs()
  np.testing.assert_allclose(layer(x, train=True), standardized(x, (-1,)) * scale + bias, atol=3e-6)


def test_group_norm_standardizes_each_group_of_each_example():
  layer = GroupNorm(8, groups=4, rngs=nnx.Rngs(0))
  scale, bias = with_parameters(layer)
  x = inputs()
  grouped = standardized(np.asarray(x).reshape(6, 3, 2, 4, 2), (1, 2, 4)).reshape(SHAPE)
  np.testing.assert_allclose(layer(x, train=True), grouped * scale + bias, atol=3e-6)


def test_group_norm_refuses_groups_that_do_not_divide_the_features():
  with pytest.raises(ValueError, match="3 groups do not divide 8 features"):
    GroupNorm(8, groups=3, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("kind", ["batch", "layer", "group", "none"])
def test_every_kind_follows_a_bfloat16_input_and_computes_in_float32(kind):
  layer = norm(kind, 8, groups=2, rngs=nnx.Rngs(0))
  graph, params, rest = nnx.split(layer, nnx.Param, ...)
  halved = nnx.merge(graph, jax.tree.map(lambda x: x.astype(jnp.bfloat16), params), rest)
  for batch_norm in (layer, halved):
    if isinstance(batch_norm, BatchNorm):
      batch_norm.momentum[...] = jnp.float32(0.9)
  x = inputs(jnp.bfloat16)
  y, exact = halved(x, train=True), layer(x.astype(jnp.float32), train=True)
  np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))
  if isinstance(layer, BatchNorm) and isinstance(halved, BatchNorm):
    assert halved.mean[...].dtype == jnp.float32
    np.testing.assert_array_equal(halved.mean[...], layer.mean[...])


@pytest.mark.parametrize("kind", ["batch", "layer", "group"])
def test_a_zero_scale_at_the_start_gives_zeros(kind):
  layer = norm(kind, 8, groups=2, zero_init_scale=True, rngs=nnx.Rngs(0))
  assert not layer(inputs(), train=True).any()


@pytest.mark.parametrize(
  "layer",
  [
    BatchNorm(8, momentum=0.9, rngs=nnx.Rngs(0)),
    GhostBatchNorm(8, virtual_batch_size=2, momentum=0.9, rngs=nnx.Rngs(0)),
  ],
)
def test_after_eval_a_batch_normalization_uses_what_it_remembers_in_training_too(layer):
  x = inputs()
  layer(x, train=True)
  assert not np.array_equal(layer(x, train=True), layer(x, train=False))
  before = jax.tree.map(np.array, nnx.to_pure_dict(nnx.state(layer, nnx.BatchStat)))
  layer.eval()
  np.testing.assert_array_equal(layer(x, train=True), layer(x, train=False))
  jax.tree.map(np.testing.assert_array_equal, before, nnx.to_pure_dict(nnx.state(layer, nnx.BatchStat)))
