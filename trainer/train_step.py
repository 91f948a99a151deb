"""The three functions that a run compiles, as plain functions of plain arrays: init, train step, eval step.

State is a dictionary:
  step       int32 [], number of updates already applied
  params     parameters
  variables  other variables of the model (batch statistics …)
  opt_state  the optimizer's
  average    {"params", "variables"}, where averaging is on, or the optimizer has other parameters for evaluations

Whatever accumulates (moments, averages, sums of gradients and metrics) is float32 or wider in all of them.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.interpreters.partial_eval import dce_jaxpr
from jaxtyping import Array, Float

from trialbook.errors import UserError
from trialbook.input_pipeline import Info
from trialbook.input_pipeline.source import EXAMPLE, IS_EXAMPLE, flat, nested
from trialbook.models.call_modes import Call
from trialbook.settings import traced_values, without_traced_numbers
from trialbook.trainer import optimizers, parameter_groups, rng, schedules, sharding
from trialbook.trainer.bound_task import BoundTask, bind, totals_and_counts
from trialbook.trainer.checkpoints.array_names import changes, flatten
from trialbook.trainer.config import Config
from trialbook.trainer.functional_model import Network, below, cast, own_settings, wide
from trialbook.trainer.task_values import Mean, Sum, objective, ratio
from trialbook.trainer.user_code_errors import explained

State = dict[str, Any]
SettingArrays = Mapping[str, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
  """The functions of one static configuration; every number that may change comes in `settings`.

  Attributes:
    config: the run's.
    network: the model.
    task: what the model is given, loss and metrics.
    with_metrics: whether the train step computes the norms and the task's metrics beside the loss; only a
      benchmark that prices them says no.
  """

  config: Config
  network: Network
  task: BoundTask
  with_metrics: bool = True

  def init(self, settings: SettingArrays) -> State:
    """Return the state at step 0.

    Raises UserError if the model or the optimizer keeps what cannot be trained or saved.
    """
    state = self.init_weights(settings)
    state["opt_state"] = self.init_optimizer(settings, state["params"])
    _check_dtypes(state)
    return state

  def init_weights(self, settings: SettingArrays) -> State:
    """Return the state at step 0 without that of the optimizer, which the use of a trained model does not need."""
    params, variables = self.network.init(rng.key(settings["seed"], "init"))
    state = {"step": jnp.zeros((), jnp.int32), "params": params, "variables": variables}
    if has_average(self.network.config):
      state["average"] = jax.tree.map(jnp.copy, wide({"params": params, "variables": variables}))
    return state

  def init_optimizer(self, settings: SettingArrays, params: Any) -> Any:
    """Return the state of the optimizer at step 0."""
    return self._optimizer(settings, jnp.zeros(())).init(cast(params, "float32"))

  def train_step(
    self, state: State, settings: SettingArrays, batch: Mapping[str, Array]
  ) -> tuple[State, dict[str, Float[Array, ""]]]:
    """Make one update. Returns the next state, and the step's metrics by name."""
    config, step = self.network.config, state["step"]

    loss, others, variables, grads = self._gradient(state, settings, batch)
    metrics = {"train/loss": loss}
    if self.with_metrics or config.clip_norm is not None:
      metrics["grad_norm"] = optax.tree.norm(grads)
    if config.clip_norm is not None:
      grads, metrics["clip_fraction"] = optimizers.clip_by_global_norm(
        grads, metrics["grad_norm"], settings["clip_norm"]
      )
    learning_rate = settings["optimizer.learning_rate"] * schedules.factor(
      config.schedule, below(settings, "schedule"), step
    )
    params = cast(state["params"], "float32")
    optimizer = self._optimizer(settings, learning_rate)
    updates, opt_state = optimizer.update(grads, state["opt_state"], params, value=loss)
    stacked = [name for name, placement in self.network.placements.items() if placement.stacked]
    groups = config.parameter_groups, below(settings, "parameter_groups")
    updates = parameter_groups.scale_updates(*groups, updates, stacked)
    params = cast(optax.apply_updates(params, updates), config.precision.param_dtype)
    next_state = {"step": step + 1, "params": params, "variables": variables, "opt_state": opt_state}
    if has_average(config):
      next_state["average"] = self._average(state, next_state, settings)
    if changed := changes(state, next_state):
      raise UserError(f"an update changes the structure of the state: {'; '.join(changed)}")
    if self.with_metrics:
      metrics |= {f"train/{name}": value for name, value in others.items()}
      metrics |= {"update_norm": optax.tree.norm(updates), "learning_rate": learning_rate}
    return next_state, metrics

  def _average(self, state: State, after: State, settings: SettingArrays) -> State:
    """Return the parameters and variables that evaluations see after an update."""
    config, params = self.network.config, after["params"]
    if optimizers.evaluates_others(config.optimizer):
      params = cast(params, "float32")
      found = optimizers.evaluated_params(config.optimizer, after["opt_state"], params)
      params = parameter_groups.keep_frozen(config.parameter_groups, params, found)
    seen = {"params": params, "variables": after["variables"]}
    if config.averaging is None:
      return jax.tree.map(jnp.copy, wide(seen))
    return optimizers.average(state["average"], seen, settings["averaging.one_minus_decay"], state["step"])

  def _gradient(
    self, state: State, settings: SettingArrays, batch: Mapping[str, Array]
  ) -> tuple[Array, dict[str, Array], Any, Any]:
    """Return loss, other metrics, variables after the step, and gradients (float32).

    The batch is taken whole, or in its parts, one after the other.
    """
    parts = self.network.config.gradient_accumulation
    key = rng.key(settings["seed"], "dropout", step=state["step"])
    batch = dict(batch)
    if self.task.draws:
      batch[EXAMPLE] = jnp.arange(len(jax.tree.leaves(batch)[0]), dtype=jnp.uint32)
    if parts == 1:
      loss, sums, variables, grads = self._gradient_of_part(state, state["variables"], settings, batch, key, None)
    else:
      slices = sharding.parts(batch, parts)
      counts = self._counts(state, settings, slices, key)

      def of_part(variables: Any, index: Array, part: Any) -> tuple[Array, dict[str, Any], Any, Any]:
        return self._gradient_of_part(state, variables, settings, part, jax.random.fold_in(key, index), counts)

      def add(carry: tuple[Any, Any], part: tuple[Array, Any]) -> tuple[tuple[Any, Any], None]:
        variables, sums = carry
        loss, others, variables, grads = of_part(variables, *part)
        return (variables, jax.tree.map(jnp.add, sums, (loss, others, grads))), None

      first = jax.eval_shape(of_part, state["variables"], jnp.uint32(0), jax.tree.map(lambda x: x[0], slices))
      zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (first[0], first[1], first[3]))
      (variables, sums), _ = jax.lax.scan(add, (state["variables"], zeros), (jnp.arange(parts), slices))
      loss, sums, grads = sums
    return loss, {name: ratio(*pair) for name, pair in sums.items()}, variables, grads

  def _counts(self, state: State, settings: SettingArrays, slices: Mapping[str, Array], key: Array) -> dict[str, Array]:
    """Return what counts of each term of the loss in the whole batch, by name; without computing any outputs.

    Raises UserError if that depends on outputs.
    """
    parts = self.network.config.gradient_accumulation

    def of_part(weights: Any, index: Array, part: Any) -> dict[str, Array]:
      params, variables = weights
      given = {**state, "params": params}
      terms = self._forward(given, variables, settings, part, jax.random.fold_in(key, index))[0]
      return totals_and_counts(terms)[1]

    # Variables change from part to part, so no count may depend on them either.
    weights = state["params"], state["variables"]

    part = jax.tree.map(lambda x: x[0], slices)
    traced, shapes = jax.make_jaxpr(of_part, return_shape=True)(weights, jnp.uint32(0), part)
    jaxpr, used = dce_jaxpr(traced.jaxpr, [True] * len(traced.jaxpr.outvars))
    counted = jaxpr_as_fun(ClosedJaxpr(jaxpr, traced.consts))
    if any(used[: len(jax.tree.leaves(weights))]):
      raise UserError(
        f"task {self.task.name!r}: loss: a count depends on the model's outputs, which are not known for the whole"
        " batch before its parts. Let the count follow from the batch, or set gradient_accumulation=1"
      )

    def add(sums: dict[str, Array], index_and_part: tuple[Array, Any]) -> tuple[dict[str, Array], None]:
      given = jax.tree.leaves((weights, *index_and_part))
      found = counted(*[value for value, is_used in zip(given, used, strict=True) if is_used])
      own = jax.tree.unflatten(jax.tree.structure(shapes), found)
      return jax.tree.map(jnp.add, sums, own), None

    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return jax.lax.scan(add, zeros, (jnp.arange(parts, dtype=jnp.uint32), slices))[0]

  def _forward(
    self, state: State, variables: Any, settings: SettingArrays, batch: Mapping[str, Array], key: Array
  ) -> tuple[dict[str, Mean], tuple[Any, dict[str, Any], Any]]:
    """Return the terms of the loss of a training batch; and outputs, what the task is given by name, and variables."""
    prepared, own = self.prepared(settings, batch, train=True, step=state["step"])
    call = self.task.model_inputs(prepared, own, train=True)
    outputs, after, sown = self.network.apply(state["params"], variables, call, settings, train=True, key=key)
    given = {"settings": own, "train": True, "sown": sown}
    return self.task.loss(outputs, prepared, **given), (outputs, {"batch": prepared, **given}, after)

  def prepared(
    self,
    settings: SettingArrays,
    batch: Mapping[str, Array],
    *,
    train: bool,
    step: Array | None = None,
  ) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return a batch as the task's functions see it, normalized and prepared, and the task's settings."""
    return self._prepared(settings, self.network.normalized(batch), train=train, step=step)

  def _prepared(
    self, settings: SettingArrays, normalized: Mapping[str, Array], *, train: bool, step: Array | None = None
  ) -> tuple[dict[str, Any], dict[str, Array]]:
    own, arrays = own_settings(settings, "task"), dict(normalized)
    examples = arrays.pop(EXAMPLE, None)
    arrays.pop(IS_EXAMPLE, None)
    if examples is None:
      return nested(arrays), own
    rngs = rng.TaskRngs(rng.key(settings["seed"], "task", step=step), rng.key(settings["seed"], "task"), examples)
    return self.task.prepare(nested(arrays), rngs, own, train=train), own

  def _gradient_of_part(
    self,
    state: State,
    variables: Any,
    settings: SettingArrays,
    batch: Mapping[str, Array],
    key: Array,
    counts: Mapping[str, Array] | None,
  ) -> tuple[Array, dict[str, Any], Any, Any]:
    """Return what a part contributes to the loss, to totals and counts of metrics, and to the gradient; and variables.

    Args:
      state: before the step.
      variables: before this part.
      settings: the traced ones.
      batch: the part.
      key: of what is random in it.
      counts: what counts of each term in the whole batch; None: the part is the whole batch.
    """
    groups = self.network.config.parameter_groups

    def loss_and_rest(params: Any) -> tuple[Array, tuple[Any, ...]]:
      params = parameter_groups.stop_frozen(groups, params)
      terms, rest = self._forward({**state, "params": params}, variables, settings, batch, key)
      totals, own = totals_and_counts(terms)
      return objective(terms, totals, own if counts is None else counts), (totals, own, *rest)

    loss, gradient, (totals, own, outputs, given, after) = jax.vjp(loss_and_rest, state["params"], has_aux=True)
    # Going back, there is no code of ours that could fail: what jax cannot derive, or a rule of the user's.
    with explained(f"model {self.network.config.model.name!r}: the loss has no gradient"):
      (grads,) = gradient(jnp.ones_like(loss))
    sums = {name: (totals[name], own[name]) for name in totals} if len(totals) > 1 else {}
    if self.with_metrics:
      metrics = self.task.metrics(outputs, given.pop("batch"), **given)
      if twice := [name for name in metrics if name in sums]:
        raise UserError(f"task {self.task.name!r}: loss and metrics both have {twice[0]!r}; rename one")
      sums |= _sums(metrics)
      sums.pop("loss", None)
    return loss, sums if self.with_metrics else {}, after, cast(grads, "float32")

  def eval_step(
    self, params: Any, variables: Any, settings: SettingArrays, batch: Mapping[str, Array]
  ) -> dict[str, Any]:
    """Return sums over the examples of a batch, what is padding left out.

    Returns:
      examples: their number.
      means: (total, count) of each mean by name.
      terms: (total, count, coefficient) of each term of the loss, if no metric is named "loss".
      sums: each sum by name.
      outputs: of the first examples, where the config asks for them.
      rows: what the task keeps of each example, by name; for the config's metrics of whole splits under "outputs" and
        "batch" (all but the inputs). Padding is among them, see "is_example".
    """
    prepared, own = self.prepared(settings, batch, train=False)
    is_example = batch[IS_EXAMPLE]

    def model(*args: Any, method: str | None = None, **kwargs: Any) -> Any:
      return self.network.apply(params, variables, Call(*args, **kwargs), settings, train=False, method=method or "")[0]

    call = self.task.model_inputs(prepared, own, train=False)
    outputs, _, sown = self.network.apply(params, variables, call, settings, train=False)
    given = {"settings": own, "train": False, "sown": sown}
    metrics = self.task.metrics(outputs, prepared, **given)
    result: dict[str, Any] = {"examples": jnp.sum(is_example.astype(jnp.float32)), "terms": {}}
    if "loss" not in metrics and "loss" not in self.task.split_metrics():
      terms = self.task.loss(outputs, prepared, **given)
      coefficients = {name: jnp.asarray(term.coefficient, jnp.float32) for name, term in terms.items()}
      result["terms"] = {name: (*pair, coefficients[name]) for name, pair in _sums(terms, is_example).items()}
      metrics = ({name: term for name, term in terms.items() if len(terms) > 1}) | metrics
    result["means"] = _sums(metrics, is_example)
    result["sums"] = {
      name: jnp.sum(_kept(wide(value.total), is_example), axis=0)
      for name, value in metrics.items()
      if isinstance(value, Sum)
    }
    if kept := self.network.config.evaluation.predictions:
      size = len(is_example)
      result["outputs"] = jax.tree.map(lambda leaf: leaf[:kept] if leaf.shape[:1] == (size,) else leaf, outputs)
    rows = self.task.rows(outputs, prepared, model, settings=own, sown=sown)
    if self.network.config.evaluation.metrics:
      others = {path: value for path, value in batch.items() if path not in (EXAMPLE, IS_EXAMPLE)}
      others = {path: value for path, value in others.items() if path.partition("/")[0] != "inputs"}
      result["split"] = {"outputs": outputs, "batch": others}
    if rows or "split" in result:
      result |= {"rows": rows, IS_EXAMPLE: is_example}
    return result

  def model_spec(self) -> dict[str, jax.ShapeDtypeStruct]:
    """Return shapes and dtypes, for one example, of the arrays that the arguments of the model are made of, by path.

    These are what `model_inputs` reads: arrays of the dataset, and what `prepare` adds or changes. If all lie below
    `inputs`, they are named without it: {"": ...} for one array.
    """
    found = self._read_by_model[0]
    if all(path.partition("/")[0] == "inputs" for path in found):
      found = {path.removeprefix("inputs").removeprefix("/"): leaf for path, leaf in found.items()}
    return found

  def prepared_paths(self) -> list[str]:
    """Return those paths of `model_spec` that `prepare` adds or changes."""
    read, unchanged, _ = self._read_by_model
    return [path for path in read if path not in unchanged]

  def predict(self, params: Any, variables: Any, settings: SettingArrays, given: Mapping[str, Array]) -> Any:
    """Return outputs in evaluation for arrays [B, ...] by the paths of `model_spec`.

    Arrays of the dataset are as the dataset gives them, what `prepare` adds or changes as it returns it.
    """
    read, of_dataset, others = self._read_by_model
    batch = dict(zip(read, (given[path] for path in self.model_spec()), strict=True))
    size = next(iter(batch.values())).shape[0]
    # Of others, only the shape can be asked for.
    batch |= {path: jnp.zeros((size, *leaf.shape[1:]), leaf.dtype) for path, leaf in others.items()}
    normalized = self.network.normalized({path: value for path, value in batch.items() if path in of_dataset})
    call = self.task.model_inputs(nested({**batch, **normalized}), own_settings(settings, "task"), train=False)
    return self.network.apply(params, variables, call, settings, train=False)[0]

  @functools.cached_property
  def _read_by_model(self) -> tuple[dict[str, jax.ShapeDtypeStruct], set[str], dict[str, jax.ShapeDtypeStruct]]:
    """Return what `model_inputs` reads, by path, for one example; which arrays come out of the dataset unchanged; and
    the other arrays of a prepared batch, with an axis of examples."""
    settings = {name: jnp.zeros(value.shape, value.dtype) for name, value in program_settings(self.config).items()}
    spec = self.task.batch_spec(1, train=False)
    unchanged: set[str] = set()

    def prepare(settings: SettingArrays, batch: Mapping[str, Array]) -> dict[str, Any]:
      batch = self.network.normalized(batch)
      prepared = flat(self._prepared(settings, batch, train=False)[0])
      unchanged.update(path for path, value in prepared.items() if batch.get(path) is value)
      return prepared

    def call(prepared: Mapping[str, Array]) -> Any:
      return self.task.model_inputs(nested(prepared), own_settings(settings, "task"), train=False)

    prepared = jax.eval_shape(prepare, settings, spec)
    jaxpr = jax.make_jaxpr(call)(prepared).jaxpr
    # In the order of the names, as jax has the entries of a dictionary.
    used = dict(zip(sorted(prepared), dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[1], strict=True))
    leaves = {path: spec[path] if path in unchanged else leaf for path, leaf in prepared.items() if used[path]}
    read = {path: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype) for path, leaf in leaves.items()}
    return read, unchanged, {path: leaf for path, leaf in prepared.items() if path not in read}

  def _optimizer(self, settings: SettingArrays, learning_rate: Array) -> optax.GradientTransformationExtraArgs:
    config = self.network.config.optimizer
    return optax.with_extra_args_support(optimizers.transformation(config, below(settings, "optimizer"), learning_rate))


def has_average(config: Config) -> bool:
  """Return whether a state has parameters for evaluations beside those that are trained."""
  return config.averaging is not None or optimizers.evaluates_others(config.optimizer)


def make_steps(config: Config, task: Any, info: Info) -> Steps:
  """Return the functions for a config, a task and a dataset.

  Args:
    config: the run's.
    task: bound to the dataset, or not yet.
    info: the dataset's facts.

  Raises:
    UserError: the dataset lacks what the task needs, or a function of the task returns something of another kind.
  """
  task = bind(task, info, config.task.name)
  settings = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in program_settings(config).items()}

  def network(example: Any) -> Network:
    return Network(config=without_traced_numbers(config), info=info, num_outputs=task.num_outputs, example=example)

  # Of a call, what is not an array, such as a flag.
  others: list[Any] = []

  def call(settings: SettingArrays, batch: Mapping[str, Array]) -> Any:
    prepared, own = Steps(config=config, network=network(Call()), task=task).prepared(settings, batch, train=False)
    leaves, structure = jax.tree.flatten(task.model_inputs(prepared, own, train=False))
    others[:] = [structure, *(None if hasattr(leaf, "shape") else leaf for leaf in leaves)]
    return [leaf if hasattr(leaf, "shape") else None for leaf in leaves]

  arrays = jax.eval_shape(call, settings, task.batch_spec(1, train=False))
  structure, *others = others
  example = jax.tree.unflatten(
    structure, [other if array is None else array for array, other in zip(arrays, others, strict=True)]
  )
  return Steps(config=config, network=network(example), task=task)


def program_settings(config: Config) -> dict[str, Any]:
  """Return the traced values that compiled functions receive: all but the dataset's, which are used on the host."""
  return {name: value for name, value in traced_values(config).items() if not name.startswith("dataset.")}


