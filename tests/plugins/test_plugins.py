"""Models, data and tasks as people bring them: each learns, is killed, goes on, is evaluated, loaded and exported."""

import ast
import importlib
import json
import math
import os
import pathlib
import re
import signal
from collections.abc import Iterator
from typing import Any

import forked
import jax
import jax.export
import numpy as np
import pytest
from tiny import numbers, read_arrays

from trialbook.input_pipeline import load
from trialbook.trainer import Config, Programs, run, sharding, train
from trialbook.trainer import load as load_model
from trialbook.trainer.checkpoints.array_names import flatten
from trialbook.trainer.evaluation import evaluate
from trialbook.trainer.train_step import program_settings
from trialbook.tuning.study import Study, check
from trialbook.tuning.study_files import load_study

PROMISED = ("unet", "two_tower")
"""Those of `make test`: labels for each pixel; several inputs and outputs."""
OTHERS = (
  "diffusion",
  "nnx_cnn",
  "masked_autoencoder",
  "multi_label",
  "mixture_of_experts",
  "lora",
  "ema_teacher",
  "dropout_argument",
  "two_outputs",
)
ALGOPERF = (
  "criteo1tb",
  "fastmri",
  "imagenet_resnet",
  "imagenet_vit",
  "librispeech_conformer",
  "librispeech_deepspeech",
  "ogbg",
  "wmt",
)
SHORT = {"max_train_steps": 2, "schedule.warmup_steps": 0, "export": False}
FALL = 0.75
"""Share of the loss of the first steps that the last steps have at most, unless a module's FALL says otherwise."""


@pytest.fixture(autouse=True)
def promotion() -> Iterator[None]:
  """People's code mixes dtypes as jax allows it by default."""
  with jax.numpy_dtype_promotion("standard"):
    yield


def module(name: str) -> Any:
  return importlib.import_module(f"trialbook.experiments.algoperf.{name}" if name in ALGOPERF else name)


