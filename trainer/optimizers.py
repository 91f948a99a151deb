"""Optimizers: their settings, the registry, and one update of all parameters (PB-02, PB-83, PB-90).

To add an optimizer: write its settings class here, its arithmetic in `trialbook.trainer.update_rules`, and put it into
the registry `RULES` and the union `OptimizerConfig` below.

Every number is an argument of the compiled program, so an optimizer is built inside the jitted train step:

    optimizer = transformation(config, settings, learning_rate)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)

Weight decay is decoupled from the gradient (Loshchilov & Hutter, 2019) for every optimizer: θ ← θ − η λ θ
beside the rule's own update, with the scheduled learning rate η, for the parameters that `decay_mask`
selects; LAMB has it inside its trust ratio. None leaves it out of the program; 0.0 changes no bit of the
update.
"""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from pydantic import Discriminator, Field, Tag

from trialbook.settings import Complement, Settings, Static, Traced, kind_tag
from trialbook.trainer import optimization_plugins, update_rules
from trialbook.trainer.optimization_plugins import PluginOptimizer

LearningRate = Traced[Annotated[float, Field(ge=0)]]
Decay = Complement[Annotated[float, Field(ge=0, lt=1)]]
Epsilon = Traced[Annotated[float, Field(gt=0)]]
WeightDecay = Traced[Annotated[float, Field(ge=0)] | None]


class SGD(Settings):
  """Stochastic gradient descent. The default learning rate is the usual first try for normalised networks."""

  name: Static[Literal["sgd"]] = "sgd"
  learning_rate: LearningRate = 0.1
  weight_decay: WeightDecay = None


class Momentum(Settings):
  """Heavy-ball momentum. Defaults as for residual networks (He et al., 2016): 0.1 and 0.9."""

  name: Static[Literal["momentum"]] = "momentum"
  learning_rate: LearningRate = 0.1
  momentum: Decay = 0.9
  weight_decay: WeightDecay = None


class Nesterov(Settings):
  """Nesterov momentum. Defaults as for `Momentum`, with which it is usually compared."""

  name: Static[Literal["nesterov"]] = "nesterov"
  learning_rate: LearningRate = 0.1
  momentum: Decay = 0.9
  weight_decay: WeightDecay = None


class RMSProp(Settings):
  """RMSProp with momentum: mean square started at one, ε under the root, η inside the momentum buffer.

  This is the rule of TensorFlow 1, whose defaults for rho, momentum and epsilon it takes.

  Attributes:
    rho: decay of the moving average of g².
    momentum: decay of the momentum buffer; 0 is RMSProp without momentum.
  """

  name: Static[Literal["rmsprop"]] = "rmsprop"
  learning_rate: LearningRate = 1e-3
  rho: Decay = 0.9
  momentum: Decay = 0.0
  epsilon: Epsilon = 1e-10
  weight_decay: WeightDecay = None


class Adam(Settings):
  """Adam as the playbook writes it: ε joins √v before the bias correction. Defaults of Kingma & Ba (2015).

  Because of the bias correction, ε acts as ε/√(1−β₂ᵗ) would in `AdamW`: 32 times larger at the first step.
  """

  name: Static[Literal["adam"]] = "adam"
  learning_rate: LearningRate = 1e-3
  beta1: Decay = 0.9
  beta2: Decay = 0.999
  epsilon: Epsilon = 1e-8
  weight_decay: WeightDecay = None


class NAdam(Settings):
  """Adam with Nesterov's look-ahead, as the playbook writes it, without Dozat's momentum schedule.

  Adam's defaults.
  """

  name: Static[Literal["nadam"]] = "nadam"
  learning_rate: LearningRate = 1e-3
  beta1: Decay = 0.9
  beta2: Decay = 0.999
  epsilon: Epsilon = 1e-8
  weight_decay: WeightDecay = None


class AdamW(Settings):
  """AdamW (Loshchilov & Hutter, 2019), equal to `optax.adamw`: ε joins √v̂ after the bias correction.

  Adam's defaults. As everywhere, weight decay is off until it is set; 0.01 to 0.1 is usual.
  """

  name: Static[Literal["adamw"]] = "adamw"
  learning_rate: LearningRate = 1e-3
  beta1: Decay = 0.9
  beta2: Decay = 0.999
  epsilon: Epsilon = 1e-8
  weight_decay: WeightDecay = None


