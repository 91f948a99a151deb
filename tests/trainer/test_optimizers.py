"""The update rules against float64 NumPy and against optax; what they promise on compiling and on zeros."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pydantic
import pytest
from flax import nnx

from trialbook.settings import Settings, leaves, traced_values
from trialbook.trainer import optimizers, schedules

STEPS = 50
RULES = [
  optimizers.SGD(learning_rate=0.05),
  optimizers.Momentum(learning_rate=0.01, momentum=0.9),
  optimizers.Nesterov(learning_rate=0.01, momentum=0.9),
  optimizers.RMSProp(learning_rate=0.005, rho=0.95, momentum=0.8, epsilon=1e-3),
  optimizers.Adam(learning_rate=0.003, beta1=0.85, beta2=0.995, epsilon=1e-3),
  optimizers.NAdam(learning_rate=0.003, beta1=0.85, beta2=0.995, epsilon=1e-3),
]
ALL = [*RULES, optimizers.AdamW(), optimizers.LAMB(), optimizers.Lion()]
SCHEDULES: dict[str, tuple[schedules.ScheduleConfig, Callable[[int], float]]] = {
  "constant": (schedules.Constant(warmup_steps=8), lambda t: 1.0),
  "linear": (
    schedules.Linear(warmup_steps=8, constant_steps=10, decay_steps=20, end_factor=0.1),
    lambda t: 1.0 - 0.9 * min(max(t - 10, 0), 20) / 20,
  ),
  "cosine": (
    schedules.Cosine(warmup_steps=8, decay_steps=30, end_factor=0.1),
    lambda t: 0.1 + 0.9 * (1 + math.cos(math.pi * min(t, 30) / 30)) / 2,
  ),
  "rsqrt": (schedules.Rsqrt(warmup_steps=8, timescale_steps=7), lambda t: (1 + t / 7) ** -0.5),
  "piecewise": (
    schedules.Piecewise(warmup_steps=8, boundaries=(5, 25), factors=(0.5, 0.2)),
    lambda t: 1.0 if t < 5 else 0.5 if t < 25 else 0.2,
  ),
}


class Problem(NamedTuple):
  """A loss, its gradient in float64 written by hand for the flattened parameters, and where to start.

  Both problems are well-conditioned, so that float32's rounding of the gradient, which Adam scales up where g
  is small, stays below what is asked of the optimizer.
  """

  params: dict[str, Any]
  loss: Callable[[Any], jax.Array]
  gradient64: Callable[[np.ndarray], np.ndarray]


def hollow(config: Any) -> Any:
  """The config as the trainer passes it into a compiled function: numbers that must not be read are NaN."""
  numbers = {path: math.nan for path, kind, _, value in leaves(config) if kind == "traced" and value is not None}
  return config.model_copy(update=numbers)


def factors(schedule: schedules.ScheduleConfig) -> np.ndarray:
  """The compiled factors of all steps, float32."""
  config, steps = hollow(schedule), jnp.arange(STEPS, dtype=jnp.int32)
  return np.asarray(jax.jit(jax.vmap(lambda step: schedules.factor(config, values(schedule), step)))(steps))


def float32(tree: Any) -> Any:
  return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), tree)


def flat(tree: Any) -> np.ndarray:
  return np.concatenate([np.asarray(leaf).ravel() for leaf in jax.tree.leaves(tree)])


def values(config: Settings) -> dict[str, jax.Array]:
  return {path: jnp.asarray(value) for path, value in traced_values(config).items()}


def quadratic() -> Problem:
  rng = np.random.default_rng(0)
  curvature, optimum = float32([rng.uniform(0.5, 2, 15), rng.uniform(-1, 1, 15)])
  start = optimum + rng.choice([-1, 1], 15) * rng.uniform(0.8, 1.5, 15)
  params = {"dense": {"bias": start[:3].reshape(3), "kernel": start[3:].reshape(4, 3)}}

  def loss(params):
    theta = jnp.concatenate([params["dense"]["bias"], params["dense"]["kernel"].reshape(-1)])
    return jnp.sum(curvature / 2 * (theta - optimum) ** 2)

  return Problem(float32(params), loss, lambda theta: curvature.astype(float) * (theta - optimum))


def network() -> Problem:
  """Two layers, tanh between them, squared error: 4 inputs, 5 hidden units, 2 outputs, 8 examples."""
  rng = np.random.default_rng(1)
  inputs = rng.normal(size=(8, 4)).astype(np.float32)
  targets = rng.normal(size=(8, 2)).astype(np.float32) + np.float32(2)
  params = {
    "hidden": {"bias": rng.normal(size=5), "kernel": rng.normal(size=(4, 5)) / 2},
    "output": {"bias": rng.normal(size=2), "kernel": rng.normal(size=(5, 2)) / 2},
  }

  def loss(params):
    hidden = jnp.tanh(inputs @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    outputs = hidden @ params["output"]["kernel"] + params["output"]["bias"]
    return jnp.sum((outputs - targets) ** 2) / 16

  def gradient64(theta):
    bias1, kernel1, bias2, kernel2 = np.split(theta, [5, 25, 27])
    kernel1, kernel2 = kernel1.reshape(4, 5), kernel2.reshape(5, 2)
    hidden = np.tanh(inputs @ kernel1 + bias1)
    error = (hidden @ kernel2 + bias2 - targets) / 8
    back = (error @ kernel2.T) * (1 - hidden**2)
    parts = [back.sum(0), inputs.T @ back, error.sum(0), hidden.T @ error]
    return np.concatenate([part.ravel() for part in parts])

  return Problem(float32(params), loss, gradient64)


PROBLEMS = {"quadratic": quadratic(), "network": network()}


def reference(config, problem, learning_rates, max_norm=None) -> np.ndarray:
  """PB-90 in float64, on the flattened parameters: (steps, parameters)."""
  theta = flat(problem.params).astype(float)
  decays = np.concatenate([np.full(leaf.size, leaf.ndim == 2) for leaf in jax.tree.leaves(problem.params)])
  m, v = np.zeros_like(theta), np.zeros_like(theta)
  if config.name == "rmsprop":
    v = np.ones_like(theta)
  trajectory = []
  for t, eta in enumerate(learning_rates):
    g = problem.gradient64(theta)
    if max_norm is not None and np.linalg.norm(g) > max_norm:
      g = g * max_norm / np.linalg.norm(g)
    if config.name == "sgd":
      step = eta * g
    elif config.name in ("momentum", "nesterov"):
      v = config.momentum * v + g
      step = eta * v if config.name == "momentum" else eta * (config.momentum * v + g)
    elif config.name == "rmsprop":
      v = config.rho * v + (1 - config.rho) * g**2
      m = config.momentum * m + eta / np.sqrt(v + config.epsilon) * g
      step = m
    else:
      m = config.beta1 * m + (1 - config.beta1) * g
      v = config.beta2 * v + (1 - config.beta2) * g**2
      b = np.sqrt(1 - config.beta2 ** (t + 1)) / (1 - config.beta1 ** (t + 1))
      ahead = config.beta1 * m + (1 - config.beta1) * g if config.name == "nadam" else m
      step = eta * ahead / (np.sqrt(v) + config.epsilon) * b
    theta = theta - step - eta * (config.weight_decay or 0) * decays * theta
    trajectory.append(theta)
  return np.array(trajectory)


def train_step(config, problem, *, clips=False):
  """One jitted step; as in the trainer, every number is an argument, and the config's own numbers are NaN."""
  config = hollow(config)

  @jax.jit
  def step(params, opt_state, settings, factor, max_norm):
    grads = jax.grad(problem.loss)(params)
    clipped = jnp.float32(0)
    if clips:
      grads, clipped = optimizers.clip_by_global_norm(grads, optax.tree.norm(grads), max_norm)
    optimizer = optimizers.transformation(config, settings, settings["learning_rate"] * factor)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, clipped

  return step


