"""Conversion of the splits that a user wrote into a dataset, with everything checked that can be.

What is accepted of a split: a dict of arrays; an object with `__len__` and `__getitem__(i)`, or
`__getitems__(list of i)`, giving a dict for each example; or a `source.Split`, giving a batch. The keys are "inputs"
and either "labels" or "targets"; any other key is refused, since batches would not carry it.

Arrays in memory are checked whole, at the start. Other splits are checked in each batch, where it is read.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from trialbook.errors import DataError
from trialbook.input_pipeline.conversion import (
  NUMBER_THEM,
  as_array,
  converted,
  is_rounded,
  label_problem,
  rounding_warnings,
  stacked,
)
from trialbook.input_pipeline.source import SPLITS, Arrays, Batch, Info, Normalization, Source, Split, byte_statistics
from trialbook.input_pipeline.split import evenly
from trialbook.naming import nearest

_SAMPLE_FOR_STATISTICS = 2000
_SAMPLE_FOR_ROUNDING = 16


@dataclasses.dataclass(frozen=True)
class Items:
  """Examples of an object with `__len__` and `__getitem__` or `__getitems__` as a split."""

  items: Any

  def __len__(self) -> int:
    return len(self.items)

  def read(self, indices: np.ndarray) -> Batch:
    """Return the examples at these indices, stacked."""
    wanted = indices.tolist()
    many = getattr(self.items, "__getitems__", None)
    return stacked(many(wanted) if many else [self.items[index] for index in wanted])


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
    """Return the examples at these indices. Raise DataError that names the first one that is wrong."""
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
        first = f"{dtype}{list(shape)}"
        raise DataError(
          f"{key} are {got}; those of the first train example are {first}; bring all to one shape and dtype"
        )
    if problem := label_problem(batch, self.num_classes):
      raise DataError(problem)
    return batch


def _number_of_classes(given: Any, splits: Mapping[str, Split]) -> tuple[int | None, list[str]]:
  """Return the number of classes that is given, or else follows from the labels in memory; and what is wrong with
  it."""
  if given is not None:
    whole = isinstance(given, int | np.integer) and not isinstance(given, bool) and given >= 1
    return (int(given), []) if whole else (None, [f"num_classes is {given!r}; it must be an integer of at least 1"])
  labels = [split.arrays["labels"] for split in splits.values() if isinstance(split, Arrays)]
  if len(labels) < len(splits):
    how = "trialbook.input_pipeline.Data(splits=..., num_classes=...) or dataset.num_classes"
    return None, [f"num_classes is required, because not all labels are in memory; give {how}"]
  classes, count = 1 + max(int(array.max()) for array in labels), sum(array.size for array in labels)
  if classes > count:
    problem = (
      f"the largest label is {classes - 1}, so there would be {classes:,} classes, but there are only {count:,} labels;"
      f" {NUMBER_THEM}. If there really are {classes:,} classes, give"
      f" trialbook.input_pipeline.Data(splits=..., num_classes={classes})"
    )
    return None, [problem]
  return max(classes, 1), []


def _class_warnings(train: Split, num_classes: int) -> list[str]:
  """Return which classes seem to be a mistake, if there is one label for each example."""
  if not isinstance(train, Arrays):
    few = f"num_classes = {num_classes:,}, but train has {len(train):,} examples. Check num_classes."
    return [few] if num_classes > len(train) else []
  labels = train.arrays["labels"]
  missing = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
  if missing.size and missing[0] == 0 and labels.min() == 1:
    return ["train: labels start at 1, so class 0 never occurs; give labels - 1"]
  if missing.size:
    return [f"train: {missing.size} of {num_classes} classes (first: {missing[0]}) have no training example"]
  return []


def checked(
  where: str,
  name: str,
  splits: Any,
  *,
  num_classes: int | None = None,
  normalization: Any = None,
  notice: str = "",
) -> Source:
  """Return a source of these splits.

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
    raise DataError(f"{where}: got a {type(splits).__name__}; it must be a dict of splits: {', '.join(SPLITS)}")
  problems = [f"split {split!r} is missing" for split in ("train", "validation") if split not in splits]
  problems += [f"unknown split {split!r}{nearest(str(split), SPLITS)}" for split in splits if split not in SPLITS]
  opened = {split: _opened(splits[split]) for split in SPLITS if split in splits}
  problems += [f"{split}: {problem}" for split, one in opened.items() for problem in one.problems]
  opened = {split: one for split, one in opened.items() if not one.problems}
  problems += _differences({split: one.first for split, one in opened.items()})
  if labelled := {split: one.split for split, one in opened.items() if "labels" in one.first}:
    num_classes, wrong = _number_of_classes(num_classes, labelled)
    problems += wrong
  else:
    num_classes = None
  for split, one in opened.items():
    if isinstance(one.split, Arrays) and (problem := label_problem(dict(one.split.arrays), num_classes)):
      problems.append(f"{split}: {problem}")
  train = opened.get("train")
  if train is not None and normalization is not None:
    try:
      normalization = _normalization(normalization, train.first["inputs"].shape[-1])
    except DataError as error:
      problems.append(str(error))
  if problems or train is None:
    raise DataError("\n".join(f"{where}: {problem}" for problem in problems))
  spec = {key: (array.shape[1:], array.dtype) for key, array in train.first.items()}
  final = {
    split: one.split if isinstance(one.split, Arrays) else Checked(f"{where}, {split}", one.split, spec, num_classes)
    for split, one in opened.items()
  }
  (input_shape, input_dtype), label_shape = spec["inputs"], spec.get("labels", ((), None))[0]
  warnings = rounding_warnings(_sample(train))
  # In texts, not every symbol occurs.
  if num_classes is not None and label_shape == ():
    warnings += _class_warnings(final["train"], num_classes)
  info = Info(
    name=name,
    input_shape=input_shape,
    input_dtype=str(input_dtype),
    num_classes=num_classes,
    num_targets=spec["targets"][0][0] if "targets" in spec else None,
    examples={split: len(examples) for split, examples in final.items()},
    normalization=normalization or _statistics(final["train"], train.first["inputs"]),
    notice=notice,
    label_shape=label_shape,
  )
  return Source(info=info, splits=final, warnings=tuple(f"{where}: {warning}" for warning in warnings))


