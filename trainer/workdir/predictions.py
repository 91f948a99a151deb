"""A model's outputs for a few fixed examples, saved at each evaluation, to be looked at after the run (PB-67)."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Array

from trialbook import files
from trialbook.input_pipeline import Dataset
from trialbook.trainer import sharding
from trialbook.trainer.config import Config
from trialbook.trainer.program import Program
from trialbook.trainer.train_step import State


def predict(
  program: Program, weights: State, settings: Mapping[str, Array], dataset: Dataset, config: Config
) -> dict[str, np.ndarray]:
  """Return outputs [N, ...] of the fixed validation examples, with `ids` in the split and labels or targets."""
  params, variables = program.seen(weights)
  count, batch_size = config.evaluation.predictions, config.evaluation.batch_size
  outputs = []
  for index in range(dataset.num_eval_batches("validation", batch_size, count)):
    batch = sharding.put_batch(program.mesh, dataset.eval_batch(index, "validation", batch_size, count))
    outputs.append(np.asarray(program.eval_step(params, variables, settings, batch)["outputs"]))
  ids, examples = dataset.fixed_examples("validation", count)
  answers: dict[str, Any] = {name: value for name, value in examples.items() if name != "inputs"}
  return {"ids": ids, **answers, "outputs": np.concatenate(outputs)[: len(ids)]}


def save(folder: pathlib.Path, step: int, predictions: Mapping[str, np.ndarray]) -> None:
  """Write `folder`/STEP.npz, whole or not at all."""
  folder.mkdir(exist_ok=True)
  with files.replacing(folder / f"{step}.npz", "wb") as file:
    np.savez(file, **predictions)  # pyright: ignore[reportArgumentType]
