"""The session of debug mode: a config's data, model and steps on one device, small enough to take seconds."""

import concurrent.futures
import dataclasses
import functools
import math
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
from trialbook.input_pipeline.source import EXAMPLE, IS_EXAMPLE, Batch
from trialbook.trainer import checks, optimizers, parameter_groups
from trialbook.trainer.bound_task import BoundTask
from trialbook.trainer.checkpoints.array_names import flatten, matches
from trialbook.trainer.config import Config
from trialbook.trainer.functional_model import cast
from trialbook.trainer.optimizers import Adam
from trialbook.trainer.schedules import Constant
from trialbook.trainer.task_values import ratio
from trialbook.trainer.train_step import State, Steps, make_steps, program_settings

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
    task: the config's, for the dataset.
    own: the config's own functions.
    calm: those of the calm steps.
    train, validation: examples of the two splits in random order, never augmented: what the task needs, by path.
    eager: whether all but initialization runs without jit.
  """

  config: Config
  dataset: Dataset
  task: BoundTask
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

  @property
  def input_paths(self) -> list[str]:
    """Return the paths of the inputs; of all arrays, if none is named so."""
    return [path for path in self.train if path.partition("/")[0] == "inputs"] or list(self.train)

  @property
  def answer(self) -> str | None:
    """Return what the one array of outputs is compared with, "labels" or "targets"; None: the task is another one."""
    found = [key for key in ("labels", "targets") if key in self.train]
    return found[0] if len(found) == 1 and self.task.num_outputs is not None else None

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
    """Return the functions of `compile` by name, each with example arguments (or their shapes)."""

    def outputs(weights: State, settings: Any, batch: Any, seed: Array) -> tuple[Any, Any]:
      return self._called(weights, settings, batch, train=False, key=jax.random.key(seed))

    def evaluate(weights: State, settings: Any, batch: Any) -> tuple[Any, Any]:
      sums = self.own.eval_step(weights["params"], weights["variables"], settings, batch)
      return sums["means"], sums["terms"]

    state = jax.eval_shape(self.own.init, self.settings)
    parameter_groups.check(self.config.parameter_groups, state["params"])
    weights = _weights(state)
    return {
      "init": (self.own.init, self.settings),
      "own_step": (self.own.train_step, state, self.settings, self.own_batch(0)),
      "calm_step": (
        self.calm.train_step,
        *(jax.eval_shape(_calm_state, state), self.calm_settings(), self.calm_batch(0)),
      ),
      "outputs": (outputs, weights, self.settings, self.probed, np.uint32(0)),
      "evaluate": (evaluate, weights, self.settings, self.probed),
    }

  def compile(self, names: Iterable[str] = ("init", "own_step", "calm_step", "outputs", "evaluate")) -> None:
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
    self, batches: Iterable[Batch], learning_rate: float = 1e-3, *, same_draws: bool = False
  ) -> Iterator[tuple[State, dict[str, float]]]:
    """Make calm steps from step 0, and yield the state after each, and its metrics.

    Args:
      batches: one for each step.
      learning_rate: of Adam.
      same_draws: whether all random numbers are those of step 0.
    """
    state, settings = self.calm_state, self.calm_settings(learning_rate)
    for batch in batches:
      state, metrics = self.program("calm_step")(state, settings, batch)
      yield state, {name: float(value) for name, value in metrics.items()}
      if same_draws:
        state = {**state, "step": self.calm_state["step"]}

  def own_batch(self, index: int) -> Batch:
    """Return a training batch of the config's."""
    batch = self.dataset.train_batch(index)
    return {path: batch[path] for path in self.task.train_paths}

  def calm_batch(self, index: int) -> Batch:
    """Return examples of the training set, different for each index until all have been used."""
    sequences = "labels" in self.train and self.info.label_shape
    size = _groups(self.config, CALM_SEQUENCES if sequences else CALM_EXAMPLES)
    batch = part(self.train, np.arange(index * size, (index + 1) * size) % count(self.train))
    if self.info.mixes_labels and "labels" in batch:
      # Each example is mixed with nothing.
      batch |= {"mixed_labels": batch["labels"], "mixing": np.ones(size, np.float32)}
    return {path: batch[path] for path in self.task.train_paths}

  def eval_batch(self, start: int, stop: int) -> Batch:
    """Return these validation examples as an evaluation has them."""
    numbers = np.arange(count(self.validation), dtype=np.uint32)
    batch = part({**self.validation, EXAMPLE: numbers, IS_EXAMPLE: np.ones_like(numbers, bool)}, slice(start, stop))
    return {path: batch[path] for path in self.task.eval_paths}

  @property
  def probed(self) -> Batch:
    """Return the validation examples for which outputs are computed; always the same number, to compile once."""
    return self.eval_batch(0, BATCH_SIZE)

  def outputs(self, state: State, batch: Batch, seed: int = 0) -> tuple[np.ndarray, Any]:
    """Return outputs [B, ...] with train=False, and the other variables after the call.

    Of a tree of outputs they are the floats that have an axis of examples, [B, n].
    """
    outputs, variables = self.program("outputs")(_weights(state), self.settings, batch, np.uint32(seed))
    return _as_array(outputs, count(batch)), variables

  def evaluate(self, state: State) -> dict[str, float]:
    """Return the means of an evaluation of the probed examples, by name."""
    means, terms = self.program("evaluate")(_weights(state), self.settings, self.probed)
    found = {name: float(ratio(*sums)) for name, sums in means.items()}
    if terms:
      found["loss"] = sum(float(coefficient * ratio(*sums)) for *sums, coefficient in terms.values())
    return found

  def forward(self, state: State, batch: Batch, *, train: bool, seed: int = 0) -> Callable[[], object]:
    """Return a function that calls the model without jit, so that its layers can be watched."""

    def run() -> object:
      with jax.disable_jit():
        return self._called(state, self.settings, batch, train=train, key=jax.random.key(seed))[0]

    return run

  def loss(self, outputs: np.ndarray, batch: Batch) -> float:
    """Return the training objective of given outputs for a training batch, without label smoothing."""
    prepared, own = self.prepared(self.state, self.calm_settings(), batch, train=True)
    return float(self.task.mean_loss(jnp.asarray(outputs), prepared, own))

  def guess_loss(self, batch: Batch) -> float | None:
    """Return the training objective of outputs that know nothing: all classes alike, or the mean of the targets.

    None: nothing can be guessed, or there is no objective of a guess, since it needs more than outputs.
    """
    if self.answer is None:
      return None
    shape = (count(batch), *self.outputs(self.state, self.probed)[0].shape[1:])
    guess = batch["targets"].mean(axis=0) if self.answer == "targets" else np.zeros((), np.float32)
    try:
      loss = self.loss(np.broadcast_to(guess, shape), batch)
    except (UserError, ValueError):
      return None
    return loss if np.isfinite(loss) and loss >= 0 else None

  def is_frozen(self, name: str) -> bool:
    """Return whether the config keeps the parameter of that name as it is."""
    groups = self.config.parameter_groups
    return next((group.frozen for group in groups if matches(name, (group.parameters,))), False)

  def without_gradient(self) -> list[str]:
    """Return the names of the parameters whose gradient was exactly zero at each of the few calm steps."""
    squares = flatten(self.trained["opt_state"]["second_moment"])
    return [name for name, square in squares.items() if not np.any(np.asarray(square))]

  def _called(self, state: State, settings: Any, batch: Batch, *, train: bool, key: Array) -> tuple[Any, Any]:
    """Return outputs and the other variables after a call of the model, as the steps make it."""
    prepared, own = self.prepared(state, settings, batch, train=train)
    call = self.task.model_inputs(prepared, own, train=train)
    outputs, variables, _ = self.calm.network.apply(
      state["params"], state["variables"], call, settings, train=train, key=key
    )
    return outputs, variables

  def prepared(self, state: State, settings: Any, batch: Batch, *, train: bool) -> tuple[dict[str, Any], Any]:
    """Return a batch as the task's functions see it, and the task's settings."""
    arrays = {path: jnp.asarray(array) for path, array in batch.items()}
    if self.task.draws and train:
      arrays[EXAMPLE] = jnp.arange(count(batch), dtype=jnp.uint32)
    return self.calm.prepared(settings, arrays, train=train, step=state["step"] if train else None)


