"""Weighted means of tokens: a linear model of classes at each position, with masks, weights of examples and two terms;
and the same in float64 NumPy."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trialbook import Mean

LENGTH, FEATURES, CLASSES, EXAMPLES = 5, 3, 4, 48
LEARNING_RATE, COEFFICIENT = 0.3, 0.2


def data() -> dict[str, Any]:
  """Examples of which most have no token that counts, so that whole parts of a batch have none."""
  rng = np.random.default_rng(0)

  def split(count: int) -> dict[str, np.ndarray]:
    lengths = np.where(rng.uniform(size=count) < 0.75, 0, rng.integers(1, LENGTH + 1, count))
    return {
      "inputs": rng.normal(size=(count, LENGTH, FEATURES)).astype(np.float32),
      "labels": rng.integers(CLASSES, size=(count, LENGTH)).astype(np.int32),
      "mask": np.arange(LENGTH) < lengths[:, None],
      "weights": rng.uniform(0.1, 3, count).astype(np.float32),
    }

  return {"train": split(EXAMPLES), "validation": split(EXAMPLES)}


class Linear(nnx.Module):
  def __init__(self, in_features: int, num_classes: int, *, rngs: nnx.Rngs):
    self.kernel = nnx.Param(jax.random.normal(rngs.params(), (in_features, num_classes)))

  def __call__(self, x: jax.Array) -> jax.Array:
    return x @ self.kernel[...]


class Tokens:
  """The loss of tokens that count, and the size of all logits."""

  def keys(self, info: Any) -> list[str]:
    return ["inputs", "labels", "mask", "weights"]

  def num_outputs(self, info: Any) -> int:
    return info.num_classes

  def loss(self, outputs: jax.Array, batch: Any, settings: Any) -> dict[str, Mean]:
    picked = jax.nn.one_hot(batch["labels"], outputs.shape[-1])
    losses = -jnp.sum(picked * jax.nn.log_softmax(outputs), axis=-1)
    weights = batch["mask"].astype(jnp.float32) * batch["weights"][:, None]
    return {
      "token": Mean(losses * weights, weights),
      "size": Mean(jnp.square(outputs), coefficient=settings["size"]),
    }


def overrides() -> dict[str, Any]:
  return {
    "dataset.name": "masked_tokens:data",
    "model.name": "masked_tokens:Linear",
    "task.name": "masked_tokens:Tokens",
    "task.traced.size": COEFFICIENT,
    "optimizer.name": "sgd",
    "optimizer.learning_rate": LEARNING_RATE,
    "schedule.name": "constant",
    "batch_size": 16,
    "evaluation.batch_size": 20,
  }


def expected(kernel: np.ndarray, batch: dict[str, np.ndarray]) -> tuple[dict[str, float], np.ndarray]:
  """Loss, terms and gradient norm of a batch, and the kernel after a step of SGD, all in float64."""
  inputs, kernel = batch["inputs"].astype(np.float64), kernel.astype(np.float64)
  logits = inputs @ kernel
  shifted = logits - logits.max(axis=-1, keepdims=True)
  log_shares = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
  picked = np.eye(CLASSES)[batch["labels"]]
  weights = batch["mask"] * batch["weights"].astype(np.float64)[:, None]
  count = weights.sum()
  token = -(picked * log_shares).sum(axis=-1)
  terms = {"token": (weights * token).sum() / count if count else 0.0, "size": np.square(logits).mean()}
  of_logits = (np.exp(log_shares) - picked) * weights[..., None] / (count or 1.0)
  of_logits += COEFFICIENT * 2 * logits / logits.size
  gradient = np.einsum("blf,blc->fc", inputs, of_logits)
  values = {"loss": terms["token"] + COEFFICIENT * terms["size"], **terms, "grad_norm": np.linalg.norm(gradient)}
  return values, kernel - LEARNING_RATE * gradient
