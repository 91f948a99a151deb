"""Tasks: what training needs beside a model. Initial batch (and so the batch's keys), loss, metrics.

A task is any object with the members of `Task`; `TaskConfig` lists ours, and `task.name="my_net:MyTask"` takes one
that stands beside a model of the user's.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Annotated, Literal, Protocol, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from pydantic import Discriminator, Field, JsonValue, Tag

from trialbook.errors import UserError
from trialbook.import_attribute import import_attribute
from trialbook.input_pipeline import AnyDataset, Info
from trialbook.settings import Settings, Static, Traced, kind_tag
from trialbook.trainer.user_code_errors import UserTask

Batch = Mapping[str, Array]


class Task(Protocol):
  """The members that the trainer needs from a task. B is the number of examples in the batch."""

  def num_outputs(self, info: Info) -> int:
    """Return the size of the last axis of the outputs. Raises ValueError if the dataset does not fit the task."""
    ...

  def initial_batch(self, info: Info, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return keys, shapes and dtypes of a batch, for which programs are compiled. `inputs` goes to the model.

    They are those of an evaluation's batch. `training_batch`, if a task has it, returns those of a training batch.
    """
    ...

  def loss(self, outputs: Array, batch: Batch, settings: Mapping[str, Array]) -> Float[Array, " B"]:
    """Return what training minimizes, for each example. `settings` are the task's traced fields by name."""
    ...

  def metrics(self, outputs: Array, batch: Batch) -> dict[str, Float[Array, " B"]]:
    """Return numbers for each example; an evaluation reports their weighted means."""
    ...

  def counts(self, outputs: Array, batch: Batch) -> dict[str, Float[Array, "B K"]]:
    """Return numbers for each example that an evaluation adds up, weighted; none: {}."""
    ...


@runtime_checkable
class OfSplit(Protocol):
  """A task that has metrics which are not means over examples."""

  def of_split(self, means: Mapping[str, float]) -> dict[str, float]:
    """Return numbers that follow from the means of `metrics` over a split."""
    ...


