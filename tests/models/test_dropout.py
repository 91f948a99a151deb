import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trialbook.models.dropout import Dropout
from trialbook.models.hyperparameter import Hyperparameter, fill

RNG = np.random.default_rng(0)


def compiled():
  """A jitted (x, rate, train) -> output of a fresh dropout layer, and the list of its traces."""
  graph, random, hyperparameters = nnx.split(Dropout(rngs=nnx.Rngs(0)), nnx.RngState, Hyperparameter)
  traces = []

  @jax.jit
  def run(x, rate):
    traces.append(1)
    return nnx.merge(graph, random, fill(hyperparameters, {"dropout_rate": rate}), copy=True)(x, train=True)

  return run, traces


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_rate_zero_is_the_identity_bit_for_bit(dtype):
  values = [*RNG.normal(size=997) * 1e3, -0.0, np.inf, np.nan]
  x = jnp.asarray(values, dtype)
  run, _ = compiled()
  assert np.asarray(run(x, np.float32(0))).tobytes() == np.asarray(x).tobytes()


def test_all_rates_share_one_program():
  run, traces = compiled()
  kept = [int((run(jnp.ones(4000), np.float32(rate)) != 0).sum()) for rate in (0.0, 0.1, 0.5, 0.9)]
  assert len(traces) == 1
  np.testing.assert_allclose(kept, [4000, 3600, 2000, 400], atol=130)  # 4 standard deviations at most.


@pytest.mark.parametrize("rate", [0.1, 0.9])
def test_the_mean_is_preserved(rate):
  run, _ = compiled()
  y = np.asarray(run(jnp.ones(200_000), np.float32(rate)), np.float64)
  assert abs(y.mean() - 1) < 4 * np.sqrt(rate / (1 - rate) / y.size)


def test_kept_bfloat16_values_are_the_nearest_to_the_exact_quotient():
  x = jnp.asarray(RNG.normal(size=500), jnp.bfloat16)
  run, _ = compiled()
  y = run(x, np.float32(0.3))
  expected = jnp.asarray(np.asarray(x, np.float64) / (1 - 0.3), jnp.bfloat16)
  np.testing.assert_array_equal(y, jnp.where(y != 0, expected, 0))


def test_the_gradient_is_the_mask():
  layer = Dropout(0.5, rngs=nnx.Rngs(0))
  graph, state = nnx.split(layer)

  def apply(x):
    return nnx.merge(graph, state, copy=True)(x, train=True)

  x = jnp.asarray(RNG.normal(size=64), jnp.float32)
  np.testing.assert_array_equal(jax.grad(lambda x: apply(x).sum())(x), np.asarray(apply(jnp.ones(64))))


def test_each_layer_and_each_call_draws_anew():
  rngs = nnx.Rngs(0)
  first, second = Dropout(0.5, rngs=rngs), Dropout(0.5, rngs=rngs)
  masks = [tuple(layer(jnp.ones(64), train=True).tolist()) for layer in (first, second, first)]
  assert len(set(masks)) == 3


def test_a_layer_draws_the_same_whatever_other_layers_draw():
  def mask(calls_of_the_other):
    rngs = nnx.Rngs(0)
    other, layer = Dropout(0.5, rngs=rngs), Dropout(0.5, rngs=rngs)
    for _ in range(calls_of_the_other):
      other(jnp.ones(64), train=True)
    return layer(jnp.ones(64), train=True)

  np.testing.assert_array_equal(mask(0), mask(2))


def test_evaluation_is_the_identity_and_leaves_the_random_state_alone():
  layer = Dropout(0.5, rngs=nnx.Rngs(0))
  x = jnp.asarray(RNG.normal(size=64), jnp.float32)
  assert layer(x, train=False) is x
  assert int(layer.rng.count[...]) == 0


@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan")])
def test_a_constant_rate_outside_its_range_is_refused(rate):
  with pytest.raises(ValueError, match=r"\[0, 1\)"):
    Dropout(rate, rngs=nnx.Rngs(0))