class LAMB(Settings):
  """LAMB (You et al., 2020), equal to `optax.lamb`: AdamW's step, rescaled to ‖θ‖ for each parameter array.

  The paper's betas and epsilon. Weight decay is part of the step that is rescaled; the paper's is 0.01.
  """

  name: Static[Literal["lamb"]] = "lamb"
  learning_rate: LearningRate = 1e-3
  beta1: Decay = 0.9
  beta2: Decay = 0.999
  epsilon: Epsilon = 1e-6
  weight_decay: WeightDecay = None


class Lion(Settings):
  """Lion (Chen et al., 2023), equal to `optax.lion`. The paper's betas.

  The paper advises a learning rate 3–10 times smaller than AdamW's, hence 1e-4, and a weight decay larger
  by as much.
  """

  name: Static[Literal["lion"]] = "lion"
  learning_rate: LearningRate = 1e-4
  beta1: Decay = 0.9
  beta2: Decay = 0.99
  weight_decay: WeightDecay = None


class Rule(NamedTuple):
  """The update of an optimizer.

  Attributes:
    step: one of `trialbook.trainer.update_rules`.
    buffers: what it keeps for each parameter, name -> the value that it starts from.
    trust_ratio: whether the whole step, weight decay included, is rescaled to the parameter's norm (LAMB).
  """

  step: Callable[..., update_rules.Result]
  buffers: Mapping[str, float] = {}
  trust_ratio: bool = False


_MOMENTS = {"first_moment": 0.0, "second_moment": 0.0}

RULES: dict[str, Rule] = {
  "sgd": Rule(update_rules.sgd),
  "momentum": Rule(update_rules.momentum, {"velocity": 0.0}),
  "nesterov": Rule(update_rules.nesterov, {"velocity": 0.0}),
  "rmsprop": Rule(update_rules.rmsprop, {"second_moment": 1.0, "velocity": 0.0}),
  "adam": Rule(update_rules.adam, _MOMENTS),
  "nadam": Rule(update_rules.nadam, _MOMENTS),
  "adamw": Rule(update_rules.adam_corrected, _MOMENTS),
  "lamb": Rule(update_rules.adam_corrected, _MOMENTS, trust_ratio=True),
  "lion": Rule(update_rules.lion, {"first_moment": 0.0}),
}

OptimizerConfig = Annotated[
  Annotated[SGD, Tag("sgd")]
  | Annotated[Momentum, Tag("momentum")]
  | Annotated[Nesterov, Tag("nesterov")]
  | Annotated[RMSProp, Tag("rmsprop")]
  | Annotated[Adam, Tag("adam")]
  | Annotated[NAdam, Tag("nadam")]
  | Annotated[AdamW, Tag("adamw")]
  | Annotated[LAMB, Tag("lamb")]
  | Annotated[Lion, Tag("lion")]
  | Annotated[PluginOptimizer, Tag("module:Class")],
  Discriminator(kind_tag),
]


def transformation(
  config: OptimizerConfig, settings: Mapping[str, Float[Array, ""]], learning_rate: Float[Array, ""]
) -> optax.GradientTransformation:
  """Make the optimizer of one step, to be built inside the compiled function.

  Args:
    config: says which optimizer, and whether it has weight decay; none of its traced numbers is read.
    settings: its traced values by field name (`epsilon`, `one_minus_beta2`, …), float32, traced or not.
    learning_rate: the scheduled learning rate of this step, float32.

  Returns:
    `init(params)` and `update(grads, state, params)`, which returns what is *added* to the parameters. The
    state of our own is {"count": int32 [], buffer name: tree like params in float32, …}, of one structure for
    all values of the settings. Arithmetic is in float32 whatever the parameters are; an update has its
    parameter's dtype.
  """
  if isinstance(config, PluginOptimizer):
    return optimization_plugins.transformation(config, settings, learning_rate, decay_mask)
  rule = RULES[config.name]

  def init(params: Any) -> dict[str, Any]:
    buffers = {name: optax.tree.full_like(params, value, jnp.float32) for name, value in rule.buffers.items()}
    return {"count": jnp.zeros((), jnp.int32), **buffers}

  def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, dict[str, Any]]:
    if params is None:
      raise ValueError(f"optimizer {config.name}: update(grads, state, params) needs the parameters")
    count = state["count"] + 1
    rate = jnp.float32(1) if rule.trust_ratio else learning_rate

    def one(parameter: Array, grad: Array, decays: bool, *buffers: Array) -> tuple[Array, ...]:
      theta = parameter.astype(jnp.float32)
      step, buffers = rule.step(settings, rate, count.astype(jnp.float32), grad.astype(jnp.float32), buffers)
      if config.weight_decay is not None and decays:
        step = step + rate * settings["weight_decay"] * theta
      if rule.trust_ratio:
        step = learning_rate * _trust_ratio(theta, step) * step
      return (-step).astype(parameter.dtype), *buffers

    leaves, structure = jax.tree.flatten(params)
    others = [updates, decay_mask(params), *(state[name] for name in rule.buffers)]
    results = [one(*each) for each in zip(leaves, *map(structure.flatten_up_to, others), strict=True)]
    deltas, *buffers = (structure.unflatten(column) for column in zip(*results, strict=True))
    return deltas, {"count": count, **dict(zip(rule.buffers, buffers, strict=True))}

  return optax.GradientTransformation(init, update)


