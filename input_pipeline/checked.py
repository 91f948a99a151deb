"""Turning the splits that somebody else wrote into a dataset, with everything checked that can be.

What is accepted of a split: a dict of arrays; an object with `__len__` and `__getitem__(i)`, or
`__getitems__(list of i)`, giving a dict for each example; or a `source.Split`, giving a batch. Of the keys, only
"inputs" and "labels" or "targets" are used.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from input_pipeline.errors import DataError
from input_pipeline.source import SPLITS, Arrays, Batch, Info, Normalization, Source, Split, byte_statistics
from trialbook.naming import nearest

_SAMPLE_FOR_STATISTICS = 2000


@dataclasses.dataclass(frozen=True)
class Items:
  """Examples of an object with `__len__` and `__getitem__` or `__getitems__` as a split."""

  items: Any

  def __len__(self) -> int:
    return len(self.items)

  def read(self, indices: np.ndarray) -> Batch:
    """The examples at these indices, stacked."""
    wanted = indices.tolist()
    many = getattr(self.items, "__getitems__", None)
    examples = many(wanted) if many else [self.items[index] for index in wanted]
    for example in examples:
      if not isinstance(example, Mapping):
        raise DataError(f"an example is a {type(example).__name__}; it must be a dict of arrays")
    keys = [key for key in ("inputs", "labels", "targets") if key in examples[0]]
    return {key: np.stack([np.asarray(example[key]) for example in examples]) for key in keys}


@dataclasses.dataclass(frozen=True)
class Checked:
  """A split whose batches are converted to what they should be, or an error says what they are.

  Attributes:
    where: the split, for messages.
    split: what is read.
    spec: shape of an example and dtype, by key.
    num_classes: labels are below it; None: there are none.
  """

  where: str
  split: Split
  spec: Mapping[str, tuple[tuple[int, ...], np.dtype]]
  num_classes: int | None

  def __len__(self) -> int:
    return len(self.split)

  def read(self, indices: np.ndarray) -> Batch:
    """The examples at these indices. Raises DataError that names the first one that is wrong."""
    if not len(indices):
      return {key: np.zeros((0, *shape), dtype) for key, (shape, dtype) in self.spec.items()}
    try:
      return self._read(indices)
    except Exception as error:
      index, cause = self._first_wrong(indices, error)
      told = str(cause) if isinstance(cause, DataError) else f"{type(cause).__name__}: {cause}"
      raise DataError(f"{self.where}, example {index}: {told}") from cause

  def _first_wrong(self, indices: np.ndarray, error: Exception) -> tuple[int, Exception]:
    for index in indices:
      try:
        self._read(np.array([index]))
      except Exception as own:
        return int(index), own
    # Each is right alone, so they are wrong together.
    return int(indices[0]), error

  def _read(self, indices: np.ndarray) -> Batch:
    batch, problems = converted(self.split.read(indices))
    if problems:
      raise DataError("; ".join(problems))
    for key, (shape, dtype) in self.spec.items():
      if key not in batch:
        raise DataError(f"has no {key!r}; the first example has {', '.join(self.spec)}")
      if batch[key].shape != (len(indices), *shape) or batch[key].dtype != dtype:
        got = f"{batch[key].dtype}{list(batch[key].shape[1:])}"
        raise DataError(f"{key} are {got}; those of the first train example are {dtype}{list(shape)}")
    if problem := label_problem(batch, self.num_classes):
      raise DataError(problem)
    return batch


def converted(arrays: Mapping[str, Any]) -> tuple[Batch, list[str]]:
  """Arrays [n, ...] as batches have them (uint8 or float32 or int32 inputs, int32 labels, float32 targets [n, k]),
  and what is wrong with them; other keys are dropped."""
  found: Batch = {}
  problems = []
  if "inputs" not in arrays or ("labels" in arrays) == ("targets" in arrays):
    has = ", ".join(map(repr, arrays)) or "nothing"
    return {}, [f"must have 'inputs' and either 'labels' or 'targets'; it has {has}"]
  inputs = np.asarray(arrays["inputs"])
  if inputs.ndim < 2:
    problems.append(f"inputs have shape {inputs.shape}; they need an axis of examples and at least one of features")
  if inputs.dtype == np.uint8:
    found["inputs"] = inputs
  elif inputs.dtype.kind in "iu" and _fits_int32(inputs):
    found["inputs"] = inputs.astype(np.int32, copy=False)
  elif inputs.dtype.kind == "f":
    found["inputs"] = inputs.astype(np.float32, copy=False)
  else:
    problems.append(f"inputs are {inputs.dtype}; they must be numbers (uint8, integers of 32 bits or floats)")
  if "labels" in arrays:
    labels = np.asarray(arrays["labels"])
    if labels.dtype.kind in "iu" and labels.ndim >= 1 and _fits_int32(labels):
      found["labels"] = labels.astype(np.int32, copy=False)
    else:
      problems.append(
        f"labels are {labels.dtype}; they must be integers of 32 bits (real numbers to predict are 'targets')"
      )
  else:
    targets = np.asarray(arrays["targets"])
    if targets.dtype.kind in "iuf" and targets.ndim in (1, 2):
      found["targets"] = targets.reshape(len(targets), -1).astype(np.float32, copy=False)
    else:
      problems.append(f"targets are {targets.dtype}{list(targets.shape)}; they must be numbers [examples, targets]")
  return found, problems


def _fits_int32(array: np.ndarray) -> bool:
  limits = np.iinfo(np.int32)
  return array.dtype.itemsize <= 2 or array.size == 0 or (array.min() >= limits.min and array.max() <= limits.max)


def label_problem(batch: Batch, num_classes: int | None) -> str | None:
  """What is wrong with the labels of a batch, if anything is."""
  labels = batch.get("labels")
  if labels is None or num_classes is None or not labels.size or (labels.min() >= 0 and labels.max() < num_classes):
    return None
  wrong = labels[(labels < 0) | (labels >= num_classes)]
  return f"labels must be 0 to {num_classes - 1} for {num_classes} classes; {wrong.size} are not, such as {wrong[0]}"


def checked(
  where: str,
  name: str,
  splits: Any,
  *,
  num_classes: int | None = None,
  normalization: Any = None,
  notice: str = "",
) -> Source:
  """A source of these splits.

  Args:
    where: what messages begin with.
    name: of the dataset.
    splits: split name -> what the module's docstring lists.
    num_classes: 1 + the highest label of splits in memory, if not given; needed for other splits with labels.
    normalization: (mean, standard deviation) by channel; if not given, bytes get those of train (of 2,000 evenly
      spaced examples, if it is not in memory), other inputs none.
    notice: as `Info.notice`.

  Raises:
    DataError: with every problem.
  """
  if not isinstance(splits, Mapping):
    raise DataError(f"{where}: gave a {type(splits).__name__}; it must be a dict of splits: {', '.join(SPLITS)}")
  problems = [f"there is no split {split!r}" for split in ("train", "validation") if split not in splits]
  problems += [f"unknown split {split!r}{nearest(str(split), SPLITS)}" for split in splits if split not in SPLITS]
  read: dict[str, Arrays | Split] = {}
  firsts: dict[str, Batch] = {}
  for split in (split for split in SPLITS if split in splits):
    found, first, wrong = _opened(splits[split])
    problems += [f"{split}: {problem}" for problem in wrong]
    if not wrong and found is not None:
      read[split], firsts[split] = found, first
  problems += _differences(firsts)
  if problems or not firsts:
    raise DataError("\n".join(f"{where}: {problem}" for problem in problems))
  train = firsts["train"]
  if "labels" in train and num_classes is None:
    if not all(isinstance(split, Arrays) for split in read.values()):
      raise DataError(f"{where}: num_classes must be given, since not all labels are in memory")
    num_classes = 1 + max(int(split.arrays["labels"].max()) for split in read.values() if isinstance(split, Arrays))
  num_classes = num_classes if "labels" in train else None
  spec = {key: (array.shape[1:], array.dtype) for key, array in train.items()}
  final: dict[str, Split] = {}
  for split, examples in read.items():
    if not isinstance(examples, Arrays):
      final[split] = Checked(f"{where}, {split}", examples, spec, num_classes)
    elif problem := label_problem(dict(examples.arrays), num_classes):
      problems.append(f"{where}: {split}: {problem}")
    else:
      final[split] = examples
  if problems:
    raise DataError("\n".join(problems))
  info = Info(
    name=name,
    input_shape=train["inputs"].shape[1:],
    input_dtype=str(train["inputs"].dtype),
    num_classes=num_classes,
    num_targets=train["targets"].shape[1] if "targets" in train else None,
    examples={split: len(examples) for split, examples in final.items()},
    normalization=_normalization(where, normalization, final["train"], train["inputs"]),
    notice=notice,
    label_shape=train["labels"].shape[1:] if "labels" in train else (),
  )
  return Source(info=info, splits=final)


def _opened(split: Any) -> tuple[Arrays | Split | None, Batch, list[str]]:
  """The split as something to read from, its first example as a batch of one, and what is wrong with it."""
  if isinstance(split, Mapping):
    arrays, problems = converted(split)
    lengths = {key: len(array) for key, array in arrays.items()}
    if not problems and len(set(lengths.values())) > 1:
      problems.append(f"has {' and '.join(f'{count} {key}' for key, count in lengths.items())}")
    if not problems and not lengths["inputs"]:
      problems.append("is empty")
    for key, array in arrays.items():
      if array.dtype.kind == "f" and not np.isfinite(array).all():
        place = np.argwhere(~np.isfinite(array))[0]
        problems.append(f"{key} are not all finite, first in example {place[0]}")
    return Arrays(arrays), {key: array[:1] for key, array in arrays.items()}, problems
  if not hasattr(split, "__len__") or not any(hasattr(split, way) for way in ("read", "__getitems__", "__getitem__")):
    ways = "a dict of arrays, or have __len__ and __getitem__, or __len__ and read"
    return None, {}, [f"is a {type(split).__name__}; it must be {ways}"]
  opened = split if hasattr(split, "read") else Items(split)
  if not len(opened):
    return None, {}, ["is empty"]
  try:
    first, problems = converted(opened.read(np.zeros(1, np.int64)))
  except Exception as error:
    told = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
    return None, {}, [f"example 0: {told}"]
  return opened, first, [f"example 0: {problem}" for problem in problems]


def _differences(firsts: Mapping[str, Batch]) -> list[str]:
  if "train" not in firsts:
    return []
  found = []
  for split, batch in firsts.items():
    for key, array in firsts["train"].items():
      if key not in batch:
        found.append(f"{split} has no {key!r}, and train has")
      elif (batch[key].shape[1:], batch[key].dtype) != (array.shape[1:], array.dtype):
        here, there = (f"{one.dtype}{list(one.shape[1:])}" for one in (batch[key], array))
        found.append(f"{key} of {split} are {here}, those of train {there}")
  return found


def _normalization(where: str, given: Any, train: Split, first: np.ndarray) -> Normalization | None:
  if given is None:
    if first.dtype != np.uint8:
      return None
    if isinstance(train, Arrays):
      return byte_statistics(train.arrays["inputs"])
    count = min(len(train), _SAMPLE_FOR_STATISTICS)
    return byte_statistics(train.read(np.arange(count) * len(train) // count)["inputs"])
  channels = first.shape[-1]
  try:
    mean, deviation = (np.atleast_1d(np.asarray(part, np.float64)) for part in given)
  except (TypeError, ValueError):
    mean = deviation = np.zeros((0, 0))
  if any(part.shape not in ((1,), (channels,)) or not np.isfinite(part).all() for part in (mean, deviation)):
    raise DataError(f"{where}: normalization must be (means, deviations), each of {channels} numbers, one per channel")
  if not (deviation > 0).all():
    raise DataError(f"{where}: normalization has a deviation that is not above 0")
  return tuple(map(float, mean)), tuple(map(float, deviation))
