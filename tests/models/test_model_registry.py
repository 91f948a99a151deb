import functools
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from pydantic import TypeAdapter, ValidationError

from trialbook import models
from trialbook.models.hyperparameter import Hyperparameter, fill
from trialbook.models.plugin import PluginConfig
from trialbook.settings import leaves, traced_values

TINY = {
  "mlp": {"widths": (5, 4), "dropout_rate": 0.5},
  "cnn": {"widths": (4, 6), "convolutions_per_stage": 1, "dropout_rate": 0.5},
  "resnet": {"stage_sizes": (1, 1), "width": 4, "dropout_rate": 0.5},
  "wide_resnet": {"depth": 10, "widen_factor": 1, "dropout_rate": 0.5},
  "vit": {"width": 8, "depth": 2, "heads": 2, "dropout_rate": 0.5},
  "transformer": {"width": 8, "depth": 2, "heads": 2, "dropout_rate": 0.5},
}
VARIANTS = [
  ("mlp", {}),
  ("mlp", {"normalization": "batch", "activation": "gelu"}),
  ("mlp", {"normalization": "layer", "activation": "tanh", "dropout_rate": None}),
  ("cnn", {"pooling": "average"}),
  ("resnet", {}),
  ("resnet", {"stem": "imagenet", "block": "bottleneck", "stage_sizes": (1,), "normalization": "layer"}),
  ("resnet", {"normalization": "group", "groups": 2, "dropout_rate": None, "zero_init_residual": False}),
  ("wide_resnet", {}),
  ("vit", {}),
  ("transformer", {"activation": "swiglu", "remat": "names"}),
]
OUTPUTS, BATCH = 3, 4
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 8, 8, 1)), jnp.float32)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(OUTPUTS, size=(BATCH, 6)), jnp.int32)


class Built:
  """A model as the trainer holds it: built from a config whose traced numbers are NaN, then split."""

  def __init__(self, config):
    self.config = config
    self.is_text = config.name == "transformer"
    self.inputs = TOKENS if self.is_text else IMAGES
    self.output_shape = (*TOKENS.shape, OUTPUTS) if self.is_text else (BATCH, OUTPUTS)
    self.step_traces = []
    hidden = {name: float("nan") for name, kind, _, value in leaves(config) if kind == "traced" and value is not None}
    blind = config.model_copy(update=hidden)

    def init():
      model = models.build(blind, input_shape=self.inputs.shape[1:], num_outputs=OUTPUTS, rngs=nnx.Rngs(0))
      return nnx.split(model, nnx.Param, Hyperparameter, nnx.RngState, ...)

    self.graph, self.params, self.hyperparameters, self.random, self.rest = jax.jit(init)()
    self.evaluate = jax.jit(self._evaluate, static_argnames="dtype")
    self.step = jax.jit(jax.grad(self._loss, has_aux=True))
    self.values = {path.rpartition(".")[2]: value for path, value in traced_values(config).items()}

  def model(self, params, values):
    hyperparameters = fill(self.hyperparameters, values)
    return nnx.merge(self.graph, params, hyperparameters, self.random, self.rest, copy=True)

  def _evaluate(self, params, values, x, dtype="float32"):
    x = x if self.is_text else x.astype(dtype)
    return self.model(jax.tree.map(lambda p: p.astype(dtype), params), values)(x, train=False)

  def _loss(self, params, values, x):
    self.step_traces.append(1)
    model = self.model(params, values)
    outputs = model(x, train=True)
    target = jnp.asarray(np.random.default_rng(1).normal(size=outputs.shape), jnp.float32)
    return (outputs * target).sum(), (outputs, nnx.state(model, nnx.BatchStat))

  @functools.cached_property
  def nonzero_params(self):
    """A scale of zero (the start of a residual branch) stops the gradient of all that is before it."""
    return jax.tree.map(lambda p: np.where(p == 0, np.float32(0.5), p), self.params)

  @functools.cached_property
  def training_step(self):
    """Outputs, the batch statistics after the call, and a gradient with respect to the parameters."""
    gradient, aux = self.step(self.nonzero_params, self.values, self.inputs)
    return *aux, gradient


