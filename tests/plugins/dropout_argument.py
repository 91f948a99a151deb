"""A Linen model whose dropout rate is an argument of its call, so that another rate compiles nothing."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


def data(train: int = 256, validation: int = 40, features: int = 8, seed: int = 0) -> dict[str, Any]:
  """Return points [n, features] around two centers for each of 3 classes."""
  rng = np.random.default_rng(seed)
  centers = 2 * rng.normal(size=(3, 2, features))

  def split(size: int) -> dict[str, np.ndarray]:
    labels = rng.integers(3, size=size)
    inputs = centers[labels, rng.integers(2, size=size)] + rng.normal(size=(size, features))
    return {"inputs": inputs.astype(np.float32), "labels": labels.astype(np.int32)}

  return {"train": split(train), "validation": split(validation)}


class Net(nn.Module):
  """A classifier with dropout behind each hidden layer."""

  num_classes: int
  width: int
  depth: int = 1

  @nn.compact
  def __call__(self, x: jax.Array, train: bool, dropout_rate: jax.Array) -> jax.Array:
    for _ in range(self.depth):
      x = nn.relu(nn.Dense(self.width)(x))
      if train:
        # flax's own layer compares its rate with 0 in Python, which a traced number does not allow.
        kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - dropout_rate, x.shape)
        x = jnp.where(kept, x / (1 - dropout_rate), 0)
    return nn.Dense(self.num_classes)(x)


SIZES = {"small": functools.partial(Net, width=16), "large": functools.partial(Net, width=64, depth=2)}
"""Models by size, which lack the number of classes."""


def network(size: str = "small", *, num_classes: int) -> nn.Module:
  """Return the model of a size."""
  return SIZES[size](num_classes=num_classes)


def config() -> dict[str, Any]:
  """Return overrides of a config that trains it in seconds."""
  return {
    "dataset.name": "dropout_argument:data",
    "model.name": "dropout_argument:network",
    "model.kwargs.size": "small",
    "model.traced.dropout_rate": 0.1,
    "optimizer.name": "adam",
    "optimizer.learning_rate": 1e-2,
    "schedule.name": "constant",
    "batch_size": 32,
    "max_train_steps": 60,
    "evaluation.batch_size": 32,
  }
