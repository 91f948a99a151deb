"""What a transformer keeps for its backward pass, and that no gradient depends on it."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trialbook.models.rematerialization import Remat
from trialbook.models.transformer import Transformer, TransformerConfig

TOKENS = np.random.default_rng(0).integers(7, size=(4, 64)).astype(np.int32)


def gradient_of(remat: Remat | None, depth: int = 2):
  config = TransformerConfig(width=16, depth=depth, heads=2, remat=remat)
  model = Transformer(config, input_shape=TOKENS.shape[1:], num_outputs=7, rngs=nnx.Rngs(0))
  graph, params, rest = nnx.split(model, nnx.Param, ...)

  def loss(params, tokens):
    return jnp.square(nnx.merge(graph, params, rest, copy=True)(tokens, train=True)).mean()

  return jax.jit(jax.grad(loss)), params


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_each_kind_gives_the_same_gradient_and_full_keeps_least_and_none_most():
  memory = {}
  function, params = gradient_of(None)
  expected = jax.tree.leaves(function(params, TOKENS))
  for remat in (*get_args(Remat), None):
    function, params = gradient_of(remat)
    for one, other in zip(jax.tree.leaves(function(params, TOKENS)), expected, strict=True):
      np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7)
    bytes_of = []
    for depth in (2, 6):
      function, params = gradient_of(remat, depth)
      bytes_of.append(function.lower(params, TOKENS).compile().memory_analysis().temp_size_in_bytes)
    memory[remat] = bytes_of[1] - bytes_of[0]
  assert memory["full"] < memory["names"] < memory["dots"] < memory[None]


@pytest.mark.parametrize(("given", "expected"), [(True, "full"), (False, None), (None, None), ("dots", "dots")])
def test_the_flag_of_earlier_versions_is_read(given, expected):
  assert TransformerConfig.model_validate({"remat": given}).remat == expected
  assert TransformerConfig.model_validate_json(TransformerConfig(remat=expected).model_dump_json()).remat == expected