def run(step, config, problem, factors=None, max_norm=1.0) -> tuple[np.ndarray, float]:
  """The trajectory in float32 (steps, parameters), and the fraction of clipped steps."""
  settings, params, trajectory, flags = values(config), problem.params, [], []
  opt_state = optimizers.transformation(hollow(config), settings, jnp.float32(0)).init(params)
  for factor in np.ones(STEPS, np.float32) if factors is None else factors:
    params, opt_state, clipped = step(params, opt_state, settings, factor, np.float32(max_norm))
    trajectory.append(flat(params))
    flags.append(float(clipped))
  return np.array(trajectory), float(np.mean(flags))


def relative_error(trajectory: np.ndarray, expected: np.ndarray) -> float:
  return float((np.linalg.norm(trajectory - expected, axis=1) / np.linalg.norm(expected, axis=1)).max())


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("config", RULES, ids=lambda config: config.name)
def test_rule_follows_the_playbook_in_float64(config, problem):
  problem, variants = PROBLEMS[problem], [config]
  if "beta2" in type(config).model_fields:
    variants.append(config.model_copy(update={"beta2": 1 - 1e-5}))
    variants.append(config.model_copy(update={"beta2": 1 - 1e-6, "epsilon": 1e-8}))
  step = train_step(config, problem)
  for variant in variants:
    trajectory, _ = run(step, variant, problem)
    expected = reference(variant, problem, [variant.learning_rate] * STEPS)
    assert np.linalg.norm(expected[-1] - expected[0]) > 0.05, "the run must move for the comparison to mean anything"
    assert relative_error(trajectory, expected) <= 1e-6


