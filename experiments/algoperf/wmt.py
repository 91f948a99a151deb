"""AlgoPerf's WMT workload: an encoder-decoder transformer that translates, scored by the BLEU of a beam search.

The data are a toy language, since the real data (WMT 2017, German to English) are large. Sizes and definitions follow
Dahl et al. (2023), "Benchmarking Neural Network Training Algorithms", arXiv:2306.07179, and their repository
github.com/mlcommons/algorithmic-efficiency. The model is that of Vaswani et al. (2017), with layer norm before each
block.
"""

import collections
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from trialbook import Call, Config, Mean

PAD, END, FIRST_WORD = 0, 1, 2
"""Tokens: padding, which also stands before the first word of a translation; the end; the first of the words."""


def data(examples: int = 256, length: int = 8, vocabulary: int = 12) -> dict[str, dict[str, np.ndarray]]:
  """Return sentences and their translations, int32 [n, length]: the same words in a dictionary's other language.

  Sentences have length // 2 to length - 1 words, then END, then padding.
  """
  rng = np.random.default_rng(0)
  dictionary = np.concatenate([[PAD, END], FIRST_WORD + rng.permutation(vocabulary - FIRST_WORD)])

  def split(n: int) -> dict[str, np.ndarray]:
    words = rng.integers(FIRST_WORD, vocabulary, (n, length))
    lengths = rng.integers(length // 2, length, (n, 1))
    places = np.arange(length)
    source = np.where(places < lengths, words, np.where(places == lengths, END, PAD))
    return {"source": source.astype(np.int32), "target": dictionary[source].astype(np.int32)}

  return {"train": split(examples), "validation": split(100)}


class Attention(nn.Module):
  """Multi-head attention without biases. Keys and values are a step of their own, so that decoding can keep them."""

  width: int
  heads: int

  def setup(self):
    project = functools.partial(
      nn.DenseGeneral,
      (self.heads, self.width // self.heads),
      use_bias=False,
      kernel_init=nn.initializers.xavier_uniform(),
    )
    self.query, self.key, self.value = project(), project(), project()
    self.output = nn.DenseGeneral(
      self.width, axis=(-2, -1), use_bias=False, kernel_init=nn.initializers.xavier_uniform()
    )

  def keys_values(self, x_BxLxD):
    return self.key(x_BxLxD), self.value(x_BxLxD)

  def __call__(self, x_BxLxD, keys_values, mask):
    return self.output(nn.dot_product_attention(self.query(x_BxLxD), *keys_values, mask=mask))


class FeedForward(nn.Module):
  hidden: int

  @nn.compact
  def __call__(self, x_BxLxD, drop):
    dense = functools.partial(
      nn.Dense, kernel_init=nn.initializers.xavier_uniform(), bias_init=nn.initializers.normal(1e-6)
    )
    hidden_BxLxF = drop(nn.relu(dense(self.hidden)(x_BxLxD)))
    return drop(dense(x_BxLxD.shape[-1])(hidden_BxLxF))


class EncoderBlock(nn.Module):
  heads: int
  hidden: int

  @nn.compact
  def __call__(self, x_BxSxD, mask, drop):
    attention = Attention(x_BxSxD.shape[-1], self.heads)
    y_BxSxD = nn.LayerNorm()(x_BxSxD)
    x_BxSxD += drop(attention(y_BxSxD, attention.keys_values(y_BxSxD), mask))
    return x_BxSxD + FeedForward(self.hidden)(nn.LayerNorm()(x_BxSxD), drop)


class DecoderBlock(nn.Module):
  width: int
  heads: int
  hidden: int

  def setup(self):
    self.norms = [nn.LayerNorm() for _ in range(3)]
    self.attention = Attention(self.width, self.heads)
    self.source_attention = Attention(self.width, self.heads)
    self.feed_forward = FeedForward(self.hidden)

  def memory(self, encoded_BxSxD):
    return self.source_attention.keys_values(encoded_BxSxD)

  def __call__(self, x_BxLxD, memory, source_mask, cache, places_L, drop):
    y_BxLxD = self.norms[0](x_BxLxD)
    keys_values = self.attention.keys_values(y_BxLxD)
    if cache is not None:
      put = functools.partial(jax.lax.dynamic_update_slice_in_dim, start_index=places_L[0], axis=1)
      keys_values = jax.tree.map(put, cache, keys_values)
    is_before = jnp.arange(keys_values[0].shape[1]) <= places_L[:, None]
    x_BxLxD += drop(self.attention(y_BxLxD, keys_values, is_before))
    x_BxLxD += drop(self.source_attention(self.norms[1](x_BxLxD), memory, source_mask))
    return x_BxLxD + self.feed_forward(self.norms[2](x_BxLxD), drop), keys_values


class Transformer(nn.Module):
  """An encoder-decoder transformer with one table of embeddings for the source, the target and the logits."""

  vocabulary: int = 12
  width: int = 32
  heads: int = 2
  depth: int = 1
  hidden: int = 64

  def setup(self):
    self.embed = nn.Embed(self.vocabulary, self.width, embedding_init=nn.initializers.normal(1.0))
    self.encoder = [EncoderBlock(self.heads, self.hidden) for _ in range(self.depth)]
    self.decoder = [DecoderBlock(self.width, self.heads, self.hidden) for _ in range(self.depth)]
    self.encoder_norm, self.decoder_norm = nn.LayerNorm(), nn.LayerNorm()

  def __call__(self, source, target, deterministic: bool, dropout_rate=0.1):
    """Return logits [B, L, V] of each token of the target [B, L], given the ones before it and the source [B, S]."""
    previous = jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=PAD)
    memory = self.encode(source, deterministic, dropout_rate)
    return self.decode(previous, memory, None, 0, deterministic, dropout_rate)[0]

  def encode(self, source, deterministic: bool, dropout_rate=0.1) -> dict[str, Any]:
    """Return what the decoder attends to, with an axis of examples first: a mask, and each layer's keys and values."""
    drop = self._dropout(deterministic, dropout_rate)
    mask = (source != PAD)[:, None, None, :]
    x_BxSxD = drop(self.embed(source) + _sinusoids(jnp.arange(source.shape[1]), self.width))
    for block in self.encoder:
      x_BxSxD = block(x_BxSxD, mask, drop)
    encoded_BxSxD = self.encoder_norm(x_BxSxD)
    return {"mask": mask, "keys_values": [block.memory(encoded_BxSxD) for block in self.decoder]}

  def decode(self, previous, memory, cache, first_place, deterministic: bool, dropout_rate=0.1):
    """Return logits [B, L, V], and the keys and values of each layer, which are the cache of the next call.

    Args:
      previous: the tokens before those that are predicted, [B, L].
      memory: what `encode` returned.
      cache: keys and values of all places, of which those before `first_place` are filled; None: `previous` is all.
      first_place: place of previous[:, 0] in the sentence.
    """
    drop = self._dropout(deterministic, dropout_rate)
    places_L = first_place + jnp.arange(previous.shape[1])
    x_BxLxD = drop(self.embed(previous) + _sinusoids(places_L, self.width))
    after = []
    for layer, block in enumerate(self.decoder):
      own = None if cache is None else cache[layer]
      x_BxLxD, own = block(x_BxLxD, memory["keys_values"][layer], memory["mask"], own, places_L, drop)
      after.append(own)
    # Embeddings have variance 1, so that the products have variance D.
    return self.embed.attend(self.decoder_norm(x_BxLxD)) / math.sqrt(self.width), after

  def _dropout(self, deterministic: bool, rate: Any) -> Callable[[jax.Array], jax.Array]:
    """Return dropout with a rate that may be traced, which Linen's own may not."""

    def drop(x):
      if deterministic:
        return x
      is_kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - rate, x.shape)
      return jnp.where(is_kept, x / (1 - rate), 0)

    return drop


