"""A trained model out of a workdir: `trialbook.trainer.load(workdir)` gives something that predicts."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from numpy.typing import ArrayLike

from trialbook import files
from trialbook.errors import ConfigError
from trialbook.input_pipeline import Info
from trialbook.paths import as_path
from trialbook.settings import without_traced_numbers
from trialbook.trainer import sharding
from trialbook.trainer.checkpoints import storage
from trialbook.trainer.config import Config
from trialbook.trainer.evaluation import evaluated_weights
from trialbook.trainer.functional_model import Network
from trialbook.trainer.program import program_settings
from trialbook.trainer.train_step import Steps
from trialbook.trainer.workdir.existing_run import stored_config

SCALE = 10
"""Factor by which inputs may be larger or smaller than in training before a warning."""
FEW = 8
"""Minimum number of examples for a warning that inputs are small."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedModel:
  """A model with the weights that its evaluations saw.

  Attributes:
    config: the run's.
    info: facts of the dataset that it was trained on.
    input_range: the smallest and the largest number among training inputs, see `Prepared`; None: not recorded.
    step: of the checkpoint.
    params: parameters.
    variables: other variables.
  """

  config: Config
  info: Info
  input_range: tuple[float, float] | None
  step: int
  params: Any
  variables: Any
  _forward: Any
  _warned: list[str] = dataclasses.field(default_factory=list, init=False)

  def predict(self, inputs: ArrayLike) -> np.ndarray:
    """Return outputs, float32 [B, ..., num_outputs] (logits, for classes), for inputs [B, *input_shape].

    Inputs are as the dataset gives them; normalization is part of the model. If a number is ten times larger than those
    that the model was trained on, or all numbers of at least 8 examples are ten times smaller, a warning says so, once.

    Raises:
      ValueError: if the inputs have another shape, are not numbers, are floats where the model was trained on integers,
        or are numbers that it cannot know: outside of the dtype or of the vocabulary, or not finite.
    """
    return np.asarray(self._forward(self.params, self.variables, self._checked(inputs)))

  def _checked(self, given: ArrayLike) -> np.ndarray:
    """Return the inputs as an array of the dtype that the model was trained on."""
    trained = f"it was trained on {self.info.input_dtype}{list(self.info.input_shape)}"
    if self.input_range is not None:
      trained += " from {:.4g} to {:.4g}".format(*self.input_range)
    try:
      inputs = np.asarray(given)
    except ValueError as error:
      raise ValueError(
        f"inputs are not an array ({error}); the model takes (B, *{self.info.input_shape}): {trained}"
      ) from None
    if inputs.shape[1:] != self.info.input_shape or not inputs.ndim:
      raise ValueError(f"inputs have shape {inputs.shape}; the model takes (B, *{self.info.input_shape}): {trained}")
    dtype, of_integers = np.dtype(self.info.input_dtype), self.info.input_dtype != "float32"
    kinds = (jnp.integer,) if of_integers else (jnp.integer, jnp.floating)
    if not any(jnp.issubdtype(inputs.dtype, kind) for kind in kinds):
      wanted = "integers, without any scaling" if of_integers else "numbers, scaled as in training"
      raise ValueError(f"inputs are {inputs.dtype}; the model takes {wanted}: {trained}")
    if not inputs.size:
      return inputs.astype(dtype)
    low, high = inputs.min(), inputs.max()
    if of_integers:
      first, last = self._known()
      if low < first or high > last:
        raise ValueError(f"inputs are from {low} to {high}; the model takes {first} to {last}: {trained}")
    elif not np.isfinite([low, high]).all():
      raise ValueError(f"inputs are not all finite: {trained}")
    # Symbols have no scale.
    if self.input_range is not None and self.info.input_dtype != "int32" and not self._warned:
      seen, usual = (float(np.abs(ends).max()) for ends in (np.array([low, high], np.float64), self.input_range))
      # A few examples may well be dark, or small.
      if seen > SCALE * usual or (len(inputs) >= FEW and 0 < seen < usual / SCALE):
        self._warned.append("scale")
        logging.warning(
          "inputs are from %.4g to %.4g, on another scale than the training inputs: %s", low, high, trained
        )
    return inputs.astype(dtype)

  def _known(self) -> tuple[int, int]:
    """Return the smallest and the largest integer that the model can be given."""
    if self.config.model.name == "transformer":
      return 0, self.config.task.build().num_outputs(self.info) - 1
    limits = np.iinfo(self.info.input_dtype)
    return int(limits.min), int(limits.max)


def load(workdir: str | pathlib.Path, step: str | int = "best") -> TrainedModel:
  """Return the model of a run at one of its checkpoints.

  Args:
    workdir: of the run.
    step: "best", "last", or the number of a step that has a checkpoint.

  Raises:
    UserError: if there is no such run or checkpoint, or it is damaged.
  """
  workdir = as_path(workdir)
  config, info = stored_config(workdir), recorded_info(workdir)
  record = files.read_json(workdir / "run.json") or {}
  number = storage.find_step(workdir, step)
  task = config.task.build()
  network = Network(config=without_traced_numbers(config), info=info, num_outputs=task.num_outputs(info))
  settings = program_settings(config)
  template = jax.eval_shape(Steps(network=network, task=task).init, settings)
  everywhere = sharding.replicated(sharding.make_mesh(devices=jax.local_devices()[:1]))
  template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), template)
  weights = restore_weights(workdir, number, evaluated_weights(config, template))

  @jax.jit
  def forward(params: Any, variables: Any, inputs: jax.Array) -> jax.Array:
    with jax.default_matmul_precision(config.precision.matmul_precision):
      return network.apply(params, variables, inputs, settings, train=False)[0]

  return TrainedModel(
    config=config,
    info=info,
    input_range=tuple(record["input_range"]) if record.get("input_range") else None,
    step=number,
    **weights.get("average", weights),
    _forward=forward,
  )


def recorded_info(workdir: pathlib.Path) -> Info:
  """Return the dataset's facts as the run recorded them, so that the data itself is not needed."""
  recorded = (files.read_json(workdir / "run.json") or {}).get("dataset")
  if recorded is None:
    raise ConfigError(f"{workdir / 'run.json'} does not describe the dataset; is this the workdir of a run?")

  def tuples(value: Any) -> Any:
    return tuple(map(tuples, value)) if isinstance(value, list) else value

  return Info(**{name: tuples(value) for name, value in recorded.items()})


def restore_weights(workdir: pathlib.Path, step: int, template: Any) -> Any:
  """Return the weights of a checkpoint that evaluations use. Raises UserError if it is damaged or of another model."""
  try:
    return storage.restore(workdir / "checkpoints" / str(step), template)
  except storage.DamagedCheckpointError as error:
    raise ConfigError(f"damaged checkpoint: {error}") from None
