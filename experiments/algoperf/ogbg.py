"""AlgoPerf's OGBG workload: a graph network that predicts many properties of molecules, scored by average precision.

The data are toy molecules in place of ogbg-molpcba. Sizes and definitions follow Dahl et al. (2023), "Benchmarking
Neural Network Training Algorithms", arXiv:2306.07179, and their repository github.com/mlcommons/algorithmic-efficiency.
The model is the graph network of Battaglia et al. (2018), arXiv:1806.01261.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from trialbook import Config, Mean

ATOMS, BONDS = 4, 2
"""Kinds of atoms and of bonds. Each is a one-hot vector in the first of the features; the others are noise."""


def data(examples: int = 256, nodes: int = 8, edges: int = 16, tasks: int = 6) -> dict[str, dict[str, Any]]:
  """Return random trees of atoms, each bond in both directions, padded to these numbers of nodes and edges.

  A property of a molecule is that it has a bond between two certain kinds of atoms. As in the real data, there are 9
  features of an atom and 3 of a bond, and most molecules lack the labels of some properties.
  """
  rng = np.random.default_rng(0)
  pairs = rng.integers(0, ATOMS, (tasks, 2))

  def molecule() -> dict[str, Any]:
    size = int(rng.integers(nodes // 2, min(nodes, edges // 2 + 1) + 1))
    atoms, bonds = rng.integers(0, ATOMS, size), rng.integers(0, BONDS, size - 1)
    child = np.arange(1, size)
    parent = rng.integers(0, child)
    ends = np.stack([np.concatenate([child, parent]), np.concatenate([parent, child])])
    features = {
      "nodes": np.concatenate([np.eye(ATOMS)[atoms], rng.normal(size=(size, 9 - ATOMS))], axis=1),
      "edges": np.tile(np.concatenate([np.eye(BONDS)[bonds], rng.normal(size=(size - 1, 3 - BONDS))], axis=1), (2, 1)),
      "senders": ends[0],
      "receivers": ends[1],
      "is_node": np.ones(size, bool),
      "is_edge": np.ones(ends.shape[1], bool),
    }
    sizes = {"nodes": nodes, "is_node": nodes}
    bonded = atoms[ends]
    has = [(bonded == pair[:, None]).all(axis=0).any() for pair in pairs]
    return {
      "inputs": {name: _padded(value, sizes.get(name, edges)) for name, value in features.items()},
      "targets": np.array(has, np.float32),
      "weights": (rng.random(tasks) < 0.7).astype(np.float32),
    }

  def split(n: int) -> dict[str, Any]:
    return jax.tree.map(lambda *values: np.stack(values), *(molecule() for _ in range(n)))

  return {"train": split(examples), "validation": split(100)}


def _padded(values: np.ndarray, size: int) -> np.ndarray:
  values = values.astype({"f": np.float32, "i": np.int32}.get(values.dtype.kind, values.dtype))
  return np.pad(values, [(0, size - len(values))] + [(0, 0)] * (values.ndim - 1))


class MLP(nn.Module):
  """Dense layers, each with layer norm, ReLU and dropout, on inputs [..., D] that are concatenated."""

  widths: tuple[int, ...]

  @nn.compact
  def __call__(self, *inputs, drop):
    x = jnp.concatenate(inputs, axis=-1)
    for width in self.widths:
      x = drop(nn.relu(nn.LayerNorm()(nn.Dense(width)(x))))
    return x


class GraphNetwork(nn.Module):
  """Message-passing steps, each of which updates the edges, then the nodes, then the globals, which become the logits.

  Attributes:
    num_outputs: number of logits.
    width: of the embeddings of nodes and edges.
    hidden: widths of the layers of each update.
    message_steps: number of updates.
  """

  num_outputs: int
  width: int = 32
  hidden: tuple[int, ...] = (32,)
  message_steps: int = 2

  @nn.compact
  def __call__(self, graph, train: bool, dropout_rate=0.1):
    """Return logits [B, num_outputs] of graphs: a mapping of arrays [B, nodes, ...] and [B, edges, ...]."""

    def drop(x):
      # Linen's own Dropout takes no traced rate.
      if not train:
        return x
      is_kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - dropout_rate, x.shape)
      return jnp.where(is_kept, x / (1 - dropout_rate), 0)

    is_node_BxNx1, is_edge_BxEx1 = graph["is_node"][..., None], graph["is_edge"][..., None]
    nodes_BxNxD = nn.Dense(self.width, name="node_embedding")(graph["nodes"])
    edges_BxExD = nn.Dense(self.width, name="edge_embedding")(graph["edges"])
    globals_BxG = jnp.zeros((len(nodes_BxNxD), self.num_outputs), nodes_BxNxD.dtype)
    for step in range(self.message_steps):
      update_edges, update_nodes, update_globals = (
        MLP(self.hidden, name=f"{part}_{step}") for part in ("edges", "nodes", "globals")
      )
      sent_BxExD, received_BxExD = (
        jnp.take_along_axis(nodes_BxNxD, graph[ends][..., None], axis=1) for ends in ("senders", "receivers")
      )
      edges_BxExD = update_edges(
        edges_BxExD, sent_BxExD, received_BxExD, _repeated(globals_BxG, edges_BxExD), drop=drop
      )
      # Padding must not be in any sum.
      edges_BxExD = jnp.where(is_edge_BxEx1, edges_BxExD, 0)
      sums_BxNxD = (_sum_by_node(edges_BxExD, graph[ends], nodes_BxNxD.shape[1]) for ends in ("senders", "receivers"))
      nodes_BxNxD = update_nodes(nodes_BxNxD, *sums_BxNxD, _repeated(globals_BxG, nodes_BxNxD), drop=drop)
      nodes_BxNxD = jnp.where(is_node_BxNx1, nodes_BxNxD, 0)
      globals_BxG = update_globals(nodes_BxNxD.sum(axis=1), edges_BxExD.sum(axis=1), globals_BxG, drop=drop)
    return nn.Dense(self.num_outputs, name="output")(globals_BxG)


def _repeated(globals_BxG, like_BxNxD):
  return jnp.repeat(globals_BxG[:, None], like_BxNxD.shape[1], axis=1)


def _sum_by_node(edges_BxExD, ends_BxE, nodes: int):
  return jax.vmap(lambda edges, ends: jax.ops.segment_sum(edges, ends, nodes))(edges_BxExD, ends_BxE)


class MoleculeProperties:
  """Predict properties that a molecule has or has not; those whose weight is 0 are unknown and do not count.

  `task.traced.label_smoothing` moves training targets y to (1 − α) y + α / tasks, as published: α is shared by tasks.
  """

  def keys(self, info):
    return ["inputs", "targets", "weights"]

  def num_outputs(self, info):
    return info.num_targets

  def loss(self, outputs, batch, settings, train):
    targets, weights = batch["targets"], batch["weights"]
    if train:
      smoothing = settings["label_smoothing"]
      targets = (1 - smoothing) * targets + smoothing / targets.shape[-1]
    return Mean(optax.sigmoid_binary_cross_entropy(outputs, targets) * weights, weights)

  def metrics(self, outputs, batch):
    is_correct = (outputs > 0) == (batch["targets"] > 0)
    return {"accuracy": Mean(is_correct * batch["weights"], batch["weights"])}

  def rows(self, outputs, batch, model):
    return {"logits": outputs, "targets": batch["targets"], "weights": batch["weights"]}

  def split_metrics(self):
    return {"mean_average_precision": lambda means, rows: mean_average_precision(**rows)}


def mean_average_precision(logits: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
  """Return the mean over tasks of the average precision of what is known, of arrays [N, tasks].

  Tasks without a positive or without a negative example are left out; NaN if that leaves none.
  """
  found = []
  for scores, labels, is_known in zip(logits.T, targets.T > 0, weights.T > 0, strict=True):
    labels = labels[is_known]
    if labels.any() and not labels.all():
      found.append(average_precision(scores[is_known], labels))
  return float(np.mean(found)) if found else float("nan")


def average_precision(scores: np.ndarray, labels: np.ndarray) -> float:
  """Return Σ (R_k − R_{k−1}) P_k: precision and recall of all above a threshold, at each distinct score [N]."""
  order = np.argsort(-scores)
  is_threshold = np.append(np.diff(scores[order]) != 0, True)
  hits = np.cumsum(labels[order])[is_threshold]
  precision = hits / (np.flatnonzero(is_threshold) + 1)
  return float(np.sum(np.diff(hits, prepend=0) * precision) / hits[-1])


def config() -> dict[str, Any]:
  """Return overrides of the tiny size, which trains in seconds on a CPU."""
  return {
    "dataset.name": "trialbook.experiments.algoperf.ogbg:data",
    "model.name": "trialbook.experiments.algoperf.ogbg:GraphNetwork",
    "model.kwargs.message_steps": 1,
    "model.traced.dropout_rate": 0.1,
    "task.name": "trialbook.experiments.algoperf.ogbg:MoleculeProperties",
    "task.traced.label_smoothing": 0.1,
    "optimizer.name": "nadam",
    "optimizer.learning_rate": 1e-2,
    "schedule.name": "cosine",
    "schedule.warmup_steps": 5,
    "max_train_steps": 60,
    "batch_size": 32,
    "evaluation.batch_size": 32,
    "selection.metric": "validation/mean_average_precision",
  }


def published() -> dict[str, Any]:
  """Return overrides of the published size: 3,554,176 parameters, 128 tasks, batches of 512 graphs, 80,000 steps.

  The data are still toy molecules. Published batches hold up to 512 graphs with 26 nodes and 56 edges on average, side
  by side; here each graph is padded to more than twice that.
  """
  return {
    **config(),
    "dataset.kwargs.examples": 512,
    "dataset.kwargs.nodes": 64,
    "dataset.kwargs.edges": 128,
    "dataset.kwargs.tasks": 128,
    "model.kwargs.width": 256,
    "model.kwargs.hidden": [256],
    "model.kwargs.message_steps": 5,
    "optimizer.learning_rate": 1e-3,
    "optimizer.weight_decay": 0.1,
    "schedule.warmup_steps": 4_000,
    "max_train_steps": 80_000,
    "batch_size": 512,
    "evaluation.batch_size": 512,
  }


def get_config() -> Config:
  """Return the config of the tiny size."""
  return Config().override(config())
