import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trialbook import models
from trialbook.models.transformer_block import Block, BlockConfig

X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 8)), jnp.float32)


@pytest.mark.slow
@pytest.mark.parametrize("zero_init", [True, False])
@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_a_zero_init_block_starts_as_the_identity(zero_init, activation):
  config = BlockConfig(width=8, heads=2, zero_init_residual=zero_init, activation=activation)
  block = Block(config, causal=True, rotary=True, rngs=nnx.Rngs(0))
  assert bool((block(X, train=True) == X).all()) is zero_init


def test_post_norm_blocks_give_standardized_sums():
  block = Block(BlockConfig(width=8, heads=2, norm_placement="post"), causal=True, rotary=True, rngs=nnx.Rngs(0))
  y = np.asarray(block(100 * X, train=True), np.float64)
  np.testing.assert_allclose(y.mean(-1), 0, atol=1e-5)
  np.testing.assert_allclose(y.std(-1), 1, atol=1e-3)


@pytest.mark.parametrize(("ratio", "hidden"), [(4.0, 32), (2.67, 21), (0.01, 1)])
def test_the_hidden_layer_has_the_ratios_width(ratio, hidden):
  block = Block(BlockConfig(width=8, heads=2, mlp_ratio=ratio), causal=True, rotary=True, rngs=nnx.Rngs(0))
  assert block.hidden.kernel.shape == (8, hidden)


def test_a_gated_block_with_two_thirds_of_the_ratio_has_as_many_kernel_values():
  def size(**settings):
    block = Block(BlockConfig(width=12, heads=2, **settings), causal=True, rotary=True, rngs=nnx.Rngs(0))
    return sum(value.size for path, value in nnx.to_flat_state(nnx.state(block, nnx.Param)) if path[-1] == "kernel")

  assert size(activation="swiglu", mlp_ratio=2.0) == size(activation="gelu", mlp_ratio=3.0)


def test_heads_that_do_not_divide_the_width_are_found_beforehand():
  for config in (models.VitConfig(width=10, heads=3), models.TransformerConfig(width=10, heads=3)):
    found = models.problems(config)
    assert found == ["model.heads: 3 heads do not divide model.width 10; these do: 1, 2, 5, 10"]
    with pytest.raises(ValueError, match="these do"):
      models.build(config, input_shape=(8,), num_outputs=2, rngs=nnx.Rngs(0))
