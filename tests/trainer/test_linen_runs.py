"""Runs of Linen models: the same training as of their NNX twins, and all that is done with a run."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from in_process_command import run_command
from test_depth import config_of, walk
from tiny import mlp, numbers

from trialbook.input_pipeline import Text, load
from trialbook.models.plugin import PluginConfig
from trialbook.trainer import Averaging, Config, Programs, run, sharding
from trialbook.trainer.checkpoints.array_names import flatten, map_named
from trialbook.trainer.optimizers import Nesterov
from trialbook.trainer.tasks import LanguageModel
from trialbook.trainer.train_step import program_settings

STEPS = 20


def losses(config: Config, start: dict[str, np.ndarray] | None = None) -> tuple[list[float], dict[str, Any]]:
  """The losses of 20 steps, from the state of the config or from the arrays of `start`, and the first state."""
  config, mesh = config.resolved(), sharding.make_mesh()
  dataset = load(config.dataset, seed=config.seed, batch_size=config.batch_size)
  program = Programs().get(config, config.task.build(), dataset.info, mesh)
  program.compile()
  settings = sharding.put_replicated(mesh, program_settings(config))
  state = program.init(settings)
  if start is not None:
    state = map_named(lambda name, array: jax.device_put(start.get(name, np.asarray(array)), array.sharding), state)
  first, found = jax.device_get(flatten(state)), []
  for step in range(STEPS):
    state, metrics = program.train_step(state, settings, sharding.put_batch(mesh, dataset.train_batch(step)))
    found.append(dict(zip(program.metric_names, np.asarray(metrics).tolist(), strict=True))["train/loss"])
  return found, first


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_a_linen_network_and_its_nnx_twin_have_the_same_losses():
  twins = [
    mlp(model=PluginConfig(name=f"linen_nets:{name}"), optimizer=Nesterov(learning_rate=0.1))
    for name in ("NnxTwin", "LinenTwin")
  ]
  expected, first = losses(twins[0])
  # NNX keeps statistics beside the parameters of their layer.
  start = {
    name.replace("variables/BatchNorm_0", "variables/batch_stats/BatchNorm_0"): one for name, one in first.items()
  }
  found, own = losses(twins[1], start)
  assert own.keys() == start.keys()
  assert expected[-1] < expected[0]
  np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.slow
def test_a_linen_resnet_with_an_axis_name_is_killed_and_goes_all_the_way(tmp_path: pathlib.Path):
  config = config_of(PluginConfig(name="linen_nets:ResNet"), tmp_path, averaging=Averaging(decay=0.5))
  last = walk(config, tmp_path / "run", kill=True)
  assert "variables/batch_stats/ResidualBlock_0/BatchNorm_0/mean" in last


def text_for(tmp_path: pathlib.Path) -> dict[str, Any]:
  path = tmp_path / "text"
  path.write_bytes(b"two words " * 400)
  return {"dataset": Text(length=8, path=str(path)), "task": LanguageModel()}


TRANSFORMER = PluginConfig(name="linen_nets:Transformer")


@pytest.mark.slow
def test_a_linen_transformer_learns(tmp_path: pathlib.Path):
  learning = {"optimizer": Nesterov(learning_rate=0.3), "max_train_steps": 40}
  config = config_of(TRANSFORMER, tmp_path, **text_for(tmp_path), **learning)
  config = config.override({"evaluation.every_steps": 40, "checkpointing.every_evaluations": 0})
  run(config, tmp_path / "learns")
  lines = numbers(tmp_path / "learns")
  assert lines[40]["validation/loss"] < 0.7 * lines[0]["validation/loss"]


@pytest.mark.long
def test_a_linen_transformer_goes_all_the_way(tmp_path: pathlib.Path):
  walk(config_of(TRANSFORMER, tmp_path, **text_for(tmp_path)), tmp_path / "run")


def test_what_a_linen_model_asks_for_and_does_not_get_is_explained(tmp_path: pathlib.Path, capsys: Any):
  flags = ["--set=model.name=linen_nets:Transformer", "--set=model.kwargs.widht=3"]
  code, _, told = run_command(capsys, "train", f"--workdir={tmp_path / 'run'}", *flags)
  assert code == 2
  assert "model.kwargs.widht: Transformer has no argument 'widht'; did you mean 'width'?" in told
  assert not (tmp_path / "run").exists()
