"""A trained model out of a workdir: `trainer.load(workdir)` gives something that predicts."""

import dataclasses
import pathlib
from typing import Any

import jax
import numpy as np

from input_pipeline import Info
from trainer import checkpoints, records, sharding
from trainer.config import Config
from trainer.evaluation import evaluated_weights
from trainer.network import Network
from trainer.overrides import ConfigError
from trainer.program import program_settings
from trainer.train_step import Steps
from trainer.workdirs import stored_config
from trialbook.settings import without_traced_numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainedModel:
  """A model with the weights that its evaluations saw.

  Attributes:
    config: the run's.
    info: facts of the dataset that it was trained on.
    step: of the checkpoint.
    params: parameters.
    variables: other variables.
  """

  config: Config
  info: Info
  step: int
  params: Any
  variables: Any
  _forward: Any

  def predict(self, inputs: np.ndarray) -> np.ndarray:
    """Outputs float32 [B, ..., num_outputs] (logits, for classes) for inputs [B, *input_shape].

    Inputs are as the dataset gives them; normalization is part of the model.

    Raises:
      ValueError: if the inputs have another shape.
    """
    if inputs.shape[1:] != self.info.input_shape:
      raise ValueError(f"inputs have shape {inputs.shape}; the model takes (B, *{self.info.input_shape})")
    return np.asarray(self._forward(self.params, self.variables, inputs))


def load(workdir: str | pathlib.Path, step: str | int = "best") -> TrainedModel:
  """The model of a run at one of its checkpoints.

  Args:
    workdir: of the run.
    step: "best", "last", or the number of a step that has a checkpoint.

  Raises:
    UserError: if there is no such run or checkpoint, or it is damaged.
  """
  workdir = pathlib.Path(workdir)
  config, info = stored_config(workdir), recorded_info(workdir)
  number = checkpoints.find_step(workdir, step)
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

  return TrainedModel(config=config, info=info, step=number, **weights.get("average", weights), _forward=forward)


def recorded_info(workdir: pathlib.Path) -> Info:
  """The dataset's facts as the run recorded them, so that the data itself is not needed."""
  recorded = (records.read_json(workdir / "run.json") or {}).get("dataset")
  if recorded is None:
    raise ConfigError(f"{workdir / 'run.json'} does not say what the data was; is this the workdir of a run?")

  def tuples(value: Any) -> Any:
    return tuple(map(tuples, value)) if isinstance(value, list) else value

  return Info(**{name: tuples(value) for name, value in recorded.items()})


def restore_weights(workdir: pathlib.Path, step: int, template: Any) -> Any:
  """What evaluations see of a checkpoint. Raises UserError if it is damaged or of another model."""
  try:
    return checkpoints.restore(workdir / "checkpoints" / str(step), template)
  except checkpoints.DamagedCheckpointError as error:
    raise ConfigError(f"damaged checkpoint: {error}") from None