@pytest.mark.parametrize("config", RULES, ids=lambda config: config.name)
def test_rule_follows_the_playbook_with_decay_clipping_and_every_schedule(config):
  problem, config = PROBLEMS["network"], config.model_copy(update={"weight_decay": 0.5})
  step = train_step(config, problem, clips=True)
  max_norm = 0.9 * float(np.linalg.norm(problem.gradient64(flat(problem.params).astype(float))))
  for name, (schedule, shape) in SCHEDULES.items():
    trajectory, clipped = run(step, config, problem, factors(schedule), max_norm)
    factors64 = [(t + 1) / 8 if t < 8 else shape(t - 8) for t in range(STEPS)]
    expected = reference(config, problem, [config.learning_rate * factor for factor in factors64], max_norm)
    assert 0 < clipped < 1, name
    assert relative_error(trajectory, expected) <= 1e-6, name


@pytest.mark.parametrize("weight_decay", [None, 0.3])
@pytest.mark.parametrize("name", ["adamw", "lamb", "lion"])
def test_published_rules_equal_optax(name, weight_decay):
  config = {config.name: config for config in ALL}[name]
  config = config.model_copy(update={"learning_rate": 0.01, "weight_decay": weight_decay, "beta2": 0.98})
  constants: dict[str, Any] = {"b1": config.beta1, "b2": config.beta2, "weight_decay": weight_decay or 0.0}
  if name != "lion":
    config = config.model_copy(update={"epsilon": 0.01})
    constants["eps"] = 0.01
  theirs = getattr(optax, name)(config.learning_rate, mask=optimizers.decay_mask, **constants)
  settings = values(config)
  ours = optimizers.transformation(hollow(config), settings, settings["learning_rate"])
  rng, start = np.random.default_rng(2), PROBLEMS["network"].params
  gradients = [jax.tree.map(lambda p: rng.normal(size=p.shape).astype(np.float32), start) for _ in range(STEPS)]

  def trajectory(optimizer):
    @jax.jit
    def step(params, opt_state, grads):
      updates, opt_state = optimizer.update(grads, opt_state, params)
      return optax.apply_updates(params, updates), opt_state

    params, opt_state, points = start, optimizer.init(start), []
    for grads in gradients:
      params, opt_state = step(params, opt_state, grads)
      points.append(flat(params))
    return np.array(points)

  # optax mixes integers and floats in its bias correction.
  with jax.numpy_dtype_promotion("standard"):
    expected = trajectory(theirs)
  assert relative_error(trajectory(ours), expected) <= 1e-6


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.name)
def test_new_values_of_all_settings_need_no_new_program(config):
  config = config.model_copy(update={"weight_decay": 0.1})
  halved = config.model_copy(update={path: value / 2 for path, kind, _, value in leaves(config) if kind == "traced"})
  traces = []

  @jax.jit
  def step(params, opt_state, settings, grads):
    traces.append(config.name)
    optimizer = optimizers.transformation(hollow(config), settings, settings["learning_rate"])
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state

  params, results = PROBLEMS["network"].params, []
  grads = jax.tree.map(lambda leaf: leaf + np.float32(0.1), params)
  for settings in (values(config), values(halved)):
    opt_state = optimizers.transformation(hollow(config), settings, jnp.float32(0)).init(params)
    result, opt_state = step(params, opt_state, settings, grads)
    result, opt_state = step(result, opt_state, settings, grads)
    results.append(flat(result))
  assert len(traces) == 1
  assert np.isfinite(results).all()
  assert (results[0] != results[1]).mean() > 0.9


