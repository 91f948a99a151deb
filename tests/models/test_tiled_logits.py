"""A loss over tiles of the logits is that over all of them, and needs the memory of one tile."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from trialbook.models import TransformerConfig
from trialbook.models.tiled_logits import TiledLogits, at_positions
from trialbook.models.transformer import Transformer

RNG = np.random.default_rng(0)


def loss(logits: Any, labels: Any) -> Any:
  return jnp.mean(at_positions(logits, optax.softmax_cross_entropy_with_integer_labels, labels))


@pytest.mark.parametrize("tiles", [1, 2, 8])
def test_values_and_gradients_are_those_of_whole_logits(tiles: int):
  x, kernel = (jnp.asarray(RNG.normal(size=size), jnp.float32) for size in ((3, 8, 5), (5, 11)))
  labels = jnp.asarray(RNG.integers(11, size=(3, 8)))
  whole = jax.value_and_grad(lambda x, kernel: loss(x @ kernel, labels), argnums=(0, 1))(x, kernel)
  tiled = jax.value_and_grad(lambda x, kernel: loss(TiledLogits(x, kernel, tiles), labels), argnums=(0, 1))(x, kernel)
  jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-6), whole, tiled)
  rows = TiledLogits(x, kernel, tiles).at_positions(lambda logits, labels: (logits, labels), labels)
  np.testing.assert_allclose(rows[0], x @ kernel, atol=1e-6)
  np.testing.assert_array_equal(rows[1], labels)


def test_a_step_needs_the_memory_of_one_tile():
  shapes = [jax.ShapeDtypeStruct(size, jnp.float32) for size in ((4, 256, 16), (16, 4096))]
  labels = jnp.zeros((4, 256), jnp.int32)

  def temporaries(logits: Any) -> int:
    step = jax.grad(lambda x, kernel: loss(logits(x, kernel), labels), argnums=(0, 1))
    memory: Any = jax.jit(step).lower(*shapes).compile().memory_analysis()
    return memory.temp_size_in_bytes

  whole = 4 * 256 * 4096 * 4
  assert temporaries(lambda x, kernel: x @ kernel) > whole
  assert temporaries(lambda x, kernel: TiledLogits(x, kernel, 16)) < whole / 4


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_a_transformer_gives_tiles_in_training_and_whole_logits_otherwise(tie_embeddings: bool):
  tokens = jnp.asarray(RNG.integers(13, size=(2, 8)))
  config = TransformerConfig(width=8, heads=2, depth=1, tie_embeddings=tie_embeddings, logit_tiles=4)
  model = Transformer(config, input_shape=(8,), num_outputs=13, rngs=nnx.Rngs(0))
  tiled, whole = model(tokens, train=True), model(tokens, train=False)
  assert isinstance(tiled, TiledLogits)
  assert tiled.shape == whole.shape == (2, 8, 13)
  np.testing.assert_allclose(tiled.at_positions(lambda logits: logits), whole, atol=1e-6)


def test_tiles_that_do_not_divide_the_length_are_refused_with_those_that_do():
  config = TransformerConfig(width=8, heads=2, depth=1, logit_tiles=3)
  with pytest.raises(ValueError, match=r"model\.logit_tiles = 3 does not divide the length 8; these do: 1, 2, 4, 8"):
    Transformer(config, input_shape=(8,), num_outputs=13, rngs=nnx.Rngs(0))