def evaluates_others(config: OptimizerConfig) -> bool:
  """Return whether evaluations see other parameters than those that are trained, by what the optimizer says."""
  return isinstance(config, PluginOptimizer) and config.evaluated_params is not None


def evaluated_params(config: OptimizerConfig, opt_state: Any, params: Any) -> Any:
  """Return the parameters that evaluations see: those of training, unless the optimizer says others.

  Args:
    config: says which optimizer.
    opt_state: the optimizer's, after an update.
    params: after that update, in float32.
  """
  if isinstance(config, PluginOptimizer) and config.evaluated_params is not None:
    return optimization_plugins.evaluated_params(config, opt_state, params)
  return params


def decay_mask(params: Any) -> Any:
  """Return which parameters weight decay applies to: a tree of bool like `params`.

  Those with two axes or more whose name (the last key of their path) is neither "bias" nor "scale": the
  kernels and embeddings. Biases and the parameters of normalisation layers are left alone, also where
  layers are stacked.
  """

  def decays(path: tuple[Any, ...], parameter: Array) -> bool:
    # An nnx.Param is a node of its own, whose leaf sits at the attribute `value`.
    keys = jax.tree_util.keystr(path, simple=True, separator="/").removesuffix("/value")
    return parameter.ndim >= 2 and keys.rpartition("/")[2] not in ("bias", "scale")

  return jax.tree_util.tree_map_with_path(decays, params)


def clip_by_global_norm(grads: Any, norm: Float[Array, ""], max_norm: Float[Array, ""]) -> tuple[Any, Float[Array, ""]]:
  """Scale a gradient down to `max_norm` where its global L2 norm is larger (Pascanu et al., 2013; PB-83).

  Args:
    grads: tree of arrays.
    norm: `optax.tree.norm(grads)` in float32, which the caller has, since it is logged (PB-81).
    max_norm: threshold, float32.

  Returns:
    the gradient, bit for bit the same where norm <= max_norm or norm is NaN; and 1.0 if it was scaled, else
    0.0, float32.
  """
  clipped = norm > max_norm
  factor = jnp.where(clipped, max_norm / norm, 1)
  grads = jax.tree.map(lambda grad: (factor * grad.astype(jnp.float32)).astype(grad.dtype), grads)
  return grads, clipped.astype(jnp.float32)


def average(previous: Any, new: Any, one_minus_decay: Float[Array, ""], step: Int[Array, ""] | None = None) -> Any:
  """Return one step of an exponential moving average of a tree (Polyak averaging): e ← e + (1−d)(x − e).

  Args:
    previous: the average so far, at first the initial parameters; its floats are float32 or wider.
    new: tree like it, after the update, of any float dtypes. What is not a float is copied from here.
    one_minus_decay: 1 − d, float32.
    step: number of updates before this one. With it, 1−d is divided by 1 − d^(step+1), like Adam's bias
      correction: the initial parameters then have no weight (the first average is exactly `new`). Without it
      they have the weight dᵗ after t updates, negligible after a few times 1/(1−d) of them.
  """
  rate = one_minus_decay
  if step is not None:
    rate = rate / update_rules.bias_correction(rate, step.astype(jnp.float32) + 1)

  def one(old: Array, value: Array) -> Array:
    if not jnp.issubdtype(old.dtype, jnp.floating):
      return value
    value, moves = value.astype(old.dtype), rate.astype(old.dtype)
    return jnp.where(moves < 1, update_rules.moving_average(old, value, moves), value)

  return jax.tree.map(one, previous, new)


def _trust_ratio(parameter: Float[Array | np.ndarray, "..."], step: Float[Array, "..."]) -> Float[Array, ""]:
  """Return ‖θ‖ / ‖step‖, and 1 where either is zero."""
  norms = jnp.sqrt(jnp.sum(jnp.square(parameter))), jnp.sqrt(jnp.sum(jnp.square(step)))
  return jnp.where((norms[0] > 0) & (norms[1] > 0), norms[0] / norms[1], 1)