@pytest.fixture(
  scope="module", params=VARIANTS, ids=lambda variant: "-".join(map(str, [variant[0], *variant[1].values()]))
)
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


@pytest.mark.slow
def test_parameters_are_float32(built):
  assert {leaf.dtype for leaf in jax.tree.leaves(built.params)} == {jnp.dtype(jnp.float32)}


@pytest.mark.slow
def test_outputs_are_finite_though_the_constructor_saw_no_traced_number(built):
  trained, batch_stats, _ = built.training_step
  evaluated = built.evaluate(built.params, built.values, built.inputs)
  for outputs in (trained, evaluated):
    assert (outputs.shape, outputs.dtype) == (built.output_shape, jnp.float32)
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((trained, evaluated, batch_stats)))


def test_every_parameter_gets_a_gradient(built):
  *_, gradient = built.training_step
  flat = jax.tree_util.tree_leaves_with_path(gradient)
  assert [jax.tree_util.keystr(path) for path, leaf in flat if not np.abs(leaf).sum() > 0] == []


def test_an_example_in_evaluation_does_not_depend_on_its_batch(built):
  others = (built.inputs[1:] + 1) % OUTPUTS if built.is_text else built.inputs[1:] * 100
  inputs = built.inputs, built.inputs.at[1:].set(others)
  outputs, changed = (built.evaluate(built.params, built.values, x) for x in inputs)
  np.testing.assert_array_equal(changed[0], outputs[0])
  assert (changed[1:] != outputs[1:]).any()


def test_dropout_rates_share_one_program_and_do_not_count_in_evaluation(built):
  if built.config.dropout_rate is None:
    assert "dropout_rate" not in built.values
    return
  none = built.values | {"dropout_rate": np.float32(0)}
  trained, _, _ = built.training_step
  _, (undropped, _) = built.step(built.nonzero_params, none, built.inputs)
  assert len(built.step_traces) == 1
  assert (trained != undropped).any()
  evaluated = [built.evaluate(built.nonzero_params, values, built.inputs) for values in (built.values, none)]
  np.testing.assert_array_equal(*evaluated)
  if getattr(built.config, "normalization", "layer") != "batch":
    np.testing.assert_allclose(evaluated[0], undropped, atol=1e-5)


def test_in_bfloat16_outputs_are_bfloat16_and_close(built):
  outputs = built.evaluate(built.params, built.values, built.inputs, dtype="bfloat16")
  exact = built.evaluate(built.params, built.values, built.inputs)
  assert outputs.dtype == jnp.bfloat16
  np.testing.assert_allclose(outputs.astype(jnp.float32), exact, atol=0.05, rtol=0.05)


@pytest.mark.parametrize(
  ("settings", "expected"),
  [
    ({"name": "mlp", "widths": (3,)}, "MlpConfig"),
    ({"name": "resnet"}, "ResNetConfig"),
    ({"name": "mlp", "embeddings": ({"column": 1, "categories": 5, "width": 2},)}, "MlpConfig"),
    ({"name": "cnn", "normalization": "group"}, "CnnConfig"),
    ({"name": "wide_resnet", "depth": 28}, "WideResNetConfig"),
    ({"name": "vit", "width": 384}, "VitConfig"),
    ({"name": "transformer", "positions": "learned"}, "TransformerConfig"),
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
    {"name": "mlp", "embeddings": ({"column": -1, "categories": 5, "width": 2},)},
    {"name": "cnn", "widths": ()},
    {"name": "wide_resnet", "depth": 4},
    {"name": "vit", "mlp_ratio": 0.0},
    {"name": "transformer", "dropout_rate": 1.0},
    {"name": "transformer", "patch_size": 4},
    {"name": "module:"},
  ],
)
def test_settings_outside_their_range_are_refused(settings):
  with pytest.raises(ValidationError):
    TypeAdapter(models.ModelConfig).validate_python(settings)