def count(batch: Mapping[str, Any]) -> int:
  """Return the number of examples of a batch."""
  return len(next(iter(batch.values())))


def part(batch: Batch, rows: Any) -> Batch:
  """Return the examples at these rows."""
  return {path: array[rows] for path, array in batch.items()}


def open_session(config: Config, *, eager: bool) -> Session:
  """Check a config as a run does, and load its data. Raises UserError with all problems."""
  small = config.model_copy(
    update={"batch_size": _groups(config, min(config.batch_size, BATCH_SIZE)), "gradient_accumulation": 1}
  )
  # A run's folder that is not there: debug mode leaves nothing.
  with tempfile.TemporaryDirectory(prefix="trialbook-debug-") as name:
    prepared = checks.prepare(small, pathlib.Path(name, "run"))
  config, dataset, task = prepared.config, prepared.dataset, prepared.task

  try:
    samples = {split: _sample(dataset, split, task.dataset_paths) for split in ("train", "validation")}
  except DataError as error:
    raise UserError(str(error)) from error
  return Session(
    config=config,
    dataset=dataset,
    task=task,
    own=make_steps(config, task, dataset.info),
    calm=make_steps(_calm(config), task, dataset.info),
    **samples,
    eager=eager,
  )


def _weights(state: State) -> State:
  return {name: state[name] for name in ("params", "variables")}


def _as_array(outputs: Any, size: int) -> np.ndarray:
  leaves = [leaf for leaf in jax.tree.leaves(outputs) if leaf.shape[:1] == (size,)]
  leaves = [np.asarray(leaf) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.floating)]
  if len(leaves) == 1:
    return leaves[0]
  return np.concatenate([np.zeros((size, 0), np.float32), *(leaf.reshape(size, -1) for leaf in leaves)], axis=1)


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


def _sample(dataset: Dataset, split: str, paths: Iterable[str]) -> Batch:
  each = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in dataset.info.spec.values())
  _, batch = dataset.fixed_examples(split, min(SAMPLE_EXAMPLES, max(BATCH_SIZE, SAMPLE_BYTES // max(each, 1))))
  # Splits that are wholly read come as they are stored, which may be class by class.
  return part({path: batch[path] for path in paths}, np.random.default_rng(0).permutation(count(batch)))
