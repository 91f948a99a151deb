import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trialbook import models
from trialbook.models.resnet import ConvNorm, ResidualBlock, ResNet, ResNetConfig


def count(config, input_shape, num_outputs):
  model = nnx.eval_shape(lambda: ResNet(config, input_shape=input_shape, num_outputs=num_outputs, rngs=nnx.Rngs(0)))
  return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize(
  ("block", "stage_sizes", "expected"),
  [("basic", (2, 2, 2, 2), 11_689_512), ("bottleneck", (3, 4, 6, 3), 25_557_032)],
)
def test_imagenet_networks_have_the_published_parameter_counts(block, stage_sizes, expected):
  config = ResNetConfig(stem="imagenet", block=block, stage_sizes=stage_sizes, width=64)
  assert count(config, (224, 224, 3), 1000) == expected


def test_the_default_is_the_resnet_20_for_cifar():
  # 269,722 with shortcuts that pad with zeros (He et al. 2016, option A, 0.27M); two projections with their
  # norms add 16·32 + 2·32 and 32·64 + 2·64.
  assert count(ResNetConfig(), (32, 32, 3), 10) == 269_722 + 576 + 2176


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
@pytest.mark.parametrize("zero_init", [True, False])
def test_a_zero_init_residual_block_starts_as_the_identity(block, zero_init):
  config = ResNetConfig(block=block, width=4, normalization="layer", zero_init_residual=zero_init)
  inputs = 4 if block == "basic" else 16
  layer = ResidualBlock(config, inputs, 4, 1, rngs=nnx.Rngs(0))
  x = jnp.asarray(np.random.default_rng(0).uniform(size=(2, 4, 4, inputs)), jnp.float32)
  assert bool((layer(x, train=True) == x).all()) is zero_init


def test_a_strided_convolution_pads_symmetrically():
  config = ResNetConfig(normalization="layer")
  layer = ConvNorm(config, 1, 1, 3, 2, rngs=nnx.Rngs(0)).conv
  layer.kernel[...] = jnp.arange(1.0, 10.0).reshape(3, 3, 1, 1)
  x = np.random.default_rng(0).normal(size=(8, 8))
  padded = np.pad(x, 1)
  expected = [
    [(padded[i : i + 3, j : j + 3] * np.arange(1, 10).reshape(3, 3)).sum() for j in range(0, 8, 2)]
    for i in range(0, 8, 2)
  ]
  y = layer(jnp.asarray(x, jnp.float32)[None, :, :, None])
  np.testing.assert_allclose(y[0, :, :, 0], expected, atol=1e-4)


def test_a_bottleneck_strides_in_its_3x3_convolution():
  block = ResidualBlock(ResNetConfig(block="bottleneck"), 8, 4, 2, rngs=nnx.Rngs(0))
  convolutions = [layer.conv for layer in (*block.hidden, block.last)]
  strides = [2 if conv.strides in (2, (2, 2)) else 1 for conv in convolutions]
  assert [(conv.kernel_size, stride) for conv, stride in zip(convolutions, strides, strict=True)] == [
    ((1, 1), 1),
    ((3, 3), 2),
    ((1, 1), 1),
  ]


def test_the_stems_and_stages_reduce_the_image_as_published():
  seen = []
  original = ResidualBlock.__call__

  def record(self, x, *, train):
    y = original(self, x, train=train)
    seen.append(y.shape[1:])
    return y

  def shapes(config, input_shape):
    seen.clear()

    def run():
      model = ResNet(config, input_shape=input_shape, num_outputs=2, rngs=nnx.Rngs(0))
      return model(jnp.zeros((1, *input_shape)), train=False)

    with pytest.MonkeyPatch.context() as patch:
      patch.setattr(ResidualBlock, "__call__", record)
      jax.eval_shape(run)
    return list(seen)

  one_each = {"stage_sizes": (1, 1, 1, 1), "width": 4}
  assert shapes(ResNetConfig(stem="imagenet", block="bottleneck", **one_each), (224, 224, 3)) == [
    (56, 56, 16),
    (28, 28, 32),
    (14, 14, 64),
    (7, 7, 128),
  ]
  assert shapes(ResNetConfig(**one_each), (8, 8, 1)) == [(8, 8, 4), (4, 4, 8), (2, 2, 16), (1, 1, 32)]


def test_groups_that_do_not_divide_the_width_are_found_beforehand():
  uneven = ResNetConfig(normalization="group", groups=6, width=16)
  assert models.problems(uneven) == ["model.groups: 6 groups do not divide model.width 16; these do: 1, 2, 4, 8, 16"]
  assert models.problems(uneven.model_copy(update={"normalization": "batch"})) == []


def test_inputs_that_are_not_images_are_refused():
  with pytest.raises(ValueError, match=r"\(height, width, channels\).*\(64,\)"):
    models.build(ResNetConfig(), input_shape=(64,), num_outputs=2, rngs=nnx.Rngs(0))
