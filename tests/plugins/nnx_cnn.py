"""A convolutional network for plain classification, whose dropout and batch norm follow `train()` and `eval()`."""

import jax
import numpy as np
from flax import nnx

SHAPES = ("disc", "ring", "horizontal stripes", "vertical stripes")


def data(examples: int = 256, validation_examples: int = 100, seed: int = 0) -> dict:
  """Return noisy images of four shapes: inputs uint8 [n, 8, 8, 1], labels [n]."""
  rng = np.random.default_rng(seed)
  return {"train": _split(rng, examples), "validation": _split(rng, validation_examples)}


def _split(rng: np.random.Generator, n: int) -> dict:
  labels = rng.integers(0, len(SHAPES), n)
  row, column = np.mgrid[:8, :8]
  center = rng.uniform(3, 4, (2, n, 1, 1))
  distance = np.hypot(row - center[0], column - center[1])
  phase = rng.integers(0, 4, (n, 1, 1))
  of_shape = (distance < 3, abs(distance - 2.5) < 1, (row + phase) % 4 < 2, (column + phase) % 4 < 2)
  images = np.select([labels[:, None, None] == k for k in range(len(SHAPES))], of_shape)
  images = 60 + 120 * images + rng.normal(0, 30, images.shape)
  return {"inputs": images.clip(0, 255).astype(np.uint8)[..., None], "labels": labels.astype(np.int32)}


class CNN(nnx.Module):
  """Two convolutions with batch norm, the mean over all positions, dropout and a linear layer."""

  def __init__(self, width: int = 8, dropout: float = 0.1, *, num_classes: int, in_features: int, rngs: nnx.Rngs):
    self.conv_1 = nnx.Conv(in_features, width, (3, 3), rngs=rngs)
    self.norm_1 = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
    self.conv_2 = nnx.Conv(width, 2 * width, (3, 3), strides=2, rngs=rngs)
    self.norm_2 = nnx.BatchNorm(2 * width, momentum=0.9, rngs=rngs)
    self.dropout = nnx.Dropout(dropout, rngs=rngs)
    self.output = nnx.Linear(2 * width, num_classes, rngs=rngs)

  def __call__(self, images):
    """Return logits [B, classes] for images [B, H, W, C]."""
    x = jax.nn.relu(self.norm_1(self.conv_1(images)))
    x = jax.nn.relu(self.norm_2(self.conv_2(x)))
    return self.output(self.dropout(x.mean(axis=(1, 2))))


def config() -> dict:
  """Return overrides that train it, by dotted path."""
  return {
    "dataset.name": "nnx_cnn:data",
    "model.name": "nnx_cnn:CNN",
    "model.kwargs.width": 8,
    "task.name": "classification",
    "optimizer.name": "adam",
    "optimizer.learning_rate": 1e-2,
    "schedule.name": "constant",
    "batch_size": 32,
    "max_train_steps": 60,
    "evaluation.batch_size": 40,
    "evaluation.every_steps": 30,
  }
