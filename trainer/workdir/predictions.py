"""A model's outputs for a few fixed examples, saved at each evaluation, to be looked at after the run (PB-67)."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array

from trialbook import files
from trialbook.input_pipeline import Dataset
from trialbook.trainer import sharding
from trialbook.trainer.checkpoints.array_names import flatten
from trialbook.trainer.config import Config
from trialbook.trainer.program import Program
from trialbook.trainer.train_step import State


def predict(
  program: Program, weights: State, settings: Mapping[str, Array], dataset: Dataset, config: Config
) -> dict[str, np.ndarray]:
  """Return outputs [N, ...] of the fixed validation examples, `ids` in the split, and the arrays beside the inputs.

  Outputs that are a tree of arrays are named by path, such as `outputs/logits`.
  """
  params, variables = program.seen(weights)
  count, batch_size = config.evaluation.predictions, config.evaluation.batch_size
  parts: list[dict[str, np.ndarray]] = []
  for index in range(dataset.num_eval_batches("validation", batch_size, count)):
    host_batch = dataset.eval_batch(index, "validation", batch_size, count)
    batch = sharding.put_batch(program.mesh, host_batch, program.task.eval_paths)
    outputs = program.eval_step(params, variables, settings, batch)["outputs"]
    parts.append({name: np.asarray(array) for name, array in flatten({"outputs": outputs}).items()})
  ids, examples = dataset.fixed_examples("validation", count)
  answers: dict[str, Any] = {
    f"batch/{path}" if path.partition("/")[0] in _OWN else path: value
    for path, value in examples.items()
    if path.partition("/")[0] != "inputs" and path in program.task.eval_paths
  }
  found = {
    name: np.concatenate([part[name] for part in parts])[: len(ids)] if first.ndim else first
    for name, first in parts[0].items()
  }
  return {"ids": ids, **answers, **found}


_OWN = ("ids", "outputs", "file")
"""Names in the file, and an argument of `np.savez`; a key of the data that is called so is saved below `batch/`."""


def save(folder: pathlib.Path, step: int, predictions: Mapping[str, np.ndarray]) -> None:
  """Write `folder`/STEP.npz, whole or not at all."""
  folder.mkdir(exist_ok=True)
  with files.replacing(folder / f"{step}.npz", "wb") as file:
    np.savez(file, **predictions)  # pyright: ignore[reportArgumentType]
