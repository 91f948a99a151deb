"""Several independent yes/no labels for each image, with a weight for each example, and the micro F1 of a split."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from trialbook import Mean

THINGS = ("disc", "top bar", "left bar", "frame")


def data(examples: int = 384, validation_examples: int = 100, seed: int = 0) -> dict:
  """Return inputs [n, 8, 8, 1], present, bool [n, 4], and weights [n].

  One in five examples has random labels, and a weight of 0.1 instead of 1.
  """
  rng = np.random.default_rng(seed)
  return {"train": _split(rng, examples), "validation": _split(rng, validation_examples)}


def _split(rng: np.random.Generator, n: int) -> dict:
  row, column = np.mgrid[:8, :8]
  distance = np.hypot(row - 4, column - 4)
  things = np.stack([distance < 2, row == 1, column == 1, (row % 7 == 0) | (column % 7 == 0)])
  present = rng.random((n, len(THINGS))) < 0.4
  images = (present[..., None, None] & things).any(axis=1) + rng.normal(0, 0.3, (n, 8, 8))
  is_doubtful = rng.random(n) < 0.2
  present[is_doubtful] = rng.random((is_doubtful.sum(), len(THINGS))) < 0.4
  weights = np.where(is_doubtful, 0.1, 1.0)
  return {"inputs": images[..., None].astype(np.float32), "present": present, "weights": weights.astype(np.float32)}


class MLP(nnx.Module):
  """One hidden layer on all pixels."""

  def __init__(self, width: int = 32, *, input_shape: tuple[int, ...], num_outputs: int, rngs: nnx.Rngs):
    self.hidden = nnx.Linear(int(np.prod(input_shape)), width, rngs=rngs)
    self.output = nnx.Linear(width, num_outputs, rngs=rngs)

  def __call__(self, images):
    """Return a logit for each label, [B, K]."""
    return self.output(jax.nn.relu(self.hidden(images.reshape(images.shape[0], -1))))


class MultiLabel:
  """Sigmoid cross-entropy, the mean over labels. All metrics are weighted.

  The traced setting `positive_weight` is a factor of the loss where a label is true. It is 1 if it is not set.
  """

  def keys(self, info) -> list[str]:
    """Return the keys of a batch that are needed."""
    return ["inputs", "present", "weights"]

  def num_outputs(self, info) -> int:
    """Return the number of labels."""
    ((count,), _) = info.spec["present"]
    return count

  def loss(self, outputs, batch, settings):
    """Return the mean over the examples of the batch, by their weights."""
    present, weights = batch["present"], batch["weights"]
    factors = jnp.where(present, settings.get("positive_weight", 1.0), 1.0)
    losses = (factors * optax.sigmoid_binary_cross_entropy(outputs, present)).mean(axis=-1)
    return Mean(losses * weights, weights)

  def metrics(self, outputs, batch) -> dict:
    """Return micro F1, 2 TP / (2 TP + FP + FN) with counts over all labels of the split, and exact matches."""
    present, weights = batch["present"], batch["weights"]
    predicted = outputs > 0
    hits = (predicted & present).sum(axis=-1)
    misses = (predicted != present).sum(axis=-1)
    return {
      "micro_f1": Mean(2 * hits * weights, (2 * hits + misses) * weights),
      "exact_match": Mean((misses == 0) * weights, weights),
    }


def config() -> dict:
  """Return overrides that train it, by dotted path."""
  return {
    "dataset.name": "multi_label:data",
    "model.name": "multi_label:MLP",
    "model.kwargs.width": 32,
    "task.name": "multi_label:MultiLabel",
    "task.traced.positive_weight": 1.5,
    "optimizer.name": "adam",
    "optimizer.learning_rate": 5e-3,
    "schedule.name": "constant",
    "batch_size": 32,
    "max_train_steps": 60,
    "evaluation.batch_size": 40,
    "evaluation.every_steps": 30,
    "selection.metric": "validation/micro_f1",
  }
