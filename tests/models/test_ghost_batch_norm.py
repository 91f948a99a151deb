import contextlib
import functools
import pathlib
import re
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec, use_abstract_mesh

from trialbook import models
from trialbook.models.batch_norm import ROWS, BatchNorm, GhostBatchNorm, collapse, spread
from trialbook.models.hyperparameter import Hyperparameter, fill
from trialbook.models.layout import num_replicas
from trialbook.models.mlp import MlpConfig
from trialbook.models.resnet import ResNetConfig

EPSILON, MOMENTUM, STEPS = 1e-5, 0.75, 3
SHAPE = (8, 3, 2, 5)
RNG = np.random.default_rng(0)
# Examples differ by far, so that statistics over the wrong ones would show.
BATCHES = RNG.normal(size=(STEPS, *SHAPE)) + RNG.normal(size=(STEPS, 8, 1, 1, 5)) * 3
COTANGENT = RNG.normal(size=SHAPE)
SCALE, BIAS = RNG.normal(size=(2, 5))
SIZES = (1, 2, 4, 8)
REPLICAS = {"no mesh": 1, "one device": 1, "data": 2, "fsdp": 2}


def mesh_of(placement):
  axis, devices = ("data", jax.devices()[:1]) if placement == "one device" else (placement, jax.devices())
  return Mesh(np.asarray(devices), (axis,), axis_types=(AxisType.Auto,))


def tracing(placement):
  """What has to be entered around a trace."""
  no_mesh = placement == "no mesh"
  return contextlib.nullcontext() if no_mesh else use_abstract_mesh(mesh_of(placement).abstract_mesh)


def f32(x):
  return jnp.asarray(x, jnp.float32)