def _sinusoids(places_L, width: int) -> jax.Array:
  frequencies = 1e4 ** -np.linspace(0, 1, width // 2, dtype=np.float32)
  angles = places_L[:, None] * frequencies
  return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class Translation:
  """Predict each token of the translation from those before it; in evaluation also translate, by beam search.

  `task.traced.label_smoothing` is the share of the training target that is spread over the vocabulary.
  """

  def __init__(self, beam: int = 4, alpha: float = 0.6):
    self.beam, self.alpha = beam, alpha

  def keys(self, info):
    return ["source", "target"]

  def model_inputs(self, batch):
    return Call(batch["source"], batch["target"])

  def loss(self, outputs, batch, settings, train):
    is_token = batch["target"] != PAD
    loss_BxL = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["target"])
    if train:
      smoothing = settings["label_smoothing"]
      loss_BxL = (1 - smoothing) * loss_BxL - smoothing * jnp.mean(jax.nn.log_softmax(outputs), axis=-1)
    return Mean(jnp.where(is_token, loss_BxL, 0), is_token.astype(jnp.float32))

  def metrics(self, outputs, batch):
    is_token = batch["target"] != PAD
    is_correct = (outputs.argmax(axis=-1) == batch["target"]) & is_token
    return {"accuracy": Mean(is_correct.astype(jnp.float32), is_token.astype(jnp.float32))}

  def rows(self, outputs, batch, model):
    """Return the translation [B, L] of each source, and its reference."""
    memory = model(batch["source"], method="encode")
    memory = jax.tree.map(lambda x: jnp.repeat(x, self.beam, axis=0), memory)
    size, length = batch["target"].shape
    cache = jax.tree.map(lambda x: jnp.zeros((len(x), length, *x.shape[2:]), x.dtype), memory["keys_values"])

    def next_logits(last, place, cache):
      logits, cache = model(last[:, None], memory, cache, place, method="decode")
      return logits[:, 0], cache

    found = beam_search(next_logits, cache, (size, self.beam, length), self.alpha)
    return {"hypothesis": found, "reference": batch["target"]}

  def split_metrics(self):
    return {"bleu": lambda means, rows: bleu(rows["hypothesis"], rows["reference"])}


