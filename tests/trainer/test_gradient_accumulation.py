"""A batch that is taken in parts gives the gradient, the metrics and the update of the whole one."""

import pathlib
import re
from typing import Any

import jax
import numpy as np
import pytest
from tiny import mlp, resnet

from trialbook.errors import ConfigError, UserError
from trialbook.input_pipeline import load
from trialbook.models import MlpConfig
from trialbook.trainer import Config, Programs, checks, run, sharding
from trialbook.trainer.checkpoints.array_names import flatten
from trialbook.trainer.config import MeshSettings
from trialbook.trainer.program import Program
from trialbook.trainer.train_step import program_settings

STEPS = 3


def trained(config: Config, devices: int, steps: int = STEPS) -> tuple[Program, list[dict[str, float]], dict[str, Any]]:
  """The program, each step's metrics, and the state after the last one."""
  config = config.resolved()
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:devices])
  checks.check_divisible(config, mesh)
  dataset = load(config.dataset, seed=config.seed, batch_size=config.batch_size)
  program = Programs().get(config, config.task.build(), dataset.info, mesh)
  program.compile()
  settings = sharding.put_replicated(mesh, program_settings(config))
  state, told = program.init(settings), []
  for step in range(steps):
    state, metrics = program.train_step(state, settings, sharding.put_batch(mesh, dataset.train_batch(step)))
    told.append(dict(zip(program.metric_names, np.asarray(metrics).tolist(), strict=True)))
  return program, told, flatten(jax.device_get(state))


def wide(**changes: Any) -> Config:
  # The first kernel, 64 × 256, is just large enough to be split over devices.
  return mlp(model=MlpConfig(widths=(256,), normalization="layer"), clip_norm=1.0, averaging__decay=0.9, **changes)


def moved(function: Any) -> dict[str, int]:
  """How many operations of the compiled program move data from device to device other than by sums and gathers."""
  text = function.as_text() or ""
  return {name: len(re.findall(rf"{name}(-start)?\(", text)) for name in ("all-to-all", "collective-permute")}


@pytest.mark.slow
@pytest.mark.parametrize(("devices", "fsdp"), [(1, 1), (2, 1), (2, 2)])
def test_a_batch_in_parts_trains_as_the_whole_one(devices: int, fsdp: int):
  program, expected, state = trained(wide(mesh=MeshSettings(fsdp=fsdp)), devices)
  in_parts, told, other = trained(wide(mesh=MeshSettings(fsdp=fsdp), gradient_accumulation=4), devices)
  assert set(in_parts.metric_names) == set(program.metric_names)
  for step, (one, two) in enumerate(zip(expected, told, strict=True)):
    for name in one:
      assert two[name] == pytest.approx(one[name], rel=2e-5, abs=1e-6), f"{name} at step {step}"
  assert state.keys() == other.keys()
  for name, array in state.items():
    assert array.dtype == other[name].dtype
    np.testing.assert_allclose(other[name], array, rtol=1e-4, atol=1e-6, err_msg=name)
  assert moved(in_parts.train_step) == moved(program.train_step)
  gathers = [len(re.findall(r"all-gather(-start)?\(", p.train_step.as_text() or "")) for p in (program, in_parts)]
  assert gathers[1] <= gathers[0]


