"""Tasks: what training needs beside a model. The keys of a batch, what the model is given, loss and metrics.

A task is any object with `keys` and `loss`; `TaskConfig` lists ours, and `task.name="my_net:MyTask"` takes one that
stands beside a model of the user's. docs/tutorials/any_model.md shows what tasks can do.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from pydantic import Discriminator, Field, JsonValue, Tag

from trialbook.errors import UserError, said
from trialbook.import_attribute import import_attribute
from trialbook.input_pipeline import AnyDataset, Info
from trialbook.models.tiled_logits import TiledLogits, at_positions
from trialbook.settings import Settings, Static, Traced, kind_tag
from trialbook.trainer import task_members
from trialbook.trainer.task_values import Mean, Sum

Batch = Mapping[str, Any]


class Task(Protocol):
  """The members that the trainer needs from a task; B is the number of examples in the batch.

  `loss` and the optional members may have further arguments, which they are given by name: `settings` (the task's
  traced fields by name), `train` (whether in training), `sown` (what the model sowed, tuples by path), `info` (the
  facts of the dataset), and `rngs` in `prepare`. Optional are

    num_outputs(info) -> int: size of the last axis of the one array that the model returns. It is checked, and given to
      constructors. Raises ValueError if the dataset does not fit the task.
    prepare(batch) -> batch: adds to a batch, in the compiled step and before the model, what is drawn or computed:
      noise, masks. `rngs("noise")` are keys [B], one for each example; `rngs.fixed("noise")` is one key.
    model_inputs(batch) -> a value, or Call(...): what the model is called with; `batch["inputs"]` otherwise.
    metrics(outputs, batch) -> dict of arrays [B], `Mean` and `Sum`. The objective is reported as "loss" if none of them
      is named so.
    rows(outputs, batch, model) -> dict of arrays [B, ...]: what an evaluation keeps of each example; `model(...)` calls
      the model, with `method="encode"` one of its methods.
    split_metrics() -> dict of functions (values, rows) -> float: metrics of a whole split, computed on the host. Values
      are its means and sums by name; rows have each example once, [N, ...].
  """

  def keys(self, info: Info) -> Sequence[str]:
    """Return the keys of a batch that the task needs. Only these are transferred; "a" takes all that is below "a"."""
    ...

  loss: Callable[..., Any]
  """(outputs, batch) -> what training minimizes: a number for each example [B], a `Mean`, or a dict of these by name.

  The objective is Σ coefficient · Σ total / Σ count over the terms, where the sums go over the global batch.
  """


class Classification(Settings):
  """One class of `num_classes` for each example: softmax cross-entropy.

  If the dataset has `weights` [B], all means are weighted by them. Examples with its `ignore_label` do not count.

  Attributes:
    label_smoothing: share of the target that is spread evenly over all classes in the training loss; None: none.
    class_weights: weight of the examples of each class in the training loss, beside their own; None: 1.
  """

  name: Static[Literal["classification"]] = "classification"
  label_smoothing: Traced[float | None] = Field(default=None, ge=0, lt=1)
  class_weights: Traced[tuple[Annotated[float, Field(ge=0)], ...] | None] = None

  def objective(self, dataset: AnyDataset) -> str:
    """Return the metric that "best" is about by default."""
    return "validation/error"

  def build(self, dataset: AnyDataset | None = None) -> Task:
    """Return the task itself."""
    return _Classification(None if self.class_weights is None else len(self.class_weights))


class LanguageModel(Settings):
  """The next token at each position of a text: softmax cross-entropy, averaged over the positions of an example.

  Any sequence of labels is learned so: it needs a model that returns logits [B, length of the labels, classes].

  If the dataset has `mask` [B, length], positions where it is 0 or false do not count, nor do those with its
  `ignore_label`; `weights` [B] or [B, length] weight them. Then all means are over the positions that count.

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
  """Real-valued targets [B] or [B, ..., num_targets]: mean squared error.

  If the dataset has `weights` [B], all means are weighted by them.
  """

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
      raise ValueError(f"task.kwargs do not fit {self.name}: {said(error)}") from error
    if problems := task_members.problems(self.name, task):
      raise ValueError("\n".join(problems))
    return cast(Task, task)


TaskConfig = Annotated[
  Annotated[Classification, Tag("classification")]
  | Annotated[LanguageModel, Tag("language_model")]
  | Annotated[Regression, Tag("regression")]
  | Annotated[PluginTask, Tag("module:Class")],
  Discriminator(kind_tag),
]


