import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trialbook import models
from trialbook.models.cnn import Cnn, CnnConfig


def build(config, input_shape):
  return models.build(config, input_shape=input_shape, num_outputs=2, rngs=nnx.Rngs(params=0, dropout=1))


@pytest.mark.parametrize("pooling", ["max", "average"])
def test_outputs_are_those_of_convolution_relu_and_pooling(pooling):
  config = CnnConfig(widths=(3,), convolutions_per_stage=1, normalization="none", pooling=pooling)
  model = Cnn(config, input_shape=(5, 4, 2), num_outputs=2, rngs=nnx.Rngs(0))
  (conv,) = model.stages[0].convs
  assert conv.bias is not None
  conv.bias[...] = jnp.asarray([0.1, -0.2, 0.3], jnp.float32)
  kernel, bias = np.asarray(conv.kernel[...], np.float64), np.asarray(conv.bias[...], np.float64)
  output = np.asarray(model.output.kernel[...], np.float64)

  x = np.random.default_rng(0).normal(size=(2, 5, 4, 2))
  padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  hidden = np.zeros((2, 5, 4, 3))
  for i in range(5):
    for j in range(4):
      hidden[:, i, j] = np.einsum("bhwc,hwcd->bd", padded[:, i : i + 3, j : j + 3], kernel) + bias
  hidden = np.maximum(hidden, 0)
  pool = np.max if pooling == "max" else np.mean
  # The last row of windows has one row of pixels only.
  pooled = [pool(hidden[:, i : i + 2, j : j + 2], axis=(1, 2)) for i in (0, 2, 4) for j in (0, 2)]
  expected = np.mean(pooled, axis=0) @ output
  outputs = model(jnp.asarray(x, jnp.float32), train=True)
  np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_parameter_count_is_that_of_the_formula():
  config = CnnConfig(widths=(4, 6), convolutions_per_stage=2, kernel_size=5, normalization="group", groups=2)
  model = nnx.eval_shape(lambda: build(config, (8, 8, 3)))
  convolutions = 25 * (3 * 4 + 4 * 4 + 4 * 6 + 6 * 6)
  norms = 2 * (4 + 4 + 6 + 6)
  assert sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))) == convolutions + norms + 6 * 2 + 2


def test_an_image_that_is_pooled_to_one_pixel_stays_one():
  def run():
    model = Cnn(CnnConfig(widths=(2,) * 6), input_shape=(8, 8, 1), num_outputs=2, rngs=nnx.Rngs(0))
    return model(jnp.ones((1, 8, 8, 1)), train=False)

  assert jax.eval_shape(run).shape == (1, 2)


def test_problems_are_found_beforehand_all_at_once():
  config = CnnConfig(widths=(12, 18), kernel_size=4, normalization="group", groups=4)
  assert models.problems(config) == [
    "model.kernel_size: 4 is even; use an odd size, such as 3, which keeps the image's size",
    "model.groups: 4 groups do not divide model.widths 12, 18; these do: 1, 2, 3, 6",
  ]
  assert models.problems(CnnConfig(widths=(12, 18), groups=4)) == []


def test_inputs_that_are_not_images_are_refused():
  with pytest.raises(ValueError, match=r"a cnn needs images of shape \(height, width, channels\).*\(64,\)"):
    build(CnnConfig(), (64,))
