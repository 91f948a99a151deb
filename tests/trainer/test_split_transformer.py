"""A transformer whose parameters and work are split over devices trains as one that is whole on each."""

import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from language import DEPTH, HIDDEN, WIDTH, language
from small_transformer import transformer
from tiny import mlp, numbers, state_of

from trialbook.errors import UserError
from trialbook.input_pipeline import load as load_data
from trialbook.trainer import Config, Programs, run, sharding
from trialbook.trainer.checkpoints.array_names import flatten
from trialbook.trainer.program import Program

ROOT = pathlib.Path(__file__).resolve().parents[2]


def program_of(config: Config, programs: Programs) -> Program:
  config = config.resolved()
  with load_data(config.dataset, seed=0, batch_size=config.batch_size) as dataset:
    mesh = sharding.make_mesh(config.mesh)
    return programs.get(config, config.task.build(config.dataset), dataset.info, mesh)


def assert_equal_training(one: pathlib.Path, other: pathlib.Path, rtol: float = 1e-5) -> None:
  assert len(numbers(one)) == 21
  for line, again in zip(numbers(one), numbers(other), strict=True):
    for name in line.keys() & {"train/loss", "validation/loss", "grad_norm"}:
      np.testing.assert_allclose(again[name], line[name], rtol=rtol, err_msg=f"{name} at step {line['step']}")


@pytest.mark.slow
def test_a_stack_gathers_no_more_than_a_layer_at_a_time(tmp_path: pathlib.Path, programs: Programs):
  program = program_of(language(tmp_path, mesh__fsdp=2), programs)
  stacked = {name: leaf for name, leaf in _params(program).items() if name.startswith("blocks/")}
  assert {leaf.shape[0] for leaf in stacked.values()} == {DEPTH}
  assert all(tuple(leaf.sharding.spec)[:1] in ((), (None,)) for leaf in stacked.values())
  program.compile()
  largest = max(WIDTH * HIDDEN, 256 * WIDTH)
  for function in (program.train_step, program.eval_step):
    text = function.as_text() or ""
    gathered = [np.prod([int(n) for n in s.split(",")]) for s in re.findall(r"= f32\[([\d,]+)\]\S* all-gather\(", text)]
    # The table, and four kernels of attention and two of the network.
    assert len(gathered) >= 7
    assert max(gathered) == largest


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [pytest.param({"fsdp": 2}, marks=pytest.mark.long), {"tensor": 2}], ids=str)
def test_two_devices_that_split_a_transformer_train_as_one_would(
  tmp_path: pathlib.Path, programs: Programs, mesh: dict[str, int]
):
  run(language(tmp_path), tmp_path / "whole", programs=programs)
  axes: dict[str, Any] = {f"mesh__{axis}": size for axis, size in mesh.items()}
  run(language(tmp_path, **axes), tmp_path / "split", programs=programs)
  assert_equal_training(tmp_path / "whole", tmp_path / "split")


def test_tensor_splits_heads_hidden_features_and_the_vocabulary(tmp_path: pathlib.Path, programs: Programs):
  config = language(tmp_path, mesh__tensor=2, model__tie_embeddings=False, model__activation="swiglu")
  params = _params(program_of(config, programs))
  last = ["attention/query", "attention/key", "attention/value", "gate", "hidden"]
  specs = {name: tuple(leaf.sharding.spec) for name, leaf in params.items()}
  assert {name for name, spec in specs.items() if spec == (None, None, "tensor")} == {
    f"blocks/layer/{name}/kernel" for name in last
  }
  assert {name for name, spec in specs.items() if spec == (None, "tensor")} == {
    *(f"blocks/layer/{name}/bias" for name in last),
    *(f"blocks/layer/{name}/kernel" for name in ("attention/output", "output")),
    "output/kernel",
  }
  assert specs["embedding/table"] == ("tensor",)


@pytest.mark.evidence
def test_a_plugin_is_split_by_its_rules_and_trains_as_a_whole_one(tmp_path: pathlib.Path, programs: Programs):
  run(transformer(), tmp_path / "whole", programs=programs)
  run(transformer(mesh__tensor=2), tmp_path / "split", programs=programs)
  assert_equal_training(tmp_path / "whole", tmp_path / "split")
  params = _params(program_of(transformer(mesh__tensor=2), programs))
  assert tuple(params["blocks/0/hidden/kernel"].sharding.spec) == (None, "tensor")