@dataclasses.dataclass(frozen=True)
class _Classification:
  class_weights: int | None = None

  def keys(self, info: Info) -> list[str]:
    return ["inputs", "labels", *_present(info, "weights"), *info.training_spec]

  def num_outputs(self, info: Info) -> int:
    if info.num_classes is None:
      raise ValueError(
        f"the classification task needs classes, but dataset {info.name!r} has"
        f" {'targets' if info.num_targets is not None else 'no labels'}; give integer 'labels', or set"
        " task.name=regression"
      )
    if info.label_shape:
      raise ValueError(
        f"the classification task needs one class for each example, but dataset {info.name!r} has labels of shape"
        f" {list(info.label_shape)} for each: {_what_takes_labels(info)}"
      )
    if self.class_weights not in (None, info.num_classes):
      raise ValueError(
        f"task.class_weights has {self.class_weights} numbers; dataset {info.name!r} has {info.num_classes} classes"
      )
    _check_weights(info, ())
    weighting = [
      name
      for name, is_there in (
        ("an ignore_label", info.ignore_label is not None),
        ("weights", "weights" in info.spec),
        ("task.class_weights", self.class_weights is not None),
      )
      if is_there
    ]
    if info.mixes_labels and weighting:
      raise ValueError(
        f"dataset.augmentation: mixup_alpha and cutmix_alpha mix examples, which count differently here"
        f" ({', '.join(weighting)}); set them to None"
      )
    return info.num_classes

  def loss(self, outputs: Array, batch: Batch, settings: Mapping[str, Array], info: Info) -> Array | Mean:
    labels, weights = _counted(batch, info)
    _check_fit(outputs, labels)
    hard = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    if "mixing" in batch:
      other = optax.softmax_cross_entropy_with_integer_labels(outputs, batch["mixed_labels"])
      hard = batch["mixing"] * hard + (1 - batch["mixing"]) * other
    if "class_weights" in settings:
      weights = settings["class_weights"][labels] * (1 if weights is None else weights)
    return _weighted(_smoothed(hard, outputs, settings), weights)

  def metrics(self, outputs: Array, batch: Batch, info: Info) -> dict[str, Array | Mean | Sum]:
    labels, weights = _counted(batch, info)
    correct = _correct(outputs, labels)
    classes = jax.nn.one_hot(labels, outputs.shape[-1], dtype=jnp.float32)
    if info.ignore_label is not None:
      classes *= (batch["labels"] != info.ignore_label)[:, None]
    if "mixing" in batch:
      other = _correct(outputs, batch["mixed_labels"])
      correct = batch["mixing"] * correct + (1 - batch["mixing"]) * other
    loss = optax.softmax_cross_entropy_with_integer_labels(outputs, labels)
    return {
      "loss": _weighted(loss, weights),
      "error": _weighted(1 - correct, weights),
      "accuracy": _weighted(correct, weights),
      "class_correct": Sum(classes * _correct(outputs, labels)[:, None]),
      "class_examples": Sum(classes),
    }


def _present(info: Info, *keys: str) -> list[str]:
  return [key for key in keys if key in info.spec]


def _check_weights(info: Info, *shapes: tuple[int, ...]) -> None:
  """Raise ValueError if the weights of a dataset have none of these shapes."""
  given = info.spec.get("weights", (shapes[0], ""))[0]
  if given not in shapes:
    wanted = " or ".join(str(["B", *shape]).replace("'", "") for shape in shapes)
    raise ValueError(f"weights of dataset {info.name!r} are {['B', *given]}, but must be {wanted}".replace("'B'", "B"))


def _counted(batch: Batch, info: Info) -> tuple[Array, Array | None]:
  """Return labels, those to be ignored replaced by 0, and how much each counts; None: all count alike."""
  labels, weights = batch["labels"], batch.get("weights")
  if weights is not None and weights.ndim < labels.ndim:
    weights = jnp.broadcast_to(weights.reshape(-1, *[1] * (labels.ndim - 1)), labels.shape)
  if "mask" in batch:
    counts = batch["mask"].astype(bool).astype(jnp.float32)
    weights = counts if weights is None else counts * weights
  if info.ignore_label is not None:
    counts = (labels != info.ignore_label).astype(jnp.float32)
    weights = counts if weights is None else counts * weights
    labels = jnp.where(counts > 0, labels, 0)
  return labels, weights


def _weighted(values: Array, weights: Array | None) -> Array | Mean:
  # What does not count must not be seen: it may be anything.
  return values if weights is None else Mean(jnp.where(weights > 0, values * weights, 0), weights)


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


def _check_fit(outputs: Array | TiledLogits, labels: Array) -> None:
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


def _correct(outputs: Array, labels: Array) -> Float[Array, "B ..."]:
  return (jnp.argmax(outputs, axis=-1) == labels).astype(jnp.float32)


