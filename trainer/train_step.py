"""The three functions that a run compiles, as plain functions of plain arrays: init, train step, eval step.

State is a dictionary:
  step       int32 [], number of updates already applied
  params     parameters
  variables  other variables of the model (batch statistics …)
  opt_state  the optimizer's
  average    {"params", "variables"}, where averaging is on
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from trainer import optimizers, parameter_groups, rng, schedules, sharding
from trainer.network import Network, below, cast, own_settings
from trainer.overrides import UserError
from trainer.tasks import Task

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
    """The state at step 0."""
    params, variables = self.network.init(rng.key(settings["seed"], "init"))
    state = {
      "step": jnp.zeros((), jnp.int32),
      "params": params,
      "variables": variables,
      "opt_state": self._optimizer(settings, jnp.zeros(())).init(cast(params, "float32")),
    }
    if self.network.config.averaging is not None:
      state["average"] = jax.tree.map(jnp.copy, {"params": params, "variables": variables})
    return state

  def train_step(
    self, state: State, settings: SettingArrays, batch: Mapping[str, Array]
  ) -> tuple[State, dict[str, Float[Array, ""]]]:
    """One update. Returns the next state, and the step's metrics by name."""
    config, step = self.network.config, state["step"]

    def loss_and_rest(params: Any) -> tuple[Array, tuple[Array, Any]]:
      outputs, variables = self.network.apply(
        sharding.gathered(parameter_groups.stop_frozen(config.parameter_groups, params)),
        sharding.gathered(state["variables"]),
        batch["inputs"],
        settings,
        train=True,
        key=rng.key(settings["seed"], "dropout", step=step),
      )
      losses = self.task.loss(outputs, batch, own_settings(settings, "task"))
      _check_shapes({"loss": losses}, outputs.shape[:1], "one number for each example")
      loss = weighted_mean(losses, batch)
      return loss, (outputs, variables)

    (loss, (outputs, variables)), grads = jax.value_and_grad(loss_and_rest, has_aux=True)(state["params"])
    grads = cast(grads, "float32")
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
    if self.with_metrics:
      metrics |= {f"train/{name}": weighted_mean(value, batch) for name, value in self._others(outputs, batch)}
      metrics |= {"update_norm": optax.tree.norm(updates), "learning_rate": learning_rate}
    return next_state, metrics

  def eval_step(
    self, params: Any, variables: Any, settings: SettingArrays, batch: Mapping[str, Array]
  ) -> dict[str, Array]:
    """Weighted sums over a batch: each metric, each count, and the `weights` themselves."""
    params, variables = sharding.gathered(params), sharding.gathered(variables)
    outputs, _ = self.network.apply(params, variables, batch["inputs"], settings, train=False)
    weights = batch["weights"]
    values, counted = self.task.metrics(outputs, batch), self.task.counts(outputs, batch)
    _check_shapes(values, weights.shape, "one number for each example")
    _check_shapes(counted, (*weights.shape, None), "a row of numbers for each example")
    # A weight of zero must also silence what is not a number: padding may be anything.
    sums = {name: jnp.sum(jnp.where(weights > 0, value * weights, 0)) for name, value in values.items()}
    counts = {
      name: jnp.sum(value * weights[:, None], axis=0) for name, value in self.task.counts(outputs, batch).items()
    }
    return {"weights": jnp.sum(weights), **sums, **{f"count/{name}": value for name, value in counts.items()}}

  def _others(self, outputs: Array, batch: Mapping[str, Array]) -> list[tuple[str, Array]]:
    return [(name, value) for name, value in self.task.metrics(outputs, batch).items() if name != "loss"]

  def _optimizer(self, settings: SettingArrays, learning_rate: Array) -> optax.GradientTransformation:
    return optimizers.transformation(self.network.config.optimizer, below(settings, "optimizer"), learning_rate)


def _check_shapes(values: Mapping[str, Array], shape: tuple[int | None, ...], what: str) -> None:
  """Raises UserError where a task's numbers have another shape, which broadcasting would hide."""
  for name, value in values.items():
    if len(value.shape) != len(shape) or any(b not in (None, a) for a, b in zip(value.shape, shape, strict=True)):
      raise UserError(f"task: {name!r} has shape {list(value.shape)}; it must be {what}, {list(shape)}")


def weighted_mean(values: Float[Array, " B"], batch: Mapping[str, Array]) -> Float[Array, ""]:
  """The mean over a batch's examples, by `weights` where the batch has them."""
  if "weights" not in batch:
    return jnp.mean(values)
  return jnp.sum(values * batch["weights"]) / jnp.sum(batch["weights"])
