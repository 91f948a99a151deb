"""Tasks: what a model needs from us to be trained. Initial batch (and so the batch's keys), loss, metrics.

A task is any object with the members of `Task`; `TaskConfig` lists ours, and `task.name="my_net:MyTask"` takes one
that stands beside a model of the user's.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from pydantic import Discriminator, Field, JsonValue, Tag

from input_pipeline import Info
from models import plugin
from trialbook.settings import Settings, Static, Traced, kind_tag

Batch = Mapping[str, Array]


class Task(Protocol):
  """What the trainer asks of a task. B is the number of examples in the batch."""

  def num_outputs(self, info: Info) -> int:
    """Size of the last axis of the model's outputs. Raises ValueError if the dataset does not fit the task."""
    ...

  def initial_batch(self, info: Info, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Keys, shapes and dtypes of a batch: what the programs are compiled for. `inputs` goes to the model."""
    ...

  def loss(self, outputs: Array, batch: Batch, settings: Mapping[str, Array]) -> Float[Array, " B"]:
    """What training minimizes, for each example. `settings` are the task's traced fields by name."""
    ...

  def metrics(self, outputs: Array, batch: Batch) -> dict[str, Float[Array, " B"]]:
    """Numbers for each example; an evaluation reports their weighted means."""
    ...

  def counts(self, outputs: Array, batch: Batch) -> dict[str, Float[Array, "B K"]]:
    """Numbers for each example that an evaluation adds up, weighted; none: {}."""
    ...


class Classification(Settings):
  """One class of `num_classes` for each example: softmax cross-entropy.

  Attributes:
    label_smoothing: share of the target that is spread evenly over all classes in the training loss; None: none.
  """

  name: Static[Literal["classification"]] = "classification"
  label_smoothing: Traced[float | None] = Field(default=None, ge=0, lt=1)

  @property
  def objective(self) -> str:
    """The metric that "best" is about by default."""
    return "validation/error"

  def build(self) -> Task:
    """The task itself."""
    return _Classification()


class Regression(Settings):
  """Real-valued targets [B, num_targets]: mean squared error."""

  name: Static[Literal["regression"]] = "regression"

  @property
  def objective(self) -> str:
    """The metric that "best" is about by default."""
    return "validation/loss"

  def build(self) -> Task:
    """The task itself."""
    return _Regression()


class PluginTask(Settings):
  """A task of the user's, `module:Class`; the class is called with `kwargs`.

  Attributes:
    traced: numbers that reach `loss` in `settings`, so that changing them does not recompile.
  """

  name: Static[str] = Field(pattern=r"^[\w.]+:\w+$")
  kwargs: Static[dict[str, JsonValue]] = Field(default_factory=dict)
  traced: Traced[dict[str, float]] = Field(default_factory=dict)

  @property
  def objective(self) -> str:
    """The metric that "best" is about by default."""
    return "validation/loss"

  def build(self) -> Task:
    """The task itself. Raises ValueError, naming what is missing, if it cannot be imported or is no task."""
    task = plugin.import_attribute("task.name", self.name)
    try:
      task = task(**self.kwargs)
    except Exception as error:
      raise ValueError(f"task.kwargs do not fit {self.name}: {type(error).__name__}: {error}") from error
    members = [member for member in vars(Task) if not member.startswith("_")]
    missing = sorted(member for member in members if not hasattr(task, member))
    if missing:
      raise ValueError(f"task.name = {self.name!r} is no task: it has no {', '.join(missing)} (see trainer.tasks.Task)")
    return task


TaskConfig = Annotated[
  Annotated[Classification, Tag("classification")]
  | Annotated[Regression, Tag("regression")]
  | Annotated[PluginTask, Tag("module:Class")],
  Discriminator(kind_tag),
]


class _Classification:
  def num_outputs(self, info: Info) -> int:
    if info.num_classes is None:
      raise ValueError(f"the classification task needs classes, and dataset {info.name!r} has none")
    return info.num_classes

  def initial_batch(self, info: Info, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {
      "inputs": jax.ShapeDtypeStruct((batch_size, *info.input_shape), info.input_dtype),
      "labels": jax.ShapeDtypeStruct((batch_size,), np.int32),
    }

  def loss(self, outputs: Array, batch: Batch, settings: Mapping[str, Array]) -> Float[Array, " B"]:
    hard = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["labels"])
    if "label_smoothing" not in settings:
      return hard
    smoothing = settings["label_smoothing"]
    even = -jnp.mean(jax.nn.log_softmax(outputs), axis=-1)
    return (1 - smoothing) * hard + smoothing * even

  def metrics(self, outputs: Array, batch: Batch) -> dict[str, Float[Array, " B"]]:
    correct = _correct(outputs, batch)
    loss = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["labels"])
    return {"loss": loss, "error": 1 - correct, "accuracy": correct}

  def counts(self, outputs: Array, batch: Batch) -> dict[str, Float[Array, "B K"]]:
    classes = jax.nn.one_hot(batch["labels"], outputs.shape[-1], dtype=jnp.float32)
    return {"class_correct": classes * _correct(outputs, batch)[:, None], "class_examples": classes}


def _correct(outputs: Array, batch: Batch) -> Float[Array, " B"]:
  return (jnp.argmax(outputs, axis=-1) == batch["labels"]).astype(jnp.float32)


class _Regression:
  def num_outputs(self, info: Info) -> int:
    if info.num_targets is None:
      raise ValueError(f"the regression task needs targets, and dataset {info.name!r} has classes")
    return info.num_targets

  def initial_batch(self, info: Info, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {
      "inputs": jax.ShapeDtypeStruct((batch_size, *info.input_shape), info.input_dtype),
      "targets": jax.ShapeDtypeStruct((batch_size, self.num_outputs(info)), np.float32),
    }

  def loss(self, outputs: Array, batch: Batch, settings: Mapping[str, Array]) -> Float[Array, " B"]:
    return jnp.mean(jnp.square(outputs - batch["targets"]), axis=-1)

  def metrics(self, outputs: Array, batch: Batch) -> dict[str, Float[Array, " B"]]:
    errors = outputs - batch["targets"]
    return {
      "loss": jnp.mean(jnp.square(errors), axis=-1),
      "absolute_error": jnp.mean(jnp.abs(errors), axis=-1),
    }

  def counts(self, outputs: Array, batch: Batch) -> dict[str, Float[Array, "B K"]]:
    return {}