def grouped(x, size):
  """Examples by virtual batch: [groups, size * positions, features]."""
  return np.asarray(x, np.float64).reshape(len(x) // size, -1, x.shape[-1])


def normalized(x, size):
  """In float64: (x - mean) / deviation, and the deviation, by virtual batch."""
  groups = grouped(x, size)
  deviation = np.sqrt(groups.var(1, keepdims=True) + EPSILON)
  return (groups - groups.mean(1, keepdims=True)) / deviation, deviation


def expected_rows(size, replicas):
  """The moving averages [replicas, features] of mean and variance after all batches."""
  mean, var = np.zeros((replicas, 5)), np.ones((replicas, 5))
  for x in BATCHES:
    groups = grouped(x, size)
    for replica in range(replicas):
      held = {example // size for example in range(8) if example // (8 // replicas) == replica}
      mean[replica] = 0.75 * mean[replica] + 0.25 * np.mean([groups[i].mean(0) for i in held], 0)
      var[replica] = 0.75 * var[replica] + 0.25 * np.mean([groups[i].var(0) for i in held], 0)
  return mean, var


@functools.cache
def trained(size, placement) -> tuple[Any, ...]:
  """The last step's output and its gradients by x, scale and bias, and the rows after all steps."""
  with tracing(placement):
    layer = GhostBatchNorm(5, virtual_batch_size=size, momentum=MOMENTUM, rngs=nnx.Rngs(0))
    layer.scale[...], layer.bias[...] = f32(SCALE), f32(BIAS)
    graph, params, stats, rest = nnx.split(layer, nnx.Param, nnx.BatchStat, ...)

    def loss(params, x, stats):
      model = nnx.merge(graph, params, stats, rest, copy=True)
      y = model(x, train=True)
      return (y * f32(COTANGENT)).sum(), (y, nnx.state(model, nnx.BatchStat))

    step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    if placement != "no mesh":
      mesh = mesh_of(placement)
      split, everywhere = NamedSharding(mesh, PartitionSpec(mesh.axis_names)), NamedSharding(mesh, PartitionSpec())
      step = jax.jit(step, in_shardings=(everywhere, split, split))
    traced = step.trace(params, f32(BATCHES[0]), stats)
  step = traced.lower().compile()
  results = ()
  for x in BATCHES:
    (_, (y, stats)), (by_params, by_x) = step(params, f32(x), jax.device_put(stats, step.input_shardings[0][2]))
    results = y, by_x, by_params["scale"][...], by_params["bias"][...], [stats[name][...] for name in ROWS]
  return results


@pytest.mark.parametrize("placement", REPLICAS)
@pytest.mark.parametrize("size", SIZES)
def test_each_virtual_batch_is_normalized_by_its_own_statistics(size, placement):
  y = trained(size, placement)[0]
  expected = normalized(BATCHES[-1], size)[0] * SCALE + BIAS
  np.testing.assert_allclose(y, expected.reshape(SHAPE), atol=3e-6)


@pytest.mark.parametrize("placement", REPLICAS)
@pytest.mark.parametrize("size", SIZES)
def test_the_gradient_is_the_closed_form_in_each_virtual_batch(size, placement):
  _, by_x, by_scale, by_bias, _ = trained(size, placement)
  standard, deviation = normalized(BATCHES[-1], size)
  cotangent = grouped(COTANGENT, size)
  inner = cotangent - cotangent.mean(1, keepdims=True) - standard * (cotangent * standard).mean(1, keepdims=True)
  np.testing.assert_allclose(by_x, (SCALE / deviation * inner).reshape(SHAPE), atol=5e-6)
  np.testing.assert_allclose(by_scale, (cotangent * standard).sum((0, 1)), atol=2e-5)
  np.testing.assert_allclose(by_bias, cotangent.sum((0, 1)), atol=2e-5)


@pytest.mark.parametrize("placement", REPLICAS)
@pytest.mark.parametrize("size", SIZES)
def test_each_row_follows_the_virtual_batches_of_its_replica(size, placement):
  rows = trained(size, placement)[4]
  np.testing.assert_allclose(rows, expected_rows(size, REPLICAS[placement]), rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_outputs_gradients_and_the_mean_row_do_not_depend_on_the_number_of_replicas(size):
  one, two = trained(size, "one device"), trained(size, "data")
  for a, b in zip(one[:4], two[:4], strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)
  for a, b in zip(one[4], two[4], strict=True):
    np.testing.assert_allclose(collapse(a), collapse(b), rtol=1e-6, atol=1e-6)


def test_one_virtual_batch_is_synchronized_batch_norm():
  split = NamedSharding(mesh_of("data"), PartitionSpec("data"))
  x, results = jax.device_put(f32(BATCHES[0]), split), []
  for make in (BatchNorm, functools.partial(GhostBatchNorm, virtual_batch_size=8)):
    with tracing("data"):
      graph, state = nnx.split(make(5, momentum=MOMENTUM, rngs=nnx.Rngs(0)))

      def apply(x, graph=graph, state=state):
        model = nnx.merge(graph, state, copy=True)
        return model(x, train=True), nnx.state(model, nnx.BatchStat)

      traced = jax.jit(apply, in_shardings=split).trace(x)
    results.append(traced.lower().compile()(x))
  (sync, sync_stats), (ghost, ghost_stats) = results
  np.testing.assert_allclose(ghost, sync, atol=1e-6)
  for name in ("mean", "var"):
    rows = ghost_stats[f"replica_{name}"][...]
    np.testing.assert_allclose(rows, [sync_stats[name][...]] * 2, rtol=1e-6, atol=1e-6)


def test_evaluation_normalizes_by_the_mean_over_rows_and_leaves_them_alone():
  with tracing("data"):
    layer = GhostBatchNorm(5, virtual_batch_size=2, momentum=MOMENTUM, rngs=nnx.Rngs(0))
  mean, var = RNG.normal(size=(2, 5)), RNG.uniform(0.5, 2, size=(2, 5))
  layer.replica_mean[...], layer.replica_var[...] = f32(mean), f32(var)
  x = BATCHES[0][:3]  # A size that no virtual batch fits.
  expected = (x - mean.mean(0)) / np.sqrt(var.mean(0) + EPSILON)
  np.testing.assert_allclose(layer(f32(x), train=False), expected, atol=3e-6)
  np.testing.assert_array_equal(layer.replica_mean[...], f32(mean))


def test_rows_are_replaced_by_their_mean_only_for_another_number_of_replicas():
  rows = f32(RNG.normal(size=(2, 5)))
  np.testing.assert_array_equal(spread(rows, 2), rows)
  for replicas in (1, 4):
    np.testing.assert_allclose(spread(rows, replicas), [np.asarray(rows).mean(0)] * replicas, rtol=1e-6)


def collectives(text):
  return re.findall(r" (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(", text)


@pytest.mark.parametrize(("size", "exchanges"), [(None, True), (2, False), (4, False), (8, True)])
def test_devices_exchange_nothing_going_forward_unless_a_virtual_batch_spans_them(size, exchanges):
  mesh = mesh_of("data")
  split, everywhere = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
  config = ResNetConfig(stage_sizes=(1, 1), width=4, virtual_batch_size=size)
  with tracing("data"):
    model = nnx.eval_shape(lambda: models.build(config, input_shape=(4, 4, 1), num_outputs=2, rngs=nnx.Rngs(0)))
    graph, params, settings, stats = nnx.split(model, nnx.Param, Hyperparameter, ...)

    def forward(params, stats, x):
      model = nnx.merge(graph, params, fill(settings, {"batch_norm_momentum": 0.9}), stats, copy=True)
      return model(x, train=True), nnx.split(model, nnx.Param, Hyperparameter, ...)[3]

    by_replica = everywhere if size is None else split
    traced = jax.jit(forward, in_shardings=(everywhere, by_replica, split), out_shardings=(split, by_replica)).trace(
      params, stats, jax.ShapeDtypeStruct((8, 4, 4, 1), jnp.float32)
    )
  assert bool(collectives(traced.lower().compile().as_text())) is exchanges


@pytest.mark.parametrize("size", SIZES)
def test_each_row_is_computed_on_its_replica_wherever_the_inputs_are(size):
  everywhere = NamedSharding(mesh_of("data"), PartitionSpec())
  with tracing("data"):
    graph, state = nnx.split(GhostBatchNorm(5, virtual_batch_size=size, momentum=MOMENTUM, rngs=nnx.Rngs(0)))

    def rows(x):
      model = nnx.merge(graph, state, copy=True)
      model(x, train=True)
      return model.replica_mean[...], model.replica_var[...]

    traced = jax.jit(rows, in_shardings=everywhere).trace(f32(BATCHES[0]))
  by_replica = NamedSharding(mesh_of("data"), PartitionSpec("data"))
  assert all(found.is_equivalent_to(by_replica, 2) for found in traced.lower().compile().output_shardings)


@pytest.mark.parametrize(
  ("batch", "size", "placement", "expected"),
  [
    (8, 3, "data", "the batch of 8 examples, and divide the 4 of each of 2 replicas or .*; these do: 1, 2, 4, 8"),
    (8, 16, "data", "the batch of 8 examples, .*: 1, 2, 4, 8"),
    (6, 2, "data", "the batch of 6 examples, and divide the 3 of each of 2 .*: 1, 3, 6"),
    (6, 4, "no mesh", "the batch of 6 examples; these do: 1, 2, 3, 6"),
    (7, 7, "data", "2 replicas cannot share a batch of 7 examples evenly"),
  ],
)
def test_a_size_that_does_not_fit_is_refused_with_those_that_do(batch, size, placement, expected):
  with tracing(placement):
    layer = GhostBatchNorm(5, virtual_batch_size=size, momentum=MOMENTUM, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=rf"^model\.virtual_batch_size = {size}: .*{expected}(\n|$)"):
      nnx.eval_shape(lambda: layer(jnp.zeros((batch, 5)), train=True))


def test_training_on_another_number_of_replicas_than_the_rows_is_refused():
  layer = GhostBatchNorm(5, virtual_batch_size=4, momentum=MOMENTUM, rngs=nnx.Rngs(0))
  with tracing("data"), pytest.raises(ValueError, match=r"made for 1 replicas .* in training with 2"):
    nnx.eval_shape(lambda: layer(jnp.zeros((8, 5)), train=True))


def test_devices_need_not_be_there_to_trace_for_them():
  mesh = AbstractMesh((64, 4, 2), ("data", "fsdp", "model"), axis_types=(AxisType.Auto,) * 3)
  with use_abstract_mesh(mesh):
    assert num_replicas() == 256
    layer = nnx.eval_shape(lambda: GhostBatchNorm(5, virtual_batch_size=8, momentum=0.9, rngs=nnx.Rngs(0)))
    graph, state = nnx.split(layer)
    traced = jax.jit(lambda state, x: nnx.merge(graph, state)(x, train=True)).trace(
      state, jax.ShapeDtypeStruct((1024, 5), jnp.float32)
    )
  assert layer.replica_mean.shape == (256, 5)
  assert '"data"=64, "fsdp"=4, "model"=2' in traced.lower(lowering_platforms=("tpu",)).as_text()


@pytest.mark.parametrize("config", [MlpConfig(widths=(4,), normalization="batch"), ResNetConfig(stage_sizes=(1,))])
def test_models_have_ghost_batch_norm_if_their_settings_give_a_size(config):
  def names(size):
    shape = (4, 4, 1)
    chosen = config.model_copy(update={"virtual_batch_size": size})
    model = nnx.eval_shape(lambda: models.build(chosen, input_shape=shape, num_outputs=2, rngs=nnx.Rngs(0)))
    flat = nnx.to_flat_state(nnx.state(model, nnx.BatchStat))
    return {path[-1] for path, _ in flat}, {leaf.ndim for _, leaf in flat}

  assert names(None) == ({"mean", "var"}, {1})
  assert names(2) == ({"replica_mean", "replica_var"}, {2})


def test_bfloat16_inputs_are_normalized_in_float32():
  layer, exact = (GhostBatchNorm(5, virtual_batch_size=4, momentum=MOMENTUM, rngs=nnx.Rngs(0)) for _ in range(2))
  layer.scale.set_value(layer.scale[...].astype(jnp.bfloat16))
  x = jnp.asarray(BATCHES[0], jnp.bfloat16)
  np.testing.assert_array_equal(layer(x, train=True), exact(x.astype(jnp.float32), train=True).astype(jnp.bfloat16))
  assert layer.replica_var[...].dtype == jnp.float32
  np.testing.assert_array_equal(layer.replica_var[...], exact.replica_var[...])


def test_the_variance_does_not_cancel_for_a_large_mean():
  x = f32(1000 + RNG.normal(size=SHAPE))
  y = GhostBatchNorm(5, virtual_batch_size=4, momentum=MOMENTUM, rngs=nnx.Rngs(0))(x, train=True)
  # One pass in float32, E[x²] - E[x]², is off by 0.1 here.
  np.testing.assert_allclose(y, normalized(x, 4)[0].reshape(SHAPE), atol=2e-3)


EIGHT_DEVICES = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, use_abstract_mesh
from trialbook.models.batch_norm import ROWS, GhostBatchNorm

mesh = Mesh(np.asarray(jax.devices()).reshape(2, 2, 2), ("data", "fsdp", "model"), axis_types=(AxisType.Auto,) * 3)
split = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
x = np.load(sys.argv[1])
results = {}
for size in (1, 2, 4, 8):
  with use_abstract_mesh(mesh.abstract_mesh):
    graph, state = nnx.split(GhostBatchNorm(5, virtual_batch_size=size, momentum=0.0, rngs=nnx.Rngs(0)))
    def apply(x):
      model = nnx.merge(graph, state, copy=True)
      return model(x, train=True), *(model.__dict__[name][...] for name in ROWS)
    traced = jax.jit(apply, in_shardings=split, out_shardings=split).trace(x)
  for name, value in zip(("y", "mean", "var"), traced.lower().compile()(x)):
    results[f"{name}{size}"] = value
np.savez(sys.argv[2], **results)
"""


@pytest.mark.slow
def test_virtual_batches_span_four_replicas_along_two_axes_of_eight_devices(tmp_path):
  np.save(tmp_path / "x.npy", BATCHES[0].astype(np.float32))
  command = [sys.executable, "-c", EIGHT_DEVICES, str(tmp_path / "x.npy"), str(tmp_path / "y.npz")]
  subprocess.run(command, check=True, timeout=120, cwd=pathlib.Path(models.__file__).parents[2])
  results = np.load(tmp_path / "y.npz")
  for size in SIZES:
    np.testing.assert_allclose(results[f"y{size}"], normalized(BATCHES[0], size)[0].reshape(SHAPE), atol=3e-6)
    groups = grouped(BATCHES[0], size)
    for name, statistics in (("mean", groups.mean(1)), ("var", groups.var(1))):
      # Each of the 4 replicas has 2 examples: 2 virtual batches, or a share of one.
      rows = np.repeat(statistics, size, 0).reshape(4, 2, 5).mean(1)
      np.testing.assert_allclose(results[f"{name}{size}"], rows, rtol=3e-6, atol=1e-6)
