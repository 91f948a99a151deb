"""AlgoPerf's LibriSpeech Conformer workload: convolutions and attention that transcribe speech, trained by CTC.

The model is that of Gulati et al. (2020), arXiv:2005.08100, with the changes of Dahl et al. (2023), arXiv:2306.07179:
sinusoidal positions, a learned scale of the queries, and a linear layer as the decoder. `speech.py` has data and task.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from trialbook import Config
from trialbook.experiments.algoperf import speech

Dense = functools.partial(nn.Dense, kernel_init=speech.dense_init)


class FeedForward(nn.Module):
  expansion: int = 4

  @nn.compact
  def __call__(self, x_BxTxD, drop):
    width = x_BxTxD.shape[-1]
    return drop(Dense(width)(nn.swish(Dense(self.expansion * width)(nn.LayerNorm()(x_BxTxD)))))


class SelfAttention(nn.Module):
  heads: int

  @nn.compact
  def __call__(self, x_BxTxD, is_frame_BxT, drop):
    width = x_BxTxD.shape[-1]
    project = functools.partial(nn.DenseGeneral, (self.heads, width // self.heads), kernel_init=speech.dense_init)
    y_BxTxD = nn.LayerNorm()(x_BxTxD)
    query, key, value = (project(name=name)(y_BxTxD) for name in ("query", "key", "value"))
    scale = self.param("query_scale", nn.initializers.zeros, (width // self.heads,))
    # softplus(0) = ln 2, so that the scale is 1 at first.
    query *= nn.softplus(scale) / np.log(2).astype(np.float32)
    mixed = nn.dot_product_attention(query, key, value, mask=is_frame_BxT[:, None, None, :])
    return drop(nn.DenseGeneral(width, axis=(-2, -1), kernel_init=speech.dense_init, name="output")(mixed))


class Convolution(nn.Module):
  kernel_size: int
  batch_norm_momentum: float

  @nn.compact
  def __call__(self, x_BxTxD, is_frame_BxT, train: bool):
    width = x_BxTxD.shape[-1]
    y_BxTxD = nn.glu(Dense(2 * width)(nn.LayerNorm()(x_BxTxD)))
    # Otherwise the last frames would see what padding has become.
    y_BxTxD = jnp.where(is_frame_BxT[..., None], y_BxTxD, 0)
    y_BxTxD = nn.Conv(
      width, (self.kernel_size,), feature_group_count=width, use_bias=False, kernel_init=speech.dense_init
    )(y_BxTxD)
    y_BxTxD = speech.FrameBatchNorm(self.batch_norm_momentum)(y_BxTxD, is_frame_BxT, train)
    return Dense(width)(nn.swish(y_BxTxD))


class Block(nn.Module):
  """Attention and convolution between two halves of a feed-forward layer."""

  heads: int
  kernel_size: int
  batch_norm_momentum: float

  @nn.compact
  def __call__(self, x_BxTxD, is_frame_BxT, drop, train: bool):
    x_BxTxD += 0.5 * FeedForward()(x_BxTxD, drop)
    x_BxTxD += SelfAttention(self.heads)(x_BxTxD, is_frame_BxT, drop)
    x_BxTxD += Convolution(self.kernel_size, self.batch_norm_momentum)(x_BxTxD, is_frame_BxT, train)
    x_BxTxD += 0.5 * FeedForward()(x_BxTxD, drop)
    return nn.LayerNorm()(x_BxTxD)


class Conformer(nn.Module):
  vocabulary: int = 12
  width: int = 32
  depth: int = 1
  heads: int = 2
  kernel_size: int = 5
  batch_norm_momentum: float = 0.9

  @nn.compact
  def __call__(self, features, lengths, train: bool, dropout_rate=0.1):
    """Return logits [B, T / 4, vocabulary] of features [B, T, bins], and how many of them there are, lengths [B]."""
    drop = speech.dropout(self, dropout_rate, train)
    x_BxTxD, lengths = speech.Subsample(self.width)(features, lengths)
    is_frame_BxT = speech.is_within(lengths, x_BxTxD.shape[1])
    x_BxTxD = drop(x_BxTxD + _sinusoids(x_BxTxD.shape[1], self.width))
    for _ in range(self.depth):
      x_BxTxD = Block(self.heads, self.kernel_size, self.batch_norm_momentum)(x_BxTxD, is_frame_BxT, drop, train)
    return {"logits": Dense(self.vocabulary)(nn.LayerNorm()(x_BxTxD)), "lengths": lengths}


def _sinusoids(length: int, width: int) -> jax.Array:
  frequencies = 1e4 ** -np.linspace(0, 1, width // 2, dtype=np.float32)
  angles = jnp.arange(length)[:, None] * frequencies
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def config() -> dict[str, Any]:
  """Return overrides of the tiny size, which trains in seconds on a CPU."""
  return {**speech.config(), "model.name": "trialbook.experiments.algoperf.librispeech_conformer:Conformer"}


def published() -> dict[str, Any]:
  """Return overrides of the published size: 32,321,792 parameters, batches of 256 utterances, 80,000 steps."""
  return {
    **speech.published(),
    "model.name": "trialbook.experiments.algoperf.librispeech_conformer:Conformer",
    "model.kwargs.depth": 4,
    "model.kwargs.heads": 8,
    "schedule.warmup_steps": 4_000,
    "max_train_steps": 80_000,
  }


def get_config() -> Config:
  """Return the config of the tiny size."""
  return Config().override(config())
