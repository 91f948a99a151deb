"""A small U-Net (Ronneberger et al. 2015) that segments images of discs and squares, some of whose pixels are void."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from trialbook import Data, Mean, Sum

CLASSES = ("background", "disc", "square")
VOID = 255


def data(examples: int = 192, validation_examples: int = 100, size: int = 16, seed: int = 0) -> Data:
  """Return a disc and a square in noise: inputs [n, size, size, 1], labels [n, size, size], void at the outlines."""
  rng = np.random.default_rng(seed)
  splits = {"train": _split(rng, examples, size), "validation": _split(rng, validation_examples, size)}
  return Data(splits=splits, ignore_label=VOID)


def _split(rng: np.random.Generator, n: int, size: int) -> dict:
  row, column = np.mgrid[:size, :size]
  centers = rng.uniform(3, size - 4, (2, 2, n, 1, 1))
  disc = np.hypot(row - centers[0, 0], column - centers[0, 1]) - rng.uniform(2, 4, (n, 1, 1))
  square = np.maximum(abs(row - centers[1, 0]), abs(column - centers[1, 1])) - rng.uniform(2, 3, (n, 1, 1))
  # Both are distances to an outline, negative inside. The square lies in front.
  labels = np.select([abs(square) < 0.4, square < 0, abs(disc) < 0.4, disc < 0], [VOID, 2, VOID, 1], 0)
  images = np.select([square < 0, disc < 0], [-1.0, 1.0], 0.0) + rng.normal(0, 0.5, labels.shape)
  return {"inputs": images[..., None].astype(np.float32), "labels": labels.astype(np.int32)}


def he_uniform(key, shape, dtype=jnp.float32):
  """Return initial kernels [..., outputs] (He et al. 2015)."""
  # As a matrix, since XLA needs seconds to compile random numbers with four axes for a CPU.
  return nn.initializers.he_uniform()(key, (math.prod(shape[:-1]), shape[-1]), dtype).reshape(shape)


Conv = functools.partial(nn.Conv, kernel_size=(3, 3), kernel_init=he_uniform)
Upsample = functools.partial(nn.ConvTranspose, kernel_size=(2, 2), strides=(2, 2), kernel_init=he_uniform)


class UNet(nn.Module):
  """Convolutions at `depth` + 1 resolutions, and back, with a skip connection at each resolution."""

  num_classes: int
  width: int = 8
  depth: int = 1

  @nn.compact
  def __call__(self, images):
    """Return logits [B, H, W, classes] for images [B, H, W, C], with H and W multiples of 2 ** depth."""
    x, skips = images, []
    for level in range(self.depth):
      x = nn.relu(Conv(self.width * 2**level)(x))
      skips.append(x)
      x = nn.max_pool(x, (2, 2), (2, 2))
    x = nn.relu(Conv(self.width * 2**self.depth)(x))
    for level in reversed(range(self.depth)):
      x = Upsample(self.width * 2**level)(x)
      x = jnp.concatenate([x, skips[level]], axis=-1)
      x = nn.relu(Conv(self.width * 2**level)(x))
    return Conv(self.num_classes, kernel_size=(1, 1))(x)


class Segmentation:
  """One class for each pixel. Void pixels count in no loss and no metric.

  The intersection over union of a class is that of the whole split. It is the sum of all intersections over the sum of
  all unions, and `iou` is its mean over the classes.
  """

  def keys(self, info) -> list[str]:
    """Return the keys of a batch that are needed."""
    return ["inputs", "labels"]

  def num_outputs(self, info) -> int:
    """Return the number of logits for each pixel."""
    return info.num_classes

  def loss(self, outputs, batch):
    """Return the cross-entropy, a mean over all pixels of the batch."""
    labels, counted = _without_void(batch["labels"])
    return Mean(optax.softmax_cross_entropy_with_integer_labels(outputs, labels) * counted, counted)

  def metrics(self, outputs, batch) -> dict:
    """Return the share of correct pixels, and intersections over unions by class."""
    labels, counted = _without_void(batch["labels"])
    predicted = outputs.argmax(axis=-1)
    found_BxHxWxK = jax.nn.one_hot(predicted, len(CLASSES)) * counted[..., None]
    there_BxHxWxK = jax.nn.one_hot(labels, len(CLASSES)) * counted[..., None]
    intersections_BxK = jnp.minimum(found_BxHxWxK, there_BxHxWxK).sum(axis=(1, 2))
    unions_BxK = jnp.maximum(found_BxHxWxK, there_BxHxWxK).sum(axis=(1, 2))
    return {
      "pixel_accuracy": Mean((predicted == labels) * counted, counted),
      **{f"iou_{name}": Mean(intersections_BxK[:, k], unions_BxK[:, k]) for k, name in enumerate(CLASSES)},
      "intersections": Sum(intersections_BxK),
      "unions": Sum(unions_BxK),
    }

  def split_metrics(self) -> dict:
    """Return the mean intersection over union. A class that is neither there nor predicted does not count."""
    return {"iou": lambda means, rows: np.nanmean([means[f"iou_{name}"] for name in CLASSES])}


def _without_void(labels):
  """Return labels with 0 in place of void, and 1 for each pixel that counts; both [B, H, W]."""
  counted = labels != VOID
  return jnp.where(counted, labels, 0), counted.astype(jnp.float32)


def config() -> dict:
  """Return overrides that train it, by dotted path."""
  return {
    "dataset.name": "unet:data",
    "model.name": "unet:UNet",
    "model.kwargs.width": 8,
    "task.name": "unet:Segmentation",
    "optimizer.name": "adam",
    "optimizer.learning_rate": 1e-2,
    "schedule.name": "constant",
    "batch_size": 16,
    "max_train_steps": 60,
    "evaluation.batch_size": 24,
    "evaluation.every_steps": 30,
    "selection.metric": "validation/iou",
  }
