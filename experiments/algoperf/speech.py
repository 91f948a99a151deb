"""Data, task and layers that AlgoPerf's two speech workloads share: toy utterances, CTC, and the word error rate.

The data take the place of LibriSpeech's log-mel features. Sizes and definitions follow Dahl et al. (2023),
"Benchmarking Neural Network Training Algorithms", arXiv:2306.07179, and their repository
github.com/mlcommons/algorithmic-efficiency.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from trialbook import Call, Config, Mean

BLANK = 0
"""The token of CTC that stands for no output. It also pads transcripts."""
FRAMES_PER_TOKEN = 12

dense_init = nn.initializers.xavier_uniform()


def data(
  examples: int = 256, frames: int = 60, bins: int = 8, tokens: int = 5, vocabulary: int = 12
) -> dict[str, dict[str, Any]]:
  """Return noisy utterances, features [n, frames, bins] that end at `lengths`, and transcripts [n, tokens].

  Each token has 12 frames: 6 to 8 with its own spectrum, then silence. Beyond the end, features are 0.
  """
  rng = np.random.default_rng(0)
  spectra = rng.standard_normal((vocabulary, bins), np.float32)
  spectra[BLANK] = 0

  def split(n: int) -> dict[str, Any]:
    counts = rng.integers(2, min(tokens, frames // FRAMES_PER_TOKEN) + 1, n)
    spoken = rng.integers(BLANK + 1, vocabulary, (n, tokens))
    spoken[np.arange(tokens) >= counts[:, None]] = BLANK
    # Frames after the last slot belong to one more, which is blank.
    spoken_or_blank = np.pad(spoken, ((0, 0), (0, 1)))
    slot, place = np.divmod(np.arange(frames), FRAMES_PER_TOKEN)
    slot = np.minimum(slot, tokens)
    sounds = place < rng.integers(6, 9, (n, tokens + 1))[:, slot]
    lengths = counts * FRAMES_PER_TOKEN - rng.integers(0, 4, n)
    features = spectra[np.where(sounds, spoken_or_blank[:, slot], BLANK)]
    features += 0.3 * rng.standard_normal(features.shape, np.float32)
    features[np.arange(frames) >= lengths[:, None]] = 0
    return {
      "inputs": {"features": features, "lengths": lengths.astype(np.int32)},
      "transcript": spoken.astype(np.int32),
    }

  return {"train": split(examples), "validation": split(100)}


def is_within(lengths: jax.Array, size: int) -> jax.Array:
  """Return whether each of `size` places is within its example's length, [B, size]."""
  return jnp.arange(size) < lengths[:, None]


def dropout(module: nn.Module, rate: Any, train: bool) -> Callable[[jax.Array], jax.Array]:
  """Return dropout with a rate that may be traced, which Linen's own may not."""

  def drop(x):
    if not train:
      return x
    is_kept = jax.random.bernoulli(module.make_rng("dropout"), 1 - rate, x.shape)
    return jnp.where(is_kept, x / (1 - rate), 0)

  return drop


class Subsample(nn.Module):
  """Two convolutions over time and frequency, each of stride 2, and a projection. A quarter of the frames is left."""

  width: int

  @nn.compact
  def __call__(self, features, lengths):
    """Return frames [B, T / 4, D] and their lengths [B], of features [B, T, bins]."""
    x_BxTxFxC = jnp.where(is_within(lengths, features.shape[1])[..., None], features, 0)[..., None]
    for _ in range(2):
      x_BxTxFxC = nn.relu(nn.Conv(self.width, (3, 3), strides=(2, 2), kernel_init=dense_init)(x_BxTxFxC))
      lengths = (lengths + 1) // 2
      x_BxTxFxC = jnp.where(is_within(lengths, x_BxTxFxC.shape[1])[..., None, None], x_BxTxFxC, 0)
    return nn.Dense(self.width, kernel_init=dense_init)(x_BxTxFxC.reshape(*x_BxTxFxC.shape[:2], -1)), lengths


