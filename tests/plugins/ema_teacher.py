"""Learning from few labels with a teacher that is a moving average of the student (Tarvainen & Valpola 2017)."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from trialbook import Call, Mean

CLASSES = 3


def data(train: int = 256, validation: int = 40, labelled: int = 32, seed: int = 0) -> dict[str, Any]:
  """Return points [n, 2] on three arms of a spiral, and `is_labelled` bool [n]: whether training may use the label."""
  rng = np.random.default_rng(seed)

  def split(size: int, labelled: int) -> dict[str, np.ndarray]:
    labels = np.arange(size) % CLASSES
    radius = rng.uniform(0.3, 2, size=size)
    angle = 2 * np.pi * labels / CLASSES + radius + rng.normal(0, 0.15, size=size)
    inputs = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return {
      "inputs": inputs.astype(np.float32),
      "labels": labels.astype(np.int32),
      "is_labelled": np.arange(size) < labelled,
    }

  return {"train": split(train, labelled), "validation": split(validation, validation)}


class Average(nnx.Variable):
  """A moving average of a parameter. It is not an `nnx.Param`, so no optimizer touches it."""


class Net(nnx.Module):
  def __init__(self, width: int, features: int, classes: int, *, rngs: nnx.Rngs):
    self.first = nnx.Linear(features, width, rngs=rngs)
    self.second = nnx.Linear(width, width, rngs=rngs)
    self.output = nnx.Linear(width, classes, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.output(nnx.relu(self.second(nnx.relu(self.first(x)))))


class MeanTeacher(nnx.Module):
  """A student that learns, and a teacher with the average weights of the student.

  Each training call first moves the teacher: teacher ← teacher + rate · (student − teacher). At call t (from 0) the
  rate is at least 1 / (t + 1), so that the initial weights do not count for long. Each part of an accumulated gradient
  is a call.
  """

  def __init__(self, width: int = 32, features: int = 2, classes: int = CLASSES, *, rngs: nnx.Rngs):
    self.student = Net(width, features, classes, rngs=rngs)
    self.teacher = _averages(self.student)
    self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

  def __call__(
    self, student_view: jax.Array, teacher_view: jax.Array, *, train: bool, teacher_rate: jax.Array
  ) -> dict[str, jax.Array]:
    """Return logits of both, [B, classes]; no gradient reaches the teacher."""
    if train:
      self._move(teacher_rate)
    teacher = jax.lax.stop_gradient(self.teacher(teacher_view))
    return {"student": self.student(student_view), "teacher": teacher}

  def _move(self, teacher_rate: jax.Array) -> None:
    rate = jnp.maximum(teacher_rate, 1 / (self.calls[...] + 1))
    self.calls[...] += 1
    student, teacher = nnx.to_pure_dict(nnx.state(self.student, nnx.Param)), nnx.state(self.teacher, Average)
    moved = jax.tree.map(lambda old, new: old + rate * (new - old), nnx.to_pure_dict(teacher), student)
    nnx.replace_by_pure_dict(teacher, jax.lax.stop_gradient(moved))
    nnx.update(self.teacher, teacher)


def _averages(module: nnx.Module) -> nnx.Module:
  """Return a copy of a module with averages in the place of its parameters."""
  copy = nnx.clone(module)
  for _, node in list(nnx.iter_graph(copy)):
    if isinstance(node, nnx.Module):
      for name, value in list(vars(node).items()):
        if isinstance(value, nnx.Param):
          setattr(node, name, Average(jnp.copy(value[...])))
  return copy


class Consistency:
  """Cross-entropy of the student where there are labels, and everywhere the squared distance to the teacher.

  In training both see noise of their own. At an evaluation there is none.
  """

  def keys(self, info: Any) -> list[str]:
    return ["inputs", "labels", "is_labelled"]

  def prepare(self, batch: Any, rngs: Any, settings: Any, train: bool) -> dict[str, Any]:
    if not train:
      return batch

    def view(key: jax.Array, x: jax.Array) -> jax.Array:
      return x + settings["noise"] * jax.random.normal(key, x.shape)

    views = {name: jax.vmap(view)(rngs(name), batch["inputs"]) for name in ("student", "teacher")}
    return {**batch, "views": views}

  def model_inputs(self, batch: Any, train: bool) -> Call:
    if not train:
      return Call(batch["inputs"], batch["inputs"])
    return Call(batch["views"]["student"], batch["views"]["teacher"])

  def loss(self, outputs: Any, batch: Any, settings: Any) -> dict[str, Any]:
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels(outputs["student"], batch["labels"])
    student, teacher = jax.nn.softmax(outputs["student"]), jax.nn.softmax(outputs["teacher"])
    return {
      "cross_entropy": Mean(cross_entropy * batch["is_labelled"], batch["is_labelled"]),
      "consistency": Mean(jnp.square(student - teacher), coefficient=settings["consistency"]),
    }

  def metrics(self, outputs: Any, batch: Any) -> dict[str, Any]:
    return {
      "error": outputs["student"].argmax(axis=-1) != batch["labels"],
      "teacher_error": outputs["teacher"].argmax(axis=-1) != batch["labels"],
    }


def config() -> dict[str, Any]:
  """Return overrides of a config that trains it in seconds."""
  return {
    "dataset.name": "ema_teacher:data",
    "model.name": "ema_teacher:MeanTeacher",
    "model.kwargs.width": 32,
    "model.traced.teacher_rate": 0.1,
    "task.name": "ema_teacher:Consistency",
    "task.traced.noise": 0.1,
    "task.traced.consistency": 3.0,
    "optimizer.name": "adam",
    "optimizer.learning_rate": 1e-2,
    "schedule.name": "constant",
    "batch_size": 64,
    "max_train_steps": 60,
    "evaluation.batch_size": 64,
    "selection.metric": "validation/teacher_error",
  }
