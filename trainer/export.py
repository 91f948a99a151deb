"""Export of a checkpoint of a run as files that need nothing of ours: jax, numpy and flatbuffers run them (PB-67).

  trialbook export WORKDIR [--step=best|last|NUMBER] [--to=DIR]

Prints the folder: WORKDIR/export, or WORKDIR/export_STEP where a step is asked for that is not the best one.
Exit codes as for `trialbook train`. In the folder are

  model.stablehlo  what `jax.export` serializes, for any batch size, on CPU, CUDA and TPU. A model that asks for the
                   number of examples, as `len(x)` does, is lowered for one example and vectorized, and the card says so
  weights.npz      its first argument, arrays by name; the second are inputs as the dataset gives them: one array, or
                   a dict of arrays, as the card lists them
  card.json        what it is: step, metrics, input, output, dataset, config, versions
  example.py       how to run it
"""

import dataclasses
import importlib.util
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging
from jaxtyping import Array

from trialbook import files
from trialbook.errors import UserError
from trialbook.input_pipeline import Info
from trialbook.models.batch_norm import collapse
from trialbook.paths import as_path
from trialbook.trainer.checkpoints.array_names import flatten, map_named
from trialbook.trainer.config import Config
from trialbook.trainer.loading import load
from trialbook.trainer.records import read_best
from trialbook.trainer.sharding import is_rows
from trialbook.trainer.train_step import Steps, make_steps, program_settings
from trialbook.trainer.workdir import provenance
from trialbook.trainer.workdir.selection import History

FORMAT = 1
"""Version of the folder's layout and of the card."""
PLATFORMS = ("cpu", "cuda", "tpu")
EXAMPLE = '''"""Prints the shape of the model's outputs for two inputs of zeros. Needs jax, numpy and flatbuffers."""

import json, pathlib
import jax.export, numpy as np

folder = pathlib.Path(__file__).parent
given = json.loads((folder / "card.json").read_text())["input"]
model = jax.export.deserialize((folder / "model.stablehlo").read_bytes())
weights = dict(np.load(folder / "weights.npz"))
def zeros(array): return np.zeros((2, *array["shape"][1:]), array["dtype"])
inputs = zeros(given) if "shape" in given else {name: zeros(array) for name, array in given["arrays"].items()}
print(jax.tree.map(lambda output: output.shape, jax.jit(model.call)(weights, inputs)))
'''
_OUTPUTS = {
  "classification": "a logit for each class: softmax over the last axis gives probabilities",
  "language_model": "a logit for each next symbol, at each position: softmax over the last axis gives probabilities",
  "regression": "predictions, in units of the dataset's targets",
}


def export(workdir: str | pathlib.Path, step: str | int = "best", to: str | pathlib.Path | None = None) -> pathlib.Path:
  """Export a kept checkpoint of a run, with the weights that its evaluations saw.

  Args:
    workdir: of the run.
    step: "best", "last", or the number of a step that has a checkpoint.
    to: the folder: an earlier export, empty, or not there yet; None: in the workdir.

  Returns:
    The folder.

  Raises:
    UserError: as `trialbook.trainer.load` and `export_model`.
  """
  workdir = as_path(workdir)
  _require_flatbuffers()
  model = load(workdir, step)
  best = read_best(workdir) or {}
  name = "export" if best.get("step") == model.step else f"export_{model.step}"
  card = _card(workdir, model.config, model.step, best)
  folder = workdir / name if to is None else as_path(to)
  params, variables = jax.device_get((model.params, model.variables))
  return export_model(folder, model.config, model.info, params, variables, card)


def export_selected(
  workdir: pathlib.Path, config: Config, info: Info, weights: Mapping[str, Any], best: Mapping[str, Any]
) -> pathlib.Path:
  """Export what a run has selected into its workdir; see `export_model`.

  Args:
    workdir: of the run.
    config: resolved.
    info: of the dataset.
    weights: as `trialbook.trainer.evaluation.evaluated_weights` gives them, NumPy arrays.
    best: what `best.json` says.
  """
  weights = weights.get("average", weights)
  step = config.max_train_steps if best["step"] is None else best["step"]
  card = _card(workdir, config, step, best)
  return export_model(workdir / "export", config, info, weights["params"], weights["variables"], card)


