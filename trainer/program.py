"""Programs: the compiled `init`, `train_step` and `eval_step` of one static configuration, and their cache.

Nothing in making a program touches device memory, so one can be made for devices that are not there. Runs that
differ only in traced or host fields share a program.
"""

import collections
import concurrent.futures
import contextlib
import json
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

import models
from input_pipeline import Info
from trainer import parameter_groups, sharding
from trainer.config import Config
from trainer.network import Network
from trainer.tasks import Task
from trainer.train_step import State, Steps
from trialbook.settings import leaves, traced_values, without_traced_numbers

# jax's settings that change what is compiled; the matmul precision is the config's.
_CODE_SETTINGS = ("jax_enable_x64", "jax_default_prng_impl", "jax_threefry_partitionable")
# Parts of a config that act on the host: what they bring about in a program enters its key by shapes.
_OUTSIDE = ("dataset.", "warm_start")
_CACHE_HIT = "/jax/compilation_cache/cache_hits"


class Program:
  """The compiled functions of one static configuration, ready to be called.

  Attributes:
    init: (settings) -> state at step 0.
    train_step: (state, settings, batch) -> (next state, metrics [K]); the state that goes in is gone afterwards.
    eval_step: (params, variables, settings, batch) -> weighted sums by name.
    metric_names: the K names of the train step's metrics.
    eval_names: names of the metrics of an evaluation, without the split.
    state_template: shapes, dtypes and shardings of the state.
    mesh: the devices.
    compilations: how many times each function was compiled; 1 each.
    cache_hits: how many of these came out of the persistent compilation cache.
    seconds: wall time of tracing and compiling.
  """

  def __init__(self, steps: Steps, config: Config, info: Info, mesh: Mesh):
    started = time.perf_counter()
    self.mesh = mesh
    self.compilations: collections.Counter[str] = collections.Counter()
    self.metric_names: tuple[str, ...] = ()
    everywhere, split = sharding.replicated(mesh), sharding.batch(mesh)

    settings = {
      name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in program_settings(config).items()
    }
    train_batch = steps.task.initial_batch(info, config.batch_size)
    eval_batch = steps.task.initial_batch(info, config.evaluation.batch_size)
    eval_batch["weights"] = jax.ShapeDtypeStruct((config.evaluation.batch_size,), jnp.float32)

    def train_step(state: State, settings: Any, batch: Any) -> tuple[State, Float[Array, " K"]]:
      state, metrics = steps.train_step(state, settings, batch)
      self.metric_names = tuple(metrics)
      return state, jnp.stack(list(metrics.values()))

    with _counting(_CACHE_HIT) as hits, jax.default_matmul_precision(config.precision.matmul_precision):
      init = jax.jit(steps.init, in_shardings=everywhere, out_shardings=everywhere).trace(settings)
      state = init.out_info
      parameter_groups.check(config.parameter_groups, state["params"])
      self.state_template = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), state
      )
      train = jax.jit(
        train_step,
        in_shardings=(everywhere, everywhere, split),
        out_shardings=everywhere,
        donate_argnums=0,
      ).trace(state, settings, train_batch)
      evaluate = jax.jit(
        steps.eval_step, in_shardings=(everywhere, everywhere, everywhere, split), out_shardings=everywhere
      ).trace(state["params"], state["variables"], settings, eval_batch)
      self.eval_names = tuple(name for name in evaluate.out_info if "/" not in name and name != "weights")
      # XLA compiles without the interpreter's lock, so the three go side by side.
      with concurrent.futures.ThreadPoolExecutor(3) as threads:
        compiled = [
          threads.submit(self._compile, name, traced.lower())
          for name, traced in (("train_step", train), ("eval_step", evaluate), ("init", init))
        ]
        self.train_step, self.eval_step, self.init = (future.result() for future in compiled)
    self.cache_hits = hits[0]
    self.seconds = time.perf_counter() - started

  def _compile(self, name: str, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    self.compilations[name] += 1
    return lowered.compile()


class Programs:
  """A bounded cache of programs, passed along by whoever runs several trainings in one process.

  Attributes:
    compilations: compilations of each function over the life of the cache.
  """

  def __init__(self, capacity: int = 8):
    self._programs: collections.OrderedDict[Any, Program] = collections.OrderedDict()
    self._capacity = capacity
    self.compilations: collections.Counter[str] = collections.Counter()

  def get(self, config: Config, task: Task, info: Info, mesh: Mesh) -> tuple[Program, bool]:
    """The program of a config, and whether it had to be made; the least recently used one makes room for it."""
    network = Network(config=without_traced_numbers(config), info=info, num_outputs=task.num_outputs(info))
    key = program_key(config, task, network, mesh)
    made = key not in self._programs
    if made:
      self._programs[key] = Program(Steps(network=network, task=task), config, info, mesh)
      self.compilations += self._programs[key].compilations
    self._programs.move_to_end(key)
    while len(self._programs) > self._capacity:
      self._programs.popitem(last=False)
    return self._programs[key], made


def program_settings(config: Config) -> dict[str, Any]:
  """The traced values that compiled functions receive: all but the dataset's, which are used on the host."""
  return {name: value for name, value in traced_values(config).items() if not name.startswith("dataset.")}


def program_key(config: Config, task: Task, network: Network, mesh: Mesh) -> tuple[Any, ...]:
  """Everything that can change the compiled code."""
  static = {
    path: value for path, kind, _, value in leaves(config) if kind == "static" and not path.startswith(_OUTSIDE)
  }
  # A traced value enters by its presence, shape and dtype.
  settings = {name: (value.shape, str(value.dtype)) for name, value in program_settings(config).items()}
  info = network.info
  return (
    json.dumps([static, settings], sort_keys=True, default=repr),
    type(task),
    models.module_class(config.model),
    (info.input_shape, str(info.input_dtype), info.normalization, network.num_outputs),
    (mesh.axis_names, mesh.devices.shape, tuple(mesh.devices.flat)),
    tuple(jax.config.values[name] for name in _CODE_SETTINGS),
  )


@contextlib.contextmanager
def _counting(wanted: str) -> Iterator[list[int]]:
  """Counts jax's monitoring events of one name, from all threads."""
  count = [0]

  def listen(event: str, **_: str | int) -> None:
    count[0] += event == wanted

  jax.monitoring.register_event_listener(listen)
  try:
    yield count
  finally:
    jax.monitoring.unregister_event_listener(listen)
