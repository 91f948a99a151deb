"""A check that an example's evaluation depends neither on the others in its batch, nor on its place, nor on chance.

If it depends on them, metrics change with `evaluation.batch_size`, and padding contributes to them. A run or a fork
checks it at its first evaluation after step 0, with the compiled eval step: half of a batch is evaluated beside the
other half, and once more beside zeros, each example one place further. `--debug` finds the layer.
"""

from collections.abc import Mapping

import jax
import numpy as np
from absl import logging
from jaxtyping import Array

from trialbook.input_pipeline import Dataset
from trialbook.input_pipeline.source import IS_EXAMPLE
from trialbook.trainer import sharding
from trialbook.trainer.config import Config
from trialbook.trainer.program import Program
from trialbook.trainer.train_step import State

TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
"""Relative differences of a mean that are rounding, by compute dtype; batch statistics change the mean much more."""


def warn(program: Program, weights: State, settings: Mapping[str, Array], dataset: Dataset, config: Config) -> None:
  """Warn if the evaluation of an example depends on more than the example.

  Args:
    program: compiled; its eval step is called twice.
    weights: as `trialbook.trainer.evaluation.evaluated_weights` gives them.
    settings: the run's traced settings.
    dataset: of which one validation batch is read.
    config: the run's.
  """
  params, variables = program.seen(weights)
  batch = dataset.eval_batch(0, "validation", config.evaluation.batch_size)
  batch = {path: batch[path] for path in program.task.eval_paths}
  kept = np.arange(len(batch[IS_EXAMPLE])) % 2 == 0

  def zeroed(array: np.ndarray) -> np.ndarray:
    return np.where(kept.reshape(-1, *[1] * (array.ndim - 1)), array, np.zeros((), array.dtype))

  beside_others = {**batch, IS_EXAMPLE: zeroed(batch[IS_EXAMPLE])}
  beside_zeros = {name: np.roll(zeroed(array), 1, axis=0) for name, array in batch.items()}
  first, again = (
    jax.device_get(program.eval_step(params, variables, settings, sharding.put_batch(program.mesh, one)))
    for one in (beside_others, beside_zeros)
  )
  # Another metric may jump where outputs change by rounding.
  name = next(
    (name for name in ("loss", *first["terms"], *first["means"]) if name in first["means"] | first["terms"]), ""
  )
  if not name:
    return
  means = [(sums["means"] | sums["terms"])[name][:2] for sums in (first, again)]
  means = [float(total / max(count, 1)) for total, count in means]
  if np.isclose(*means, rtol=TOLERANCE[config.precision.compute_dtype], atol=1e-6, equal_nan=True):
    return
  logging.warning(
    "Evaluation of model %r depends on the batch: the mean %s of the same %d examples is %.6g with other examples in"
    " the batch and %.6g with padding. In evaluation, a layer must use neither the batch's statistics nor random"
    " numbers. Run with --debug to find the layer.",
    *(config.model.name, name, round(float(first["examples"])), *means),
  )