def export_model(
  folder: pathlib.Path, config: Config, info: Info, params: Any, variables: Any, card: Mapping[str, Any]
) -> pathlib.Path:
  """Write the folder, whole or not at all; an earlier export there is replaced.

  Args:
    folder: where to.
    config: of the run.
    info: of the dataset.
    params: nested dictionaries of NumPy arrays.
    variables: as params; statistics with a row for each replica may have any number of rows.
    card: other entries of `card.json`.

  Returns:
    The folder.

  Raises:
    UserError: if the package flatbuffers is missing, the model cannot be lowered for any batch size or for one of the
      platforms, or the folder is something else or cannot be written.
  """
  _require_flatbuffers()
  if folder.exists() and not (folder / "card.json").is_file() and not _is_empty(folder):
    raise UserError(f"{folder} exists and is not an export; choose another folder with --to")
  tree = map_named(_on_one_device, {"params": params, "variables": variables})
  weights = flatten(tree)
  # NumPy's files have no bfloat16; its values are float32, too.
  stored = {name: x.astype(np.float32) if x.dtype == jax.numpy.bfloat16 else x for name, x in weights.items()}
  steps = make_steps(config, config.task.build(config.dataset), info)
  exported, batch = _exported(steps, tree, stored)
  outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
  about = {
    "format": FORMAT,
    "model": config.model.name,
    **card,
    "notice": info.notice,
    "input": {
      **_arrays(_batched(steps.model_spec(), "batch")),
      "batch": batch,
      "meaning": _meaning(steps),
    },
    "output": {
      **_arrays(outputs),
      "meaning": _OUTPUTS.get(config.task.name, f"outputs as the task {config.task.name} takes them"),
    },
    "weights": {"arrays": len(stored), "parameters": sum(math.prod(x.shape) for x in flatten(params).values())},
    "platforms": list(exported.platforms),
    "load": "jax.export.deserialize(model.stablehlo).call(arrays of weights.npz by name, inputs); see example.py",
    "dataset": dataclasses.asdict(info),
    "config": config.model_dump(mode="json"),
    "versions": provenance.versions(),
  }
  try:
    _write(folder, exported.serialize(), stored, about)
  except OSError as error:
    raise UserError(f"export {folder} cannot be written: {error.strerror or error}") from error
  return folder


def problems(config: Config) -> list[str]:
  """Return why a run of `config` could not export at its end, as far as that is known before it."""
  if not config.export or _has_flatbuffers():
    return []
  return [f"export = True: {_MISSING}, or set export to false"]


def _exported(steps: Steps, tree: Any, stored: Mapping[str, np.ndarray]) -> tuple[jax.export.Exported, str]:
  """Return the model in evaluation, as a function of (weights by name, inputs), and how it takes batches, in words.

  Inputs are one array, or a dict of arrays by path; so are outputs.
  """
  config, settings, spec = steps.config, program_settings(steps.config), steps.model_spec()

  def model(weights: dict[str, Array], inputs: Any) -> Any:
    parts = map_named(lambda name, leaf: weights[name].astype(leaf.dtype), tree)
    given = {"": inputs} if list(spec) == [""] else inputs
    with jax.default_matmul_precision(config.precision.matmul_precision):
      outputs = steps.predict(parts["params"], parts["variables"], settings, given)
    return outputs if isinstance(outputs, jax.Array) else flatten(outputs)

  batched = _batched(spec, *jax.export.symbolic_shape("batch"))
  arguments = (
    {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in stored.items()},
    batched[""] if list(spec) == [""] else batched,
  )

  def one_by_one(weights: dict[str, Array], inputs: Any) -> Any:
    def one(example: Any) -> Any:
      return jax.tree.map(lambda x: x[0], model(weights, jax.tree.map(lambda x: x[None], example)))

    return jax.vmap(one)(inputs)

  def lower(function: Any, platforms: tuple[str, ...] = PLATFORMS) -> jax.export.Exported:
    return jax.export.export(jax.jit(function), platforms=platforms)(*arguments)

  try:
    return lower(model), "any batch size"
  except Exception as error:
    why = _shortly(error)
  neither = f"model {config.model.name!r} cannot be exported for any batch size ({why}), nor vectorized over examples"
  try:
    exported = lower(one_by_one)
  except UserError as error:
    raise UserError([f"{neither}: {problem}" for problem in error.problems]) from error
  except Exception as error:
    failures = {platform: failure for platform in PLATFORMS if (failure := _failure(lower, one_by_one, platform))}
    told = "; ".join(f"{platform}: {failure}" for platform, failure in failures.items())
    where = told or f"{', '.join(PLATFORMS)} together: {_shortly(error)}"
    raise UserError(f"{neither} for {where}") from error
  batch = f"any batch size, vectorized over single examples, because the model needs a fixed batch size ({why})"
  logging.warning("export of model %r: %s; x.shape[0] in place of len(x) often helps", config.model.name, batch)
  return exported, batch


