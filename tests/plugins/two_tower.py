"""Image and text towers with a contrastive loss over the whole batch (CLIP, Radford et al. 2021)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from trialbook import Mean

COLOURS = 6
QUADRANTS = 4


def data(train: int = 256, validation: int = 40, seed: int = 0) -> dict[str, Any]:
  """Return images uint8 [n, 8, 8, 3] of four coloured quadrants, and captions int32 [n, 4] that name the colours.

  No two captions are the same, so each image has one right caption among all of them.
  """
  rng = np.random.default_rng(seed)
  numbers = rng.choice(COLOURS**QUADRANTS, size=train + validation, replace=False)
  captions = numbers[:, None] // COLOURS ** np.arange(QUADRANTS) % COLOURS
  palette = rng.integers(40, 216, size=(COLOURS, 3))
  quadrants = palette[captions].reshape(-1, 2, 2, 3)
  images = quadrants.repeat(4, axis=1).repeat(4, axis=2) + rng.normal(0, 10, size=(len(numbers), 8, 8, 3))
  inputs = {"image": images.clip(0, 255).astype(np.uint8), "text": captions.astype(np.int32)}
  return {
    "train": {"inputs": {name: array[:train] for name, array in inputs.items()}},
    "validation": {"inputs": {name: array[train:] for name, array in inputs.items()}},
  }


class TwoTower(nnx.Module):
  """Two encoders into one space, and a learned temperature.

  Args:
    width: size of the hidden layers and of the embeddings.
    image_shape: height, width and channels; multiples of 4.
    text_length: number of tokens in a text.
    vocabulary: number of tokens that there are.
    rngs: random streams.
  """

  def __init__(
    self,
    width: int = 32,
    image_shape: Any = (8, 8, 3),
    text_length: int = QUADRANTS,
    vocabulary: int = COLOURS,
    *,
    rngs: nnx.Rngs,
  ):
    height, length, channels = image_shape
    self.patches = nnx.Conv(channels, width, kernel_size=(4, 4), strides=(4, 4), rngs=rngs)
    self.image_output = nnx.Linear(height // 4 * (length // 4) * width, width, rngs=rngs)
    self.tokens = nnx.Embed(vocabulary, width, rngs=rngs)
    self.text_hidden = nnx.Linear(text_length * width, width, rngs=rngs)
    self.text_output = nnx.Linear(width, width, rngs=rngs)
    self.log_scale = nnx.Param(jnp.log(jnp.float32(1 / 0.07)))

  def __call__(self, inputs: Any) -> dict[str, jax.Array]:
    """Return embeddings of length 1, [B, width], and 1 / temperature, the same for all examples, [B]."""
    size = len(inputs["image"])
    patches = nnx.relu(self.patches(inputs["image"]))
    image = self.image_output(patches.reshape(size, -1))
    tokens = self.tokens(inputs["text"]).reshape(size, -1)
    text = self.text_output(nnx.relu(self.text_hidden(tokens)))
    scale = jnp.exp(jnp.minimum(self.log_scale[...], np.log(100)))
    return {"image": _unit(image), "text": _unit(text), "scale": jnp.broadcast_to(scale, size)}


def _unit(x: jax.Array) -> jax.Array:
  return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-6)


class Contrastive:
  """Matching of images and texts: cross-entropy of the right partner among all in the batch, in both directions.

  Metrics must not depend on evaluation batches, and padding must not serve as negatives. So the metric "loss" is the
  mean cosine distance of matching pairs, which needs no negatives. `contrastive_loss` and `recall_at_1` are computed
  from the embeddings of the whole split, which hold each example once.

  With `gradient_accumulation`, negatives come from an example's own part of the batch only.
  """

  def keys(self, info: Any) -> list[str]:
    return ["inputs"]

  def loss(self, outputs: Any, batch: Any) -> Mean:
    logits = outputs["scale"][:, None] * outputs["image"] @ outputs["text"].T
    partners = jnp.arange(len(logits))
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    return Mean((cross_entropy(logits, partners) + cross_entropy(logits.T, partners)) / 2)

  def metrics(self, outputs: Any, batch: Any) -> dict[str, jax.Array]:
    return {"loss": 1 - jnp.sum(outputs["image"] * outputs["text"], axis=-1)}

  def rows(self, outputs: Any, batch: Any, model: Any) -> dict[str, jax.Array]:
    return outputs

  def split_metrics(self) -> dict[str, Any]:
    return {"contrastive_loss": _contrastive_loss, "recall_at_1": _recall_at_1}


def _contrastive_loss(means: Any, rows: Any) -> float:
  """Return the loss of a whole split, all of its examples taken as one batch."""
  logits = _logits(rows)
  total = 0.0
  for one in (logits, logits.T):
    one = one - one.max(axis=1, keepdims=True)
    total += (np.log(np.exp(one).sum(axis=1)) - np.diag(one)).mean()
  return total / 2


def _recall_at_1(means: Any, rows: Any) -> float:
  """Return how often the nearest in the whole split is the right partner, averaged over both directions."""
  logits = _logits(rows)
  right = np.arange(len(logits))
  return ((logits.argmax(axis=1) == right).mean() + (logits.argmax(axis=0) == right).mean()) / 2


def _logits(rows: Any) -> np.ndarray:
  image, text = rows["image"].astype(np.float64), rows["text"].astype(np.float64)
  return rows["scale"][:, None] * (image @ text.T)


def config() -> dict[str, Any]:
  """Return overrides of a config that trains it in seconds."""
  return {
    "dataset.name": "two_tower:data",
    "model.name": "two_tower:TwoTower",
    "model.kwargs.width": 32,
    "task.name": "two_tower:Contrastive",
    "optimizer.name": "adam",
    "optimizer.learning_rate": 1e-2,
    "schedule.name": "constant",
    "batch_size": 32,
    "max_train_steps": 60,
    "evaluation.batch_size": 32,
    # As many as in validation, since both metrics of a split depend on the number of candidates.
    "evaluation.train_examples": 40,
    "selection.metric": "validation/recall_at_1",
  }
