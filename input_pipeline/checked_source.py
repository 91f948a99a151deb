"""Conversion of the splits that a user wrote into a dataset, with everything checked that can be.

What is accepted of a split: a dict of arrays, or a tuple of them; an object with `__len__` and `__getitem__(i)`, or
`__getitems__(list of i)`, giving a dict or a tuple for each example; or a `source.Split`, giving a batch. Dicts may be
nested, and have any keys; a task says which of them it needs.

Arrays in memory are checked whole, at the start. Other splits are checked in each batch, where it is read.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trialbook.errors import DataError, said
from trialbook.input_pipeline.conversion import (
  NUMBER_THEM,
  as_ignore_label,
  by_path,
  converted,
  has_meaning,
  is_rounded,
  label_problem,
  rounding_warnings,
)
from trialbook.input_pipeline.items import Items, Keys, Pad, named, padded
from trialbook.input_pipeline.source import (
  SPLITS,
  Arrays,
  Batch,
  Info,
  Normalization,
  Source,
  Split,
  byte_statistics,
  paths_below,
)
from trialbook.input_pipeline.split import evenly
from trialbook.naming import nearest

_SAMPLE_FOR_STATISTICS = 2000
_SAMPLE_FOR_ROUNDING = 16


@dataclasses.dataclass(frozen=True)
class Checked:
  """A split whose batches are converted to what they should be, or an error says what they are.

  Attributes:
    where: the split, for messages.
    split: what is read.
    spec: shape of an example and dtype, by key.
    num_classes: labels are below it; None: there are none.
    ignore_label: a label that need not be below it.
  """

  where: str
  split: Split
  spec: Mapping[str, tuple[tuple[int, ...], np.dtype]]
  num_classes: int | None
  ignore_label: int | None = None

  def __len__(self) -> int:
    return len(self.split)

  def only(self, paths: Iterable[str]) -> "Checked":
    """Return the split with these arrays alone; the others are neither gathered nor converted."""
    spec = {path: self.spec[path] for path in paths}
    return dataclasses.replace(self, split=_only(self.split, spec), spec=spec)

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

  def read_leniently(self, indices: np.ndarray) -> Batch:
    """Return the same, but without an array that cannot be read, if it is none that tasks of ours read."""
    try:
      return self.read(indices)
    except DataError:
      return self.only(path for path in self.spec if has_meaning(path) or self._is_right(path, indices)).read(indices)

  def _is_right(self, path: str, indices: np.ndarray) -> bool:
    try:
      self.only([path])._read(indices)
    except Exception:
      return False
    return True

  def _first_wrong(self, indices: np.ndarray, error: Exception) -> tuple[int, Exception]:
    for index in indices:
      try:
        self._read(np.array([index]))
      except Exception as own:
        return int(index), own
    # Each is right alone, so they are wrong together.
    return int(indices[0]), error

  def _read(self, indices: np.ndarray) -> Batch:
    batch, problems, left_out, _ = converted(self.split.read(indices), self.spec)
    if problems or left_out:
      raise DataError("; ".join([*problems, *left_out.values()]))
    for key, (shape, dtype) in self.spec.items():
      if key not in batch:
        raise DataError(f"has no {key!r}; the first example has {', '.join(self.spec)}")
      if batch[key].shape != (len(indices), *shape) or batch[key].dtype != dtype:
        got = f"{batch[key].dtype}{list(batch[key].shape[1:])}"
        first = f"{dtype}{list(shape)}"
        raise DataError(
          f"{key} are {got}; those of the first train example are {first}; bring all to one shape and dtype"
        )
    if problem := label_problem(batch, self.num_classes, self.ignore_label):
      raise DataError(problem)
    return batch


def _only(split: Split, paths: Iterable[str]) -> Split:
  """Return the split with these arrays alone, if it can leave out others."""
  only = getattr(split, "only", None)
  return only(paths) if only else split


def _number_of_classes(
  given: Any, splits: Mapping[str, Split], ignore_label: int | None
) -> tuple[int | None, list[str]]:
  """Return the number of classes that is given, or else follows from the labels in memory; and what is wrong with
  it."""
  if given is not None:
    whole = isinstance(given, int | np.integer) and not isinstance(given, bool) and given >= 1
    return (int(given), []) if whole else (None, [f"num_classes is {given!r}; it must be an integer of at least 1"])
  labels = [split.arrays["labels"] for split in splits.values() if isinstance(split, Arrays)]
  if len(labels) < len(splits):
    how = "trialbook.input_pipeline.Data(splits=..., num_classes=...) or dataset.num_classes"
    return None, [f"num_classes is required, because not all labels are in memory; give {how}"]
  counted = [array if ignore_label is None else array[array != ignore_label] for array in labels]
  classes = 1 + max((int(array.max()) for array in counted if array.size), default=0)
  count = sum(array.size for array in labels)
  if classes > count:
    problem = (
      f"the largest label is {classes - 1}, so there would be {classes:,} classes, but there are only {count:,} labels;"
      f" {NUMBER_THEM}. If there really are {classes:,} classes, give"
      f" trialbook.input_pipeline.Data(splits=..., num_classes={classes})"
    )
    return None, [problem]
  return max(classes, 1), []


def _class_warnings(train: Split, num_classes: int, ignore_label: int | None) -> list[str]:
  """Return which classes seem to be a mistake, if there is one label for each example."""
  if not isinstance(train, Arrays):
    few = f"num_classes = {num_classes:,}, but train has {len(train):,} examples. Check num_classes."
    return [few] if num_classes > len(train) else []
  labels = train.arrays["labels"]
  labels = labels[labels != ignore_label] if ignore_label is not None else labels
  missing = np.flatnonzero(np.bincount(labels, minlength=num_classes) == 0)
  missing = missing[missing != ignore_label] if ignore_label is not None else missing
  if missing.size and missing[0] == 0 and labels.size and labels.min() == 1:
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
  ignore_label: int | None = None,
  keys: Keys = None,
  pads: Sequence[Pad] = (),
) -> Source:
  """Return a source of these splits.

  Args:
    where: what messages begin with.
    name: of the dataset.
    splits: split name -> what the module's docstring lists.
    num_classes: 1 + the highest label of splits in memory, if not given; needed for other splits with labels.
    normalization: (mean, standard deviation) by channel; if not given, bytes get those of train (of 2,000 evenly
      spaced examples, if it is not in memory), other inputs none. If inputs are a mapping, the same by path, for those
      that are not given.
    notice: as `Info.notice`.
    ignore_label: as `Info.ignore_label`.
    keys: names of the entries of tuples, or of the user's keys.
    pads: what is filled up to one length.

  Raises:
    DataError: with every problem.
  """
  if not isinstance(splits, Mapping):
    raise DataError(f"{where}: got a {type(splits).__name__}; it must be a dict of splits: {', '.join(SPLITS)}")
  problems = [f"split {split!r} is missing" for split in ("train", "validation") if split not in splits]
  problems += [unknown_split(split) for split in splits if not is_split(split)]
  further = sorted(split for split in splits if is_split(split) and split not in SPLITS)
  further.sort(key=lambda split: split.startswith("test"))
  opened = {split: _opened(splits[split], keys, tuple(pads)) for split in (*SPLITS, *further) if split in splits}
  problems += [f"{split}: {problem}" for split, one in opened.items() for problem in one.problems]
  opened = {split: one for split, one in opened.items() if not one.problems}
  problems += [problem for path, problem in _differences(opened) if has_meaning(path)]
  try:
    ignore_label = as_ignore_label(ignore_label)
  except DataError as error:
    problems.append(str(error))
    ignore_label = None
  if labelled := {split: one.split for split, one in opened.items() if "labels" in one.first}:
    declared = _declared_classes(splits.get("train"), keys) if num_classes is None else num_classes
    num_classes, wrong = _number_of_classes(declared, labelled, ignore_label)
    problems += wrong
  else:
    num_classes = None
  for split, one in opened.items():
    if isinstance(one.split, Arrays) and (problem := label_problem(dict(one.split.arrays), num_classes, ignore_label)):
      problems.append(f"{split}: {problem}")
  train = opened.get("train")
  given = {}
  if train is not None and normalization is not None:
    try:
      given = _normalizations(normalization, train.first)
    except DataError as error:
      problems.append(str(error))
  if problems or train is None:
    raise DataError("\n".join(f"{where}: {problem}" for problem in problems))
  spec = {key: (array.shape[1:], array.dtype) for key, array in train.first.items()}
  # What could not be converted in one split is in no batch.
  left_out: dict[str, str] = {}
  for split, one in opened.items():
    for path, why in one.left_out.items():
      left_out.setdefault(path, f"{split}: {why}")
  for split, one in opened.items():
    for path in (*spec, *one.first):
      if path not in spec or path not in one.first:
        left_out.setdefault(path, f"{split if path in spec else 'train'} has none")
  for path, why in _differences(opened):
    left_out.setdefault(path, why)
  spec = {path: kind for path, kind in spec.items() if path not in left_out}
  if not spec:
    told = ", ".join(f"{path!r} ({why})" for path, why in left_out.items())
    raise DataError(f"{where}: the splits have no array in common: {told}")
  final = {
    split: one.split.only(spec)
    if isinstance(one.split, Arrays)
    else Checked(f"{where}, {split}", _only(one.split, spec), spec, num_classes, ignore_label)
    for split, one in opened.items()
  }
  input_shape, input_dtype = spec.get("inputs", (None, None))
  label_shape, targets = spec.get("labels", ((), None))[0], spec.get("targets")
  warnings = rounding_warnings(_sample(train))
  # In texts, not every symbol occurs.
  if num_classes is not None and label_shape == () and "labels" in spec:
    warnings += _class_warnings(final["train"], num_classes, ignore_label)
  given = _statistics(final["train"], train.first, given) | given
  info = Info(
    name=name,
    input_shape=input_shape,
    input_dtype=input_dtype and str(input_dtype),
    num_classes=num_classes,
    num_targets=(targets[0] or (1,))[-1] if targets else None,
    examples={split: len(examples) for split, examples in final.items()},
    normalization=given.get("inputs", given or None),
    notice=notice,
    label_shape=label_shape,
    ignore_label=ignore_label,
    spec={path: (shape, str(dtype)) for path, (shape, dtype) in spec.items()},
    left_out=left_out,
  )
  return Source(info=info, splits=final, warnings=tuple(f"{where}: {warning}" for warning in warnings))


def is_split(name: Any) -> bool:
  """Return whether a dataset may have a split of that name."""
  return name in SPLITS or (isinstance(name, str) and re.fullmatch(r"(validation|test)_\w+", name) is not None)


def unknown_split(name: Any) -> str:
  """Return what is wrong with the name of a split."""
  others = "further ones are named validation_NAME or test_NAME"
  return f"unknown split {name!r}{nearest(str(name), SPLITS)}; {others}"


class _Opened(NamedTuple):
  """A split as something to read from, its arrays as they were given, its first example as a batch of one."""

  split: Arrays | Split
  given: Mapping[str, np.ndarray]
  first: Batch
  problems: list[str]
  left_out: Mapping[str, str] = {}


def _opened(split: Any, keys: Keys = None, pads: tuple[Pad, ...] = ()) -> _Opened:
  nothing = Arrays({})
  if isinstance(split, Mapping | tuple):
    try:
      split = named(split, keys)
      split = padded(by_path(split), pads) if pads else split
    except DataError as error:
      return _Opened(nothing, {}, {}, [str(error)])
    arrays, problems, left_out, given = converted(split)
    lengths = {key: len(array) for key, array in arrays.items()}
    if not problems and len(set(lengths.values())) > 1:
      problems.append(f"has {' and '.join(f'{count} {key}' for key, count in lengths.items())}")
    if not problems and not min(lengths.values()):
      problems.append("is empty")
    return _Opened(Arrays(arrays), given, {key: array[:1] for key, array in arrays.items()}, problems, left_out)
  if hasattr(split, "__iter__") and not hasattr(split, "__len__"):
    return _Opened(nothing, {}, {}, [f"is a {type(split).__name__}, {_STREAM}"])
  if not hasattr(split, "__len__") or not any(hasattr(split, way) for way in ("read", "__getitems__", "__getitem__")):
    ways = "a dict of arrays, or have __len__ and __getitem__, or __len__ and read"
    return _Opened(nothing, {}, {}, [f"is a {type(split).__name__}; it must be {ways}"])
  opened = split if hasattr(split, "read") else Items(split, keys, pads)
  if not len(opened):
    return _Opened(opened, {}, {}, ["is empty"])
  try:
    first, problems, left_out, given = converted(opened.read(np.zeros(1, np.int64)))
  except Exception as error:
    told = str(error) if isinstance(error, DataError) else said(error)
    return _Opened(opened, {}, {}, [f"example 0: {told}"])
  return _Opened(opened, given, first, [f"example 0: {problem}" for problem in problems], left_out)


_STREAM = (
  "a stream without a length, but a batch is read at any place. Write it once with `trialbook data write"
  " MODULE:FUNCTION --to=DIR` and train with dataset.name=array_record (for very many files, with"
  " dataset.sharding=files), or give an object with __len__ and __getitem__, such as an index of where each example is"
)


def _declared_classes(train: Any, keys: Keys) -> int | None:
  """Return the number of classes that a table of Hugging Face's `datasets` declares for its labels, if it is one."""
  features = getattr(train, "features", None)
  if not isinstance(features, Mapping):
    return None
  renamed = keys if isinstance(keys, Mapping) else {}
  column = next((own for own, name in renamed.items() if name == "labels"), "labels")
  count = getattr(features.get(column), "num_classes", None)
  return count if isinstance(count, int) else None