def _meaning(steps: Steps) -> str:
  """Return what the inputs of an exported model are, in words."""
  told = "as the dataset gives them; any normalization is part of the model"
  prepared = steps.prepared_paths()
  return f"{told}. As the task's prepare returns them, normalized: {', '.join(prepared)}" if prepared else told


class _Shape(NamedTuple):
  shape: tuple[Any, ...]
  dtype: Any


def _batched(spec: Mapping[str, jax.ShapeDtypeStruct], batch: Any) -> dict[str, Any]:
  """Return shapes and dtypes with an axis of examples, whose size may be a symbol or a name."""
  kind = _Shape if isinstance(batch, str) else jax.ShapeDtypeStruct
  return {path: kind((batch, *leaf.shape), leaf.dtype) for path, leaf in spec.items()}


def _arrays(tree: Any) -> dict[str, Any]:
  """Return shape and dtype of the one array of a tree, or of each by name under "arrays", for the card."""

  def about(array: Any) -> dict[str, Any]:
    return {"shape": [size if isinstance(size, int) else str(size) for size in array.shape], "dtype": str(array.dtype)}

  if not isinstance(tree, Mapping):
    return about(tree)
  return about(tree[""]) if list(tree) == [""] else {"arrays": {name: about(array) for name, array in tree.items()}}


def _failure(lower: Any, function: Any, platform: str) -> str | None:
  try:
    lower(function, (platform,))
  except Exception as error:
    return _shortly(error)
  return None


def _shortly(error: Exception) -> str:
  kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
  return kind + " ".join(str(error).splitlines()[:2])


def _on_one_device(name: str, array: Any) -> np.ndarray:
  """Return an array as a model that is made without a mesh has it."""
  array = np.asarray(array)
  return np.asarray(collapse(array))[None] if is_rows(name) else array


def _is_empty(folder: pathlib.Path) -> bool:
  return folder.is_dir() and not any(folder.iterdir())


def _card(workdir: pathlib.Path, config: Config, step: int, best: Mapping[str, Any]) -> dict[str, Any]:
  """Return what the records of a run say about one of its steps."""
  history = History.read(workdir, config.selection)
  final = best.get("final", {}) if best.get("step") in (step, None) else {}
  return {"step": step, "metrics": {**history.evaluations.get(step, {}), **final}}


def _write(folder: pathlib.Path, model: bytearray, weights: Mapping[str, np.ndarray], card: Mapping[str, Any]) -> None:
  with files.replacing_folder(folder) as staging:
    (staging / "model.stablehlo").write_bytes(model)
    with (staging / "weights.npz").open("wb") as file:
      np.savez(file, **weights)  # pyright: ignore[reportArgumentType]
    (staging / "example.py").write_text(EXAMPLE)
    files.write_json(staging / "card.json", card)


_MISSING = "exporting needs the package flatbuffers; run pip install flatbuffers"


def _has_flatbuffers() -> bool:
  return importlib.util.find_spec("flatbuffers") is not None


def _require_flatbuffers() -> None:
  if not _has_flatbuffers():
    raise UserError(_MISSING)