@pytest.mark.parametrize("config", ALL, ids=lambda config: config.name)
def test_strength_zero_changes_no_bit_of_an_update(config):
  params, rng = PROBLEMS["network"].params, np.random.default_rng(5)
  gradients = [jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), params) for _ in range(5)]

  def updates(config):
    @jax.jit
    def step(opt_state, settings, grads):
      return optimizers.transformation(hollow(config), settings, settings["learning_rate"]).update(
        grads, opt_state, params
      )

    opt_state, result = optimizers.transformation(config, values(config), jnp.float32(0)).init(params), []
    for grads in gradients:
      update, opt_state = step(opt_state, values(config), grads)
      result.append(flat(update))
    return np.array(result)

  without = updates(config)
  assert (without != 0).all()
  np.testing.assert_array_equal(updates(config.model_copy(update={"weight_decay": 0.0})), without)
  assert (updates(config.model_copy(update={"learning_rate": 0.0})) == 0).all()


@pytest.mark.parametrize("kind", [optimizers.Momentum, optimizers.Nesterov])
def test_momentum_zero_is_gradient_descent_bit_for_bit(kind):
  problem = PROBLEMS["network"]
  plain, without = optimizers.SGD(learning_rate=0.05), kind(learning_rate=0.05, momentum=0.0)
  expected = run(train_step(plain, problem), plain, problem)[0]
  np.testing.assert_array_equal(run(train_step(without, problem), without, problem)[0], expected)


def test_weight_decay_spares_biases_and_normalisation():
  params = {
    "conv": {"kernel": np.ones((3, 3, 2, 4)), "bias": np.ones(4)},
    "norm": {"scale": np.ones(4), "bias": np.ones(4)},
    "stacked": {"norm": {"scale": np.ones((6, 4)), "bias": np.ones((6, 4))}, "kernel": np.ones((6, 4, 4))},
    "token": {"embedding": np.ones((10, 4))},
    "layer_scale": {"gamma": np.ones(4)},
  }
  assert optimizers.decay_mask(params) == {
    "conv": {"kernel": True, "bias": False},
    "norm": {"scale": False, "bias": False},
    "stacked": {"norm": {"scale": False, "bias": False}, "kernel": True},
    "token": {"embedding": True},
    "layer_scale": {"gamma": False},
  }


def test_decay_mask_sees_through_nnx_variables():
  params = nnx.State({"norm": {"scale": nnx.Param(jnp.ones((2, 3))), "kernel": nnx.Param(jnp.ones((2, 3)))}})
  assert jax.tree.leaves(optimizers.decay_mask(params)) == [True, False]  # kernel, scale


def test_state_is_counted_and_kept_in_float32_also_for_half_precision():
  params = {"kernel": jnp.ones((2, 2), jnp.bfloat16)}
  for config in ALL:
    config = config.model_copy(update={"weight_decay": 0.1})
    settings = values(config)
    optimizer = optimizers.transformation(hollow(config), settings, jnp.float32(0.1))
    opt_state = optimizer.init(params)
    updates, after = optimizer.update(params, opt_state, params)
    assert jax.tree.structure(after) == jax.tree.structure(opt_state)
    count, *buffers = jax.tree.leaves(after)
    assert (count, count.dtype) == (1, jnp.int32)
    assert all(buffer.dtype == jnp.float32 for buffer in buffers)
    assert [update.dtype for update in jax.tree.leaves(updates)] == [jnp.bfloat16]