class FrameBatchNorm(nn.Module):
  """Batch norm of frames [B, T, D]. Padding is in no statistic, and is 0 in the result."""

  momentum: float = 0.999
  epsilon: float = 1e-3

  @nn.compact
  def __call__(self, x_BxTxD, is_frame_BxT, train: bool):
    width = x_BxTxD.shape[-1]
    running_mean = self.variable("batch_stats", "mean", jnp.zeros, width)
    running_variance = self.variable("batch_stats", "var", jnp.ones, width)
    is_frame_BxTx1 = is_frame_BxT[..., None]
    if train:
      count = jnp.maximum(is_frame_BxT.sum(), 1)
      values = x_BxTxD.astype(jnp.float32)
      mean = jnp.sum(values, axis=(0, 1), where=is_frame_BxTx1) / count
      variance = jnp.sum(jnp.square(values - mean), axis=(0, 1), where=is_frame_BxTx1) / count
      for running, now in ((running_mean, mean), (running_variance, variance)):
        running.value = self.momentum * running.value + (1 - self.momentum) * now
    else:
      mean, variance = running_mean.value, running_variance.value
    scale = self.param("scale", nn.initializers.ones, (width,))
    bias = self.param("bias", nn.initializers.zeros, (width,))
    normalized = (x_BxTxD - mean) * jax.lax.rsqrt(variance + self.epsilon) * scale + bias
    return jnp.where(is_frame_BxTx1, normalized, 0).astype(x_BxTxD.dtype)


class Transcription:
  """Transcribe utterances: CTC loss by token of the transcript, and the word error rate of greedy decoding.

  The model is called with features and lengths. It returns {"logits": [B, T', vocabulary], "lengths": [B]}.

  Args:
    bin_masks: number of spans of frequency bins that SpecAugment (Park et al., 2019) sets to 0 in training.
    longest_bin_mask: maximum number of bins in such a span.
    frame_masks: number of spans of frames that it sets to 0.
    longest_frame_mask: maximum length of such a span, as a fraction of the utterance.
  """

  def __init__(
    self, bin_masks: int = 2, longest_bin_mask: int = 27, frame_masks: int = 10, longest_frame_mask: float = 0.05
  ):
    self.bin_masks, self.longest_bin_mask = bin_masks, longest_bin_mask
    self.frame_masks, self.longest_frame_mask = frame_masks, longest_frame_mask

  def keys(self, info):
    return ["inputs", "transcript"]

  def prepare(self, batch, rngs, train):
    if not train:
      return batch
    features, lengths = batch["inputs"]["features"], batch["inputs"]["lengths"]
    frames, bins = features.shape[1:]

    def mask(features_TxF, length, bin_key, frame_key):
      is_masked_F = spans(bin_key, self.bin_masks, bins, bins, self.longest_bin_mask)
      is_masked_T = spans(frame_key, self.frame_masks, frames, length, self.longest_frame_mask * length)
      return jnp.where(is_masked_T[:, None] | is_masked_F, 0, features_TxF)

    masked = jax.vmap(mask)(features, lengths, rngs("bin_masks"), rngs("frame_masks"))
    return {**batch, "inputs": {"features": masked, "lengths": lengths}}

  def model_inputs(self, batch):
    return Call(batch["inputs"]["features"], batch["inputs"]["lengths"])

  def loss(self, outputs, batch):
    logits, transcript = outputs["logits"], batch["transcript"]
    is_frame_BxT = is_within(outputs["lengths"], logits.shape[1])
    is_token_BxL = transcript != BLANK
    loss_B = optax.ctc_loss(logits, 1.0 - is_frame_BxT, transcript, 1.0 - is_token_BxL)
    return Mean(loss_B, is_token_BxL.sum(axis=1).astype(jnp.float32))

  def rows(self, outputs, batch, model):
    return {"hypothesis": decoded(**outputs), "reference": batch["transcript"]}

  def split_metrics(self):
    return {"wer": lambda means, rows: word_error_rate(rows["hypothesis"], rows["reference"])}


def spans(key: jax.Array, count: int, size: int, room: Any, longest: Any) -> jax.Array:
  """Return whether each of `size` places is in one of `count` random spans, bool [size].

  A span has 0 to `longest` places, all of which are among the first `room`.
  """
  width_key, start_key = jax.random.split(key)
  widths = jnp.floor(jax.random.uniform(width_key, (count, 1)) * (jnp.minimum(longest, room) + 1))
  starts = jnp.floor(jax.random.uniform(start_key, (count, 1)) * (room - widths + 1))
  return ((jnp.arange(size) >= starts) & (jnp.arange(size) < starts + widths)).any(axis=0)


