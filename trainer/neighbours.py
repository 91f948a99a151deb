"""Whether what an evaluation says of an example depends on the others in its batch, on its place there, or on chance.

Then metrics change with `evaluation.batch_size`, and padding has a part in them. A run looks for it once, at its first
evaluation after step 0, by means of the compiled eval step: half of a batch is evaluated beside the other half, and
once more beside zeros, each example one place further. `--debug` looks more closely.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jaxtyping import Array

from input_pipeline import Dataset
from trainer import sharding
from trainer.config import Config
from trainer.layer_calls import first_difference
from trainer.overrides import UserError
from trainer.program import Program
from trainer.train_step import State

TOLERANCE = {"float32": 1e-4, "bfloat16": 1e-2}
"""Relative differences of a mean that are rounding, by what is computed in; batch statistics move it much further."""
CLOSE_LOOK = 8
"""Examples with which the layer is looked for."""


def warn(program: Program, weights: State, settings: Mapping[str, Array], dataset: Dataset, config: Config) -> None:
  """Warns, naming the layer, if the evaluation of an example depends on more than the example.

  Args:
    program: compiled; its eval step is called twice.
    weights: as `trainer.evaluation.evaluated_weights` gives them.
    settings: the run's traced settings.
    dataset: of which one validation batch is read.
    config: the run's.
  """
  if not program.eval_names:
    return
  params, variables = program.seen(weights)
  batch = dataset.eval_batch(0, "validation", config.evaluation.batch_size)
  kept = np.arange(len(batch["weights"])) % 2 == 0

  def zeroed(array: np.ndarray) -> np.ndarray:
    return np.where(kept.reshape(-1, *[1] * (array.ndim - 1)), array, np.zeros((), array.dtype))

  beside_others = {**batch, "weights": zeroed(batch["weights"])}
  beside_zeros = {name: np.roll(zeroed(array), 1, axis=0) for name, array in batch.items()}
  first, again = (
    jax.device_get(program.eval_step(params, variables, settings, sharding.put_batch(program.mesh, one)))
    for one in (beside_others, beside_zeros)
  )
  # Another metric may jump where outputs change by rounding.
  name = "loss" if "loss" in program.eval_names else program.eval_names[0]
  means = [float(sums[name] / sums["weights"]) for sums in (first, again)]
  tolerance = TOLERANCE[config.precision.compute_dtype]
  if np.isclose(*means, rtol=tolerance, atol=1e-6, equal_nan=True):
    return
  where = _layer(program, (params, variables), settings, batch["inputs"][:CLOSE_LOOK], tolerance)
  logging.warning(
    "evaluations of model %r are not exact: the mean %s of the same %d examples is %.6g beside other examples and"
    " %.6g beside padding, one place further in the batch; %s. In evaluations a layer must neither use the batch's"
    " statistics nor draw at random: call it without its flag, which is set before each call, or by `train`",
    *(config.model.name, name, round(float(first["weights"])), *means, where),
  )


def _layer(
  program: Program, weights: tuple[State, State], settings: Mapping[str, Array], inputs: np.ndarray, tolerance: float
) -> str:
  """Where the outputs first differ, in words."""
  if program.mesh.is_multi_process:
    return "--debug, on one host, names the layer"

  def run(inputs: np.ndarray, seed: int = 0) -> None:
    with jax.disable_jit():
      program.network.apply(*weights, jnp.asarray(inputs), settings, train=False, key=jax.random.key(seed))

  def others(array: np.ndarray) -> np.ndarray | None:
    return array[::2] if array.ndim and len(array) == len(inputs) else None

  replaced = inputs.copy()
  replaced[1::2] = 0
  try:
    random = first_difference(lambda: run(inputs), lambda: run(inputs, 1), lambda array: array, tolerance)
    mixing = first_difference(lambda: run(inputs), lambda: run(replaced), others, tolerance)
  except UserError as error:
    return f"the layer is not known, since without jit {error}"
  found = [
    f"{what} {place}" for what, place in (("random numbers enter in", random), ("examples mix in", mixing)) if place
  ]
  return " and ".join(found) or "no single layer shows it"
