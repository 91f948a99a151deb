"""Models, data and a task with one bug each, and the healthy ones beside them, for debug mode to tell apart."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from trialbook import Call, Mean
from trialbook.input_pipeline import Digits


class Mlp(nnx.Module):
  """Two hidden layers with a normalization between them, healthy unless `bug` names one.

  Bugs: "softmax" returns probabilities; "no_gradient" stops it before the second layer; "wrong_axis" normalizes over
  the batch; "leak" subtracts the batch's mean at evaluations; "nan" takes a root of negative numbers in
  `middle/root`, and "nan_gradient" one of zero; "nan_code" divides by zero between two layers; "random" drops values
  at evaluations, too; "moving" changes a variable at evaluations. "python" is none without jit: it looks at a
  number, as one does in a debugger.
  """

  def __init__(self, bug: str = "", *, num_classes: int, input_shape: tuple[int, ...], rngs: nnx.Rngs):
    self.bug = bug
    self.first = nnx.Linear(int(np.prod(input_shape)), 32, rngs=rngs)
    self.middle = Middle(bug, rngs=rngs)
    self.second = nnx.Linear(32, 32, rngs=rngs)
    # Random numbers take long to compile.
    self.dropout = nnx.Dropout(0.1, rngs=rngs) if bug == "random" else None
    self.calls = nnx.Variable(jnp.zeros((), jnp.int32))
    self.output = nnx.Linear(32, num_classes, rngs=rngs)

  def __call__(self, x: Float[Array, "batch ..."], *, train: bool) -> Float[Array, "batch classes"]:
    x = jax.nn.relu(self.middle(self.first(x.reshape(len(x), -1))))
    if self.bug == "no_gradient":
      x = jax.lax.stop_gradient(x)
    x = jax.nn.relu(self.second(x))
    if self.bug == "leak" and not train:
      x = x - x.mean(axis=0)
    if self.bug == "python" and not train and float(x.max()) > 1e9:
      raise ValueError("the outputs are not small")
    if self.bug == "nan_code":
      x = x / jnp.zeros_like(x)
    if train or self.bug == "moving":
      self.calls[...] += 1
    x = self.output(x if self.dropout is None else self.dropout(x, deterministic=False))
    return jax.nn.softmax(x) if self.bug == "softmax" else x


class Middle(nnx.Module):
  """Normalizes over features, or what the bug says, with a scale for each."""

  def __init__(self, bug: str, *, rngs: nnx.Rngs):
    self.norm = Normalize(axis=0 if bug == "wrong_axis" else -1)
    self.root = Root(bug)

  def __call__(self, x: Float[Array, "batch features"]) -> Float[Array, "batch features"]:
    return self.root(self.norm(x))


class Normalize(nnx.Module):
  """To mean 0 and deviation 1 along an axis, times a trained scale."""

  def __init__(self, axis: int):
    self.axis = axis
    self.scale = nnx.Param(jnp.ones(32))

  def __call__(self, x: Float[Array, "batch features"]) -> Float[Array, "batch features"]:
    mean, variance = x.mean(self.axis, keepdims=True), x.var(self.axis, keepdims=True)
    return (x - mean) * jax.lax.rsqrt(variance + 1e-5) * self.scale[...]


class Root(nnx.Module):
  """Its input, unless there is a bug."""

  def __init__(self, bug: str):
    self.bug = bug

  def __call__(self, x: Float[Array, "batch features"]) -> Float[Array, "batch features"]:
    if self.bug == "nan":
      return jnp.sqrt(x)
    # The derivative of the root is infinite at 0, and infinity times 0 is not a number.
    return x + jnp.sqrt(jnp.maximum(-jnp.abs(x), 0.0)) if self.bug == "nan_gradient" else x


class TextModel(nnx.Module):
  """Bytes [batch, length] to logits [batch, length, classes], by means of the vectors of the bytes up to each.

  With `bug` "time_axis", it normalizes along the text.
  """

  def __init__(self, bug: str = "", *, num_classes: int, input_shape: tuple[int, ...], rngs: nnx.Rngs):
    self.embedding = nnx.Embed(num_classes, 32, rngs=rngs)
    self.positions = nnx.Param(jax.random.normal(rngs.params(), (*input_shape, 32)))
    self.norm = TextNorm(axis=1 if bug == "time_axis" else -1)
    self.hidden = nnx.Linear(64, 128, rngs=rngs)
    self.output = nnx.Linear(128, num_classes, rngs=rngs)

  def __call__(self, tokens: Int[Array, "batch length"], *, train: bool) -> Float[Array, "batch length classes"]:
    del train
    x = self.embedding(tokens) + self.positions[...]
    weights = jnp.tri(tokens.shape[1])
    past = jnp.einsum("ts,bsf->btf", weights / weights.sum(axis=1, keepdims=True), x)
    return self.output(jax.nn.relu(self.hidden(self.norm(jnp.concatenate([x, past], axis=-1)))))


class TextNorm(nnx.Module):
  """To mean 0 and deviation 1 along an axis."""

  def __init__(self, axis: int):
    self.axis = axis

  def __call__(self, x: Float[Array, "batch length features"]) -> Float[Array, "batch length features"]:
    return (x - x.mean(self.axis, keepdims=True)) * jax.lax.rsqrt(x.var(self.axis, keepdims=True) + 1e-5)


def digits(bug: str = "") -> dict[str, Any]:
  """The digits as floats, healthy unless `bug` names one.

  Bugs: "rows" gives the inputs of the training rows in another order than their labels; "scale" leaves inputs as
  large as bytes are; "constant" has one input only; "from_one" counts classes from 1; "one_class" has one label
  only; "shared" validates on training rows.
  """
  arrays = Digits().read().arrays
  splits = {
    name: {"inputs": (split["inputs"] / np.float32(16) - np.float32(0.3)) * 3, "labels": split["labels"]}
    for name, split in arrays.items()
  }
  train = splits["train"]
  if bug == "rows":
    train["inputs"] = np.random.default_rng(0).permutation(train["inputs"])
  if bug == "scale":
    for split in splits.values():
      split["inputs"] = split["inputs"] * 80 + 70
  if bug == "constant":
    train["inputs"] = np.ones_like(train["inputs"])
  if bug == "from_one":
    for split in splits.values():
      split["labels"] = split["labels"] + 1
  if bug == "one_class":
    train["labels"] = np.zeros_like(train["labels"])
  if bug == "shared":
    splits["validation"] = {name: array[:250] for name, array in train.items()}
  return {name: splits[name] for name in ("train", "validation")}


def text(bug: str = "") -> dict[str, Any]:
  """Rows of 12 symbols of 16 by a random chain, each label the next one.

  Bugs: "copied" labels are the inputs; "rows" are those of other rows.
  """
  random = np.random.default_rng(0)
  chain = random.permutation(16)

  def split(count: int) -> dict[str, np.ndarray]:
    rows = np.zeros((count, 13), np.int32)
    rows[:, 0] = random.integers(0, 16, count)
    for t in range(12):
      rows[:, t + 1] = np.where(random.random(count) < 0.5, chain[rows[:, t]], random.integers(0, 16, count))
    inputs, labels = rows[:, :-1], rows[:, 1:]
    if bug == "copied":
      labels = inputs
    return {"inputs": inputs, "labels": random.permutation(labels) if bug == "rows" else labels}

  return {"train": split(500), "validation": split(100)}


def line(bug: str = "") -> dict[str, Any]:
  """Five numbers, and a target that is a sum of them.

  Bugs: "scale" gives targets in thousands; "rows" those of other rows.
  """
  random = np.random.default_rng(0)
  factor = 1000 if bug == "scale" else 1

  def split(count: int) -> dict[str, np.ndarray]:
    inputs = random.standard_normal((count, 5)).astype(np.float32)
    noise = 0.3 * random.standard_normal(count)
    targets = (inputs @ np.array([1, -1, 0.5, 0, 0]) + noise)[:, None] * factor
    if bug == "rows":
      targets = random.permutation(targets)
    return {"inputs": inputs, "targets": targets.astype(np.float32)}

  return {"train": split(400), "validation": split(200)}


class SoftmaxTwice:
  """Classification whose loss applies softmax to what its cross-entropy takes for logits."""

  def num_outputs(self, info: Any) -> int:
    return info.num_classes

  def keys(self, info: Any) -> list[str]:
    return ["inputs", "labels"]

  def loss(self, outputs: Array, batch: Any) -> Array:
    log_p = jax.nn.log_softmax(jax.nn.softmax(outputs))
    return -jnp.take_along_axis(log_p, batch["labels"][:, None], axis=-1)[:, 0]

  def metrics(self, outputs: Array, batch: Any) -> dict[str, Array]:
    return {"error": (outputs.argmax(axis=-1) != batch["labels"]).astype(jnp.float32)}


def pairs() -> dict[str, Any]:
  """Two arrays of numbers that have two causes in common, with weights, and without labels."""
  random = np.random.default_rng(0)
  effects = random.standard_normal((2, 9))

  def split(count: int) -> dict[str, Any]:
    numbers = (random.standard_normal((count, 2)) @ effects).astype(np.float32)
    return {"inputs": {"left": numbers[:, :5], "right": numbers[:, 5:]}, "weights": random.uniform(0.5, 1, count)}

  return {"train": split(200), "validation": split(50)}


class PairModel(nnx.Module):
  """Two arrays to both of them again and to a code, healthy unless `bug` names a fault.

  Bugs: "leak" subtracts the batch's mean from the code at evaluations; "no_gradient" stops it at the code.
  """

  def __init__(self, bug: str = "", *, rngs: nnx.Rngs):
    self.bug = bug
    self.code = nnx.Linear(9, 16, rngs=rngs)
    self.hidden = nnx.Linear(16, 32, rngs=rngs)
    self.left, self.right = nnx.Linear(32, 5, rngs=rngs), nnx.Linear(32, 4, rngs=rngs)

  def __call__(self, left: Float[Array, "batch 5"], *, right: Float[Array, "batch 4"], train: bool) -> dict[str, Any]:
    code = self.code(jnp.concatenate([left, right], axis=-1))
    if self.bug == "leak" and not train:
      code = code - code.mean(axis=0)
    if self.bug == "no_gradient":
      code = jax.lax.stop_gradient(code)
    x = jax.nn.relu(self.hidden(code))
    return {"pair": (self.left(x), self.right(x)), "code": code, "largest": code.argmax(axis=-1)}


class Denoising:
  """Both arrays of a pair from themselves with noise."""

  def keys(self, info: Any) -> list[str]:
    return ["inputs", "weights"]

  def prepare(self, batch: Any, rngs: Any, settings: Any) -> dict[str, Any]:
    def noisy(name: str) -> Array:
      array = batch["inputs"][name]
      return array + settings["noise"] * jax.vmap(lambda key: jax.random.normal(key, array.shape[1:]))(rngs(name))

    return {**batch, "noisy": {name: noisy(name) for name in batch["inputs"]}}

  def model_inputs(self, batch: Any) -> Call:
    return Call(batch["noisy"]["left"], right=batch["noisy"]["right"])

  def loss(self, outputs: Any, batch: Any) -> dict[str, Mean]:
    weights = batch["weights"]
    errors = dict(zip(("left", "right"), outputs["pair"], strict=True))
    errors = {name: jnp.square(array - batch["inputs"][name]).mean(axis=-1) for name, array in errors.items()}
    return {name: Mean(weights * error, weights) for name, error in errors.items()}

  def rows(self, outputs: Any, batch: Any, model: Any) -> dict[str, Array]:
    clean = model(batch["inputs"]["left"], right=batch["inputs"]["right"])
    return {"shift": jnp.abs(clean["code"] - outputs["code"]).mean(axis=-1)}

  def split_metrics(self) -> dict[str, Any]:
    return {"shift": lambda means, rows: rows["shift"].mean()}
