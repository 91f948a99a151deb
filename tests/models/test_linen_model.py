"""Linen modules as models: the same numbers as Linen's own init and apply."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from trialbook.models.call_modes import Call
from trialbook.models.linen_model import LinenModel

pytestmark = pytest.mark.filterwarnings("ignore:(?s).*Using 'Module.sow:DeprecationWarning")


class Block(nn.Module):
  """With everything that a Linen model keeps or asks for."""

  axis_name: str | None = None

  @nn.compact
  def __call__(self, x: Any, *, train: bool):
    x = nn.Dense(6)(x)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.5, axis_name=self.axis_name)(x)
    self.sow("intermediates", "seen", x)
    self.sow("losses", "balance", x.sum())
    count = self.variable("counters", "calls", lambda: jnp.zeros((), jnp.int32))
    if train and not self.is_initializing():
      count.value += 1
    return nn.Dense(3)(nn.Dropout(0.5, deterministic=not train)(nn.relu(x)))


class ByAttribute(nn.Module):
  """Its mode is an attribute."""

  deterministic: bool | None = None

  @nn.compact
  def __call__(self, x: Any):
    return nn.Dropout(0.5, deterministic=self.deterministic)(x)


class Inference(nn.Module):
  """Of another name."""

  inference: bool = False

  @nn.compact
  def __call__(self, x: Any):
    return nn.Dropout(0.5, deterministic=self.inference)(x)


def made(module: nn.Module, shape: tuple[int, ...] = (4, 5), dtype: Any = jnp.float32) -> LinenModel:
  return LinenModel(module, Call(jnp.zeros(shape, dtype)), rngs=nnx.Rngs(params=0, dropout=1, default=2))


@pytest.mark.slow
def test_outputs_and_statistics_are_those_of_linen():
  module, x = Block(), jax.random.normal(jax.random.key(0), (4, 5))
  model = made(module)
  params = {name: nnx.to_pure_dict(nnx.state(getattr(model, name))) for name in ("Dense_0", "BatchNorm_0", "Dense_1")}
  variables = {"params": params} | {
    name: nnx.to_pure_dict(nnx.state(getattr(model, name))) for name in ("batch_stats", "counters")
  }
  expected = module.apply(variables, x, train=False)
  np.testing.assert_array_equal(model(x, train=False), expected)
  model(x, train=True)
  kept = ["batch_stats", "counters"]
  _, after = module.apply(variables, x, train=True, mutable=kept, rngs={"dropout": jax.random.key(9)})
  for name in kept:
    jax.tree.map(np.testing.assert_array_equal, nnx.to_pure_dict(nnx.state(getattr(model, name))), after[name])


def test_what_is_sown_is_kept_under_linens_path_for_whoever_takes_it():
  class Twice(nn.Module):
    @nn.compact
    def __call__(self, x: Any):
      block = Block(name="block")
      return block(x, train=False) + block(2 * x, train=False)

  model, x = made(Twice()), jax.random.normal(jax.random.key(0), (4, 5))
  model(x, train=True)
  sown = {
    "/".join(map(str, path)): one.get_value() for path, one in nnx.to_flat_state(nnx.pop(model, nnx.Intermediate))
  }
  assert {name: len(values) for name, values in sown.items()} == {"block/seen": 2, "block/balance": 2}
  np.testing.assert_allclose([seen.sum() for seen in sown["block/seen"]], sown["block/balance"], rtol=1e-5)
  model(x, train=False)
  assert len(nnx.to_flat_state(nnx.pop(model, nnx.Intermediate))) == 2


def test_what_is_sown_under_the_name_of_something_else_is_named_by_its_collection():
  class Odd(nn.Module):
    @nn.compact
    def __call__(self, x: Any):
      self.sow("intermediates", "train", x)
      self.sow("intermediates", "kernel", x)
      return x * self.param("kernel", nn.initializers.ones_init(), (5,))

  model = made(Odd())
  model(jnp.ones((4, 5)), train=True)
  names = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Intermediate))}
  assert names == {"intermediates/train", "intermediates/kernel"}
  assert {path for path, _ in nnx.to_flat_state(nnx.state(model, nnx.Param))} == {("kernel",)}


@pytest.mark.parametrize("how", [{}, {"init_fn": lambda: 0.0, "reduce_fn": lambda old, new: old + new}])
def test_what_is_sown_in_training_only_is_there_in_training_and_anew_at_each_call(how: dict[str, Any]):
  class Sometimes(nn.Module):
    @nn.compact
    def __call__(self, x: Any, train: bool):
      if train:
        self.sow("intermediates", "sum", x.sum(), **how)
      return nn.Dense(3)(x)

  model = made(Sometimes())
  for train in (True, False, True):
    model(jnp.ones((4, 5)), train=train)
    sown = nnx.to_flat_state(nnx.pop(model, nnx.Intermediate))
    assert [jax.tree.leaves(one.get_value()) for _, one in sown] == ([[20.0]] if train else [])


def test_a_submodule_may_be_called_module():
  class Wrapper(nn.Module):
    def setup(self):
      self.module = nn.Dense(3)

    def __call__(self, x: Any):
      return self.module(x)

  assert made(Wrapper())(jnp.ones((4, 5)), train=True).shape == (4, 3)


def test_any_arguments_are_passed_and_a_method_is_called_by_its_name():
  class Two(nn.Module):
    def setup(self):
      self.dense, self.dropout = nn.Dense(3), nn.Dropout(0.5)

    def __call__(self, source: Any, *, target: Any, train: bool):
      return self.encode(source, deterministic=not train) + self.dense(target)

    def encode(self, x: Any, deterministic: bool):
      return self.dropout(self.dense(x), deterministic=deterministic)

  x, y = jnp.ones((4, 5)), jnp.full((4, 5), 2.0)
  model = LinenModel(Two(), Call(x, target=y), rngs=nnx.Rngs(params=0, dropout=1, default=2))
  encoded = model(x, train=False, method="encode")
  np.testing.assert_allclose(model(x, target=y, train=False), encoded + model(y, train=False, method="encode"))
  assert (model(x, train=True, method="encode") == 0).any()


def test_names_are_linens():
  names = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(made(Block()), nnx.Param))}
  assert names == {
    *(f"Dense_{index}/{name}" for index in (0, 1) for name in ("kernel", "bias")),
    "BatchNorm_0/scale",
    "BatchNorm_0/bias",
  }
  others = {"/".join(map(str, path)) for path, _ in nnx.to_flat_state(nnx.state(made(Block()), nnx.BatchStat))}
  assert others == {"batch_stats/BatchNorm_0/mean", "batch_stats/BatchNorm_0/var"}


@pytest.mark.slow
def test_an_axis_that_is_named_is_bound_and_changes_no_number():
  x = jax.random.normal(jax.random.key(0), (4, 5))
  plain, named = made(Block()), made(Block(axis_name="batch"))
  for train in (True, False):
    np.testing.assert_allclose(plain(x, train=train), named(x, train=train), rtol=1e-6)
  for name in ("mean", "var"):
    ours, theirs = (
      nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))["batch_stats"]["BatchNorm_0"][name] for model in (plain, named)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


@pytest.mark.parametrize("module", [ByAttribute(), Inference()])
def test_a_mode_that_is_an_attribute_is_set(module: nn.Module):
  model, x = made(module), jnp.ones((40, 5))
  assert 20 < int((model(x, train=True) == 0).sum()) < 180
  np.testing.assert_array_equal(model(x, train=False), x)


def test_each_call_drops_other_units():
  model, x = made(ByAttribute()), jnp.ones((40, 5))
  assert not np.array_equal(model(x, train=True), model(x, train=True))


def test_integers_reach_an_embedding():
  model = made(nn.Embed(7, 3), (2, 5), jnp.int32)
  assert model(jnp.zeros((2, 5), jnp.int32), train=True).shape == (2, 5, 3)


def test_boxed_parameters_are_plain_arrays():
  kernel = nn.with_partitioning(nn.initializers.ones_init(), ("in", "out"))
  model = made(nn.Dense(3, kernel_init=kernel))
  np.testing.assert_array_equal(nnx.to_pure_dict(nnx.state(model, nnx.Param))["kernel"], np.ones((5, 3)))


def test_a_submodule_that_is_named_as_a_collection_is_refused():
  class Odd(nn.Module):
    @nn.compact
    def __call__(self, x: Any):
      return nn.BatchNorm(use_running_average=True)(nn.Dense(3, name="batch_stats")(x))

  with pytest.raises(ValueError, match="'batch_stats' is both a submodule and a collection of variables"):
    made(Odd())
