"""A trained model out of a workdir: `trialbook.trainer.load(workdir)` gives something that predicts."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from numpy.typing import ArrayLike

from trialbook.errors import ConfigError
from trialbook.input_pipeline import Info
from trialbook.input_pipeline.source import flat
from trialbook.paths import as_path
from trialbook.trainer import sharding
from trialbook.trainer.checkpoints import storage
from trialbook.trainer.config import Config
from trialbook.trainer.evaluation import evaluated_weights
from trialbook.trainer.records import read_run
from trialbook.trainer.train_step import make_steps, program_settings
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
    spec: shapes (of one example) and dtypes of what `predict` takes, by path; {"": ...} if that is one array.
    params: parameters.
    variables: other variables.
  """

  config: Config
  info: Info
  input_range: tuple[float, float] | None
  step: int
  spec: Mapping[str, jax.ShapeDtypeStruct]
  params: Any = dataclasses.field(repr=False)
  variables: Any = dataclasses.field(repr=False)
  _forward: Any = dataclasses.field(repr=False)
  _warned: list[str] = dataclasses.field(default_factory=list, init=False)

  def predict(self, inputs: Any) -> Any:
    """Return what the model returns, with floats in float32: for classes, logits [B, num_outputs].

    Args:
      inputs: [B, *input_shape], as the dataset gives them; normalization is part of the model. If the model is called
        with something else than one array, a mapping of arrays as in `spec`. If a number is ten times larger than those
        that the model was trained on, or all numbers of at least 8 examples are ten times smaller, a warning says so,
        once.

    Raises:
      ValueError: if the inputs have another shape, are not numbers, are floats where the model was trained on integers,
        or are numbers that it cannot know: outside of the dtype or of the vocabulary, or not finite.
    """
    given = {"": self._checked(inputs)} if list(self.spec) == [""] else self._checked_arrays(inputs)
    return jax.device_get(self._forward(self.params, self.variables, given))

  def _checked_arrays(self, inputs: Any) -> dict[str, np.ndarray]:
    """Return arrays by the paths of `spec`."""
    wanted = ", ".join(f"{path}: {leaf.dtype}{['B', *leaf.shape]}".replace("'", "") for path, leaf in self.spec.items())
    given = flat(inputs) if isinstance(inputs, Mapping) else {}
    if given.keys() != self.spec.keys():
      has = ", ".join(given) or f"a {type(inputs).__name__}"
      raise ValueError(f"the model takes a dict of {wanted}; it was given {has}")
    found = {}
    for path, leaf in self.spec.items():
      array = np.asarray(given[path])
      if array.shape[1:] != leaf.shape or not array.ndim or not np.can_cast(array.dtype, leaf.dtype, "same_kind"):
        raise ValueError(f"{path} is {array.dtype}{list(array.shape)}; the model takes {wanted}")
      found[path] = array.astype(leaf.dtype)
    if len({len(array) for array in found.values()}) > 1:
      raise ValueError(f"the arrays have different lengths: {', '.join(f'{p} {len(a)}' for p, a in found.items())}")
    return found

  def _checked(self, given: ArrayLike) -> np.ndarray:
    """Return the inputs as an array of the dtype that the model was trained on."""
    shape, name = self.spec[""].shape, str(self.spec[""].dtype)
    trained = f"it was trained on {name}{list(shape)}"
    if self.input_range is not None:
      trained += " from {:.4g} to {:.4g}".format(*self.input_range)
    try:
      inputs = np.asarray(given)
    except ValueError as error:
      raise ValueError(f"inputs are not an array ({error}); the model takes (B, *{shape}): {trained}") from None
    if inputs.shape[1:] != shape or not inputs.ndim:
      raise ValueError(f"inputs have shape {inputs.shape}; the model takes (B, *{shape}): {trained}")
    dtype, of_integers = np.dtype(name), name != "float32"
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
    if self.input_range is not None and name not in ("int32", "uint32") and not self._warned:
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
      return 0, (self.info.num_classes or 1) - 1
    limits = np.iinfo(self.spec[""].dtype)
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
  record = read_run(workdir)
  number = storage.find_step(workdir, step)
  steps = make_steps(config, config.task.build(config.dataset), info)
  settings = program_settings(config)
  template = jax.eval_shape(steps.init_weights, settings)
  everywhere = sharding.replicated(sharding.make_mesh(devices=jax.local_devices()[:1]))
  template = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), template)
  weights = restore_weights(workdir, number, evaluated_weights(config, template))

  @jax.jit
  def forward(params: Any, variables: Any, given: Mapping[str, jax.Array]) -> Any:
    with jax.default_matmul_precision(config.precision.matmul_precision):
      return steps.predict(params, variables, settings, given)

  return TrainedModel(
    config=config,
    info=info,
    input_range=None if record is None else record.get("input_range"),
    step=number,
    spec=steps.model_spec(),
    **weights.get("average", weights),
    _forward=forward,
  )


def recorded_info(workdir: pathlib.Path) -> Info:
  """Return the dataset's facts as the run recorded them, so that the data itself is not needed."""
  record = read_run(workdir)
  if record is None or "dataset" not in record:
    raise ConfigError(f"{workdir / 'run.json'} does not describe the dataset; is this the workdir of a run?")
  known = {field.name for field in dataclasses.fields(Info)}
  facts: dict[str, Any] = {name: value for name, value in record["dataset"].items() if name in known}
  return Info(**facts)


def restore_weights(workdir: pathlib.Path, step: int, template: Any) -> Any:
  """Return the weights of a checkpoint that evaluations use. Raises UserError if it is damaged or of another model."""
  try:
    return storage.restore(workdir / "checkpoints" / str(step), template)
  except storage.DamagedCheckpointError as error:
    raise ConfigError(f"damaged checkpoint: {error}") from None
