"""AlgoPerf's ImageNet ViT workload: a vision transformer that classifies images, scored by its error.

The data are those of `imagenet_resnet.py`. Sizes and definitions follow Dahl et al. (2023), "Benchmarking Neural
Network Training Algorithms", arXiv:2306.07179, and their repository github.com/mlcommons/algorithmic-efficiency. The
model is the ViT-S/16 of Beyer et al. (2022), arXiv:2205.01580, with a tanh layer before the last: its positions are
sinusoidal, and it takes the mean over patches.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from trialbook import Config


class ViT(nn.Module):
  """A vision transformer with layer norm before each branch.

  Attributes:
    num_classes: number of logits.
    patch: height and width of a patch in pixels, a divisor of the images'.
    width: number of features of a patch, a multiple of 4; the hidden layers have four times as many.
    depth: number of blocks.
    heads: of attention, a divisor of `width`.
  """

  num_classes: int
  patch: int = 8
  width: int = 32
  depth: int = 1
  heads: int = 2

  @nn.compact
  def __call__(self, images, train: bool, dropout_rate=0.0):
    """Return logits [B, classes] for images [B, H, W, C]."""

    def drop(x):
      # Linen's own Dropout takes no traced rate.
      if not train:
        return x
      is_kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - dropout_rate, x.shape)
      return jnp.where(is_kept, x / (1 - dropout_rate), 0)

    size = (self.patch, self.patch)
    x_BxHxWxD = nn.Conv(self.width, size, size, padding="VALID", name="patches")(images)
    x_BxLxD = (x_BxHxWxD + _positions(*x_BxHxWxD.shape[1:])).reshape(images.shape[0], -1, self.width)
    x_BxLxD = drop(x_BxLxD)
    for _ in range(self.depth):
      x_BxLxD = Block(self.heads)(x_BxLxD, drop)
    x_BxD = nn.LayerNorm()(x_BxLxD).mean(axis=1)
    x_BxD = jnp.tanh(nn.Dense(self.width)(x_BxD))
    return nn.Dense(self.num_classes, kernel_init=nn.initializers.zeros, name="output")(x_BxD)


class Block(nn.Module):
  heads: int

  @nn.compact
  def __call__(self, x_BxLxD, drop):
    width, xavier = x_BxLxD.shape[-1], nn.initializers.xavier_uniform()
    dense = functools.partial(nn.Dense, kernel_init=xavier, bias_init=nn.initializers.normal(1e-6))
    attention = nn.MultiHeadDotProductAttention(self.heads, kernel_init=xavier)
    x_BxLxD += drop(attention(nn.LayerNorm()(x_BxLxD)))
    hidden_BxLxF = drop(nn.gelu(dense(4 * width)(nn.LayerNorm()(x_BxLxD))))
    return x_BxLxD + drop(dense(width)(hidden_BxLxF))


def _positions(height: int, length: int, width: int) -> np.ndarray:
  """Return sines and cosines of the column and of the row of each patch, [height, length, width]."""
  frequencies = 1e4 ** -np.linspace(0, 1, width // 4, dtype=np.float32)
  row, column = (place[..., None] * frequencies for place in np.mgrid[:height, :length].astype(np.float32))
  return np.concatenate([np.sin(column), np.cos(column), np.sin(row), np.cos(row)], axis=-1)


def config() -> dict[str, Any]:
  """Return overrides of the tiny size, which trains in seconds on a CPU."""
  return {
    "dataset.name": "trialbook.experiments.algoperf.imagenet_resnet:data",
    "model.name": "trialbook.experiments.algoperf.imagenet_vit:ViT",
    "model.traced.dropout_rate": 0.1,
    "task.name": "classification",
    "task.label_smoothing": 0.1,
    "optimizer.name": "nadam",
    "optimizer.learning_rate": 3e-3,
    "schedule.name": "cosine",
    "schedule.warmup_steps": 5,
    "max_train_steps": 60,
    "batch_size": 32,
    "evaluation.batch_size": 32,
  }


def published() -> dict[str, Any]:
  """Return overrides of the published size: 22,122,472 parameters, images of 224 × 224, 1000 classes.

  Batches have 1024 images, for 186,666 steps. The data are still patterns. Published training images are random crops,
  flipped, changed by RandAugment and mixed by mixup; here they are flipped and mixed only.
  """
  return {
    **config(),
    "dataset.kwargs.examples": 1024,
    "dataset.kwargs.size": 224,
    "dataset.kwargs.classes": 1000,
    "dataset.augmentation.flip_probability": 0.5,
    "dataset.augmentation.mixup_alpha": 0.2,
    "model.kwargs.patch": 16,
    "model.kwargs.width": 384,
    "model.kwargs.depth": 12,
    "model.kwargs.heads": 6,
    "optimizer.learning_rate": 1e-3,
    "optimizer.weight_decay": 0.1,
    "schedule.warmup_steps": 9_333,
    "max_train_steps": 186_666,
    "batch_size": 1024,
    "evaluation.batch_size": 2048,
  }


def get_config() -> Config:
  """Return the config of the tiny size."""
  return Config().override(config())
