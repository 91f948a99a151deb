"""AlgoPerf's Criteo 1TB workload: a small DLRM that predicts clicks, scored by its cross-entropy.

The data are made-up clicks, since the real logs have four billion examples. Sizes and definitions follow Dahl et al.
(2023), "Benchmarking Neural Network Training Algorithms", arXiv:2306.07179, and their repository
github.com/mlcommons/algorithmic-efficiency. The model is that of Naumov et al. (2019), arXiv:1906.00091, with one table
of embeddings for all columns.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from trialbook import Config, Mean

KINDS = 64
"""Number of categories of a column that differ in their effect on clicks."""


def data(
  examples: int = 512,
  validation_examples: int = 300,
  dense: int = 4,
  sparse: int = 6,
  categories: int = 200,
  thinning: int = 4,
) -> dict[str, Any]:
  """Return logs of advertisements: dense and sparse inputs, labels (1 is a click) and weights [n].

  Clicks are rare, so all are kept, but only one of `thinning` other examples, which then has the weight `thinning`.

  Args:
    examples: number of training examples.
    validation_examples: number of validation examples.
    dense: number of columns of counts, of which inputs have log(1 + count).
    sparse: number of columns of categories, int32.
    categories: in the largest column; the columns' sizes rise from 3 to this.
    thinning: 1 keeps all examples.
  """
  rng = np.random.default_rng(0)
  sizes = np.geomspace(3, categories, sparse).astype(np.int64)
  slopes, effects = rng.normal(0, 1.5, dense), rng.normal(0, 1.5, (sparse, KINDS))

  def split(n: int) -> dict[str, Any]:
    # Many more than are needed, as most of those without a click are dropped.
    drawn = n * thinning
    counts = np.log1p(np.floor(rng.lognormal(0, 1, (drawn, dense))))
    ranks = np.minimum(sizes ** rng.random((drawn, sparse)), sizes).astype(np.int64) - 1
    logits = (counts - 0.8) @ slopes + effects[np.arange(sparse), ranks % KINDS].sum(axis=1) - 3
    is_click = rng.random(drawn) < 1 / (1 + np.exp(-logits))
    kept = np.flatnonzero(is_click | (rng.random(drawn) < 1 / thinning))[:n]
    hashed = (ranks[kept] * 2_654_435_761 + np.arange(sparse)) % sizes
    return {
      "inputs": {"dense": counts[kept].astype(np.float32), "sparse": hashed.astype(np.int32)},
      "labels": is_click[kept].astype(np.int32),
      "weights": np.where(is_click[kept], 1, thinning).astype(np.float32),
    }

  return {"train": split(examples), "validation": split(validation_examples)}


class DLRM(nn.Module):
  """Embeddings of all columns, the products of each two of them, and dense layers before and behind.

  Attributes:
    rows: of the table of embeddings. A category has the row of its number modulo `rows`, whatever its column.
    width: of an embedding; the dense columns together have one, too.
    bottom: widths of the hidden layers that embed the dense columns.
    top: widths of the hidden layers behind the products.
  """

  rows: int = 256
  width: int = 8
  bottom: tuple[int, ...] = (16,)
  top: tuple[int, ...] = (32, 16)

  @nn.compact
  def __call__(self, inputs, train: bool, dropout_rate=0.0):
    """Return logits [B] for dense columns [B, dense], float, and sparse columns [B, sparse], int32."""
    x_BxD = inputs["dense"]
    for width in (*self.bottom, self.width):
      x_BxD = nn.relu(_dense(width, nn.initializers.glorot_uniform())(x_BxD))

    table = self.param("embedding", _uniform(1 / np.sqrt(self.rows)), (self.rows, self.width))
    embedded_BxSxD = table[inputs["sparse"] % self.rows]
    columns_BxCxD = jnp.concatenate([x_BxD[:, None], embedded_BxSxD], axis=1)
    products_BxCxC = columns_BxCxD @ columns_BxCxD.mT
    first, second = np.triu_indices(columns_BxCxD.shape[1])
    y = jnp.concatenate([x_BxD, products_BxCxC[:, first, second]], axis=-1)

    for width in self.top:
      y = nn.relu(_dense(width, nn.initializers.glorot_normal())(y))
    if train:
      # Linen's own Dropout takes no traced rate.
      is_kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - dropout_rate, y.shape)
      y = jnp.where(is_kept, y / (1 - dropout_rate), 0)
    return _dense(1, nn.initializers.glorot_normal())(y)[:, 0]


def _dense(width: int, kernel_init: Any) -> nn.Dense:
  return nn.Dense(width, kernel_init=kernel_init, bias_init=nn.initializers.normal(1 / np.sqrt(width)))


def _uniform(scale: float) -> Any:
  return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, 0, scale)


class ClickThrough:
  """Predict the probability of a click. All means are weighted, so they are those of the data before thinning."""

  def keys(self, info):
    return ["inputs", "labels", "weights"]

  def loss(self, outputs, batch):
    labels, weights = batch["labels"].astype(outputs.dtype), batch["weights"]
    return Mean(optax.sigmoid_binary_cross_entropy(outputs, labels) * weights, weights)

  def metrics(self, outputs, batch):
    return {"click_rate": Mean(nn.sigmoid(outputs) * batch["weights"], batch["weights"])}

  def rows(self, outputs, batch, model):
    return {"logits": outputs, "labels": batch["labels"], "weights": batch["weights"]}

  def split_metrics(self):
    return {"auc": lambda means, rows: auc(**rows)}


def auc(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float:
  """Return the area under the ROC curve: how often a click has a larger logit than another example; a tie is 1/2.

  Arrays are [N]. NaN if there are no clicks, or nothing else.
  """
  _, place = np.unique(logits, return_inverse=True)
  clicks, others = (np.bincount(place, weights=weights * of) for of in (labels, 1 - labels))
  below = np.cumsum(others) - others
  pairs = clicks.sum() * others.sum()
  return float(np.sum(clicks * (below + others / 2)) / pairs) if pairs else float("nan")


def config() -> dict[str, Any]:
  """Return overrides of the tiny size, which trains in seconds on a CPU."""
  return {
    "dataset.name": "trialbook.experiments.algoperf.criteo1tb:data",
    "model.name": "trialbook.experiments.algoperf.criteo1tb:DLRM",
    "model.traced.dropout_rate": 0.1,
    "task.name": "trialbook.experiments.algoperf.criteo1tb:ClickThrough",
    "optimizer.name": "nadam",
    "optimizer.learning_rate": 1e-2,
    "schedule.name": "cosine",
    "schedule.warmup_steps": 5,
    "max_train_steps": 80,
    "batch_size": 64,
    "evaluation.batch_size": 128,
  }


def published() -> dict[str, Any]:
  """Return overrides of the published size: 539,267,457 parameters, batches of 262,144, 10,666 steps.

  The data are still made up, and every example has the weight 1, as published.
  """
  return {
    **config(),
    "dataset.kwargs.examples": 262_144,
    "dataset.kwargs.dense": 13,
    "dataset.kwargs.sparse": 26,
    "dataset.kwargs.categories": 40_000_000,
    "dataset.kwargs.thinning": 1,
    "model.kwargs.rows": 4_194_304,
    "model.kwargs.width": 128,
    "model.kwargs.bottom": [512, 256],
    "model.kwargs.top": [1024, 1024, 512, 256],
    "optimizer.learning_rate": 1e-3,
    "optimizer.weight_decay": 0.1,
    "schedule.warmup_steps": 533,
    "max_train_steps": 10_666,
    "batch_size": 262_144,
    "evaluation.batch_size": 131_072,
  }


def get_config() -> Config:
  """Return the config of the tiny size."""
  return Config().override(config())