@runtime_checkable
class OfTraining(Protocol):
  """A task whose training batches have more in them than those of an evaluation."""

  def training_batch(self, info: Info, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return keys, shapes and dtypes as `Task.initial_batch`, for a training batch."""
    ...


def training_batch(task: Task, info: Info, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
  """Return keys, shapes and dtypes of a training batch of a task."""
  return (task.training_batch if isinstance(task, OfTraining) else task.initial_batch)(info, batch_size)


class Classification(Settings):
  """One class of `num_classes` for each example: softmax cross-entropy.

  Attributes:
    label_smoothing: share of the target that is spread evenly over all classes in the training loss; None: none.
  """

  name: Static[Literal["classification"]] = "classification"
  label_smoothing: Traced[float | None] = Field(default=None, ge=0, lt=1)

  def objective(self, dataset: AnyDataset) -> str:
    """Return the metric that "best" is about by default."""
    return "validation/error"

  def build(self, dataset: AnyDataset | None = None) -> Task:
    """Return the task itself."""
    return _Classification()


class LanguageModel(Settings):
  """The next token at each position of a text: softmax cross-entropy, averaged over the positions of an example.

  Any sequence of labels is learned so: it needs a model that returns logits [B, length of the labels, classes].

  The loss over ln 2 is `bits_per_token`, or `bits_per_byte` if the dataset's tokens are bytes. `perplexity` is e to the
  loss of a whole split.

  Attributes:
    label_smoothing: share of the target that is spread evenly over all tokens in the training loss; None: none.
  """

  name: Static[Literal["language_model"]] = "language_model"
  label_smoothing: Traced[float | None] = Field(default=None, ge=0, lt=1)

  def objective(self, dataset: AnyDataset) -> str:
    """Return the metric that "best" is about by default."""
    return f"validation/{_bits(dataset)}"

  def build(self, dataset: AnyDataset | None = None) -> Task:
    """Return the task itself."""
    return _LanguageModel(_bits(dataset))


class Regression(Settings):
  """Real-valued targets [B, num_targets]: mean squared error."""

  name: Static[Literal["regression"]] = "regression"

  def objective(self, dataset: AnyDataset) -> str:
    """Return the metric that "best" is about by default."""
    return "validation/loss"

  def build(self, dataset: AnyDataset | None = None) -> Task:
    """Return the task itself."""
    return _Regression()


class PluginTask(Settings):
  """A task of the user's, `module:Class`; the class is called with `kwargs`.

  Attributes:
    traced: numbers that reach `loss` in `settings`, so that changing them does not recompile.
  """

  name: Static[str] = Field(pattern=r"^[\w.]+:\w+$")
  kwargs: Static[dict[str, JsonValue]] = Field(default_factory=dict)
  traced: Traced[dict[str, float]] = Field(default_factory=dict)

  def objective(self, dataset: AnyDataset) -> str:
    """Return the metric that "best" is about by default."""
    return "validation/loss"

  def build(self, dataset: AnyDataset | None = None) -> Task:
    """Return the task. Raises ValueError, naming what is missing, if it cannot be imported or is not a task."""
    task = import_attribute("task.name", self.name)
    try:
      task = task(**self.kwargs)
    except Exception as error:
      raise ValueError(f"task.kwargs do not fit {self.name}: {type(error).__name__}: {error}") from error
    members = [member for member in vars(Task) if not member.startswith("_")]
    missing = sorted(member for member in members if not hasattr(task, member))
    if missing:
      raise ValueError(
        f"task.name = {self.name!r} is not a task: it has no {', '.join(missing)} (see trialbook.trainer.tasks.Task)"
      )
    return cast(Task, UserTask(self.name, task))


TaskConfig = Annotated[
  Annotated[Classification, Tag("classification")]
  | Annotated[LanguageModel, Tag("language_model")]
  | Annotated[Regression, Tag("regression")]
  | Annotated[PluginTask, Tag("module:Class")],
  Discriminator(kind_tag),
]


class _Classification:
  def num_outputs(self, info: Info) -> int:
    if info.num_classes is None:
      raise ValueError(
        f"the classification task needs classes, but dataset {info.name!r} has targets; give integer 'labels', or set"
        " task.name=regression"
      )
    if info.label_shape:
      raise ValueError(
        f"the classification task needs one class for each example, but dataset {info.name!r} has labels of shape"
        f" {list(info.label_shape)} for each: {_what_takes_labels(info)}"
      )
    return info.num_classes

  def initial_batch(self, info: Info, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {
      "inputs": jax.ShapeDtypeStruct((batch_size, *info.input_shape), info.input_dtype),
      "labels": jax.ShapeDtypeStruct((batch_size,), np.int32),
    }

  def training_batch(self, info: Info, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    batch = self.initial_batch(info, batch_size)
    if not info.mixes_labels:
      return batch
    return batch | {"mixed_labels": batch["labels"], "mixing": jax.ShapeDtypeStruct((batch_size,), np.float32)}

  def loss(self, outputs: Array, batch: Batch, settings: Mapping[str, Array]) -> Float[Array, " B"]:
    _check_fit(outputs, batch["labels"])
    hard = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["labels"])
    if "mixing" in batch:
      other = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["mixed_labels"])
      hard = batch["mixing"] * hard + (1 - batch["mixing"]) * other
    return _smoothed(hard, outputs, settings)

  def metrics(self, outputs: Array, batch: Batch) -> dict[str, Float[Array, " B"]]:
    correct = _correct(outputs, batch)
    if "mixing" in batch:
      other = _correct(outputs, {"labels": batch["mixed_labels"]})
      correct = batch["mixing"] * correct + (1 - batch["mixing"]) * other
    loss = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["labels"])
    return {"loss": loss, "error": 1 - correct, "accuracy": correct}

  def counts(self, outputs: Array, batch: Batch) -> dict[str, Float[Array, "B K"]]:
    classes = jax.nn.one_hot(batch["labels"], outputs.shape[-1], dtype=jnp.float32)
    return {"class_correct": classes * _correct(outputs, batch)[:, None], "class_examples": classes}


def _is_sequence(info: Info) -> bool:
  """Return whether labels may be a sequence. It may be shorter or longer than the input, as in captchas."""
  return len(info.label_shape) == 1 and info.label_shape != (1,)


_LANGUAGE_MODEL = "set task.name=language_model, which takes a label at each position"


def _what_takes_labels(info: Info) -> str:
  """Return what to do with several labels for each example, for a message."""
  own = "a task of your own, task.name=my_task:MyTask (docs/tutorials/first_run.md has one)"
  if info.label_shape == (1,):
    return "give labels[:, 0]"
  if _is_sequence(info):
    return (
      f"if they are a sequence, as in text, {_LANGUAGE_MODEL}; if they are one-hot, give labels.argmax(axis=1);"
      f" if each is an independent yes or no, give them as 'targets' to {own}"
    )
  return f"a label at each position of an image needs {own}"


def _check_fit(outputs: Array, labels: Array) -> None:
  """Raise UserError if a model's outputs are not a row of logits for each label."""
  if outputs.shape[:-1] != labels.shape:
    raise UserError(
      f"the model's outputs are {list(outputs.shape)}; labels {list(labels.shape)} need {[*labels.shape, 'classes']}:"
      " the model does not fit the task"
    )


def _smoothed(hard: Array, outputs: Array, settings: Mapping[str, Array]) -> Array:
  """Return cross-entropies with a share of the target spread evenly over all classes."""
  if "label_smoothing" not in settings:
    return hard
  smoothing = settings["label_smoothing"]
  return (1 - smoothing) * hard - smoothing * jnp.mean(jax.nn.log_softmax(outputs), axis=-1)


def _correct(outputs: Array, batch: Batch) -> Float[Array, "B ..."]:
  return (jnp.argmax(outputs, axis=-1) == batch["labels"]).astype(jnp.float32)


def _bits(dataset: AnyDataset | None) -> str:
  """Return the name of a language model's loss over ln 2."""
  return f"bits_per_{getattr(dataset, 'token', 'token')}"


@dataclasses.dataclass(frozen=True)
class _LanguageModel:
  bits: str

  def num_outputs(self, info: Info) -> int:
    needs = "the language_model task needs a label at each position, as texts have"
    if info.num_classes is None:
      raise ValueError(f"{needs}; dataset {info.name!r} has targets: set task.name=regression")
    if info.label_shape == ():
      raise ValueError(f"{needs}; dataset {info.name!r} has a class for each example: set task.name=classification")
    if not _is_sequence(info):
      raise ValueError(
        f"{needs}; dataset {info.name!r} has labels of shape {list(info.label_shape)} for each:"
        f" {_what_takes_labels(info)}"
      )
    return info.num_classes

  def initial_batch(self, info: Info, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    return {
      "inputs": jax.ShapeDtypeStruct((batch_size, *info.input_shape), info.input_dtype),
      "labels": jax.ShapeDtypeStruct((batch_size, *info.label_shape), np.int32),
    }

  def loss(self, outputs: Array, batch: Batch, settings: Mapping[str, Array]) -> Float[Array, " B"]:
    _check_fit(outputs, batch["labels"])
    hard_BxL = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["labels"])
    return jnp.mean(_smoothed(hard_BxL, outputs, settings), axis=-1)

  def metrics(self, outputs: Array, batch: Batch) -> dict[str, Float[Array, " B"]]:
    loss = jnp.mean(optax.softmax_cross_entropy_with_integer_labels(outputs, batch["labels"]), axis=-1)
    correct = jnp.mean(_correct(outputs, batch), axis=-1)
    return {"loss": loss, self.bits: loss / np.log(2).astype(np.float32), "error": 1 - correct}

  def counts(self, outputs: Array, batch: Batch) -> dict[str, Float[Array, "B K"]]:
    return {}

  def of_split(self, means: Mapping[str, float]) -> dict[str, float]:
    return {"perplexity": math.exp(min(means["loss"], 700.0))}


class _Regression:
  def num_outputs(self, info: Info) -> int:
    if info.num_targets is None:
      raise ValueError(
        f"the regression task needs targets, but dataset {info.name!r} has labels; give numbers as 'targets', or else:"
        f" {_what_takes_labels(info) if info.label_shape else 'set task.name=classification'}"
      )
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