def beam_search(next_logits: Callable[..., Any], cache: Any, shape: tuple[int, int, int], alpha: float) -> jax.Array:
  """Return the sequences [B, L] of the largest log-probability over length penalty (Wu et al., 2016) that it finds.

  Args:
    next_logits: function of the last tokens [B * K], their place and the cache. Returns logits [B * K, V] of the
      tokens that follow, and the cache.
    cache: arrays [B * K, ...].
    shape: B, K and L: examples, beams and length.
    alpha: exponent of the penalty ((5 + length) / 6)^alpha.
  """
  size, beam, length = shape

  def extend(state, place):
    tokens_BxKxL, last_BxK, scores_BxK, lengths_BxK, cache = state
    logits, cache = next_logits(last_BxK.reshape(-1), place, cache)
    log_probs_BxKxV = jax.nn.log_softmax(logits).reshape(size, beam, -1)
    # A sequence that has ended stays as long as it is, and continues with padding, which costs nothing.
    has_ended = (last_BxK == END) | (lengths_BxK < place)
    only_padding = jnp.where(jnp.arange(logits.shape[-1]) == PAD, 0, -jnp.inf)
    totals_BxKxV = scores_BxK[..., None] + jnp.where(has_ended[..., None], only_padding, log_probs_BxKxV)
    lengths_BxK = jnp.where(has_ended, lengths_BxK, place + 1)
    ranks_BxKxV = totals_BxKxV / (((5 + lengths_BxK) / 6) ** alpha)[..., None]

    _, best_BxK = jax.lax.top_k(ranks_BxKxV.reshape(size, -1), beam)
    parents_BxK, last_BxK = jnp.divmod(best_BxK, logits.shape[-1])
    scores_BxK = jnp.take_along_axis(totals_BxKxV.reshape(size, -1), best_BxK, axis=1)
    lengths_BxK = jnp.take_along_axis(lengths_BxK, parents_BxK, axis=1)
    tokens_BxKxL = jnp.take_along_axis(tokens_BxKxL, parents_BxK[..., None], axis=1).at[:, :, place].set(last_BxK)
    rows = (jnp.arange(size)[:, None] * beam + parents_BxK).reshape(-1)
    return (tokens_BxKxL, last_BxK, scores_BxK, lengths_BxK, jax.tree.map(lambda x: x[rows], cache)), None

  # All beams begin equal, so that only the first may count at the first place.
  scores_BxK = jnp.broadcast_to(jnp.where(jnp.arange(beam) == 0, 0, -jnp.inf), (size, beam))
  zeros_BxK = jnp.zeros((size, beam), jnp.int32)
  start = (jnp.full(shape, PAD, jnp.int32), zeros_BxK + PAD, scores_BxK, zeros_BxK, cache)
  tokens_BxKxL = jax.lax.scan(extend, start, jnp.arange(length))[0][0]
  return tokens_BxKxL[:, 0]  # top_k has sorted the beams.


