"""Models of eleven and more numbered layers go through everything that is done with a run's arrays by their names."""

import itertools
import json
import os
import pathlib
import signal
from collections.abc import Callable
from typing import Any

import forked
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from deep_plugin import NAMES
from tiny import mlp, numbers, read_arrays

from trialbook.errors import UserError
from trialbook.input_pipeline import Synthetic, Text, load
from trialbook.models import (
  MODELS,
  CnnConfig,
  MlpConfig,
  ModelConfig,
  ResNetConfig,
  TransformerConfig,
  VitConfig,
  WideResNetConfig,
  layout,
)
from trialbook.trainer import Averaging, Config, Evaluation, Programs, run, train
from trialbook.trainer import load as load_model
from trialbook.trainer.checkpoints.array_names import flatten
from trialbook.trainer.checkpoints.checksums import by_name, checksums
from trialbook.trainer.config import MeshSettings, ParameterGroup
from trialbook.trainer.evaluation import evaluate
from trialbook.trainer.optimizers import SGD, Nesterov
from trialbook.trainer.schedules import Constant
from trialbook.trainer.tasks import Classification, LanguageModel

IMAGES = Synthetic(input_shape=(4, 4, 1), train_examples=16, validation_examples=16, test_examples=1)
BLOCKS: dict[str, Any] = {"width": 4, "heads": 2, "mlp_ratio": 1}
TOYS: dict[str, ModelConfig] = {
  "mlp": MlpConfig(widths=(4,) * 11, normalization="batch"),
  "cnn": CnnConfig(widths=(4,), convolutions_per_stage=11),
  "resnet": ResNetConfig(stage_sizes=(11,), width=4),
  "wide_resnet": WideResNetConfig(depth=28, widen_factor=1),
  "vit": VitConfig(patch_size=2, depth=12, **BLOCKS),
  "transformer": TransformerConfig(depth=11, **BLOCKS),
}
PUBLISHED: dict[str, ModelConfig] = {
  "ResNet-50": ResNetConfig(stage_sizes=(3, 4, 6, 3), width=4, block="bottleneck", stem="imagenet"),
  "ResNet-152": ResNetConfig(stage_sizes=(3, 8, 36, 3), width=4, block="bottleneck", stem="imagenet"),
  "WRN-28-10": WideResNetConfig(depth=28, widen_factor=1),
  "WRN-40-2": WideResNetConfig(depth=40, widen_factor=2),
  "ViT-S/16": VitConfig(patch_size=2, depth=12, width=12, heads=6),
  "transformer of 24 layers": TransformerConfig(depth=24, **BLOCKS),
}


def config_of(model: ModelConfig, folder: pathlib.Path, **changes: Any) -> Config:
  """Two steps with an evaluation and a checkpoint after each; SGD, which has no further arrays to compile for."""
  config = mlp(batch_size=8, max_train_steps=2, logging__tensorboard=False)
  evaluation = Evaluation(every_steps=1, batch_size=16, train_examples=0)
  parts: dict[str, Any] = {"schedule": Constant(), "optimizer": SGD(learning_rate=0.01), "evaluation": evaluation}
  parts |= {"model": model, "dataset": IMAGES, "task": Classification()}
  if isinstance(model, TransformerConfig):
    path = folder / "text"
    path.write_bytes(np.random.default_rng(0).choice(list(b"two words"), size=2400).astype(np.uint8).tobytes())
    parts |= {"dataset": Text(length=8, path=str(path)), "task": LanguageModel()}
  return config.model_copy(update=parts | changes)


def plugin(kept: str) -> ModelConfig:
  return mlp(model__name="deep_plugin:Deep", model__kwargs={"kept": kept}).model


def cut(config: Config, workdir: pathlib.Path, programs: Programs, end: Callable[[], object]) -> None:
  """A run that `end` ends in the evaluation after step 2, when the checkpoint of step 1 is there."""
  evaluations = itertools.count()

  def stop(*arguments: Any, **named: Any) -> dict[str, Any]:
    if next(evaluations) == 2:
      forked.wait_for((workdir / "checkpoints" / "1").is_dir)
      end()
    return evaluate(*arguments, **named)

  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(train, "evaluate", stop)
    run(config, workdir, programs=programs)


def interrupt() -> None:
  raise KeyboardInterrupt


def killed(config: Config, workdir: pathlib.Path) -> None:
  """In a process of its own: a run that is killed."""
  # That process was forked from one whose settings are not those of the tests.
  jax.config.update("jax_num_cpu_devices", 2)
  jax.config.update("jax_disable_most_optimizations", True)
  cut(config, workdir, Programs(), lambda: os.kill(os.getpid(), signal.SIGKILL))


def evaluated(config: Config) -> tuple[str, ...]:
  return ("params/", "variables/") if config.averaging is None else ("average/",)


def assert_equal(some: dict[str, np.ndarray], others: dict[str, Any]) -> None:
  assert some.keys() == others.keys()
  for name, array in some.items():
    np.testing.assert_array_equal(others[name], array, err_msg=name)


