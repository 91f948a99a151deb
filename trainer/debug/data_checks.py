"""Checks of the data: the model's inputs, its labels or targets, and how the two belong together."""

import numpy as np

from trialbook.input_pipeline.source import Batch
from trialbook.models import MlpConfig
from trialbook.trainer.debug.session import Session, Verdict, count
from trialbook.trainer.tasks import LanguageModel

LARGEST_MEAN, SMALLEST_DEVIATION, LARGEST_DEVIATION = 10.0, 0.03, 30.0
"""Limits for the inputs of a network: initializers suppose mean 0 and deviation 1; raw bytes have 50 to 100."""
SHARED = 0.05
"""Share of validation examples in the training set that is too much for an accident."""
REPEATING = 16
"""Inputs of fewer numbers repeat by themselves."""
BALANCED = 100
"""Examples per class, on average, among which every class should occur unless it is rare."""
NEXT = 0.99
"""Share of labels that must be the next input, so that a model of the next symbol is learned."""
FILL_IN = "fill in or leave out missing values before the examples are given to the dataset"


def inputs_are_scaled(session: Session) -> Verdict:
  """Check that inputs are finite, differ, and are of the size that initializers suppose.

  The size is not checked of several arrays, which may be masks or times, nor of what the task prepares.
  """
  arrays = {path: session.train[path] for path in session.input_paths}
  if all((array[1:] == array[:1]).all() for array in arrays.values()):
    seen = f"all {count(session.train)} are identical"
    return Verdict(passed=False, seen=seen, remedy="check how the dataset reads inputs")
  if list(arrays) != ["inputs"] or session.task.draws:
    bad = [path for path, array in arrays.items() if not np.isfinite(array).all()]
    return Verdict(
      passed=not bad,
      seen=f"not finite: {', '.join(bad)}" if bad else f"finite numbers in {', '.join(arrays)}",
      remedy=FILL_IN,
    )
  inputs = arrays["inputs"]
  if inputs.dtype == np.int32:
    low, high, classes = int(inputs.min()), int(inputs.max()), session.info.num_classes
    symbols = classes if isinstance(session.config.task, LanguageModel) else None
    return Verdict(
      passed=symbols is None or (low >= 0 and high < symbols),
      seen=f"symbols from {low} to {high}" + ("" if symbols is None else f" of {symbols}"),
      remedy="number the symbols from 0: the model has an embedding only for each class",
    )
  numbers = inputs.astype(np.float32)
  if normalization := session.info.normalizations.get("inputs"):
    mean, deviation = (np.asarray(x, np.float32) for x in normalization)
    numbers = (numbers - mean) / deviation
  numbers = numbers.reshape(-1, numbers.shape[-1])
  if not np.isfinite(numbers).all():
    return Verdict(passed=False, seen=f"{(~np.isfinite(numbers)).sum()} numbers are not finite", remedy=FILL_IN)
  model = session.config.model
  # Columns of codes are embedded, whatever their size.
  codes = [column.column for column in model.embeddings] if isinstance(model, MlpConfig) else []
  numbers = np.delete(numbers, codes, axis=1) if numbers.shape[1] > len(codes) else np.zeros((2, 0), np.float32)
  if not numbers.size:
    return Verdict(passed=True, seen="all columns are codes of categories")
  means, deviations = np.abs(numbers.mean(axis=0)), numbers.std(axis=0)
  return Verdict(
    passed=means.max() <= LARGEST_MEAN and SMALLEST_DEVIATION <= deviations.max() <= LARGEST_DEVIATION,
    seen=f"as the model receives them: standard deviations {deviations.min():.2g} to {deviations.max():.2g},"
    f" largest mean {means.max():.2g}",
    remedy="give the dataset a normalization: the mean and standard deviation of each channel (last axis)",
  )


def labels_are_plausible(session: Session) -> Verdict | None:
  """Check that labels or targets vary, every class is there, and targets are of the size that outputs begin with."""
  if session.answer is None:
    return None
  if session.answer == "targets":
    targets = session.train["targets"]
    targets = targets.reshape(-1, targets.shape[-1] if targets.ndim > 1 else 1)
    if not np.isfinite(targets).all():
      return Verdict(passed=False, seen="some targets are not finite", remedy="check how missing targets are read")
    means, deviations = np.abs(targets.mean(axis=0)), targets.std(axis=0)
    return Verdict(
      passed=means.max() <= LARGEST_MEAN
      and deviations.min() >= SMALLEST_DEVIATION
      and deviations.max() <= LARGEST_DEVIATION,
      seen=f"standard deviations {deviations.min():.2g} to {deviations.max():.2g}, largest mean {means.max():.2g}",
      remedy="standardize the targets: outputs start near 0 ± 1, and a step moves them by about the learning rate",
    )
  labels, classes = session.train["labels"], session.info.num_classes or 1
  counts = np.bincount(labels[labels != session.info.ignore_label], minlength=classes)
  present, missing = int((counts > 0).sum()), np.flatnonzero(counts == 0)
  whole = len(labels) == session.info.examples["train"] or len(labels) >= BALANCED * classes
  # Of the symbols of a text, many are never used.
  gaps = len(missing) > 0 and whole and not session.info.label_shape
  among = f"{len(labels):,} training examples"
  share = counts.max() / max(counts.sum(), 1)
  seen = f"{present} of {classes} classes among {among}, the most common has {share:.0%} of them"
  if gaps:
    seen += f"; no example of class {', '.join(map(str, missing[:5]))}"
  return Verdict(
    passed=present > 1 and not gaps,
    seen=seen,
    remedy="check that labels start at 0, and how they are read",
  )


def splits_are_apart(session: Session) -> Verdict | None:
  """Check that validation examples are not also training examples."""
  if sum(session.train[path][0].size for path in session.input_paths) < REPEATING:
    return None

  def rows(batch: Batch) -> list[bytes]:
    columns = [[row.tobytes() for row in batch[path]] for path in session.input_paths]
    return [b"".join(parts) for parts in zip(*columns, strict=True)]

  known = set(rows(session.train))
  shared = float(np.mean([row in known for row in rows(session.validation)]))
  return Verdict(
    passed=shared <= SHARED,
    seen=f"{shared:.1%} of {count(session.validation):,} validation inputs are among"
    f" {count(session.train):,} training inputs",
    remedy="check how the splits are made: memorized examples would count as generalization",
  )


def labels_are_next(session: Session) -> Verdict | None:
  """Check that a language model's label at each position is the next input, and not the input itself."""
  if not isinstance(session.config.task, LanguageModel):
    return None
  inputs, labels = session.train.get("inputs"), session.train["labels"]
  if inputs is None or inputs.shape != labels.shape or inputs.shape[1] < 2:
    return None
  counts = (labels != session.info.ignore_label) & (session.train.get("mask", np.ones_like(labels)) != 0)
  if not counts[:, :-1].any():
    return None
  same = float(np.mean((labels == inputs)[counts]))
  following = float(np.mean((labels[:, :-1] == inputs[:, 1:])[counts[:, :-1]]))
  return Verdict(
    passed=following >= NEXT,
    seen=f"labels are the next input at {following:.0%} of positions, the input itself at {same:.0%}",
    remedy="shift the labels by one position: nothing is learned if the label is the input itself"
    if same >= NEXT
    else "make the labels the inputs shifted by one position, from the same row",
  )
