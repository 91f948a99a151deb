"""A heatmap of where a shape is and a class of what it is, with deep supervision (Lee et al. 2015)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from trialbook import Mean

SIZE = 16
KINDS = 3


def data(train: int = 256, validation: int = 40, seed: int = 0) -> dict[str, Any]:
  """Return images float32 [n, 16, 16, 1] of a square, a cross or a ring.

  The targets are heatmaps, {"fine": [n, 16, 16], "coarse": [n, 8, 8]}: near 1 at the center of the shape, and less
  around it.
  """
  rng = np.random.default_rng(seed)
  row, column = np.mgrid[-2:3, -2:3]
  ring = np.maximum(abs(row), abs(column)) == 2
  shapes = np.stack([~ring, (row == 0) | (column == 0), ring])

  def split(size: int) -> dict[str, Any]:
    labels = rng.integers(KINDS, size=size)
    centers = rng.integers(2, SIZE - 2, size=(size, 2))
    inputs = rng.normal(0, 0.1, size=(size, SIZE, SIZE, 1))
    for image, label, (y, x) in zip(inputs, labels, centers, strict=True):
      image[y - 2 : y + 3, x - 2 : x + 3, 0] += shapes[label]
    fine = _heatmap(centers, SIZE, deviation=1.5)
    coarse = _heatmap((centers - 0.5) / 2, SIZE // 2, deviation=1)
    return {
      "inputs": inputs.astype(np.float32),
      "labels": labels.astype(np.int32),
      "targets": {"fine": fine, "coarse": coarse},
    }

  return {"train": split(train), "validation": split(validation)}


def _heatmap(centers: np.ndarray, size: int, deviation: float) -> np.ndarray:
  """Return a Gaussian bump around each center, float32 [n, size, size]."""
  distances = (np.arange(size) - centers[:, :, None]) ** 2
  squared = distances[:, 0, :, None] + distances[:, 1, None, :]
  return np.exp(-squared / (2 * deviation**2)).astype(np.float32)


class Detector(nnx.Module):
  """A convolutional network with three heads: a coarse heatmap, a fine one, and a class."""

  def __init__(self, width: int = 16, channels: int = 1, classes: int = KINDS, *, rngs: nnx.Rngs):
    self.stem = nnx.Conv(channels, width, (5, 5), rngs=rngs)
    self.down = nnx.Conv(width, width, (3, 3), strides=(2, 2), rngs=rngs)
    self.coarse_head = nnx.Linear(width, 1, rngs=rngs)
    self.fine_head = nnx.Conv(2 * width, 1, (3, 3), rngs=rngs)
    self.class_head = nnx.Linear(width, classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
    """Return logits: of heatmaps "fine" [B, H, W] and "coarse" [B, H / 2, W / 2], and of "class" [B, classes]."""
    stem = nnx.relu(self.stem(x))
    down = nnx.relu(self.down(stem))
    up = down.repeat(2, axis=1).repeat(2, axis=2)
    return {
      "fine": self.fine_head(jnp.concatenate([stem, up], axis=-1))[..., 0],
      "coarse": self.coarse_head(down)[..., 0],
      "class": self.class_head(down.max(axis=(1, 2))),
    }


class Detection:
  """Cross-entropy of two heatmaps, averaged over pixels, and of the class.

  The coarse heatmap supervises an earlier layer. Only the loss uses it.
  """

  def keys(self, info: Any) -> list[str]:
    return ["inputs", "labels", "targets"]

  def loss(self, outputs: Any, batch: Any, settings: Any) -> dict[str, Mean]:
    heatmaps = {name: optax.sigmoid_binary_cross_entropy(outputs[name], batch["targets"][name]) for name in _HEATMAPS}
    kind = optax.softmax_cross_entropy_with_integer_labels(outputs["class"], batch["labels"])
    terms = {name: Mean(heatmap, coefficient=settings[name]) for name, heatmap in heatmaps.items()}
    return terms | {"class": Mean(kind, coefficient=settings["class"])}

  def metrics(self, outputs: Any, batch: Any) -> dict[str, Any]:
    distance = _position(outputs["fine"]) - _position(batch["targets"]["fine"])
    return {
      "pixel_error": jnp.sqrt(jnp.sum(jnp.square(distance), axis=-1)),
      "class_error": outputs["class"].argmax(axis=-1) != batch["labels"],
      "heatmap_error": Mean(jnp.abs(jax.nn.sigmoid(outputs["fine"]) - batch["targets"]["fine"])),
    }


_HEATMAPS = ("fine", "coarse")


def _position(heatmaps: jax.Array) -> jax.Array:
  """Return row and column of the largest value of each heatmap, float32 [B, 2]."""
  size, _, width = heatmaps.shape
  place = heatmaps.reshape(size, -1).argmax(axis=-1)
  return jnp.stack([place // width, place % width], axis=-1).astype(jnp.float32)


def config() -> dict[str, Any]:
  """Return overrides of a config that trains it in seconds."""
  return {
    "dataset.name": "two_outputs:data",
    "model.name": "two_outputs:Detector",
    "model.kwargs.width": 16,
    "task.name": "two_outputs:Detection",
    "task.traced.fine": 10.0,
    "task.traced.coarse": 3.0,
    "task.traced.class": 1.0,
    "optimizer.name": "adam",
    "optimizer.learning_rate": 1e-2,
    "schedule.name": "constant",
    "batch_size": 32,
    "max_train_steps": 60,
    "evaluation.batch_size": 32,
    "selection.metric": "validation/pixel_error",
  }
