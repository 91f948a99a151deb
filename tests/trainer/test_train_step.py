"""One update: what it draws anew, and what it does to the parameters."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import mlp

from trialbook.input_pipeline import load
from trialbook.models import MlpConfig
from trialbook.trainer import Programs, sharding
from trialbook.trainer.checkpoints.array_names import flatten
from trialbook.trainer.optimizers import SGD
from trialbook.trainer.train_step import program_settings

WIDTH = 16


def update(programs: Programs, step: int, **changes: Any) -> tuple[dict[str, float], dict[str, np.ndarray]]:
  """The metrics of the update step → step + 1 from the parameters at initialization, and by how much it moves each."""
  config = mlp(model=MlpConfig(widths=(WIDTH,), dropout_rate=0.5), optimizer=SGD(learning_rate=0.1), **changes)
  config = config.resolved()
  dataset = load(config.dataset, seed=config.seed, batch_size=config.batch_size)
  mesh = sharding.make_mesh(config.mesh)
  program = programs.get(config, config.task.build(), dataset.info, mesh)
  program.compile()
  settings = sharding.put_replicated(mesh, program_settings(config))
  state = program.init(settings)
  before = flatten(jax.device_get(state["params"]))
  state["step"] = jax.device_put(jnp.int32(step), state["step"].sharding)
  after, metrics = program.train_step(state, settings, sharding.put_batch(mesh, dataset.train_batch(0)))
  moved = {name: array - before[name] for name, array in flatten(jax.device_get(after["params"])).items()}
  return dict(zip(program.metric_names, np.asarray(metrics).tolist(), strict=True)), moved


@pytest.mark.slow
def test_each_step_drops_other_units_and_the_same_step_the_same(programs: Programs):
  first, again, next_one = (update(programs, step)[0]["train/loss"] for step in (0, 0, 1))
  assert first == again
  assert first != pytest.approx(next_one, rel=1e-3)


def test_a_clipped_gradient_moves_the_parameters_by_the_threshold_and_no_further(programs: Programs):
  metrics, moved = update(programs, 0, clip_norm=0.01)
  length = float(np.sqrt(sum(np.square(array).sum() for array in moved.values())))
  assert metrics["grad_norm"] > 0.1
  assert metrics["clip_fraction"] == 1
  assert length == pytest.approx(0.1 * 0.01, rel=1e-3)
