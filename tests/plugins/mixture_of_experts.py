"""A mixture of experts with a learned router and a balancing loss (Switch transformer, Fedus et al. 2021)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from trialbook import Mean, Sum

CLUSTERS = 4


def data(train: int = 512, validation: int = 40, features: int = 6, seed: int = 0) -> dict[str, Any]:
  """Return points [n, features] in clusters; the boundary between the two classes differs from cluster to cluster."""
  rng = np.random.default_rng(seed)
  centers = 4 * np.eye(CLUSTERS, features)
  normals = rng.normal(size=(CLUSTERS, features))

  def split(size: int) -> dict[str, np.ndarray]:
    cluster = rng.integers(CLUSTERS, size=size)
    offset = rng.normal(size=(size, features))
    labels = (offset * normals[cluster]).sum(axis=1) > 0
    return {"inputs": (centers[cluster] + offset).astype(np.float32), "labels": labels.astype(np.int32)}

  return {"train": split(train), "validation": split(validation)}


class Experts(nnx.Module):
  """A residual layer of experts, of which each example uses the `top` with the highest router probabilities.

  There is no capacity: all experts compute all examples, and the router's choice weights their outputs. So no example
  is dropped, and its outputs do not depend on the others in the batch.
  """

  def __init__(self, width: int, hidden: int, experts: int, top: int, jitter: float, *, rngs: nnx.Rngs):
    self.top, self.jitter = top, jitter
    self.rngs = rngs.fork()
    self.norm = nnx.LayerNorm(width, rngs=rngs)
    self.router = nnx.Linear(width, experts, use_bias=False, rngs=rngs)
    init = nnx.initializers.lecun_normal(batch_axis=0)
    self.inner = nnx.Param(init(rngs.params(), (experts, width, hidden)))
    self.outer = nnx.Param(init(rngs.params(), (experts, hidden, width)))

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    normalized = routed = self.norm(x)
    if train:
      noise = jax.random.uniform(self.rngs.jitter(), x.shape, x.dtype, 1 - self.jitter, 1 + self.jitter)
      routed = routed * noise
    # In float32, as in the paper: bfloat16 makes training unstable.
    probabilities_BxE = jax.nn.softmax(self.router(routed).astype(jnp.float32))
    self.sow(nnx.Intermediate, "probabilities", probabilities_BxE)
    chosen_BxK, experts_BxK = jax.lax.top_k(probabilities_BxE, self.top)
    if self.top > 1:
      chosen_BxK /= jnp.sum(chosen_BxK, axis=-1, keepdims=True)
    gates_BxE = jnp.sum(chosen_BxK[..., None] * jax.nn.one_hot(experts_BxK, probabilities_BxE.shape[-1]), axis=1)
    hidden_ExBxH = nnx.relu(normalized @ self.inner[...])
    outputs_ExBxD = hidden_ExBxH @ self.outer[...]
    return x + jnp.einsum("ebd,be->bd", outputs_ExBxD, gates_BxE.astype(x.dtype))


class MixtureOfExperts(nnx.Module):
  """A classifier with layers of experts. Sows the probabilities of each layer's router, [B, experts]."""

  def __init__(
    self,
    width: int = 16,
    depth: int = 2,
    experts: int = 4,
    top: int = 1,
    jitter: float = 0.01,
    *,
    in_features: int,
    num_classes: int,
    rngs: nnx.Rngs,
  ):
    self.stem = nnx.Linear(in_features, width, rngs=rngs)
    self.layers = nnx.List([Experts(width, 2 * width, experts, top, jitter, rngs=rngs) for _ in range(depth)])
    self.output = nnx.Linear(width, num_classes, rngs=rngs)

  def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
    x = self.stem(x)
    for layer in self.layers:
      x = layer(x, train=train)
    return self.output(x)


class BalancedClassification:
  """Cross-entropy, and in training the balancing loss of each layer: E · Σ_e load_e · probability_e, 1 at best.

  The balancing loss is a product of means over a batch, so an evaluation has no part of it in its "loss", which is the
  cross-entropy alone. Its metric `imbalance` is the same product of means over the whole split, less 1.
  """

  def keys(self, info: Any) -> list[str]:
    return ["inputs", "labels"]

  def num_outputs(self, info: Any) -> int:
    return info.num_classes

  def loss(self, outputs: jax.Array, batch: Any, settings: Any, sown: Any, train: bool) -> dict[str, Any]:
    terms: dict[str, Any] = {"cross_entropy": optax.softmax_cross_entropy_with_integer_labels(outputs, batch["labels"])}
    if train:
      probabilities_BxNxE = _probabilities(sown)
      load_NxE = jnp.mean(_first_choice(probabilities_BxNxE), axis=0)
      balance_BxN = probabilities_BxNxE.shape[-1] * jnp.sum(load_NxE * probabilities_BxNxE, axis=-1)
      terms["balance"] = Mean(balance_BxN, coefficient=settings["balance"])
    return terms

  def metrics(self, outputs: jax.Array, batch: Any, sown: Any) -> dict[str, Any]:
    first_choice_BxNxE = _first_choice(_probabilities(sown))
    return {
      "error": outputs.argmax(axis=-1) != batch["labels"],
      "first_layer_examples": Sum(first_choice_BxNxE[:, 0]),
    }

  def rows(self, outputs: jax.Array, batch: Any, model: Any, sown: Any) -> dict[str, jax.Array]:
    return {"probabilities": _probabilities(sown)}

  def split_metrics(self) -> dict[str, Any]:
    return {"imbalance": _imbalance}


def _probabilities(sown: Any) -> jax.Array:
  """Return the router probabilities of all layers, [B, layers, experts]."""
  return jnp.stack([values[0] for path, values in sorted(sown.items()) if path.endswith("probabilities")], axis=1)


def _first_choice(probabilities: jax.Array) -> jax.Array:
  return jax.nn.one_hot(probabilities.argmax(axis=-1), probabilities.shape[-1])


def _imbalance(means: Any, rows: Any) -> float:
  """Return the balancing loss of a whole split less 1, averaged over the layers."""
  probabilities_BxNxE = rows["probabilities"].astype(np.float64)
  experts = probabilities_BxNxE.shape[-1]
  load_NxE = np.eye(experts)[probabilities_BxNxE.argmax(axis=-1)].mean(axis=0)
  return experts * (load_NxE * probabilities_BxNxE.mean(axis=0)).sum(axis=-1).mean() - 1


def config() -> dict[str, Any]:
  """Return overrides of a config that trains it in seconds."""
  return {
    "dataset.name": "mixture_of_experts:data",
    "model.name": "mixture_of_experts:MixtureOfExperts",
    "model.kwargs.width": 16,
    "model.kwargs.depth": 1,
    "model.kwargs.top": 1,
    "task.name": "mixture_of_experts:BalancedClassification",
    "task.traced.balance": 0.1,
    "optimizer.name": "adam",
    "optimizer.learning_rate": 1e-2,
    "schedule.name": "constant",
    "batch_size": 32,
    "max_train_steps": 60,
    "evaluation.batch_size": 32,
    "selection.metric": "validation/error",
  }
