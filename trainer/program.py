"""Programs: the compiled `init`, `train_step` and `eval_step` of one static configuration, and their cache.

Nothing in making a program touches device memory, so one can be made for devices that are not there. Runs that
differ only in traced or host fields share a program.
"""

import collections
import concurrent.futures
import contextlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from trialbook import models
from trialbook.errors import UserError
from trialbook.input_pipeline import Info
from trialbook.settings import leaves
from trialbook.trainer import optimization_plugins, parameter_groups, sharding
from trialbook.trainer.bound_task import BoundTask, bind
from trialbook.trainer.config import Config
from trialbook.trainer.tasks import Task
from trialbook.trainer.train_step import State, Steps, make_steps, program_settings

# jax's settings that change what is compiled; the matmul precision is the config's.
CODE_SETTINGS = ("jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable")
# Parts of a config that act on the host: what they bring about in a program enters its key by shapes, or by the mesh.
_OUTSIDE = ("dataset.", "warm_start", "mesh.")
_CACHE_HIT = "/jax/compilation_cache/cache_hits"


class Program:
  """The functions of one static configuration: traced when made, so that shapes and names are known; then compiled.

  One that is not for training has an `eval_step` only, so its devices need not be able to share a training batch.

  Attributes:
    init: (settings) -> state at step 0.
    train_step: (state, settings, batch) -> (next state, metrics [K]); the state that goes in is gone afterwards.
    eval_step: (params, variables, settings, batch) -> sums over its examples, as `Steps.eval_step`; see `seen`.
    metric_names: the K names of the train step's metrics.
    lists: names of the sums of an evaluation that are lists of numbers, without the split.
    eval_names: names of the numbers of an evaluation, without the split.
    state_template: shapes, dtypes and shardings of the state.
    mesh: the devices.
    task: what is trained, for its dataset.
    network: the model.
    compilations: how many times each function was compiled: not, or once.
    cache_hits: how many of these came out of the persistent compilation cache.
    seconds: wall time of tracing and compiling.

  Raises:
    UserError: if the model, the task and the config do not fit together.
  """

  init: jax.stages.Compiled
  train_step: jax.stages.Compiled
  eval_step: jax.stages.Compiled

  def __init__(self, steps: Steps, config: Config, mesh: Mesh, *, training: bool = True):
    started = time.perf_counter()
    self.mesh, self.task, self.network = mesh, steps.task, steps.network
    self.compilations: collections.Counter[str] = collections.Counter()
    self.metric_names: tuple[str, ...] = ()
    everywhere, split = sharding.replicated(mesh), sharding.batch(mesh)

    settings = {
      name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in program_settings(config).items()
    }
    train_batch = steps.task.batch_spec(config.batch_size, train=True)
    eval_batch = steps.task.batch_spec(config.evaluation.batch_size, train=False)

    def train_step(state: State, settings: Any, batch: Any) -> tuple[State, Float[Array, " K"]]:
      state, metrics = steps.train_step(state, settings, batch)
      self.metric_names = tuple(metrics)
      return state, jnp.stack(list(metrics.values()))

    # Layers that normalize over parts of the batch ask the mesh of the trace how many replicas there are.
    mesh_of_trace = jax.sharding.use_abstract_mesh(mesh.abstract_mesh)
    with mesh_of_trace, jax.default_matmul_precision(config.precision.matmul_precision):
      state = jax.eval_shape(steps.init, settings)
      parameter_groups.check(config.parameter_groups, state["params"])
      placed = sharding.state(mesh, state, steps.network.placements)
      self._traced = {}
      if training:
        self._traced["train_step"] = jax.jit(
          train_step,
          in_shardings=(placed, everywhere, split),
          out_shardings=(placed, everywhere),
          donate_argnums=0,
        ).trace(state, settings, train_batch)
        self._traced["init"] = jax.jit(steps.init, in_shardings=everywhere, out_shardings=placed).trace(settings)
      evaluate = self._traced["eval_step"] = jax.jit(
        steps.eval_step,
        in_shardings=(*_evaluated(placed), everywhere, split),
        out_shardings=everywhere,
      ).trace(*_evaluated(state), settings, eval_batch)
    self._init_optimizer = jax.jit(steps.init_optimizer, out_shardings=placed["opt_state"])
    self._precision = config.precision.matmul_precision
    self.state_template = jax.tree.map(
      lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), state, placed
    )
    found = evaluate.out_info
    self.lists = tuple(name for name, total in found["sums"].items() if total.shape)
    numbers = [name for name in found["sums"] if name not in self.lists]
    own, of_splits = [*(["loss"] if found["terms"] else []), *found["means"], *numbers], steps.task.split_metrics()
    if taken := [name for name in of_splits if name in (*own, *self.lists)]:
      raise UserError(f"task {steps.task.name!r}: metrics and split_metrics both have {taken[0]!r}; rename one")
    self.eval_names = (*own, *of_splits)
    if "examples" in (*self.eval_names, *self.lists):
      raise UserError(f"task {steps.task.name!r}: 'examples' is the number of examples of a split; rename the metric")
    given = [name.removeprefix("task.traced.") for name in settings if name.startswith("task.traced.")]
    if training and (unread := [name for name in given if name not in steps.task.read_settings]):
      raise UserError([f"task.traced.{name}: no function of the task reads this setting" for name in unread])
    self.cache_hits = 0
    self.seconds = time.perf_counter() - started

  @property
  def traced(self) -> dict[str, jax.stages.Traced]:
    """Return the functions that are traced and not compiled yet, by name."""
    return dict(self._traced)

  def restart_optimizer(self, state: State, settings: Mapping[str, Array]) -> State:
    """Return a state with that of the optimizer at step 0, for the parameters that are there now.

    An optimizer of the user's may keep a copy of the parameters.
    """
    with jax.sharding.use_abstract_mesh(self.mesh.abstract_mesh), jax.default_matmul_precision(self._precision):
      return state | {"opt_state": self._init_optimizer(settings, state["params"])}

  def seen(self, weights: State) -> tuple[Any, Any]:
    """Return parameters and variables as `eval_step` takes them.

    With averaging it is compiled for the average, which has wider dtypes than parameters in bfloat16.

    Args:
      weights: as `trialbook.trainer.evaluation.evaluated_weights` returns them.
    """

    def fitting(array: Array, wanted: Any) -> Array:
      return array if array.dtype == wanted.dtype else array.astype(wanted.dtype)

    return jax.tree.map(fitting, _evaluated(weights), _evaluated(self.state_template))

  def compile(self) -> bool:
    """Compile what is not compiled yet, and return whether there was anything to compile."""
    if not self._traced:
      return False
    started = time.perf_counter()
    with _counting(_CACHE_HIT) as hits, concurrent.futures.ThreadPoolExecutor(3) as threads:
      # XLA compiles without the interpreter's lock, so the three go side by side.
      compiled = {name: threads.submit(traced.lower().compile) for name, traced in self._traced.items()}
    for name, future in compiled.items():
      setattr(self, name, future.result())
      self.compilations[name] += 1
    self._traced = {}
    self.cache_hits, self.seconds = hits[0], self.seconds + time.perf_counter() - started
    return True


