"""What a model that ignores its inputs reaches on the validation set: the least that a baseline must beat (PB-07).

It is the most frequent class, the frequencies of classes or tokens, or the mean of the targets, of the training set;
measured on the validation examples that evaluations see.
"""

import dataclasses
import math
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from trialbook.trainer import Config, checks

MOST_EXAMPLES = 50_000
"""Most training examples whose labels are counted: frequencies are then known to 0.2 percentage points."""
BATCH = 1024
"""Examples that are read at once."""

Batches = Iterator[dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chance:
  """The value of a metric without a look at the inputs.

  Attributes:
    value: of the metric.
    standard_error: by the draw of validation examples.
    predictor: what answers so, in words.
    examples: of the validation set.
  """

  value: float
  standard_error: float
  predictor: str
  examples: int


def chance_of(config: Config, metric: str, folder: pathlib.Path) -> Chance | None:
  """Return the chance level of a metric; None if it is not known for this task, metric or split.

  Args:
    config: of a run.
    metric: as it is logged, such as "validation/error".
    folder: that holds no run.

  Raises:
    ConfigError: if no run can have this config.
  """
  prepared = checks.prepare(config, folder / "no_run")
  with prepared.dataset as dataset:
    info = dataset.info
    split, _, name = metric.rpartition("/")
    predict = _PREDICTORS.get(config.task.name)
    if predict is None or split not in info.splits("validation"):
      return None
    key = "targets" if config.task.name == "regression" else "labels"
    dataset.keep([key, *(other for other in ("weights", "mask") if other in info.spec)])

    def batches(of: str, count: int | None) -> Batches:
      for index in range(dataset.num_eval_batches(of, BATCH, count)):
        batch = dataset.eval_batch(index, of, BATCH, count)
        yield {path: array[batch["is_example"]] for path, array in batch.items()}

    found = predict(
      name,
      _answers(batches("train", MOST_EXAMPLES), key, info.ignore_label),
      _answers(batches(split, config.evaluation.validation_examples), key, info.ignore_label),
      info.num_classes or 0,
    )
  if found is None:
    return None
  totals, counts, predictor, turn = found
  mean = float(totals.sum() / counts.sum())
  error = math.sqrt(float(np.sum((totals - mean * counts) ** 2))) / float(counts.sum())
  # A function of the mean has the error times its slope.
  slope = abs(turn(mean + 1e-6) - turn(mean - 1e-6)) / 2e-6
  return Chance(value=turn(mean), standard_error=slope * error, predictor=predictor, examples=len(counts))


@dataclasses.dataclass(frozen=True)
class _Answers:
  """Labels or targets [N, ...] of a split, and how much each counts: [N], or [N, length] for a label each position."""

  values: np.ndarray
  weights: np.ndarray


_Found = tuple[np.ndarray, np.ndarray, str, Callable[[float], float]] | None
"""Totals [N] and counts [N] of a mean, by example, who answers so, and what the metric makes of the mean."""


def _answers(batches: Batches, key: str, ignored: int | None) -> _Answers:
  """Return what is to be predicted, weighted as the tasks do it."""
  values, weights = [], []
  for batch in batches:
    answers = batch[key]
    counts = np.ones(answers.shape[:1] if key == "targets" else answers.shape)
    if "weights" in batch:
      given = batch["weights"].astype(float)
      counts = counts * given.reshape(*given.shape, *[1] * (counts.ndim - given.ndim))
    if "mask" in batch and counts.ndim == batch["mask"].ndim:
      counts = counts * (batch["mask"] != 0)
    if ignored is not None and key == "labels":
      counts = counts * (answers != ignored)
      answers = np.where(answers == ignored, 0, answers)
    values.append(answers)
    weights.append(counts)
  return _Answers(np.concatenate(values), np.concatenate(weights))


def _by_example(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """Return totals and counts [N] of values [N, ...]."""
  counted = np.where(weights > 0, values * weights, 0.0)
  return counted.reshape(len(values), -1).sum(1), weights.reshape(len(values), -1).sum(1)


def _same(mean: float) -> float:
  return mean


def _frequencies(train: _Answers, classes: int) -> np.ndarray:
  """Return the frequency of each class; one that does not occur counts as half an example, so that its loss is
  finite."""
  counts = np.bincount(train.values.ravel(), train.weights.ravel(), minlength=classes)
  counts = np.where(counts > 0, counts, 0.5)
  return counts / counts.sum()


def _classes(name: str, train: _Answers, validation: _Answers, classes: int) -> _Found:
  frequencies = _frequencies(train, classes)
  if name in ("error", "accuracy"):
    most = int(np.argmax(frequencies))
    wrong = (validation.values != most).astype(float)
    answers = wrong if name == "error" else 1 - wrong
    return *_by_example(answers, validation.weights), f"always answering with the most frequent class, {most}", _same
  if name == "loss":
    losses = -np.log(frequencies)[validation.values]
    return *_by_example(losses, validation.weights), "the frequencies of the classes", _same
  return None


def _tokens(name: str, train: _Answers, validation: _Answers, classes: int) -> _Found:
  frequencies = _frequencies(train, classes)
  if name == "error":
    most = int(np.argmax(frequencies))
    wrong = (validation.values != most).astype(float)
    return *_by_example(wrong, validation.weights), f"always answering with the most frequent token, {most}", _same
  losses = -np.log(frequencies)[validation.values]
  turn: Callable[[float], float]
  if name == "perplexity":
    turn = math.exp
  elif name.startswith("bits_per_"):
    turn = lambda loss: loss / math.log(2)  # noqa: E731
  elif name == "loss":
    turn = _same
  else:
    return None
  return *_by_example(losses, validation.weights), "the frequencies of the tokens (unigram entropy)", turn


def _targets(name: str, train: _Answers, validation: _Answers, classes: int) -> _Found:
  del classes

  def flat(one: _Answers) -> np.ndarray:
    return one.values.reshape(len(one.values), -1).astype(float)

  if name == "loss":
    mean = np.average(flat(train), axis=0, weights=train.weights)
    errors = ((flat(validation) - mean) ** 2).mean(1)
    return *_by_example(errors, validation.weights), "the mean of the training targets", _same
  if name == "absolute_error":
    errors = np.abs(flat(validation) - np.median(flat(train)[train.weights > 0], axis=0)).mean(1)
    return *_by_example(errors, validation.weights), "the median of the training targets", _same
  return None


_PREDICTORS: dict[str, Callable[[str, _Answers, _Answers, int], _Found]] = {
  "classification": _classes,
  "language_model": _tokens,
  "regression": _targets,
}