def config_of(name: str) -> Config:
  config = Config(export=True, compilation_cache=None).override(module(name).config())
  steps = config.max_train_steps
  quiet = {"logging.tensorboard": False, "evaluation.predictions": 4, "evaluation.every_steps": -(-steps // 3)}
  return config.override(quiet)


def killed(name: str, workdir: pathlib.Path, devices: int) -> None:
  """In a process of its own: a run that is killed in an evaluation, when a checkpoint is there."""
  jax.config.update("jax_num_cpu_devices", devices)
  jax.config.update("jax_disable_most_optimizations", True)
  config = config_of(name)
  first = config.evaluation.every_steps

  def stop(*arguments: Any, **named: Any) -> dict[str, Any]:
    lines = numbers(workdir) if (workdir / "metrics.jsonl").exists() else []
    if lines and lines[-1]["step"] > first:
      forked.wait_for((workdir / "checkpoints" / str(first)).is_dir)
      os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(*arguments, **named)

  with pytest.MonkeyPatch.context() as patched:
    patched.setattr(train, "evaluate", stop)
    run(config, workdir)


def on_one_device(name: str, workdir: pathlib.Path) -> None:
  """In a process of its own: the first steps of a run."""
  jax.config.update("jax_num_cpu_devices", 1)
  jax.config.update("jax_disable_most_optimizations", True)
  run(config_of(name).override(SHORT), workdir)


def walk(name: str, folder: pathlib.Path) -> None:
  config, programs = config_of(name), Programs()
  whole, workdir = folder / "whole", folder / "killed"
  assert run(config, whole, programs=programs).status == "complete"
  assert_learned(name, numbers(whole))

  assert forked.in_process(folder / "output", killed, name, workdir, 2) == -signal.SIGKILL
  assert run(config, workdir, programs=programs).status == "complete"
  assert json.loads((workdir / "run.json").read_text())["restored_step"] in range(1, config.max_train_steps)
  assert numbers(workdir) == numbers(whole)
  last = str(config.max_train_steps)
  arrays = read_arrays(whole / "checkpoints" / last)
  for path, array in read_arrays(workdir / "checkpoints" / last).items():
    np.testing.assert_array_equal(array, arrays[path], err_msg=path)

  assert_evaluation_knows_no_batches(name, config, whole)
  assert_loaded_and_exported_are_the_same(config, whole)


def assert_learned(name: str, lines: list[dict[str, Any]]) -> None:
  losses = [line["train/loss"] for line in lines if "train/loss" in line]
  few = max(1, len(losses) // 10)
  first, last = np.mean(losses[:few]), np.mean(losses[-few:])
  assert last <= getattr(module(name), "FALL", FALL) * first, f"the loss falls from {first} to {last} only"
  evaluated = {key: value for key, value in lines[-1].items() if "/" in key and isinstance(value, float)}
  assert all(map(math.isfinite, evaluated.values())), evaluated


def assert_evaluation_knows_no_batches(name: str, config: Config, workdir: pathlib.Path) -> None:
  """All metrics but those that a module lists in BATCH_WIDE are the same for any size of the batches."""
  found = []
  model = load_model(workdir, step="last")
  for size in (config.evaluation.batch_size, 2 * max(1, config.evaluation.batch_size // 3)):
    one = config.override({"evaluation.batch_size": size, "evaluation.predictions": 0}).resolved()
    dataset = load(one.dataset, seed=0, batch_size=one.batch_size)
    mesh = sharding.make_mesh()
    program = Programs().get(one, one.task.build(one.dataset), dataset.info, mesh, training=False)
    program.compile()
    weights = {"params": model.params, "variables": model.variables}
    weights = jax.device_put(weights, sharding.replicated(mesh))
    settings = sharding.put_replicated(mesh, program_settings(one))
    found.append(evaluate(program, weights, settings, dataset, "validation", one))
  wide = {f"validation/{metric}" for metric in getattr(module(name), "BATCH_WIDE", ())}
  first, second = ({key: value for key, value in values.items() if key not in wide} for values in found)
  assert first == {key: pytest.approx(value, rel=1e-4, abs=1e-5, nan_ok=True) for key, value in second.items()}


def assert_loaded_and_exported_are_the_same(config: Config, workdir: pathlib.Path) -> None:
  model = load_model(workdir)
  batch = load(config.dataset, seed=0, batch_size=8).fixed_examples("validation", 4)[1]
  rng = np.random.default_rng(0)

  def array(path: str, leaf: Any) -> np.ndarray:
    for key in (f"inputs/{path}".removesuffix("/"), path):
      if key in batch:
        return batch[key]
    drawn = rng.integers(0, 2, (4, *leaf.shape)) if leaf.dtype.kind in "iub" else rng.normal(size=(4, *leaf.shape))
    return drawn.astype(leaf.dtype)

  given = {path: array(path, leaf) for path, leaf in model.spec.items()}
  given = given[""] if list(given) == [""] else given
  outputs = flatten({"outputs": model.predict(given)})
  with np.load(workdir / "predictions" / f"{model.step}.npz") as predictions:
    assert outputs.keys() <= set(predictions)
    if all(path in batch or f"inputs/{path}".removesuffix("/") in batch for path in model.spec):
      for path, value in outputs.items():
        np.testing.assert_allclose(predictions[path], value, rtol=1e-3, atol=1e-4, err_msg=path)
  folder = workdir / "export"
  exported = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
  with np.load(folder / "weights.npz") as arrays:
    again = exported.call(dict(arrays), given)
  again = {"outputs": again} if not isinstance(again, dict) else {f"outputs/{path}": one for path, one in again.items()}
  assert again.keys() == outputs.keys()
  for path, value in outputs.items():
    np.testing.assert_allclose(again[path], value, rtol=1e-3, atol=1e-4, err_msg=path)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROMISED)
def test_what_people_bring_goes_all_the_way(tmp_path: pathlib.Path, name: str):
  walk(name, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", [*OTHERS, *ALGOPERF])
def test_more_of_what_people_bring_goes_all_the_way(tmp_path: pathlib.Path, name: str):
  walk(name, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("name", [*PROMISED, *OTHERS, *ALGOPERF])
def test_one_device_begins_as_two(tmp_path: pathlib.Path, name: str):
  assert forked.in_process(tmp_path / "output", on_one_device, name, tmp_path / "one") == 0
  run(config_of(name).override(SHORT), tmp_path / "two")
  compared = set()
  for one, two in zip(numbers(tmp_path / "one"), numbers(tmp_path / "two"), strict=True):
    for key in {"train/loss", "validation/loss"} & one.keys():
      assert one[key] == pytest.approx(two[key], rel=1e-3, abs=1e-4), key
      compared.add(key)
  assert compared == {"train/loss", "validation/loss"}


GLUE = ("keys", "num_outputs", "model_inputs")
"""Functions of a task that are there for trialbook alone; the others say what is computed."""
TUTORIAL = pathlib.Path(__file__).parents[2] / "docs" / "tutorials" / "any_model.md"


def glue(path: pathlib.Path) -> int:
  """Lines of code of such functions: no docstrings, comments or empty lines."""
  text = path.read_text()
  lines = text.splitlines()
  count = 0
  for node in ast.walk(ast.parse(text)):
    if (
      isinstance(node, ast.FunctionDef) and node.name in GLUE and node.args.args[:1] and node.args.args[0].arg == "self"
    ):
      docstring = node.body[0].lineno if ast.get_docstring(node) is not None else 0
      skipped = range(docstring, (node.body[0].end_lineno or 0) + 1) if docstring else ()
      numbered = range(node.lineno, (node.end_lineno or 0) + 1)
      code = [lines[number - 1].strip() for number in numbered if number not in skipped]
      count += sum(bool(line) and not line.startswith("#") for line in code)
  return count


def test_the_table_of_the_tutorial_has_every_file_and_its_lines_of_glue():
  rows = dict(re.findall(r"^\| \[(\w+)\]\(.*\) \| .* \| (\d+) \|$", TUTORIAL.read_text(), re.MULTILINE))
  # Its models, in a test of their own, need no task.
  found = {"linen_nets": "0"}
  for name in (*PROMISED, *OTHERS, *ALGOPERF):
    found[name] = str(glue(pathlib.Path(module(name).__file__)))
  assert rows == found


@pytest.mark.long
@pytest.mark.parametrize("name", ALGOPERF)
def test_a_program_of_the_published_size_is_traced_by_shapes_alone(name: str):
  published = Config(compilation_cache=None).override(module(name).published()).resolved()
  dataset = load(published.dataset, seed=0, batch_size=published.batch_size)
  task = published.task.build(published.dataset)
  program = Programs().get(published, task, dataset.info, sharding.make_mesh(devices=jax.devices()[:1]))
  assert "train/loss" in program.metric_names
  said = re.search(r"([\d,]{7,}) parameters", pathlib.Path(module(name).__file__).read_text())
  assert said is not None, "the docstring of published() says how many parameters there are"
  parameters = [leaf for path, leaf in flatten(program.state_template).items() if path.startswith("params/")]
  assert sum(math.prod(leaf.shape) for leaf in parameters) == int(said[1].replace(",", ""))


@pytest.mark.parametrize("name", ALGOPERF)
def test_the_published_tuning_space_of_a_workload_is_a_study(name: str):
  path = pathlib.Path(__file__).parents[2] / "experiments" / "studies" / f"algoperf_{name}.py"
  study = load_study(path)
  assert isinstance(study, Study)
  assert not check(study).problems
  assert (study.name, study.trials) == (name, 40)