def _check_dtypes(state: State) -> None:
  problems = []
  for name, leaf in flatten(state).items():
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
      problems.append(
        f"{name} is a random key, which a checkpoint cannot hold. Draw from the model's rngs"
        " (nnx.Rngs), whose keys follow from seed and step; keep any other key as jax.random.key_data"
      )
    elif name.startswith("params/") and not jnp.issubdtype(leaf.dtype, jnp.floating):
      problems.append(
        f"{name} is {leaf.dtype}, but parameters are trained and must be floats; make it an nnx.Variable"
        " instead of an nnx.Param"
      )
  if problems:
    raise UserError(problems)


def _sums(values: Mapping[str, Mean | Sum], is_example: Array | None = None) -> dict[str, tuple[Array, Array]]:
  """Return total and count of each mean, float32 []; padding, which may be anything, is not among them."""
  means = {name: value for name, value in values.items() if isinstance(value, Mean)}
  if is_example is not None:
    means = {
      name: Mean(
        _kept(wide(mean.total), is_example),
        _kept(jnp.ones_like(mean.total, jnp.float32) if mean.count is None else wide(mean.count), is_example),
      )
      for name, mean in means.items()
    }
  totals, counts = totals_and_counts(means)
  return {name: (totals[name], counts[name]) for name in means}


def _kept(values: Array, is_example: Array) -> Array:
  """Return values [B, ...] with zeros where there is padding, which may be anything, also not finite."""
  return jnp.where(is_example.reshape(-1, *[1] * (values.ndim - 1)), values, jnp.zeros((), values.dtype))