class Programs:
  """A bounded cache of programs, passed along by whoever runs several trainings in one process.

  Threads may share one.
  """

  def __init__(self, capacity: int = 8):
    self._programs: collections.OrderedDict[Any, Program] = collections.OrderedDict()
    self._capacity, self._lock = capacity, threading.Lock()
    self._evicted: collections.Counter[str] = collections.Counter()

  @property
  def compilations(self) -> collections.Counter[str]:
    """Return the number of compilations of each function over the life of the cache."""
    return sum((program.compilations for program in self._programs.values()), self._evicted)

  def get(self, config: Config, task: Task | BoundTask, info: Info, mesh: Mesh, *, training: bool = True) -> Program:
    """Return the program of a config, at least traced; it replaces the least recently used one.

    Raises:
      UserError: as `Program`.
    """
    bound = bind(task, info, config.task.name)
    key = (program_key(config, bound, mesh), training)
    with self._lock:
      program = self._programs.get(key)
      if program is None:
        program = Program(make_steps(config, bound, info), config, mesh, training=training)
      self._programs[key] = program
      self._programs.move_to_end(key)
      while len(self._programs) > self._capacity:
        self._evicted += self._programs.popitem(last=False)[1].compilations
    return program


def _evaluated(state: State) -> tuple[Any, Any]:
  """Return parameters and variables of a state or of a part of one: the average, where it has one."""
  state = state.get("average", state)
  return state["params"], state["variables"]


def static_key(config: Config) -> str:
  """Return the part of a config that can change the compiled code: equal for configs that share a program."""
  static = {
    path: value for path, kind, _, value in leaves(config) if kind == "static" and not path.startswith(_OUTSIDE)
  }
  # A traced value enters by its presence, shape and dtype.
  settings = {name: (value.shape, str(value.dtype)) for name, value in program_settings(config).items()}
  return json.dumps([static, settings], sort_keys=True, default=repr)


def program_key(config: Config, task: BoundTask, mesh: Mesh) -> tuple[Any, ...]:
  """Return everything that can change the compiled code."""
  info = task.info
  batches = [
    task.batch_spec(size, train=train)
    for size, train in ((config.batch_size, True), (config.evaluation.batch_size, False))
  ]
  return (
    static_key(config),
    task.kind,
    task.variant,
    models.module_class(config.model),
    optimization_plugins.functions(config.optimizer, config.schedule),
    (tuple(info.normalizations.items()), info.num_classes, info.ignore_label, task.num_outputs),
    tuple((path, spec.shape, str(spec.dtype)) for batch in batches for path, spec in batch.items()),
    (mesh.axis_names, mesh.devices.shape, tuple(mesh.devices.flat)),
    tuple(jax.config.values[name] for name in CODE_SETTINGS),
  )


@contextlib.contextmanager
def _counting(wanted: str) -> Iterator[list[int]]:
  """Count jax's monitoring events of one name, from all threads."""
  count = [0]

  def listen(event: str, **_: str | int) -> None:
    count[0] += event == wanted

  jax.monitoring.register_event_listener(listen)
  try:
    yield count
  finally:
    jax.monitoring.unregister_event_listener(listen)
