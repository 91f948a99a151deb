import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from trialbook.models.hyperparameter import Hyperparameter, SettingError, fill


class Scaled(nnx.Module):
  """Multiplies by a weight, a named and a constant hyperparameter."""

  def __init__(self, *, rngs: nnx.Rngs):
    self.weight = nnx.Param(rngs.normal(()))
    self.named = Hyperparameter.read("strength")
    self.constant = Hyperparameter.read(0.25)

  def __call__(self, x):
    return x * self.weight[...] * self.named[...] * self.constant[...]


def split(model):
  return nnx.split(model, nnx.Param, Hyperparameter, ...)


def test_an_abstract_model_keeps_where_its_hyperparameters_come_from():
  graph, _, hyperparameters, rest = split(nnx.eval_shape(lambda: Scaled(rngs=nnx.Rngs(0))))
  filled = fill(hyperparameters, {"strength": jnp.float32(3), "unread": jnp.float32(7)})
  model = nnx.merge(graph, {"weight": nnx.Param(jnp.float32(2))}, filled, rest)
  assert float(model(jnp.float32(1))) == 1.5
  assert jax.tree.structure(filled) == jax.tree.structure(hyperparameters)


def test_values_flow_through_one_compiled_gradient_without_being_differentiated():
  graph, params, hyperparameters, rest = split(Scaled(rngs=nnx.Rngs(0)))
  traces = []

  @jax.jit
  def gradient(params, values):
    traces.append(1)

    def loss(params):
      return nnx.merge(graph, params, fill(hyperparameters, values), rest, copy=True)(jnp.float32(2))

    return jax.grad(loss)(params)

  for strength in (0.0, 0.5, 3.0):
    found = gradient(params, {"strength": np.float32(strength)})
    assert jax.tree.leaves(found) == [2 * strength * 0.25]
  assert len(traces) == 1


def test_an_unfilled_hyperparameter_shows_as_nan():
  assert np.isnan(Scaled(rngs=nnx.Rngs(0))(jnp.float32(1)))


def test_a_missing_setting_is_named_with_its_reader_and_its_remedy():
  *_, hyperparameters, _ = split(Scaled(rngs=nnx.Rngs(0)))
  with pytest.raises(SettingError, match=r"^named reads .*'strength'.*model\.traced\.strength.*'strenght'"):
    fill(hyperparameters, {"strenght": jnp.float32(1)})
