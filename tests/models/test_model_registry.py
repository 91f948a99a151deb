import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from pydantic import TypeAdapter, ValidationError

import models
from models.hyperparameter import Hyperparameter, fill
from models.plugin import PluginConfig
from trialbook.settings import leaves, traced_values

TINY = {
  "mlp": {"widths": (5, 4), "dropout_rate": 0.5},
  "resnet": {"stage_sizes": (1, 1), "width": 4, "dropout_rate": 0.5},
}
VARIANTS = [
  ("mlp", {}),
  ("mlp", {"normalization": "batch", "activation": "gelu"}),
  ("mlp", {"normalization": "layer", "activation": "tanh", "dropout_rate": None}),
  ("resnet", {}),
  ("resnet", {"stem": "imagenet", "block": "bottleneck", "stage_sizes": (1,), "normalization": "layer"}),
  ("resnet", {"normalization": "group", "groups": 2, "dropout_rate": None, "zero_init_residual": False}),
]
INPUT_SHAPE, OUTPUTS, BATCH = (8, 8, 1), 3, 4
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, *INPUT_SHAPE)), jnp.float32)


class Built:
  """A model as the trainer holds it: built from a config whose traced numbers are NaN, then split."""

  def __init__(self, config):
    hidden = {name: float("nan") for name, kind, _, value in leaves(config) if kind == "traced" and value is not None}
    blind = config.model_copy(update=hidden)

    def init():
      model = models.build(blind, input_shape=INPUT_SHAPE, num_outputs=OUTPUTS, rngs=nnx.Rngs(0))
      return nnx.split(model, nnx.Param, Hyperparameter, nnx.RngState, ...)

    self.graph, self.params, self.hyperparameters, self.random, self.rest = jax.jit(init)()
    self.evaluate = jax.jit(self._evaluate)
    self.values = {path.rpartition(".")[2]: value for path, value in traced_values(config).items()}

  def model(self, params, values):
    hyperparameters = fill(self.hyperparameters, values)
    return nnx.merge(self.graph, params, hyperparameters, self.random, self.rest, copy=True)

  def _evaluate(self, params, values, x):
    """Outputs computed in x's dtype."""
    return self.model(jax.tree.map(lambda p: p.astype(x.dtype), params), values)(x, train=False)

  @functools.cached_property
  def training_step(self):
    """Outputs, the batch statistics after the call, and a gradient with respect to the parameters."""
    target = jnp.asarray(np.random.default_rng(1).normal(size=(BATCH, OUTPUTS)), jnp.float32)

    def loss(params, values, x):
      model = self.model(params, values)
      outputs = model(x, train=True)
      return (outputs * target).sum(), (outputs, nnx.state(model, nnx.BatchStat))

    # A scale of zero (the start of a residual branch) stops the gradient of all that is before it.
    params = jax.tree.map(lambda p: np.where(p == 0, np.float32(0.5), p), self.params)
    gradient, aux = jax.jit(jax.grad(loss, has_aux=True))(params, self.values, IMAGES)
    return *aux, gradient


@pytest.fixture(scope="module", params=VARIANTS, ids=lambda variant: "-".join(map(str, variant[1].values())))
def built(request):
  name, settings = request.param
  config_class, _ = models.MODELS[name]
  return Built(config_class(**TINY[name] | settings))


def test_every_registered_model_is_in_the_union_and_in_this_test():
  union, _ = typing.get_args(models.ModelConfig)
  members = {typing.get_args(member)[0]: typing.get_args(member)[1].tag for member in typing.get_args(union)}
  assert members.pop(PluginConfig) == "module:Class"
  assert members == {config: name for name, (config, _) in models.MODELS.items()}
  assert {name for name, _ in VARIANTS} == set(models.MODELS)
  for name, (config, module) in models.MODELS.items():
    assert config().name == name
    assert issubclass(module, nnx.Module)


def test_parameters_are_float32(built):
  assert {leaf.dtype for leaf in jax.tree.leaves(built.params)} == {jnp.dtype(jnp.float32)}


def test_outputs_are_finite_though_the_constructor_saw_no_traced_number(built):
  trained, batch_stats, _ = built.training_step
  evaluated = built.evaluate(built.params, built.values, IMAGES)
  for outputs in (trained, evaluated):
    assert (outputs.shape, outputs.dtype) == ((BATCH, OUTPUTS), jnp.float32)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((trained, evaluated, batch_stats)))


def test_every_parameter_gets_a_gradient(built):
  *_, gradient = built.training_step
  flat = jax.tree_util.tree_leaves_with_path(gradient)
  assert [jax.tree_util.keystr(path) for path, leaf in flat if not np.abs(leaf).sum() > 0] == []


def test_an_example_in_evaluation_does_not_depend_on_its_batch(built):
  outputs, changed = (built.evaluate(built.params, built.values, x) for x in (IMAGES, IMAGES.at[1:].multiply(100)))
  np.testing.assert_array_equal(changed[0], outputs[0])
  assert (changed[1:] != outputs[1:]).any()


def test_outputs_follow_bfloat16_inputs(built):
  outputs = built.evaluate(built.params, built.values, IMAGES.astype(jnp.bfloat16))
  exact = built.evaluate(built.params, built.values, IMAGES)
  assert outputs.dtype == jnp.bfloat16
  np.testing.assert_allclose(outputs.astype(jnp.float32), exact, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
  ("settings", "expected"),
  [
    ({"name": "mlp", "widths": (3,)}, "MlpConfig"),
    ({"name": "resnet"}, "ResNetConfig"),
    ({"name": "my.module:Net"}, "PluginConfig"),
  ],
)
def test_a_name_chooses_the_config(settings, expected):
  config = TypeAdapter(models.ModelConfig).validate_python(settings)
  assert type(config).__name__ == expected
  assert TypeAdapter(models.ModelConfig).validate_json(config.model_dump_json()) == config


def test_an_unknown_name_is_told_apart_from_wrong_settings():
  with pytest.raises(ValidationError) as caught:
    TypeAdapter(models.ModelConfig).validate_python({"name": "renset"})
  (error,) = caught.value.errors()
  assert error["type"] == "union_tag_invalid"
  assert error.get("ctx", {})["tag"] == "renset"


@pytest.mark.parametrize(
  "settings",
  [
    {"name": "mlp", "dropout_rate": 1.0},
    {"name": "mlp", "widths": (0,)},
    {"name": "mlp", "batch_norm_momentum": -0.1},
    {"name": "resnet", "stage_sizes": ()},
    {"name": "resnet", "widths": (3,)},
    {"name": "module:"},
  ],
)
def test_settings_outside_their_range_are_refused(settings):
  with pytest.raises(ValidationError):
    TypeAdapter(models.ModelConfig).validate_python(settings)
