"""Exported models run without the project, with jax, numpy and flatbuffers alone (PB-67)."""

import importlib.util
import json
import pathlib
import subprocess
import sys
import textwrap
from typing import Any

import jax
import numpy as np
import pytest
from in_process_command import run_command
from json_lines import read_json_lines
from tiny import mlp, resnet

from trialbook.errors import UserError
from trialbook.input_pipeline import load as load_dataset
from trialbook.input_pipeline.datasets import text
from trialbook.models.call_modes import Call
from trialbook.trainer import Config, Programs, export, load, run
from trialbook.trainer.checkpoints.storage import saved_steps
from trialbook.trainer.train_step import make_steps, program_settings

# What jax itself imports is part of "jax".
PACKAGES = ("jax", "jaxlib", "numpy", "numpy.libs", "flatbuffers", "ml_dtypes", "opt_einsum", "scipy", "scipy.libs")

STRANGER = """
  import json, pathlib, sys
  site, folder, data = map(pathlib.Path, sys.argv[1:])
  sys.path.append(str(site))
  for name in ("trainer", "models", "trialbook", "flax", "pydantic"):
    try:
      __import__(name)
    except ImportError:
      continue
    sys.exit(f"{name} could be imported")
  import jax.export, numpy as np

  model = jax.export.deserialize((folder / "model.stablehlo").read_bytes())
  weights = dict(np.load(folder / "weights.npz"))
  data = np.load(data)
  inputs, labels = data["inputs"], data["labels"]
  logits = np.asarray(model.call(weights, inputs), np.float64)
  shifted = logits - logits.max(axis=1, keepdims=True)
  losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
  differences = [
    float(np.abs(np.asarray(model.call(weights, inputs[:size])) - logits[:size]).max()) for size in (1, 7, 64)
  ]
  print(json.dumps({
    "validation/loss": losses.mean(),
    "validation/error": (logits.argmax(axis=1) != labels).mean(),
    "differences": differences,
  }))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  """A folder in which only what an export needs can be imported."""
  folder = tmp_path_factory.mktemp("site")
  jax_is_in = importlib.util.find_spec("jax")
  assert jax_is_in is not None
  assert jax_is_in.origin is not None
  packages = pathlib.Path(jax_is_in.origin).parent.parent
  for name in PACKAGES:
    if (packages / name).exists():
      (folder / name).symlink_to(packages / name)
  return folder


def stranger(code: str, *arguments: pathlib.Path) -> str:
  """Runs code in a process that sees neither this folder nor any installed package."""
  command = [sys.executable, "-I", "-S", "-c", textwrap.dedent(code), *map(str, arguments)]
  done = subprocess.run(command, capture_output=True, text=True, cwd="/")
  assert done.returncode == 0, done.stderr
  return done.stdout


def validation(config: Config, to: pathlib.Path) -> pathlib.Path:
  """The whole validation split as a file."""
  dataset = load_dataset(config.dataset, seed=0, batch_size=config.batch_size)
  batch = dataset.eval_batch(0, "validation", dataset.info.examples["validation"])
  np.savez(to, **batch)  # pyright: ignore[reportArgumentType]
  return to


def recorded(workdir: pathlib.Path, step: int) -> dict[str, Any]:
  """What `metrics.jsonl` has of a step."""
  return next(line for line in read_json_lines(workdir / "metrics.jsonl") if line["step"] == step)


# Dropout, averaged weights, and statistics with a row for each of two devices.
GHOST = {"model__virtual_batch_size": 4, "optimizer__learning_rate": 0.02}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("config", "command"),
  [
    (mlp(), True),
    (resnet(**GHOST, max_train_steps=90, evaluation__every_steps=90, export=True), False),
  ],
  ids=["mlp, by the command", "resnet, by the run itself"],
)
def test_an_export_alone_gives_the_recorded_validation_metrics_at_any_batch_size(
  tmp_path: pathlib.Path, programs: Programs, site: pathlib.Path, config: Config, command: bool
):
  run(config, tmp_path / "run", programs=programs)
  folder = export.export(tmp_path / "run", "last", tmp_path / "to") if command else tmp_path / "run" / "export"
  card = json.loads((folder / "card.json").read_text())
  found = json.loads(stranger(STRANGER, site, folder, validation(config, tmp_path / "data.npz")))
  line = recorded(tmp_path / "run", card["step"])
  for name in ("validation/error", "validation/loss"):
    assert found[name] == pytest.approx(line[name], rel=1e-6), name
    assert card["metrics"][name] == pytest.approx(line[name], rel=1e-6)
  assert found["validation/error"] < 0.7
  assert max(found["differences"]) < 1e-5


@pytest.mark.slow
def test_the_example_is_short_and_runs(tmp_path: pathlib.Path, programs: Programs, site: pathlib.Path):
  run(mlp(), tmp_path, programs=programs)
  folder = export.export(tmp_path)
  assert len(export.EXAMPLE.splitlines()) <= 12
  code = "import runpy, sys; sys.path.append(sys.argv[1]); runpy.run_path(sys.argv[2])"
  assert stranger(code, site, folder / "example.py") == "(2, 10)\n"
  card = json.loads((folder / "card.json").read_text())
  assert card["input"]["shape"] == ["batch", 8, 8, 1]
  assert card["output"]["shape"] == ["batch", 10]
  assert card["platforms"] == ["cpu", "cuda", "tpu"]


@pytest.mark.slow
def test_an_export_is_replaced_whole_and_other_folders_are_left_alone(tmp_path: pathlib.Path, programs: Programs):
  workdir = tmp_path / "run"
  best = run(mlp(), workdir, programs=programs).best_step
  others = [step for step in saved_steps(workdir / "checkpoints") if step != best]
  (workdir / "export").mkdir(exist_ok=True)
  (workdir / "export" / "card.json").touch()
  (workdir / "export" / "old").touch()
  assert export.export(workdir) == workdir / "export"
  assert export.export(workdir, others[0]) == workdir / f"export_{others[0]}"
  files = ["card.json", "example.py", "model.stablehlo", "weights.npz"]
  assert sorted(path.name for path in (workdir / "export").iterdir()) == files
  mine = tmp_path / "mine"
  mine.mkdir()
  (mine / "letter").touch()
  with pytest.raises(UserError, match="exists and is not an export"):
    export.export(workdir, "best", mine)
  assert [path.name for path in mine.iterdir()] == ["letter"]
  assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "run"]


@pytest.mark.slow
def test_a_failure_leaves_the_earlier_export_and_nothing_else(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
):
  run(mlp(), tmp_path / "run", programs=programs)
  folder = export.export(tmp_path / "run", "best", tmp_path / "to")
  before = {path.name: path.read_bytes() for path in folder.iterdir()}

  def full(*_: Any, **__: Any) -> None:
    raise OSError(28, "No space left on device")

  monkeypatch.setattr(np, "savez", full)
  with pytest.raises(UserError, match="to cannot be written: No space left on device"):
    export.export(tmp_path / "run", "best", tmp_path / "to")
  assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
  assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "to"]


@pytest.mark.slow
def test_the_command_prints_the_folder_or_what_is_wrong(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
  run(mlp(checkpointing__keep_latest=1), tmp_path, programs=programs)
  step = saved_steps(tmp_path / "checkpoints")[-1]

  def command(*arguments: str) -> tuple[int, str, str]:
    return run_command(capsys, "export", *arguments)

  assert command(str(tmp_path), f"--to={tmp_path / 'to'}") == (0, f"{tmp_path / 'to'}\n", "")
  code, out, err = command(str(tmp_path), "--step=7")
  assert (code, out) == (2, "")
  assert err.startswith(f"trialbook export: a problem:\n  - {tmp_path} has no checkpoint '7'; available: ")
  code, _, err = command(str(tmp_path / "nowhere"))
  assert (code, err) == (
    2,
    f"trialbook export: a problem:\n  - {tmp_path / 'nowhere'} holds no run: there is no config.json\n",
  )
  for path in (tmp_path / "checkpoints" / str(step)).rglob("*"):
    if path.is_file() and path.stat().st_size > 1000:
      path.write_bytes(path.read_bytes()[:-100])
  code, _, err = command(str(tmp_path), f"--step={step}")
  assert code == 2
  # Orbax may say something before, in a process in which absl's log goes to stderr.
  assert "trialbook export: a problem:\n  - damaged checkpoint: " in err
  assert "Traceback" not in err


def test_without_flatbuffers_it_says_what_to_install(
  tmp_path: pathlib.Path, programs: Programs, monkeypatch: pytest.MonkeyPatch
):
  run(mlp(), tmp_path, programs=programs)
  assert export.problems(mlp()) == []
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(UserError, match="pip install flatbuffers"):
    export.export(tmp_path)
  assert "pip install flatbuffers, or set export to false" in export.problems(mlp(export=True))[0]
  assert export.problems(mlp(export=False)) == []


EIGENVALUES = """
  import jax.numpy as jnp
  from flax import nnx

  class Eigenvalues(nnx.Module):
    def __init__(self, *, num_classes, input_shape, rngs):
      self.output = nnx.Linear(8, num_classes, rngs=rngs)

    def __call__(self, x, *, train):
      return self.output(jnp.linalg.eigvals(x[..., 0]).real)
