"""The session of debug mode: a config's data, model and steps on one device, small enough to take seconds."""

import concurrent.futures
import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from trialbook.errors import DataError, UserError
from trialbook.input_pipeline import Dataset, Info
from trialbook.input_pipeline.source import Batch
from trialbook.settings import without_traced_numbers
from trialbook.trainer import optimizers, parameter_groups, preflight
from trialbook.trainer.checkpoints.array_names import flatten, matches
from trialbook.trainer.config import Config
from trialbook.trainer.functional_model import Network, cast, own_settings
from trialbook.trainer.optimizers import Adam
from trialbook.trainer.program import program_settings
from trialbook.trainer.schedules import Constant
from trialbook.trainer.tasks import Task
from trialbook.trainer.train_step import State, Steps

BATCH_SIZE = 32
"""Maximum batch size of the config's own steps: what is wrong with a step shows in a small batch."""
CALM_EXAMPLES, CALM_SEQUENCES = 8, 2
"""Examples (where each position has a label: sequences) that are to be learned by heart; even a linear model can."""
FEW_STEPS, FEW_EAGER_STEPS = 5, 3
"""Steps (without jit) after which a parameter has had a gradient if it ever has: what starts at zero has left it."""
LEARNED = 0.25
"""Share of a guess's loss below which labels count as known. Softmax applied twice cannot get below 0.45."""
SAMPLE_EXAMPLES, SAMPLE_BYTES = 2000, 2**26
"""Maximum number of examples of a split that are examined, and their maximum size in bytes."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
  """The result of a check.

  Attributes:
    passed: None: it could not be judged, and `seen` says why.
    seen: what was seen, with numbers.
    remedy: what to look at if it failed.
  """

  passed: bool | np.bool | None
  seen: str
  remedy: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
  """A config taken apart. Two kinds of steps: *own*, the config's; and *calm*, Adam without anything that disturbs.

  Calm steps have no augmentation, mixup, dropout by a setting, label smoothing, clipping, schedule or averaging.

  Attributes:
    config: with a small batch.
    dataset: the config's, with that batch.
    task: the config's.
    own: the config's own functions.
    calm: those of the calm steps.
    train, validation: examples of the two splits in random order, never augmented.
    eager: whether all but initialization runs without jit.
  """

  config: Config
  dataset: Dataset
  task: Task
  own: Steps
  calm: Steps
  train: Batch
  validation: Batch
  eager: bool
  _programs: dict[str, Callable[..., Any]] = dataclasses.field(default_factory=dict, init=False, repr=False)

  @property
  def info(self) -> Info:
    """Return facts about the dataset."""
    return self.dataset.info

  @functools.cached_property
  def settings(self) -> Mapping[str, Array]:
    """Return the traced settings of the own steps."""
    return jax.device_put(program_settings(self.config))

  def calm_settings(self, learning_rate: float = 1e-3) -> Mapping[str, Array]:
    """Return the traced settings of the calm steps; Adam's usual learning rate suits most models."""
    settings = program_settings(_calm(self.config)) | {"optimizer.learning_rate": np.float32(learning_rate)}
    disturbing = [name for name in settings if "dropout" in name or name.endswith("label_smoothing")]
    return jax.device_put(settings | dict.fromkeys(disturbing, np.float32(0)))

  @functools.cached_property
  def functions(self) -> dict[str, tuple[Any, ...]]:
    """Return init, own_step, calm_step and outputs by name, each with example arguments (or their shapes)."""

    def outputs(params: Any, variables: Any, settings: Any, inputs: Array, seed: Array) -> Any:
      return self.calm.network.apply(params, variables, inputs, settings, train=False, key=jax.random.key(seed))

    state = jax.eval_shape(self.own.init, self.settings)
    parameter_groups.check(self.config.parameter_groups, state["params"])
    weights, inputs = (state["params"], state["variables"]), self.probed["inputs"]
    return {
      "init": (self.own.init, self.settings),
      "own_step": (self.own.train_step, state, self.settings, self.dataset.train_batch(0)),
      "calm_step": (
        self.calm.train_step,
        *(jax.eval_shape(_calm_state, state), self.calm_settings(), self.calm_batch(0)),
      ),
      "outputs": (outputs, *weights, self.settings, inputs, np.uint32(0)),
    }

  def compile(self, names: Iterable[str] = ("init", "own_step", "calm_step", "outputs")) -> None:
    """Compile the functions of these names side by side; `program` compiles any other alone."""
    if self.eager:
      # Random numbers take long without jit, and a model is stepped through where it is called.
      self._programs.update({name: function for name, (function, *_) in self.functions.items() if name != "init"})
      names = ["init"]
    with jax.disable_jit(False):
      lowered = {name: jax.jit(self.functions[name][0]).lower(*self.functions[name][1:]) for name in names}
    with concurrent.futures.ThreadPoolExecutor(len(lowered)) as threads:
      compiled = {name: threads.submit(one.compile) for name, one in lowered.items()}
    self._programs.update({name: one.result() for name, one in compiled.items()})

  def program(self, name: str) -> Callable[..., Any]:
    """Return the function of that name, compiled. Steps do not consume the state that they receive."""
    if name not in self._programs:
      self.compile([name])
    return self._programs[name]

  @functools.cached_property
  def state(self) -> State:
    """Return the config's state at step 0. Parameters are drawn, even if a run would warm-start."""
    with jax.disable_jit(False):
      return self.program("init")(self.settings)

  @functools.cached_property
  def calm_state(self) -> State:
    """Return the same parameters with Adam's empty state."""
    return _calm_state(self.state)

  @property
  def few_steps(self) -> int:
    """Return how many steps are a few."""
    return FEW_EAGER_STEPS if self.eager else FEW_STEPS

  @functools.cached_property
  def few(self) -> list[tuple[State, dict[str, float]]]:
    """Return the state and the metrics after each of a few calm steps, each on other examples."""
    return list(self.calm_steps(self.calm_batch(index) for index in range(self.few_steps)))

  @property
  def trained(self) -> State:
    """Return the state after a few calm steps."""
    return self.few[-1][0]

  def calm_steps(
    self, batches: Iterable[Batch], learning_rate: float = 1e-3
  ) -> Iterator[tuple[State, dict[str, float]]]:
    """Make calm steps from step 0, and yield the state after each, and its metrics."""
    state, settings = self.calm_state, self.calm_settings(learning_rate)
    for batch in batches:
      state, metrics = self.program("calm_step")(state, settings, batch)
      yield state, {name: float(value) for name, value in metrics.items()}

  def calm_batch(self, index: int) -> Batch:
    """Return examples of the training set, different for each index until all have been used."""
    size = _groups(self.config, CALM_SEQUENCES if self.info.label_shape else CALM_EXAMPLES)
    rows = np.arange(index * size, (index + 1) * size) % len(self.train["inputs"])
    return {name: array[rows] for name, array in self.train.items()}

  def outputs(self, state: State, inputs: np.ndarray, seed: int = 0) -> tuple[np.ndarray, Any]:
    """Return outputs [B, ...] with train=False, and the other variables after the call."""
    weights = state["params"], state["variables"]
    outputs, variables = self.program("outputs")(*weights, self.settings, inputs, np.uint32(seed))
    return np.asarray(outputs), variables

  def forward(self, state: State, inputs: np.ndarray, *, train: bool, seed: int = 0) -> Callable[[], object]:
    """Return a function that calls the model without jit, so that its layers can be watched."""

    def run() -> object:
      network, weights = self.calm.network, (state["params"], state["variables"])
      with jax.disable_jit():
        return network.apply(*weights, jnp.asarray(inputs), self.settings, train=train, key=jax.random.key(seed))

    return run

  @property
  def probed(self) -> Batch:
    """Return the validation examples for which outputs are computed; always the same number, to compile once."""
    return {name: array[:BATCH_SIZE] for name, array in self.validation.items()}

  def loss(self, outputs: np.ndarray, batch: Batch) -> float:
    """Return the task's mean training loss of given outputs, without label smoothing."""
    arrays = {name: jnp.asarray(array) for name, array in batch.items()}
    return float(jnp.mean(self.task.loss(jnp.asarray(outputs), arrays, own_settings(self.calm_settings(), "task"))))

  def guess(self, batch: Batch) -> np.ndarray:
    """Return outputs that know nothing of the inputs: all classes alike, or the mean of the targets."""
    shape = (len(batch["inputs"]), *self.outputs(self.state, self.probed["inputs"])[0].shape[1:])
    if "targets" in batch:
      return np.broadcast_to(batch["targets"].mean(axis=0), shape)
    return np.zeros(shape, np.float32)

  def is_frozen(self, name: str) -> bool:
    """Return whether the config keeps the parameter of that name as it is."""
    groups = self.config.parameter_groups
    return next((group.frozen for group in groups if matches(name, (group.parameters,))), False)

  def without_gradient(self) -> list[str]:
    """Return the names of the parameters whose gradient was exactly zero at each of the few calm steps."""
    squares = flatten(self.trained["opt_state"]["second_moment"])
    return [name for name, square in squares.items() if not np.any(np.asarray(square))]