class _Opened(NamedTuple):
  """A split as something to read from, its arrays as they were given, its first example as a batch of one."""

  split: Arrays | Split
  given: Mapping[str, np.ndarray]
  first: Batch
  problems: list[str]


def _opened(split: Any) -> _Opened:
  nothing = Arrays({})
  if isinstance(split, Mapping):
    try:
      given = {key: as_array(key, value) for key, value in split.items()}
    except DataError as error:
      return _Opened(nothing, {}, {}, [str(error)])
    arrays, problems = converted(given)
    lengths = {key: len(array) for key, array in arrays.items()}
    if not problems and len(set(lengths.values())) > 1:
      problems.append(f"has {' and '.join(f'{count} {key}' for key, count in lengths.items())}")
    if not problems and not lengths["inputs"]:
      problems.append("is empty")
    return _Opened(Arrays(arrays), given, {key: array[:1] for key, array in arrays.items()}, problems)
  if not hasattr(split, "__len__") or not any(hasattr(split, way) for way in ("read", "__getitems__", "__getitem__")):
    ways = "a dict of arrays, or have __len__ and __getitem__, or __len__ and read"
    return _Opened(nothing, {}, {}, [f"is a {type(split).__name__}; it must be {ways}"])
  opened = split if hasattr(split, "read") else Items(split)
  if not len(opened):
    return _Opened(opened, {}, {}, ["is empty"])
  try:
    given = {key: as_array(key, value) for key, value in opened.read(np.zeros(1, np.int64)).items()}
    first, problems = converted(given)
  except Exception as error:
    told = str(error) if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
    return _Opened(opened, {}, {}, [f"example 0: {told}"])
  return _Opened(opened, given, first, [f"example 0: {problem}" for problem in problems])


def _sample(train: _Opened) -> Mapping[str, np.ndarray]:
  """Return examples as they were given. Those that are read one by one are read only if conversion to float32 may
  round."""
  if isinstance(train.split, Arrays) or not any(is_rounded(key, array) for key, array in train.given.items()):
    return train.given
  try:
    sample = train.split.read(evenly(len(train.split), min(len(train.split), _SAMPLE_FOR_ROUNDING)))
    return {key: as_array(key, value) for key, value in sample.items()}
  except Exception:
    return {}  # The batch that has such an example will name it.


def _differences(firsts: Mapping[str, Batch]) -> list[str]:
  if "train" not in firsts:
    return []
  found = []
  for split, batch in firsts.items():
    for key, array in firsts["train"].items():
      if key not in batch:
        found.append(f"{split} has no {key!r}, but train has")
      elif (batch[key].shape[1:], batch[key].dtype) != (array.shape[1:], array.dtype):
        here, there = (f"{one.dtype}{list(one.shape[1:])}" for one in (batch[key], array))
        found.append(f"{key} of {split} are {here}, those of train {there}; bring all to one shape and dtype")
  return found


def _statistics(train: Split, first: np.ndarray) -> Normalization | None:
  if first.dtype != np.uint8:
    return None
  if isinstance(train, Arrays):
    return byte_statistics(train.arrays["inputs"])
  count = min(len(train), _SAMPLE_FOR_STATISTICS)
  return byte_statistics(train.read(np.arange(count) * len(train) // count)["inputs"])


def _normalization(given: Any, channels: int) -> Normalization:
  try:
    mean, deviation = (np.atleast_1d(np.asarray(part, np.float64)) for part in given)
  except (TypeError, ValueError):
    mean = deviation = np.zeros((0, 0))
  if any(part.shape not in ((1,), (channels,)) or not np.isfinite(part).all() for part in (mean, deviation)):
    raise DataError(f"normalization must be (means, deviations), each of {channels} numbers, one per channel")
  if not (deviation > 0).all():
    raise DataError("normalization has a deviation that is not positive; give 1 for a constant channel")
  return tuple(map(float, mean)), tuple(map(float, deviation))