def decoded(logits: jax.Array, lengths: jax.Array) -> jax.Array:
  """Return the tokens [B, T] of greedy decoding, padded with BLANK: repetitions are merged, then blanks removed."""
  best_BxT = jnp.where(is_within(lengths, logits.shape[1]), logits.argmax(axis=-1), BLANK)
  before_BxT = jnp.pad(best_BxT[:, :-1], ((0, 0), (1, 0)), constant_values=BLANK)
  tokens_BxT = jnp.where(best_BxT != before_BxT, best_BxT, BLANK)
  order_BxT = jnp.argsort(tokens_BxT == BLANK, axis=1, stable=True)
  return jnp.take_along_axis(tokens_BxT, order_BxT, axis=1)


def word_error_rate(hypotheses: np.ndarray, references: np.ndarray) -> float:
  """Return the edits between hypotheses and references, rows of tokens, over the number of words of the references."""
  pairs = [(words(hypothesis), words(reference)) for hypothesis, reference in zip(hypotheses, references, strict=True)]
  return sum(edit_distance(*pair) for pair in pairs) / sum(len(reference) for _, reference in pairs)


def words(tokens: np.ndarray) -> list[tuple[int, ...]]:
  """Return the words of a row of tokens. An odd token begins a word, and an even one continues it."""
  found: list[tuple[int, ...]] = []
  for token in tokens[tokens != BLANK].tolist():
    if token % 2 or not found:
      found.append((token,))
    else:
      found[-1] += (token,)
  return found


def edit_distance(first: list[Any], second: list[Any]) -> int:
  """Return the fewest insertions, deletions and substitutions that turn one list into the other (Levenshtein, 1966)."""
  distances = list(range(len(second) + 1))
  for row, item in enumerate(first, 1):
    diagonal, distances[0] = distances[0], row
    for column, other in enumerate(second, 1):
      substituted = diagonal + (item != other)
      diagonal = distances[column]
      distances[column] = min(substituted, diagonal + 1, distances[column - 1] + 1)
  return distances[-1]


def config() -> dict[str, Any]:
  """Return overrides of data, task and training that both workloads have in their tiny size."""
  return {
    "dataset.name": "trialbook.experiments.algoperf.speech:data",
    "model.traced.dropout_rate": 0.1,
    "task.name": "trialbook.experiments.algoperf.speech:Transcription",
    "task.kwargs.bin_masks": 1,
    "task.kwargs.longest_bin_mask": 1,
    "task.kwargs.frame_masks": 1,
    "optimizer.name": "nadam",
    "optimizer.learning_rate": 1e-2,
    "schedule.name": "cosine",
    "schedule.warmup_steps": 5,
    "max_train_steps": 60,
    "batch_size": 32,
    "evaluation.batch_size": 32,
    "selection.metric": "validation/wer",
  }


def published() -> dict[str, Any]:
  """Return overrides that both workloads have in their published size: 80 bins, up to 20 seconds, 1024 tokens.

  The data are still toy utterances, as many as one batch has.
  """
  return {
    **config(),
    "dataset.kwargs.examples": 256,
    "dataset.kwargs.frames": 2000,
    "dataset.kwargs.bins": 80,
    "dataset.kwargs.tokens": 256,
    "dataset.kwargs.vocabulary": 1024,
    "model.kwargs.vocabulary": 1024,
    "model.kwargs.width": 512,
    "model.kwargs.batch_norm_momentum": 0.999,
    "task.kwargs.bin_masks": 2,
    "task.kwargs.longest_bin_mask": 27,
    "task.kwargs.frame_masks": 10,
    "optimizer.learning_rate": 1e-3,
    "optimizer.weight_decay": 0.1,
    "batch_size": 256,
    "evaluation.batch_size": 256,
  }


def get_config() -> Config:
  """Return the config of the tiny size."""
  return Config().override(config())