@pytest.mark.parametrize(
  ("config", "problem"),
  [
    (lambda folder: mlp(mesh__tensor=2), r"sharding_rules of model 'mlp' name no parameter"),
    (lambda folder: mlp(mesh__fsdp=2, mesh__tensor=2), r"mesh\.fsdp = 2 times mesh\.tensor = 2 does not divide the 2"),
    (
      lambda folder: language(folder, mesh__tensor=3),
      r"mesh\.tensor = 3 does not divide the 4 heads \(model\.heads\); these do: 1, 2, 4",
    ),
  ],
)
def test_a_mesh_that_does_not_fit_the_model_or_the_devices_is_refused(
  tmp_path: pathlib.Path, config: Any, problem: str
):
  with pytest.raises(UserError, match=problem):
    run(config(tmp_path), tmp_path / "run")
  assert not (tmp_path / "run").exists()


def test_splitting_layers_without_rematerialization_is_warned_of_with_the_memory(
  tmp_path: pathlib.Path, programs: Programs
):
  def warned(**changes: Any) -> list[str]:
    program = program_of(language(tmp_path, **changes), programs)
    return sharding.warnings(program.mesh, program.state_template["params"], program.network.placements, "float32")

  kernels = DEPTH * (4 * WIDTH * WIDTH + 2 * WIDTH * HIDDEN) * 4
  (text,) = warned(mesh__fsdp=2, model__remat=None)
  assert "mesh.fsdp = 2, but" in text
  assert f"about {kernels / 2**30:.3g} GiB" in text
  assert warned(mesh__fsdp=2) == []


def _params(program: Program) -> dict[str, Any]:
  return flatten(program.state_template["params"])


EIGHT_DEVICES = """
import pathlib, sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests/trainer"]
import jax
jax.config.update("jax_num_cpu_devices", 8)
from language import language
from trialbook.trainer import run
folder = pathlib.Path(sys.argv[2])
meshes = dict(whole={}, fsdp={"mesh__fsdp": 8}, tensor={"mesh__tensor": 4}, mixed={"mesh__tensor": 2, "mesh__fsdp": 2})
for name, mesh in meshes.items():
  run(language(folder, **mesh), folder / name)
"""


@pytest.fixture(scope="module")
def eight(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """Folder of runs made on eight devices, in a process of their own."""
  folder = tmp_path_factory.mktemp("eight")
  command = [sys.executable, "-c", EIGHT_DEVICES, str(ROOT), str(folder)]
  done = subprocess.run(command, capture_output=True, text=True, timeout=900, cwd=ROOT)
  assert done.returncode == 0, done.stderr
  return folder


@pytest.mark.evidence
@pytest.mark.parametrize("name", ["fsdp", "tensor", "mixed"])
def test_eight_devices_in_any_mesh_train_as_replicated_ones(eight: pathlib.Path, name: str):
  assert_equal_training(eight / "whole", eight / name)
  whole, split = state_of(eight / "whole"), state_of(eight / name)
  assert whole.keys() == split.keys()
  assert all(whole[array].shape == split[array].shape for array in whole)


KILLED = """
import os, pathlib, signal, sys, time
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests/trainer"]
import jax
jax.config.update("jax_num_cpu_devices", 8)
from language import language
from trialbook.trainer import run, train
from trialbook.trainer.evaluation import evaluate

def stop(*arguments, **named):
  # In the third evaluation, that of step 20, when step 10 is saved.
  stop.count += 1
  if stop.count == 3:
    while not (pathlib.Path(sys.argv[2]) / "run" / "checkpoints" / "10").is_dir():
      time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
  return evaluate(*arguments, **named)

stop.count = 0
train.evaluate = stop
folder = pathlib.Path(sys.argv[2])
run(language(folder, mesh__tensor=2, mesh__fsdp=2), folder / "run")
"""


@pytest.mark.evidence
def test_a_run_that_is_killed_on_one_mesh_goes_on_on_another(eight: pathlib.Path, tmp_path: pathlib.Path):
  (tmp_path / "text").write_bytes((eight / "text").read_bytes())
  command = [sys.executable, "-c", KILLED, str(ROOT), str(tmp_path)]
  assert subprocess.run(command, capture_output=True, timeout=900, cwd=ROOT).returncode == -9
  goes_on = EIGHT_DEVICES.partition("meshes")[0].replace("8)", "4)")
  goes_on += 'run(language(folder, mesh__fsdp=4), folder / "run")\n'
  done = subprocess.run(
    [sys.executable, "-c", goes_on, str(ROOT), str(tmp_path)], capture_output=True, text=True, timeout=900, cwd=ROOT
  )
  assert done.returncode == 0, done.stderr
  assert json.loads((tmp_path / "run" / "run.json").read_text())["restored_step"] == 10
  assert_equal_training(eight / "whole", tmp_path / "run")