def test_clipping_leaves_what_is_within_the_threshold_untouched_and_says_so():
  grads = {"a": np.array([3.0, -1e-3], np.float32), "b": np.array([[4.0]], np.float32)}
  norm = optax.tree.norm(grads)
  clip = jax.jit(optimizers.clip_by_global_norm)
  for max_norm in (norm, np.float32(1e9)):
    same, clipped = clip(grads, norm, max_norm)
    assert clipped.dtype == jnp.float32
    assert clipped == 0
    np.testing.assert_array_equal(flat(same), flat(grads))
  shorter, clipped = clip(grads, norm, np.float32(0.5))
  assert clipped == 1
  np.testing.assert_allclose(flat(shorter), flat(grads).astype(float) * 0.5 / math.hypot(3, 1e-3, 4), rtol=3e-7)
  broken, clipped = clip(grads, np.float32(np.nan), np.float32(0.5))
  assert clipped == 0
  np.testing.assert_array_equal(flat(broken), flat(grads))


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("decay", [0.9, 1 - 1e-5])
def test_average_is_the_weighted_mean_of_all_iterates(decay, corrected):
  rng = np.random.default_rng(3)
  iterates = rng.normal(size=(STEPS + 1, 7)).astype(np.float32)
  state = {"kernel": iterates[0], "count": np.int32(0)}
  average = jax.jit(optimizers.average)
  for t, iterate in enumerate(iterates[1:]):
    new = {"kernel": iterate, "count": np.int32(t + 1)}
    state = average(state, new, np.float32(1 - decay), jnp.int32(t) if corrected else None)
    weights = decay ** np.arange(t, -1, -1.0)
    expected = weights @ iterates[1 : t + 2].astype(float)
    expected = expected / weights.sum() if corrected else (1 - decay) * expected + decay ** (t + 1) * iterates[0]
    np.testing.assert_allclose(state["kernel"], expected, atol=1e-6)
    assert state["count"] == t + 1
    if corrected and t == 0:
      np.testing.assert_array_equal(state["kernel"], iterates[1])


def test_average_with_decay_zero_is_the_parameters_bit_for_bit():
  old, new = np.random.default_rng(4).normal(size=(2, 100)).astype(np.float32)
  for step in (None, jnp.int32(0), jnp.int32(5)):
    np.testing.assert_array_equal(jax.jit(optimizers.average)(old, new, np.float32(1), step), new)


def test_every_optimizer_is_registered_and_chosen_by_its_name():
  *union, plugin = (get_args(one)[0] for one in get_args(get_args(optimizers.OptimizerConfig)[0]))
  assert plugin is optimizers.PluginOptimizer
  assert [kind().name for kind in union] == list(optimizers.RULES)
  assert {config.name for config in ALL} == set(optimizers.RULES)
  adapter = pydantic.TypeAdapter(optimizers.OptimizerConfig)
  for kind in union:
    assert type(adapter.validate_python({"name": kind().name})) is kind
  with pytest.raises(pydantic.ValidationError, match="beta1"):
    adapter.validate_python({"name": "momentum", "beta1": 0.9})  # conditional hyperparameter on the wrong parent


@pytest.mark.parametrize(
  "wrong",
  [{"learning_rate": -1.0}, {"beta2": 1.0}, {"beta1": -0.1}, {"epsilon": 0.0}, {"weight_decay": -1.0}],
)
def test_settings_out_of_range_are_refused(wrong):
  with pytest.raises(pydantic.ValidationError, match=next(iter(wrong))):
    optimizers.Adam(**wrong)


def test_update_without_parameters_is_an_error():
  settings = values(optimizers.SGD())
  optimizer = optimizers.transformation(optimizers.SGD(), settings, jnp.float32(0.1))
  with pytest.raises(ValueError, match="optimizer sgd: "):
    optimizer.update({}, optimizer.init({}))
