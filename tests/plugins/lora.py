"""Low-rank adaptation of a frozen backbone (LoRA, Hu et al. 2021): pretrain with `rank=0`, then adapt with `rank=2`."""

from typing import Any

import jax
import numpy as np
from flax import nnx

FEATURES = 12


def data(domain: str = "new", train: int = 256, validation: int = 40, seed: int = 0) -> dict[str, Any]:
  """Return points [n, 12], and classes by a random network of two layers.

  Args:
    domain: "old" for pretraining, or "new", where the first layer has a change of rank 1 and the classes are others.
    train: number of training examples.
    validation: number of validation examples.
    seed: of everything random.
  """
  rng = np.random.default_rng(seed)
  first = rng.normal(size=(FEATURES, 24))
  seconds = {"old": rng.normal(size=(24, 4)), "new": rng.normal(size=(24, 3))}
  if domain == "new":
    first += np.outer(rng.normal(size=FEATURES), rng.normal(size=24))

  def split(size: int) -> dict[str, np.ndarray]:
    inputs = rng.normal(size=(size, FEATURES))
    scores = np.maximum(inputs @ first, 0) @ seconds[domain]
    scores -= scores.mean(axis=0)  # Otherwise one class has most of the examples.
    return {"inputs": inputs.astype(np.float32), "labels": scores.argmax(axis=1).astype(np.int32)}

  return {"train": split(train), "validation": split(validation)}


class Net(nnx.Module):
  """A small classifier whose hidden layers may have low-rank updates.

  The backbone's parameters have the same names with and without updates: `hidden/0/kernel` and so on. The updates are
  `hidden/0/lora/lora_a` and `hidden/0/lora/lora_b`.

  Args:
    width: size of the hidden layers.
    depth: number of hidden layers.
    rank: rank of the updates; 0: there are none.
    in_features: size of an example.
    num_classes: number of logits.
    rngs: random streams.
  """

  def __init__(
    self, width: int = 32, depth: int = 2, rank: int = 0, *, in_features: int, num_classes: int, rngs: nnx.Rngs
  ):
    def layer(inputs: int) -> nnx.Linear:
      # The factor B starts as zeros, so at step 0 the adapted model is the backbone.
      return nnx.LoRALinear(inputs, width, lora_rank=rank, rngs=rngs) if rank else nnx.Linear(inputs, width, rngs=rngs)

    self.hidden = nnx.List([layer(in_features if index == 0 else width) for index in range(depth)])
    self.output = nnx.Linear(width, num_classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    for layer in self.hidden:
      x = nnx.relu(layer(x))
    return self.output(x)


def pretraining_config() -> dict[str, Any]:
  """Return overrides of a config that trains the backbone, all of it, on the old domain."""
  return {
    "dataset.name": "lora:data",
    "dataset.kwargs.domain": "old",
    "model.name": "lora:Net",
    "model.kwargs.width": 32,
    "optimizer.name": "adam",
    "optimizer.learning_rate": 1e-2,
    "schedule.name": "constant",
    "batch_size": 32,
    "max_train_steps": 60,
    "evaluation.batch_size": 32,
  }


def config(source: str | None = None) -> dict[str, Any]:
  """Return overrides of a config that trains low-rank updates and a new output layer on the new domain.

  Args:
    source: workdir of a run of `pretraining_config`, from which the frozen backbone comes; None: it is random.
  """
  changes = {
    **pretraining_config(),
    "dataset.kwargs.domain": "new",
    "model.kwargs.rank": 2,
    # A parameter belongs to the first group that matches it.
    "parameter_groups": [
      {"parameters": "hidden/*/lora/*"},
      {"parameters": "output/*", "learning_rate_multiplier": 0.5},
      {"parameters": "*", "frozen": True},
    ],
  }
  if source is not None:
    # "hidden/*" would match the new low-rank factors, too, which the source does not have.
    changes |= {"warm_start.source": source, "warm_start.include": ["hidden/*"], "warm_start.exclude": ["*/lora/*"]}
  return changes