"""


def test_platforms_that_a_model_cannot_run_on_are_named(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  (tmp_path / "eigenvalues.py").write_text(textwrap.dedent(EIGENVALUES))
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, "path", list(sys.path))
  config = mlp(model__name="eigenvalues:Eigenvalues")
  info = load_dataset(config.dataset, seed=0, batch_size=32).info
  weights = {"output": {"kernel": np.zeros((8, 10), np.float32), "bias": np.zeros(10, np.float32)}}
  with pytest.raises(UserError, match=r"'eigenvalues:Eigenvalues' cannot be exported for .*tpu: ") as caught:
    export.export_model(tmp_path / "to", config, info, weights, {}, {})
  assert "cpu:" not in str(caught.value)
  assert "cannot be exported for any batch size (NotImplementedError: " in str(caught.value)
  assert "), nor vectorized over examples for " in str(caught.value)
  assert not (tmp_path / "to").exists()


@pytest.mark.slow
def test_bfloat16_weights_and_integer_inputs_are_exported_exactly(tmp_path: pathlib.Path):
  config = mlp().override(
    {
      "dataset.name": "shakespeare",
      "dataset.length": 12,
      "task.name": "language_model",
      "model.name": "transformer",
      "precision.param_dtype": "bfloat16",
      "precision.compute_dtype": "bfloat16",
    }
  )
  info = text.windows("text", np.zeros(2000, np.uint8), 12).info
  network = make_steps(config, config.task.build(), info).network
  params, variables = jax.device_get(jax.jit(network.init)(jax.random.key(0)))
  folder = export.export_model(tmp_path / "to", config, info, params, variables, {})
  exported = jax.export.deserialize(bytearray((folder / "model.stablehlo").read_bytes()))
  inputs = np.arange(36, dtype=np.int32).reshape(3, 12)

  @jax.jit
  def expected(params: Any, inputs: Any) -> Any:
    with jax.default_matmul_precision("float32"):
      return network.apply(params, variables, Call(inputs), program_settings(config), train=False)[0]

  outputs = exported.call(dict(np.load(folder / "weights.npz")), inputs)
  assert outputs.shape == (3, 12, 256)
  np.testing.assert_array_equal(outputs, expected(params, inputs))


@pytest.mark.slow
def test_an_export_predicts_as_the_loaded_run_does(tmp_path: pathlib.Path, programs: Programs):
  run(mlp(), tmp_path, programs=programs)
  exported = jax.export.deserialize(bytearray((export.export(tmp_path) / "model.stablehlo").read_bytes()))
  inputs = np.random.default_rng(0).integers(0, 17, (5, 8, 8, 1)).astype(load(tmp_path).info.input_dtype)
  outputs = exported.call(dict(np.load(tmp_path / "export" / "weights.npz")), inputs)
  np.testing.assert_allclose(outputs, load(tmp_path).predict(inputs), rtol=1e-6, atol=1e-6)
