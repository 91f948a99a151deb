import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trialbook import models
from trialbook.models import WideResNetConfig
from trialbook.models.wide_resnet import PreActivationBlock

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 16)), jnp.float32)


@pytest.mark.parametrize(
  ("depth", "widen_factor", "expected"),
  # The authors' table, in millions, to one digit: 36.5 and 2.7; and what their code counts for the first.
  [(28, 10, 36_479_194), (16, 4, 2_748_890)],
)
def test_networks_for_cifar_have_the_published_parameter_counts(depth, widen_factor, expected):
  config = WideResNetConfig(depth=depth, widen_factor=widen_factor)
  model = nnx.eval_shape(lambda: models.build(config, input_shape=(32, 32, 3), num_outputs=10, rngs=nnx.Rngs(0)))
  assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == expected


def block(inputs, outputs, stride, **settings):
  config = WideResNetConfig(normalization="layer", **settings)
  return PreActivationBlock(config, inputs, outputs, stride, rngs=nnx.Rngs(params=0, dropout=1))


@pytest.mark.parametrize("zero_init", [True, False])
def test_a_zero_init_block_starts_as_the_identity(zero_init):
  layer = block(16, 16, 1, zero_init_residual=zero_init)
  assert bool((layer(X, train=True) == X).all()) is zero_init


def test_normalization_is_inside_the_branch_so_the_sum_keeps_the_inputs_size():
  layer = block(16, 16, 1)
  small, large = (np.asarray(layer(factor * X, train=True) - factor * X) for factor in (1, 1000))
  np.testing.assert_allclose(large, small, atol=1e-2)


@pytest.mark.slow
def test_a_shortcut_of_another_shape_sees_the_activated_input():
  layer = block(16, 8, 2, zero_init_residual=True)
  y = layer(X, train=True)
  assert y.shape == (2, 2, 2, 8)
  standard = np.asarray(X, np.float64)
  standard = (standard - standard.mean(-1, keepdims=True)) / np.sqrt(standard.var(-1, keepdims=True) + 1e-5)
  assert layer.shortcut is not None
  kernel = np.asarray(layer.shortcut.kernel)[0, 0]
  np.testing.assert_allclose(y, np.maximum(standard, 0)[:, ::2, ::2] @ kernel, atol=1e-5)


def test_dropout_is_inside_the_branch():
  layer = block(16, 16, 1, dropout_rate=0.5, zero_init_residual=True)
  assert layer.dropout is not None
  layer.dropout.rate[...] = jnp.float32(0.5)
  np.testing.assert_array_equal(layer(X, train=True), X)
  layer.conv2.kernel[...] = jnp.ones_like(layer.conv2.kernel[...])
  assert (layer(X, train=True) != layer(X, train=True)).any()
  np.testing.assert_array_equal(layer(X, train=False), layer(X, train=False))


def test_a_depth_that_is_not_6n_plus_4_is_found_beforehand():
  config = WideResNetConfig(depth=20)
  assert models.problems(config) == ["model.depth: 20 is not of the form 6n + 4; the nearest are 16 and 22"]
  with pytest.raises(ValueError, match="6n"):
    models.build(config, input_shape=(8, 8, 1), num_outputs=2, rngs=nnx.Rngs(0))


def test_groups_that_do_not_divide_the_stem_are_found_beforehand():
  config = WideResNetConfig(normalization="group", groups=5)
  (found,) = models.problems(config)
  assert found == "model.groups: 5 groups do not divide the width of the stem, 16; these do: 1, 2, 4, 8, 16"
