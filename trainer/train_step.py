"""The three functions that a run compiles, as plain functions of plain arrays: init, train step, eval step.

State is a dictionary:
  step       int32 [], number of updates already applied
  params     parameters
  variables  other variables of the model (batch statistics …)
  opt_state  the optimizer's
  average    {"params", "variables"}, where averaging is on

Whatever accumulates (moments, averages, sums of gradients and metrics) is float32 or wider in all of them.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from trialbook.errors import UserError
from trialbook.trainer import optimizers, parameter_groups, rng, schedules, sharding
from trialbook.trainer.checkpoints.array_names import changes, flatten
from trialbook.trainer.functional_model import Network, below, cast, own_settings, wide
from trialbook.trainer.tasks import Task
from trialbook.trainer.user_code_errors import COUNT, ROW, explained

State = dict[str, Any]
SettingArrays = Mapping[str, Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steps:
  """The functions of one static configuration; every number that may change comes in `settings`.

  Attributes:
    network: the model.
    task: loss and metrics.
    with_metrics: whether the train step computes the norms and the task's metrics beside the loss; only a
      benchmark that prices them says no.
  """

  network: Network
  task: Task
  with_metrics: bool = True

  def init(self, settings: SettingArrays) -> State:
    """Return the state at step 0.

    Raises UserError if the model or the optimizer keeps what cannot be trained or saved.
    """
    params, variables = self.network.init(rng.key(settings["seed"], "init"))
    state = {
      "step": jnp.zeros((), jnp.int32),
      "params": params,
      "variables": variables,
      "opt_state": self._optimizer(settings, jnp.zeros(())).init(cast(params, "float32")),
    }
    if self.network.config.averaging is not None:
      state["average"] = jax.tree.map(jnp.copy, wide({"params": params, "variables": variables}))
    _check_dtypes(state)
    return state

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
    updates, opt_state = self._optimizer(settings, learning_rate).update(grads, state["opt_state"], params)
    updates = parameter_groups.scale_updates(config.parameter_groups, below(settings, "parameter_groups"), updates)
    params = cast(optax.apply_updates(params, updates), config.precision.param_dtype)
    next_state = {"step": step + 1, "params": params, "variables": variables, "opt_state": opt_state}
    if config.averaging is not None:
      next_state["average"] = optimizers.average(
        state["average"],
        {"params": params, "variables": variables},
        settings["averaging.one_minus_decay"],
        step,
      )
    if changed := changes(state, next_state):
      raise UserError(f"an update changes the structure of the state: {'; '.join(changed)}")
    if self.with_metrics:
      metrics |= {f"train/{name}": value for name, value in others.items()}
      metrics |= {"update_norm": optax.tree.norm(updates), "learning_rate": learning_rate}
    return next_state, metrics

  def _gradient(
    self, state: State, settings: SettingArrays, batch: Mapping[str, Array]
  ) -> tuple[Array, dict[str, Array], Any, Any]:
    """Return loss, other metrics, variables after the step, and gradients (float32).

    The batch is taken whole, or in its parts, one after the other.
    """
    parts = self.network.config.gradient_accumulation
    key = rng.key(settings["seed"], "dropout", step=state["step"])
    if parts == 1:
      return self._gradient_of_part(state["params"], state["variables"], settings, batch, key)

    def add(carry: tuple[Any, Any], part: tuple[Array, Any]) -> tuple[tuple[Any, Any], None]:
      variables, sums = carry
      index, slices = part
      loss, others, variables, grads = self._gradient_of_part(
        state["params"], variables, settings, slices, jax.random.fold_in(key, index)
      )
      return (variables, jax.tree.map(jnp.add, sums, (loss, others, grads))), None

    slices = sharding.parts(batch, parts)
    first = jax.eval_shape(
      lambda: self._gradient_of_part(
        state["params"], state["variables"], settings, jax.tree.map(lambda x: x[0], slices), key
      )
    )
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), (first[0], first[1], first[3]))
    (variables, sums), _ = jax.lax.scan(add, (state["variables"], zeros), (jnp.arange(parts), slices))
    loss, others, grads = jax.tree.map(lambda total: total / parts, sums)
    return loss, others, variables, grads

  def _gradient_of_part(
    self, params: Any, variables: Any, settings: SettingArrays, batch: Mapping[str, Array], key: Array
  ) -> tuple[Array, dict[str, Array], Any, Any]:
    groups = self.network.config.parameter_groups

    def loss_and_rest(params: Any) -> tuple[Array, tuple[Array, Any]]:
      params = sharding.gathered(parameter_groups.stop_frozen(groups, params))
      outputs, after = self.network.apply(
        params, sharding.gathered(variables), batch["inputs"], settings, train=True, key=key
      )
      losses = self.task.loss(outputs, batch, own_settings(settings, "task"))
      _check_shapes({"loss": losses}, outputs.shape[:1], "one number for each example")
      return weighted_mean(losses, batch), (outputs, after)

    loss, gradient, (outputs, after) = jax.vjp(loss_and_rest, params, has_aux=True)
    # Going back, there is no code of ours that could fail: what jax cannot derive, or a rule of the user's.
    with explained(f"model {self.network.config.model.name!r}: the loss has no gradient"):
      (grads,) = gradient(jnp.ones_like(loss))
    metrics = self.task.metrics(outputs, batch)
    _check_shapes(metrics, outputs.shape[:1], "one number for each example")
    others = {name: weighted_mean(value, batch) for name, value in metrics.items() if name != "loss"}
    return loss, others if self.with_metrics else {}, after, cast(grads, "float32")

  def eval_step(
    self, params: Any, variables: Any, settings: SettingArrays, batch: Mapping[str, Array]
  ) -> dict[str, Array]:
    """Return weighted sums over a batch: each metric, each count, and the `weights` themselves.

    Also, where the config asks for it, `outputs` of the first examples, and, for metrics of whole splits, all that
    the batch has beside the inputs, and its outputs, under `ROW`.
    """
    params, variables = sharding.gathered(params), sharding.gathered(variables)
    outputs, _ = self.network.apply(params, variables, batch["inputs"], settings, train=False)
    weights = batch["weights"]
    values, counted = wide(self.task.metrics(outputs, batch)), wide(self.task.counts(outputs, batch))
    _check_shapes(values, weights.shape, "one number for each example")
    _check_shapes(counted, (*weights.shape, None), "a row of numbers for each example")
    # A weight of zero must also silence what is not a number: padding may be anything.
    sums = {name: jnp.sum(jnp.where(weights > 0, value * weights, 0)) for name, value in values.items()}
    counts = {
      name: jnp.sum(jnp.where(weights[:, None] > 0, value * weights[:, None], 0), axis=0)
      for name, value in counted.items()
    }
    result = {"weights": jnp.sum(weights), **sums, **{COUNT + name: value for name, value in counts.items()}}
    if kept := self.network.config.evaluation.predictions:
      result["outputs"] = outputs[:kept]
    if self.network.config.evaluation.metrics:
      rows = {name: value for name, value in batch.items() if name != "inputs"} | {"outputs": outputs}
      result |= {ROW + name: value for name, value in rows.items()}
    return result

  def _optimizer(self, settings: SettingArrays, learning_rate: Array) -> optax.GradientTransformation:
    return optimizers.transformation(self.network.config.optimizer, below(settings, "optimizer"), learning_rate)


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


def _check_shapes(values: Mapping[str, Array], shape: tuple[int | None, ...], what: str) -> None:
  """Raise UserError if a task's numbers have another shape, which broadcasting would hide."""
  for name, value in values.items():
    if not hasattr(value, "shape"):
      raise UserError(f"task: {name!r} is a {type(value).__name__}; it must be {what}, an array {list(shape)}")
    if len(value.shape) != len(shape) or any(b not in (None, a) for a, b in zip(value.shape, shape, strict=True)):
      raise UserError(f"task: {name!r} has shape {list(value.shape)}; it must be {what}, {list(shape)}")


def weighted_mean(values: Float[Array, " B"], batch: Mapping[str, Array]) -> Float[Array, ""]:
  """Return the mean over a batch's examples, by `weights` if the batch has them, in float32 at least."""
  values = wide(values)
  if "weights" not in batch:
    return jnp.mean(values)
  return jnp.sum(values * batch["weights"]) / jnp.sum(batch["weights"])
