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


def gradient_and_memory(remat: Remat | None) -> tuple[list[jax.Array], int]:
  """Gradient of a transformer of six blocks, and the bytes of its temporaries."""
  config = TransformerConfig(width=16, depth=6, heads=2, remat=remat)
  model = Transformer(config, input_shape=TOKENS.shape[1:], num_outputs=7, rngs=nnx.Rngs(0))
  graph, params, rest = nnx.split(model, nnx.Param, ...)

  def loss(params, tokens):
    return jnp.square(nnx.merge(graph, params, rest, copy=True)(tokens, train=True)).mean()

  compiled = jax.jit(jax.grad(loss)).lower(params, TOKENS).compile()
  memory = compiled.memory_analysis()
  assert memory is not None
  return jax.tree.leaves(compiled(params, TOKENS)), memory.temp_size_in_bytes


@pytest.mark.long
@pytest.mark.usefixtures("optimized")
def test_each_kind_gives_the_same_gradient_and_full_keeps_least_and_none_most():
  expected, most = gradient_and_memory(None)
  memory: dict[str, int] = {}
  for remat in get_args(Remat):
    found, memory[remat] = gradient_and_memory(remat)
    for one, other in zip(found, expected, strict=True):
      np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-7, err_msg=remat)
  assert memory["full"] < memory["names"] < memory["dots"] < most
  # CPU devices have no other memory than the host's.
  assert memory["full"] < memory["offload"] < most


@pytest.mark.parametrize(("given", "expected"), [(True, "full"), (False, None), (None, None), ("dots", "dots")])
def test_the_flag_of_earlier_versions_is_read(given: bool | str | None, expected: str | None):
  config = TransformerConfig.model_validate({"remat": given})
  assert config.remat == expected
  assert TransformerConfig.model_validate_json(config.model_dump_json()) == config