def _sample(train: _Opened) -> Mapping[str, np.ndarray]:
  """Return examples as they were given. Those that are read one by one are read only if conversion to float32 may
  round."""
  rounded = [path for path, array in train.given.items() if is_rounded(path, array)]
  if isinstance(train.split, Arrays) or not rounded:
    return train.given
  try:
    sample = evenly(len(train.split), min(len(train.split), _SAMPLE_FOR_ROUNDING))
    return converted(_only(train.split, rounded).read(sample), rounded).given
  except Exception:
    return {}  # The batch that has such an example will name it.


def _differences(opened: Mapping[str, _Opened]) -> Iterator[tuple[str, str]]:
  """Yield the paths of arrays in which a split differs from train, and how."""
  train = opened["train"].first if "train" in opened else {}
  for split, one in opened.items():
    for path, array in train.items():
      if path not in one.first:
        yield path, f"{split} has no {path!r}, but train has"
      elif (one.first[path].shape[1:], one.first[path].dtype) != (array.shape[1:], array.dtype):
        here, there = (f"{each.dtype}{list(each.shape[1:])}" for each in (one.first[path], array))
        yield path, f"{path} of {split} are {here}, those of train {there}; bring all to one shape and dtype"


def _statistics(train: Arrays | Checked, first: Batch, given: Iterable[str]) -> dict[str, Normalization]:
  """Return those of all arrays of bytes among the inputs, but for those that are given."""
  images = [path for path in paths_below(["inputs"], first) if first[path].dtype == np.uint8 and first[path].ndim > 1]
  images = [path for path in images if path not in given]
  if not images:
    return {}
  if isinstance(train, Arrays):
    return {path: byte_statistics(train.arrays[path]) for path in images}
  count = min(len(train), _SAMPLE_FOR_STATISTICS)
  sample = train.only(images).read(np.arange(count) * len(train) // count)
  return {path: byte_statistics(sample[path]) for path in images}


def _normalizations(given: Any, first: Batch) -> dict[str, Normalization]:
  """Return by path what is given for the inputs."""
  if not isinstance(given, Mapping):
    if "inputs" not in first:
      below = ", ".join(map(repr, paths_below(["inputs"], first)))
      what = f"the inputs are {below}" if below else "there are no inputs"
      raise DataError(
        f"normalization is for 'inputs', but {what}; give {{path: (means, deviations)}} for what lies below 'inputs'."
        " Other keys are not normalized"
      )
    return {"inputs": _of_channels("normalization", given, first["inputs"].shape[-1])}
  if unknown := [path for path in given if path not in paths_below(["inputs"], first)]:
    known = ", ".join(map(repr, paths_below(["inputs"], first))) or "none"
    raise DataError(f"normalization: {unknown[0]!r} is not an array of the inputs, which are {known}")
  return {
    path: _of_channels(f"normalization of {path}", pair, (first[path].shape[1:] or (1,))[-1])
    for path, pair in given.items()
  }


def _of_channels(what: str, given: Any, channels: int) -> Normalization:
  try:
    mean, deviation = (np.atleast_1d(np.asarray(part, np.float64)) for part in given)
  except (TypeError, ValueError):
    mean = deviation = np.zeros((0, 0))
  if any(part.shape not in ((1,), (channels,)) or not np.isfinite(part).all() for part in (mean, deviation)):
    raise DataError(f"{what} must be (means, deviations), each of {channels} numbers, one per channel")
  if not (deviation > 0).all():
    raise DataError(f"{what} has a deviation that is not positive; give 1 for a constant channel")
  return tuple(map(float, mean)), tuple(map(float, deviation))