def bleu(hypotheses: np.ndarray, references: np.ndarray, order: int = 4) -> float:
  """Return the BLEU of a corpus in percent (Papineni et al., 2002), of rows of tokens [N, L] up to END."""
  matches, counts = np.zeros(order), np.zeros(order)
  lengths = np.zeros(2)
  for pair in zip(hypotheses, references, strict=True):
    sentences = [_until_end(row) for row in pair]
    lengths += [len(sentence) for sentence in sentences]
    for n in range(order):
      found, wanted = (collections.Counter(zip(*(s[i:] for i in range(n + 1)), strict=False)) for s in sentences)
      matches[n] += (found & wanted).total()
      counts[n] += found.total()
  if not matches.all():
    return 0.0
  return 100 * math.exp(min(0.0, 1 - lengths[1] / lengths[0]) + np.mean(np.log(matches / counts)))


def _until_end(row: np.ndarray) -> list[int]:
  tokens = row.tolist()
  return tokens[: tokens.index(END)] if END in tokens else tokens


def config() -> dict[str, Any]:
  """Return overrides of the tiny size, which trains in seconds on a CPU."""
  return {
    "dataset.name": "trialbook.experiments.algoperf.wmt:data",
    "model.name": "trialbook.experiments.algoperf.wmt:Transformer",
    "model.traced.dropout_rate": 0.1,
    "task.name": "trialbook.experiments.algoperf.wmt:Translation",
    "task.traced.label_smoothing": 0.1,
    "optimizer.name": "nadam",
    "optimizer.learning_rate": 5e-3,
    "schedule.name": "constant",
    "schedule.warmup_steps": 5,
    "max_train_steps": 150,
    "batch_size": 32,
    "evaluation.batch_size": 32,
    "selection.metric": "validation/bleu",
  }


def published() -> dict[str, Any]:
  """Return overrides of the published size: 133,521,408 parameters, batches of 128, 133,333 steps.

  The data are still the toy language. Published training batches pack several sentences into 256 tokens; here each
  sentence is padded. The published BLEU is of words, this one of tokens.
  """
  return {
    **config(),
    "dataset.kwargs.examples": 128,
    "dataset.kwargs.length": 256,
    "dataset.kwargs.vocabulary": 32_000,
    "model.kwargs.vocabulary": 32_000,
    "model.kwargs.width": 1024,
    "model.kwargs.heads": 16,
    "model.kwargs.depth": 6,
    "model.kwargs.hidden": 1024,
    "optimizer.learning_rate": 1e-3,
    "optimizer.weight_decay": 0.1,
    "schedule.name": "cosine",
    "schedule.warmup_steps": 6_666,
    "max_train_steps": 133_333,
    "batch_size": 128,
    "evaluation.batch_size": 128,
  }


def get_config() -> Config:
  """Return the config of the tiny size."""
  return Config().override(config())