def open_session(config: Config, *, eager: bool) -> Session:
  """Check a config as a run does, and load its data. Raises UserError with all problems."""
  small = config.model_copy(
    update={"batch_size": _groups(config, min(config.batch_size, BATCH_SIZE)), "gradient_accumulation": 1}
  )
  # A run's folder that is not there: debug mode leaves nothing.
  prepared = preflight.prepare(small, pathlib.Path(tempfile.gettempdir(), "of-no-run", "debug"))
  config, dataset, task = prepared.config, prepared.dataset, prepared.task

  def steps(config: Config) -> Steps:
    numbers = task.num_outputs(dataset.info)
    network = Network(config=without_traced_numbers(config), info=dataset.info, num_outputs=numbers)
    return Steps(network=network, task=task)

  try:
    samples = {split: _sample(dataset, split) for split in ("train", "validation")}
  except DataError as error:
    raise UserError(str(error)) from error
  return Session(
    config=config,
    dataset=dataset,
    task=task,
    own=steps(config),
    calm=steps(_calm(config)),
    **samples,
    eager=eager,
  )


def _calm_state(state: State) -> State:
  """Return the same parameters with Adam's empty state."""
  optimizer = optimizers.transformation(Adam(), {}, jnp.zeros(()))
  kept = {name: state[name] for name in ("step", "params", "variables")}
  return kept | {"opt_state": optimizer.init(cast(state["params"], "float32"))}


def _calm(config: Config) -> Config:
  off = {"averaging": None, "clip_norm": None}
  return config.model_copy(update={"optimizer": Adam(), "schedule": Constant(), **off})


def _groups(config: Config, examples: int) -> int:
  """Return `examples` rounded down to a multiple (at least one) of what ghost batch norm normalizes together."""
  size = getattr(config.model, "virtual_batch_size", None) or 1
  return size * max(1, examples // size)


def _sample(dataset: Dataset, split: str) -> Batch:
  each = int(np.prod(dataset.info.input_shape)) * np.dtype(dataset.info.input_dtype).itemsize
  _, batch = dataset.fixed_examples(split, min(SAMPLE_EXAMPLES, max(BATCH_SIZE, SAMPLE_BYTES // each)))
  # Splits that are wholly read come as they are stored, which may be class by class.
  order = np.random.default_rng(0).permutation(len(batch["inputs"]))
  return {name: array[order] for name, array in batch.items()}
