import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformer_reference as reference
from flax import nnx

from trialbook.models.attention import Attention, rotate
from trialbook.models.initializer import scaled_normal

RNG = np.random.default_rng(0)


def layer(**kinds):
  return Attention(8, 2, output_init=scaled_normal(1.0, "in"), rngs=nnx.Rngs(0), **kinds)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rotary", [False, True])
def test_attention_is_the_weighted_mean_of_the_values(causal, rotary):
  model = layer(causal=causal, rotary=rotary)
  params = reference.parameters(model)
  x = RNG.normal(size=(2, 5, 8))
  expected = reference.attention(params, x, 2, causal=causal, rotary=rotary)
  np.testing.assert_allclose(model(jnp.asarray(x, jnp.float32)), expected, atol=2e-5)


def test_without_positions_the_order_of_what_is_seen_does_not_count_and_with_rotary_ones_it_does():
  x = jnp.asarray(RNG.normal(size=(1, 5, 8)), jnp.float32)
  reversed_ = x[:, ::-1]
  for rotary in (False, True):
    model = layer(causal=False, rotary=rotary)
    reference.parameters(model)
    same = np.allclose(model(reversed_)[:, ::-1], model(x), atol=1e-5)
    assert same is not rotary


def test_rotated_inner_products_depend_on_the_distance_alone():
  query, key = (np.tile(RNG.normal(size=8), (1, 7, 1, 1)) for _ in range(2))
  query, key = (np.asarray(rotate(jnp.asarray(x, jnp.float32)))[0, :, 0] for x in (query, key))
  products = query @ key.T
  for distance in range(-6, 7):
    diagonal = np.diagonal(products, distance)
    np.testing.assert_allclose(diagonal, diagonal[0], atol=1e-5)
  assert np.ptp(products[0]) > 0.1


@pytest.mark.slow
def test_in_bfloat16_the_weights_are_computed_in_float32():
  # Scores near 64, where bfloat16's steps of 0.5 would change a weight by a quarter; queries and keys are exact.
  scores, values = 8 + RNG.integers(-8, 9, size=(1, 9, 2)) / 16, RNG.normal(size=(1, 9, 2))
  x = jnp.asarray(np.concatenate([scores, values], axis=-1), jnp.bfloat16)
  model = Attention(4, 1, causal=False, rotary=False, output_init=scaled_normal(1.0, "in"), rngs=nnx.Rngs(0))
  first, second = np.diag([1.0, 1, 0, 0]), np.diag([0, 0, 1.0, 1])
  for name, kernel in {"query": first, "key": first, "value": second, "output": np.eye(4)}.items():
    getattr(model, name).kernel[...] = jnp.asarray(kernel, jnp.float32)
  params = jax.tree.map(lambda value: np.asarray(value, np.float64), nnx.to_pure_dict(nnx.state(model, nnx.Param)))
  expected = reference.attention(params, np.asarray(x, np.float64), 1, causal=False, rotary=False)
  nnx.update(model, jax.tree.map(lambda value: value.astype(jnp.bfloat16), nnx.state(model, nnx.Param)))
  y = model(x)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(y.astype(jnp.float32), expected, atol=0.03)
