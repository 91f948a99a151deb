"""A dataset of two views with several validation splits, a model with two towers and methods, and a task that uses what
a task can use."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from trialbook import Call, Mean, Sum


def data(examples: int = 48, scale: float = 1.0) -> dict[str, Any]:
  rng = np.random.default_rng(0)

  def split(count: int, shift: float) -> dict[str, Any]:
    first = rng.normal(size=(count, 3)) + shift
    second = rng.integers(0, 255, (count, 2, 2, 1)).astype(np.uint8)
    answer = scale * first.sum(axis=1) + second.mean(axis=(1, 2, 3)) / 255
    return {"inputs": {"first": first, "second": second}, "answer": answer, "unused": np.zeros((count, 99))}

  return {
    "train": split(examples, 0),
    "validation": split(20, 0),
    "validation_shifted": split(13, 5),
    "test": split(7, 0),
    "test_shifted": split(6, 5),
  }


class Towers(nnx.Module):
  def __init__(self, *, rngs: nnx.Rngs):
    self.first = nnx.Linear(3, 4, rngs=rngs)
    self.second = nnx.Linear(4, 4, rngs=rngs)
    self.output = nnx.Linear(4, 1, rngs=rngs)

  def encode(self, second: jax.Array) -> jax.Array:
    return self.second(second.reshape(second.shape[0], -1))

  def __call__(self, first: jax.Array, *, second: jax.Array, training: bool, strength: jax.Array) -> dict[str, Any]:
    hidden = nnx.tanh(self.first(first)) + self.encode(second)
    self.sow(nnx.Intermediate, "size", jnp.square(hidden).mean(axis=1))
    return {"answer": self.output(hidden)[:, 0] * (strength if training else 1), "parts": (hidden, first)}


class Regress:
  def __init__(self, noisy: bool = True):
    self.noisy = noisy

  def keys(self, info: Any) -> list[str]:
    return ["inputs", "answer"]

  def prepare(self, batch: Any, rngs: Any, train: bool) -> dict[str, Any]:
    noise = jax.vmap(lambda key: jax.random.normal(key, (3,)))(rngs("noise"))
    fixed = jax.random.normal(rngs.fixed("direction"), (3,))
    first = batch["inputs"]["first"] + (0.1 * noise if self.noisy else 0)
    return {**batch, "noise": noise, "fixed": fixed, "first": first}

  def model_inputs(self, batch: Any) -> Call:
    return Call(batch["first"], second=batch["inputs"]["second"])

  def loss(self, outputs: Any, batch: Any, sown: Any, settings: Any) -> dict[str, Any]:
    (size,) = sown["size"]
    return {
      "square": jnp.square(outputs["answer"] - batch["answer"]),
      "size": Mean(size, coefficient=settings["size"]),
    }

  def metrics(self, outputs: Any, batch: Any, train: bool) -> dict[str, Any]:
    return {
      "noise": batch["noise"][:, 0],
      "direction": jnp.broadcast_to(batch["fixed"][0], batch["answer"].shape),
      "in_training": jnp.full(batch["answer"].shape, float(train)),
      "seen": Sum(jnp.ones_like(batch["answer"])),
    }

  def rows(self, outputs: Any, batch: Any, model: Any) -> dict[str, Any]:
    codes = model(batch["inputs"]["second"], method="encode")
    again = model(batch["first"], second=batch["inputs"]["second"])
    return {"codes": codes, "error": again["answer"] - batch["answer"]}

  def split_metrics(self) -> dict[str, Any]:
    return {
      "worst": lambda means, rows: np.abs(rows["error"]).max(),
      "codes": lambda means, rows: float(rows["codes"].mean()),
      "loss_again": lambda means, rows: means["square"] - np.square(rows["error"]).mean(),
    }


def overrides() -> dict[str, Any]:
  return {
    "dataset.name": "views:data",
    "model.name": "views:Towers",
    "model.traced.strength": 1.0,
    "task.name": "views:Regress",
    "task.traced.size": 0.01,
    "optimizer.learning_rate": 0.02,
    "schedule.name": "constant",
    "batch_size": 16,
    "max_train_steps": 20,
    "evaluation.batch_size": 8,
    "evaluation.every_steps": 10,
    "evaluation.train_examples": 10,
    "evaluation.test": True,
    "evaluation.predictions": 4,
    "selection.metric": "validation_shifted/worst",
    "selection.mode": "min",
  }