@pytest.mark.parametrize("parts", [1, 4])
def test_each_part_is_divided_among_the_replicas_without_moving_an_example(parts: int):
  mesh = sharding.make_mesh()
  batch = {"inputs": np.arange(32.0, dtype=np.float32).reshape(16, 2), "labels": np.arange(16, dtype=np.int32)}
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    cut = jax.jit(lambda batch: sharding.parts(batch, parts), in_shardings=sharding.batch(mesh)).trace(batch)
  compiled = cut.lower().compile()
  assert sum(moved(compiled).values()) == 0
  result = compiled(sharding.put_batch(mesh, batch))
  each = 8 // parts
  # Part k has examples k*each to (k+1)*each of both halves of the batch.
  expected = np.arange(16).reshape(2, parts, each).swapaxes(0, 1).reshape(parts, 2 * each)
  np.testing.assert_array_equal(result["labels"], expected)
  np.testing.assert_array_equal(result["inputs"], batch["inputs"][expected])


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
def test_batch_norm_normalizes_each_part_and_its_averages_move_with_each(devices: int):
  model = MlpConfig(widths=(8,), normalization="batch", batch_norm_momentum=0.75)
  config = mlp(model=model, gradient_accumulation=4)
  _, _, before = trained(config, devices, steps=0)
  _, (told,), after = trained(config, devices, steps=1)
  dataset = load(config.dataset, seed=config.seed, batch_size=config.batch_size)
  batch = dataset.train_batch(0)
  assert dataset.info.normalization is not None
  mean, deviation = (np.asarray(x, np.float64) for x in dataset.info.normalization)
  parameters = {name: array.astype(np.float64) for name, array in before.items() if name.startswith("params/")}
  moving_mean, moving_var, losses = np.zeros(8), np.ones(8), []
  for part in np.arange(32).reshape(devices, 4, -1).swapaxes(0, 1).reshape(4, 8):
    x = ((batch["inputs"][part] - mean) / deviation).reshape(8, -1) @ parameters["params/hidden/0/linear/kernel"]
    moving_mean = 0.75 * moving_mean + 0.25 * x.mean(axis=0)
    moving_var = 0.75 * moving_var + 0.25 * x.var(axis=0)
    x = np.maximum((x - x.mean(axis=0)) / np.sqrt(x.var(axis=0) + 1e-5), 0)
    logits = x @ parameters["params/output/kernel"] + parameters["params/output/bias"]
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    losses.append(-log_p[np.arange(8), batch["labels"][part]].mean())
  np.testing.assert_allclose(after["variables/hidden/0/norm/mean"], moving_mean, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(after["variables/hidden/0/norm/var"], moving_var, rtol=1e-5)
  assert told["train/loss"] == pytest.approx(np.mean(losses), rel=1e-5)


@pytest.mark.slow
def test_dropout_draws_for_each_part():
  losses = {}
  for dropout_rate in (0.0, 0.5):
    for batch_size, parts in ((8, 1), (16, 2)):
      model = MlpConfig(widths=(64,), dropout_rate=dropout_rate)
      config = mlp(model=model, batch_size=batch_size, gradient_accumulation=parts).resolved()
      dataset = load(config.dataset, seed=0, batch_size=batch_size)
      mesh = sharding.make_mesh(devices=jax.devices()[:1])
      program = Programs().get(config, config.task.build(), dataset.info, mesh)
      program.compile()
      settings = sharding.put_replicated(mesh, program_settings(config))
      # One example all over: where each part dropped the same as a batch of its size, the losses would be the same.
      example = dataset.eval_batch(0, "train", 1)
      batch = {name: np.repeat(example[name], batch_size, axis=0) for name in ("inputs", "labels")}
      _, metrics = program.train_step(program.init(settings), settings, sharding.put_batch(mesh, batch))
      losses[dropout_rate, parts] = float(metrics[program.metric_names.index("train/loss")])
  assert losses[0.0, 2] == pytest.approx(losses[0.0, 1], rel=1e-6)
  assert losses[0.5, 2] != pytest.approx(losses[0.5, 1], rel=1e-4)


def test_sizes_that_cannot_be_divided_are_told_with_those_that_can(tmp_path: pathlib.Path):
  with pytest.raises(ConfigError) as caught:
    run(mlp(batch_size=36, gradient_accumulation=4), tmp_path / "run")
  assert caught.value.problems == [
    "batch_size = 36 cannot be split over 2 devices and 4 parts (gradient_accumulation); 32 and 40 can"
  ]
  assert not (tmp_path / "run").exists()


def test_a_virtual_batch_that_a_part_cannot_hold_is_told(tmp_path: pathlib.Path):
  config = resnet(batch_size=16, gradient_accumulation=4, model__virtual_batch_size=8)
  with pytest.raises(UserError, match=r"model\.virtual_batch_size = 8: it must divide the batch of 4 examples"):
    run(config, tmp_path / "run")
  assert not (tmp_path / "run").exists()
