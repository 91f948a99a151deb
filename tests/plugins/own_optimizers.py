"""Optimizers that trialbook does not have, and schedules, as people bring them."""

import operator

import jax
import jax.numpy as jnp
import optax

from trialbook import labels_by_name


def schedule_free(learning_rate, settings):
  """AdamW without a schedule: what is evaluated is computed from its state."""
  return optax.contrib.schedule_free_adamw(learning_rate, b1=settings["b1"], b2=settings.get("b2", 0.999))


def masked_lion(learning_rate, decay_mask, b1, b2, weight_decay):
  """Lion for what decays, plain descent for biases and scales."""

  def others(params):
    return jax.tree.map(operator.not_, decay_mask(params))

  lion = optax.lion(learning_rate, b1, b2, weight_decay=weight_decay)
  return optax.chain(optax.masked(lion, decay_mask), optax.masked(optax.sgd(learning_rate), others))


def two(learning_rate, settings, head="output/*"):
  """One rule for the head, another one for the rest, by the names of parameters."""
  return optax.multi_transform(
    {
      "head": optax.adam(learning_rate * settings["head_factor"]),
      "rest": optax.sgd(learning_rate, momentum=settings["momentum"]),
    },
    labels_by_name({head: "head", "*": "rest"}),
  )


def half_life(step, settings):
  """Return a factor that halves every so many steps."""
  return jnp.exp2(-step / settings["half_life"])


def triangle(step, top, height=1.0):
  """Return a factor that rises to a top and falls from there."""
  return height * jnp.minimum(step, 2 * top - step).clip(0) / top


OPTIMIZERS = {
  "muon": {
    "optimizer.name": "optax.contrib:muon",
    "optimizer.learning_rate": 0.02,
    "optimizer.traced": {"beta": 0.9, "weight_decay": 0.01},
  },
  "adafactor": {
    "optimizer.name": "optax:adafactor",
    "optimizer.learning_rate": 0.05,
    "optimizer.kwargs": {"min_dim_size_to_factor": 16},
    "optimizer.traced": {"decay_rate": 0.8, "clipping_threshold": 1.0},
  },
  "schedule_free": {
    "optimizer.name": "own_optimizers:schedule_free",
    "optimizer.evaluated_params": "optax.contrib:schedule_free_eval_params",
    "optimizer.learning_rate": 0.01,
    "optimizer.traced": {"b1": 0.9},
  },
  "masked_lion": {
    "optimizer.name": "own_optimizers:masked_lion",
    "optimizer.learning_rate": 0.003,
    "optimizer.traced": {"b1": 0.9, "b2": 0.99, "weight_decay": 0.1},
  },
  "two": {
    "optimizer.name": "own_optimizers:two",
    "optimizer.learning_rate": 0.03,
    "optimizer.traced": {"head_factor": 0.3, "momentum": 0.9},
  },
}
"""Changes of a config by the name of the optimizer that they bring in."""
