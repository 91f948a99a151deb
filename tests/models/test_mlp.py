import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trialbook.models.mlp import Mlp, MlpConfig

RNG = np.random.default_rng(0)


@pytest.mark.slow
def test_outputs_are_those_of_alternating_linear_maps_and_relus():
  model = Mlp(MlpConfig(widths=(5, 4)), input_shape=(2, 3), num_outputs=2, rngs=nnx.Rngs(0))
  linear = [*(layer.linear for layer in model.hidden), model.output]
  for layer in linear:
    assert layer.bias is not None
    layer.bias[...] = jnp.asarray(RNG.normal(size=layer.bias.shape), jnp.float32)

  x = RNG.normal(size=(7, 2, 3))
  expected = x.reshape(7, 6)
  for layer in linear:
    expected = expected @ np.asarray(layer.kernel[...], np.float64) + np.asarray(layer.bias, np.float64)
    if layer is not model.output:
      expected = np.maximum(expected, 0)
  np.testing.assert_allclose(model(jnp.asarray(x, jnp.float32), train=True), expected, atol=2e-6)


def test_without_hidden_layers_it_is_linear_regression():
  model = Mlp(MlpConfig(widths=()), input_shape=(6,), num_outputs=2, rngs=nnx.Rngs(0))
  assert [leaf.shape for _, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))] == [(2,), (6, 2)]


def test_normalized_layers_have_one_bias():
  model = Mlp(MlpConfig(widths=(5,), normalization="layer"), input_shape=(6,), num_outputs=2, rngs=nnx.Rngs(0))
  state = nnx.to_flat_state(nnx.state(model.hidden[0], nnx.Param))
  assert [".".join(map(str, path)) for path, _ in state] == ["linear.kernel", "norm.bias", "norm.scale"]
