"""Σ total / Σ count over the whole batch equals float64 NumPy, on any mesh and in any number of parts."""

from typing import Any

import jax
import masked_tokens
import numpy as np
import pytest

from trialbook.errors import UserError
from trialbook.input_pipeline import load
from trialbook.trainer import Config, Programs, sharding
from trialbook.trainer.checkpoints.array_names import flatten
from trialbook.trainer.config import MeshSettings
from trialbook.trainer.evaluation import evaluate
from trialbook.trainer.program import Program
from trialbook.trainer.train_step import program_settings

STEPS = 4
PRECISION = 1e-6


def opened(devices: int, fsdp: int = 1, **changes: Any) -> tuple[Config, Program, Any]:
  config = Config(compilation_cache=None, mesh=MeshSettings(fsdp=fsdp)).override(masked_tokens.overrides())
  config = config.override({path.replace("__", "."): value for path, value in changes.items()}).resolved()
  mesh = sharding.make_mesh(config.mesh, jax.devices()[:devices])
  dataset = load(config.dataset, seed=config.seed, batch_size=config.batch_size)
  program = Programs().get(config, config.task.build(), dataset.info, mesh)
  program.compile()
  return config, program, dataset


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(("devices", "fsdp", "parts"), [(1, 1, 1), (1, 1, 4), (2, 1, 4), (2, 2, 1), (2, 2, 4)])
def test_masked_and_weighted_tokens_are_float64s(devices: int, fsdp: int, parts: int):
  config, program, dataset = opened(devices, fsdp, gradient_accumulation=parts)
  settings = sharding.put_replicated(program.mesh, program_settings(config))
  state, empty = program.init(settings), 0
  kernel = np.asarray(flatten(state)["params/kernel"])
  for step in range(STEPS):
    batch = dataset.train_batch(step)
    state, metrics = program.train_step(
      state, settings, sharding.put_batch(program.mesh, batch, program.task.train_paths)
    )
    told = dict(zip(program.metric_names, np.asarray(metrics).tolist(), strict=True))
    values, kernel = masked_tokens.expected(kernel, batch)
    for name, value in values.items():
      assert told[name if name == "grad_norm" else f"train/{name}"] == pytest.approx(
        value, rel=PRECISION, abs=PRECISION
      )
    np.testing.assert_allclose(flatten(jax.device_get(state))["params/kernel"], kernel, rtol=1e-5, atol=1e-6)
    counted = batch["mask"].any(axis=1).reshape(devices, parts, -1)
    empty += int((~counted.any(axis=(0, 2))).sum())
  assert empty > 0 or parts == 1, "no part without anything that counts was among them"


@pytest.mark.slow
def test_a_batch_in_which_nothing_counts_moves_only_what_the_other_term_moves():
  config, program, dataset = opened(1, gradient_accumulation=2)
  settings = sharding.put_replicated(program.mesh, program_settings(config))
  state = program.init(settings)
  batch = {**dataset.train_batch(0), "mask": np.zeros((config.batch_size, masked_tokens.LENGTH), bool)}
  values, kernel = masked_tokens.expected(np.asarray(flatten(state)["params/kernel"]), batch)
  state, metrics = program.train_step(state, settings, batch)
  told = dict(zip(program.metric_names, np.asarray(metrics).tolist(), strict=True))
  assert told["train/token"] == 0
  assert told["train/loss"] == pytest.approx(values["loss"], rel=1e-5)
  np.testing.assert_allclose(flatten(state)["params/kernel"], kernel, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 7, 20, 64])
def test_an_evaluation_is_float64s_whatever_its_batches(size: int):
  config, program, dataset = opened(1, evaluation__batch_size=size, evaluation__predictions=0)
  settings = sharding.put_replicated(program.mesh, program_settings(config))
  state = program.init(settings)
  values = evaluate(program, state, settings, dataset, "validation", config)
  _, whole = dataset.fixed_examples("validation", masked_tokens.EXAMPLES)
  expected, _ = masked_tokens.expected(np.asarray(flatten(state)["params/kernel"]), whole)
  for name in ("loss", "token", "size"):
    assert values[f"validation/{name}"] == pytest.approx(expected[name], rel=PRECISION)
  assert values["validation/examples"] == masked_tokens.EXAMPLES


def test_a_count_that_depends_on_outputs_is_refused_in_parts_and_has_no_gradient(monkeypatch: pytest.MonkeyPatch):
  from trialbook import Mean

  def confident(self: Any, outputs: jax.Array, batch: Any, settings: Any) -> Mean:
    assert settings["size"].shape == ()
    count = (jax.nn.softmax(outputs).max(axis=-1) > 0.5).astype(np.float32)
    return Mean(outputs.sum(axis=-1) * count, count)

  monkeypatch.setattr(masked_tokens.Tokens, "loss", confident)
  opened(1)
  with pytest.raises(UserError, match="a count depends on the model's outputs"):
    opened(1, gradient_accumulation=2)
