import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trialbook.models.dropout import Dropout
from trialbook.models.hyperparameter import Hyperparameter
from trialbook.models.initializer import scaled_normal
from trialbook.models.stack import Stack

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4)), jnp.float32)


class Layer(nnx.Module):
  """A linear map, a tanh, a shared setting and dropout."""

  def __init__(self, rngs):
    self.linear = nnx.Linear(4, 4, kernel_init=scaled_normal(1.0, "in"), rngs=rngs)
    self.strength = Hyperparameter.read(2.0)
    self.dropout = Dropout(0.5, rngs=rngs)

  def __call__(self, x, *, train):
    return self.dropout(jnp.tanh(self.linear(x)) * self.strength[...], train=train)


class OnlyDropout(nnx.Module):
  def __init__(self, rngs):
    self.dropout = Dropout(0.5, rngs=rngs)

  def __call__(self, x, *, train):
    return self.dropout(x, train=train)


def kernels(stack):
  return np.asarray(stack.layer.linear.kernel[...], np.float64)


def test_layers_are_applied_in_order_each_with_its_own_parameters():
  stack = Stack(Layer, 3, remat=None, rngs=nnx.Rngs(0))
  expected = np.asarray(X, np.float64)
  for kernel in kernels(stack):
    expected = 2 * np.tanh(expected @ kernel)
  np.testing.assert_allclose(stack(X, train=False), expected, atol=1e-5)


@pytest.mark.slow
def test_layers_start_as_those_of_a_loop_do_and_all_differ():
  shallow, deep = (kernels(Stack(Layer, depth, remat=None, rngs=nnx.Rngs(0))) for depth in (2, 5))
  np.testing.assert_array_equal(deep[:2], shallow)
  assert len({kernel.tobytes() for kernel in deep}) == 5
  many = kernels(Stack(Layer, 400, remat=None, rngs=nnx.Rngs(0)))
  assert abs(many.std() - 0.5) < 4 * 0.5 / np.sqrt(2 * many.size)


def test_settings_and_random_state_are_not_stacked():
  stack = Stack(Layer, 3, remat=None, rngs=nnx.Rngs(0))
  _, params, rest = nnx.split(stack, nnx.Param, ...)
  assert {leaf.shape[0] for leaf in jax.tree.leaves(params)} == {3}
  assert {leaf.shape for leaf in jax.tree.leaves(rest)} == {()}


@pytest.mark.parametrize("remat", [None, "full"])
def test_each_layer_and_each_call_draws_anew(remat):
  stack = Stack(OnlyDropout, 2, remat=remat, rngs=nnx.Rngs(0))
  first, second = (np.asarray(stack(jnp.ones(4000), train=True)) for _ in range(2))
  # Twice the same mask would keep a half.
  for kept in (first != 0, second != 0):
    assert abs(kept.sum() - 1000) < 4 * np.sqrt(4000 * 0.25 * 0.75)
  assert (first != second).any()
  evaluated = stack(jnp.ones(4), train=False)
  np.testing.assert_array_equal(evaluated, np.ones(4))


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_remat_changes_no_gradient_and_saves_memory():
  def gradient(remat, depth=6):
    graph, params, rest = nnx.split(Stack(Layer, depth, remat=remat, rngs=nnx.Rngs(0)), nnx.Param, ...)

    def loss(params, x):
      return jnp.square(nnx.merge(graph, params, rest, copy=True)(x, train=True)).sum()

    return jax.grad(loss), params

  def added_memory(remat):
    shallow, deep = (gradient(remat, depth) for depth in (2, 6))
    return temporary_bytes(*deep) - temporary_bytes(*shallow)

  def temporary_bytes(gradient, params):
    large = jax.ShapeDtypeStruct((4096, 4), jnp.float32)
    memory = jax.jit(gradient).lower(params, large).compile().memory_analysis()
    assert memory is not None
    return memory.temp_size_in_bytes

  plain, params = gradient(None)
  saving, _ = gradient("full")
  for a, b in zip(*(jax.tree.leaves(jax.jit(f)(params, X)) for f in (plain, saving)), strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)
  assert np.abs(jax.tree.leaves(plain(params, X))[0]).max() > 0

  # By what four more layers add, since versions of XLA differ in what they need beside the layers.
  added = [added_memory(remat) for remat in (None, "full")]
  assert 0 < added[1] < 0.6 * added[0]