def walk(config: Config, workdir: pathlib.Path, *, kill: bool = False) -> dict[str, np.ndarray]:
  """Trains, is ended, forks, goes on, starts warm, selects, loads and exports, and all of it agrees; the last state."""
  fork, warm, programs = workdir.with_name("fork"), workdir.with_name("warm"), Programs()
  if kill:
    assert forked.in_process(workdir.with_name("output"), killed, config, workdir) == -signal.SIGKILL
  else:
    with pytest.raises(KeyboardInterrupt):
      cut(config, workdir, programs, interrupt)
  saved = read_arrays(workdir / "checkpoints" / "1")

  run(config, fork, programs=programs, fork=workdir)
  result = run(config.override({"export": True}), workdir, programs=programs)
  assert result.status == "complete"
  for folder in (workdir, fork):
    record = json.loads((folder / "run.json").read_text())
    assert (record["restored_step"], record["step"]) == (1, 2)
  lines, last = numbers(workdir), read_arrays(workdir / "checkpoints" / "2")
  assert numbers(fork) == lines
  assert_equal(read_arrays(fork / "checkpoints" / "2"), last)
  assert any(not np.array_equal(last[name], saved[name]) for name in last if name.startswith("params/"))

  source = {"warm_start.source": str(workdir / "checkpoints" / "1"), "max_train_steps": 1}
  run(config.override(source), warm, programs=programs)
  taken = {name: array for name, array in saved.items() if name.startswith(evaluated(config))}
  started = read_arrays(warm / "checkpoints" / "0")
  for prefix in {"", "average/"[: 9 * (config.averaging is not None)]}:
    assert_equal({name: started[prefix + name.removeprefix("average/")] for name in taken}, taken)

  best = json.loads((workdir / "best.json").read_text())
  assert best["value"] == lines[best["step"]][best["metric"]] == best["final"][best["metric"]]
  model = load_model(workdir)
  assert model.step == best["step"]
  weights = flatten({"params": model.params, "variables": model.variables})
  selected = read_arrays(workdir / best["checkpoint"])
  assert_equal({name: selected["average/" * (config.averaging is not None) + name] for name in weights}, weights)
  inputs = load(config.dataset, seed=0, batch_size=8).fixed_examples("validation", 16)[1]["inputs"]
  outputs = model.predict(inputs)
  with np.load(workdir / "predictions" / f"{best['step']}.npz") as predictions:
    np.testing.assert_allclose(predictions["outputs"], outputs, rtol=1e-4, atol=1e-4)
  exported = jax.export.deserialize(bytearray((workdir / "export" / "model.stablehlo").read_bytes()))
  with np.load(workdir / "export" / "weights.npz") as arrays:
    assert_equal(dict(arrays), weights)
    np.testing.assert_allclose(exported.call(dict(arrays), inputs), outputs, rtol=1e-4, atol=1e-4)
  return last


def test_each_registered_model_has_a_toy_of_eleven_layers():
  assert TOYS.keys() == MODELS.keys(), "a new model needs a toy with eleven or more layers in TOYS"
  assert all(type(model) is MODELS[name][0] for name, model in TOYS.items())


# A wide residual network has the same kinds of layers as a residual one, and takes the longest.
@pytest.mark.slow
@pytest.mark.parametrize(
  "name", [pytest.param(name, marks=pytest.mark.long) if name == "wide_resnet" else name for name in TOYS]
)
def test_a_model_of_eleven_layers_goes_all_the_way(tmp_path: pathlib.Path, name: str):
  walk(config_of(TOYS[name], tmp_path), tmp_path / "run")


@pytest.mark.slow
def test_a_foreign_model_of_twelve_named_layers_is_killed_and_goes_all_the_way(tmp_path: pathlib.Path):
  """With all that a run can keep of each parameter."""
  optimizer, averaging = Nesterov(learning_rate=0.01), Averaging(decay=0.5)
  walk(config_of(plugin("dict"), tmp_path, optimizer=optimizer, averaging=averaging), tmp_path / "run", kill=True)


@pytest.mark.slow
def test_a_foreign_model_of_twelve_layers_in_sequence_goes_all_the_way(tmp_path: pathlib.Path):
  walk(config_of(plugin("sequential"), tmp_path), tmp_path / "run")


@pytest.mark.slow
def test_a_foreign_model_of_eleven_listed_layers_goes_all_the_way_split_and_with_one_of_them_frozen(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(layout, "SMALLEST_SPLIT", 8)
  frozen = ParameterGroup(parameters="layers/1/*", frozen=True)
  config = config_of(plugin("list"), tmp_path, mesh=MeshSettings(fsdp=2), parameter_groups=(frozen,))
  last = walk(config, tmp_path / "run")
  first = read_arrays(tmp_path / "run" / "checkpoints" / "1")
  kernels = [name for name in last if name.startswith("params/layers/") and name.endswith("linear/kernel")]
  still = [name for name in kernels if np.array_equal(first[name], last[name])]
  assert (len(kernels), still) == (11, ["params/layers/1/linear/kernel"])


@pytest.mark.long
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_of_published_depth_goes_all_the_way(tmp_path: pathlib.Path, name: str):
  walk(config_of(PUBLISHED[name], tmp_path), tmp_path / "run")


def test_checksums_belong_to_names_whatever_the_order_and_the_boundaries_they_cross():
  rng = np.random.default_rng(0)
  arrays = {name: jnp.asarray(rng.normal(size=3), jnp.float32) for name in (*NAMES, *map(str, range(12)))}
  alone = {name: int(checksums({name: array})[0]) for name, array in arrays.items()}
  backwards = dict(reversed(arrays.items()))
  for some in (arrays, backwards):
    for compute in (checksums, jax.jit(checksums)):
      assert by_name(some, compute(some)) == by_name(reversed(some), compute(some)) == alone


def test_arrays_whose_names_would_be_the_same_are_refused():
  with pytest.raises(UserError, match="two arrays of the model are named 'a/b'"):
    flatten({"a": {"b": 1}, "a/b": 2})
