"""AlgoPerf's LibriSpeech DeepSpeech workload: bidirectional LSTMs that transcribe speech, trained by CTC.

The model is that of Dahl et al. (2023), arXiv:2306.07179, after Deep Speech 2 (Amodei et al., 2016, arXiv:1512.02595):
batch norm before each layer, and residual connections. `speech.py` has data and task.
"""

import functools
from typing import Any

from flax import linen as nn

from trialbook import Config
from trialbook.experiments.algoperf import speech

Dense = functools.partial(nn.Dense, kernel_init=speech.dense_init)


class BidirectionalLSTM(nn.Module):
  """LSTMs of D / 2 units in both directions over the frames [B, T, D] within the lengths [B]."""

  @nn.compact
  def __call__(self, x_BxTxD, lengths):
    forward, backward = (nn.RNN(nn.OptimizedLSTMCell(x_BxTxD.shape[-1] // 2)) for _ in range(2))
    return nn.Bidirectional(forward, backward)(x_BxTxD, seq_lengths=lengths)


class DeepSpeech(nn.Module):
  vocabulary: int = 12
  width: int = 32
  lstm_layers: int = 1
  dense_layers: int = 1
  batch_norm_momentum: float = 0.9

  @nn.compact
  def __call__(self, features, lengths, train: bool, dropout_rate=0.1):
    """Return logits [B, T / 4, vocabulary] of features [B, T, bins], and how many of them there are, lengths [B]."""
    drop = speech.dropout(self, dropout_rate, train)
    x_BxTxD, lengths = speech.Subsample(self.width)(features, lengths)
    is_frame_BxT = speech.is_within(lengths, x_BxTxD.shape[1])

    def norm(x_BxTxD):
      return speech.FrameBatchNorm(self.batch_norm_momentum)(x_BxTxD, is_frame_BxT, train)

    x_BxTxD = drop(x_BxTxD)
    for _ in range(self.lstm_layers):
      x_BxTxD += BidirectionalLSTM()(norm(x_BxTxD), lengths)
    for _ in range(self.dense_layers):
      x_BxTxD += drop(nn.relu(Dense(self.width)(norm(x_BxTxD))))
    return {"logits": Dense(self.vocabulary)(nn.LayerNorm()(x_BxTxD)), "lengths": lengths}


def config() -> dict[str, Any]:
  """Return overrides of the tiny size, which trains in seconds on a CPU."""
  return {**speech.config(), "model.name": "trialbook.experiments.algoperf.librispeech_deepspeech:DeepSpeech"}


def published() -> dict[str, Any]:
  """Return overrides of the published size: 18,381,312 parameters, batches of 256 utterances, 48,000 steps."""
  return {
    **speech.published(),
    "model.name": "trialbook.experiments.algoperf.librispeech_deepspeech:DeepSpeech",
    "model.kwargs.lstm_layers": 6,
    "model.kwargs.dense_layers": 3,
    "schedule.warmup_steps": 2_400,
    "max_train_steps": 48_000,
  }


def get_config() -> Config:
  """Return the config of the tiny size."""
  return Config().override(config())
