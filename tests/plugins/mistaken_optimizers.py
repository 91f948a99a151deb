"""Optimizers and schedules with a mistake each, as people write them."""

import jax.numpy as jnp
import optax

NUMBER = 3
TRANSFORMATION = optax.sgd(0.1)


def no_transformation(learning_rate):
  return 0.1


def without_rate(weight_decay):
  return optax.sgd(weight_decay)


def needs(learning_rate, depth):
  return optax.sgd(learning_rate / depth)


def reads(learning_rate, settings):
  return optax.sgd(learning_rate * settings["factor"])


def raises(learning_rate):
  raise RuntimeError("not today")


def decides(learning_rate, momentum):
  return optax.sgd(learning_rate, momentum if momentum > 0 else None)


def _with(init=None, update=None):
  rule = optax.sgd(0.1)
  return optax.GradientTransformation(init or rule.init, update or rule.update)


def no_state(learning_rate):
  return _with(init=lambda params: {"note": "hello"})


def raises_later(learning_rate):
  def update(grads, state, params):
    return grads["output"]["nothing"], state

  return _with(update=update)


def other_shapes(learning_rate):
  return _with(update=lambda grads, state, params: ({**grads, "output": jnp.zeros(3)}, state))


def grows(learning_rate):
  return _with(lambda params: jnp.zeros(1), lambda grads, state, params: (grads, jnp.append(state, 1.0)))


def other_params(opt_state, params):
  return {**params, "output": jnp.zeros(3)}


def one_argument(opt_state):
  return opt_state


def python_number(step, settings):
  return 0.5


def converted(step):
  return 0.5 ** float(step)


def vector(step):
  return jnp.ones(2) * step


def whole(step):
  return step


def by_position(step, /):
  return jnp.float32(1)