def _bits(dataset: AnyDataset | None) -> str:
  """Return the name of a language model's loss over ln 2."""
  return f"bits_per_{getattr(dataset, 'token', 'token')}"


@dataclasses.dataclass(frozen=True)
class _LanguageModel:
  bits: str

  def keys(self, info: Info) -> list[str]:
    return ["inputs", "labels", *_present(info, "weights", "mask")]

  def num_outputs(self, info: Info) -> int:
    needs = "the language_model task needs a label at each position, as texts have"
    if info.num_classes is None:
      has = "targets" if info.num_targets is not None else "no labels"
      raise ValueError(f"{needs}; dataset {info.name!r} has {has}: set task.name=regression")
    if info.label_shape == ():
      raise ValueError(f"{needs}; dataset {info.name!r} has a class for each example: set task.name=classification")
    if not _is_sequence(info):
      raise ValueError(
        f"{needs}; dataset {info.name!r} has labels of shape {list(info.label_shape)} for each:"
        f" {_what_takes_labels(info)}"
      )
    _check_weights(info, (), info.label_shape)
    if info.spec.get("mask", (info.label_shape, ""))[0] != info.label_shape:
      raise ValueError(
        f"mask of dataset {info.name!r} has shape {list(info.spec['mask'][0])} for each example, labels have"
        f" {list(info.label_shape)}; give one number or boolean for each label"
      )
    return info.num_classes

  def loss(self, outputs: Array | TiledLogits, batch: Batch, settings: Mapping[str, Array], info: Info) -> Array | Mean:
    labels, weights = _counted(batch, info)
    _check_fit(outputs, labels)

    def cross_entropy(logits: Array, labels: Array) -> Array:
      return _smoothed(optax.softmax_cross_entropy_with_integer_labels(logits, labels), logits, settings)

    return _of_positions(at_positions(outputs, cross_entropy, labels), weights)

  def metrics(self, outputs: Array | TiledLogits, batch: Batch, info: Info) -> dict[str, Array | Mean]:
    labels, weights = _counted(batch, info)

    def loss_and_correct(logits: Array, labels: Array) -> tuple[Array, Array]:
      return optax.softmax_cross_entropy_with_integer_labels(logits, labels), _correct(logits, labels)

    loss_BxL, correct_BxL = at_positions(outputs, loss_and_correct, labels)
    bits_BxL = loss_BxL / np.log(2).astype(np.float32)
    values = {"loss": loss_BxL, self.bits: bits_BxL, "error": 1 - correct_BxL}
    return {name: _of_positions(value, weights) for name, value in values.items()}

  def split_metrics(self) -> dict[str, Any]:
    return {"perplexity": lambda means, rows: math.exp(min(means["loss"], 700.0))}


def _of_positions(values_BxL: Array, weights_BxL: Array | None) -> Array | Mean:
  return jnp.mean(values_BxL, axis=-1) if weights_BxL is None else _weighted(values_BxL, weights_BxL)


@dataclasses.dataclass(frozen=True)
class _Regression:
  def keys(self, info: Info) -> list[str]:
    return ["inputs", "targets", *_present(info, "weights")]

  def num_outputs(self, info: Info) -> int:
    if info.num_targets is None:
      raise ValueError(
        f"the regression task needs targets, but dataset {info.name!r} has"
        f" {'no labels either' if info.num_classes is None else 'labels'}; give numbers as 'targets', or else:"
        f" {_what_takes_labels(info) if info.label_shape else 'set task.name=classification'}"
      )
    _check_weights(info, ())
    return info.num_targets

  def loss(self, outputs: Array, batch: Batch) -> Array | Mean:
    errors = self._errors(outputs, batch)
    return _weighted(jnp.mean(jnp.square(errors), axis=tuple(range(1, errors.ndim))), batch.get("weights"))

  def metrics(self, outputs: Array, batch: Batch) -> dict[str, Array | Mean]:
    errors = self._errors(outputs, batch)
    axes, weights = tuple(range(1, errors.ndim)), batch.get("weights")
    return {
      "loss": _weighted(jnp.mean(jnp.square(errors), axis=axes), weights),
      "absolute_error": _weighted(jnp.mean(jnp.abs(errors), axis=axes), weights),
    }

  def _errors(self, outputs: Array, batch: Batch) -> Array:
    targets = batch["targets"][:, None] if batch["targets"].ndim == 1 else batch["targets"]
    if outputs.shape != targets.shape:
      raise UserError(
        f"the model's outputs are {list(outputs.shape)}, the targets {list(targets.shape)}: the model does not fit the"
        " task"
      )
    return outputs - targets
