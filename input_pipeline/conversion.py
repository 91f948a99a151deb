"""Arrays of a user's as batches have them; or what is wrong with them, and what to do."""

import functools
import operator
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trialbook.errors import DataError
from trialbook.input_pipeline.source import EXAMPLE, IS_EXAMPLE, Batch, flat
from trialbook.input_pipeline.split import evenly

_NUMBERS_FOR_ROUNDING = 2**20


class Converted(NamedTuple):
  """The result of a conversion, by path.

  Attributes:
    batch: the arrays as batches have them.
    problems: what is wrong with arrays that tasks of ours read.
    left_out: why an array under another key could not be converted.
    given: the arrays of the batch as they were given.
  """

  batch: Batch
  problems: list[str]
  left_out: dict[str, str]
  given: Batch


def stacked(examples: Sequence[Any], only: Collection[str] | None = None) -> dict[str, Any]:
  """Return examples {key: array} as {path: array [n, ...]}; where arrays are ragged, as a list of n.

  Args:
    examples: dicts of the same keys, nested or not.
    only: the paths that are needed; None: all.

  Raises:
    DataError: an example is not a dict, or its keys are not those of the first.
  """
  for example in examples:
    if not isinstance(example, Mapping):
      kind = type(example).__name__
      raise DataError(f'an example is a {kind}; it must be a dict of arrays, such as {{"inputs": x, "labels": y}}')
  flattened = [by_path(example) for example in examples]
  if only is not None:
    flattened = [{path: example[path] for path in only if path in example} for example in flattened]
  if any(example.keys() != flattened[0].keys() for example in flattened):
    raise DataError("the examples of a batch have different keys")
  return {path: _stacked_rows(path, [example[path] for example in flattened]) for path in flattened[0]}


def _stacked_rows(path: str, rows: list[Any]) -> np.ndarray | list[Any]:
  try:
    arrays = [as_array(path, row) for row in rows]
  except DataError:
    return rows
  return np.stack(arrays) if len({array.shape for array in arrays}) == 1 else rows


def by_path(arrays: Mapping[Any, Any]) -> dict[str, Any]:
  """Return the values of a mapping, nested or not, by path such as `inputs/image`. Raise DataError for bad keys."""
  found = flat(arrays)
  if twice := [path for path in arrays if "/" in str(path) and isinstance(arrays.get(path.partition("/")[0]), Mapping)]:
    raise DataError(f"has {twice[0]!r} as a key and as a path; rename one")
  if problem := _problem_of_keys(tuple(found)):
    raise DataError(problem)
  return found


# Asked for each example that is read one by one.
@functools.lru_cache(maxsize=64)
def _problem_of_keys(paths: tuple[str, ...]) -> str | None:
  if not paths:
    return "is empty: it must have arrays, such as 'inputs'"
  for path in paths:
    first = path.partition("/")[0]
    if first in (EXAMPLE, IS_EXAMPLE, "mixing", "mixed_labels"):
      return f"has {first!r}, which is a key of trialbook's own; rename it"
    if not all(_KEY.fullmatch(part) for part in path.split("/")):
      return f"has the key {path!r}; a key is letters, digits and underscores"
    if above := [other for other in paths if path.startswith(f"{other}/")]:
      return f"has both {above[0]!r} and {path!r}; an array cannot have others below it"
  return None


def converted(arrays: Mapping[str, Any], only: Iterable[str] | None = None) -> Converted:
  """Return arrays [n, ...] as batches have them, and what is wrong with them.

  Inputs are uint8, float32, int32 or uint32, labels int32, targets and weights float32. Arrays under other keys are
  bool, uint8, int32, uint32 (if they are given as uint32 or uint64) or float32, as they are given; what is something
  else is left out. What is not finite is wrong.

  Args:
    arrays: by key or path.
    only: the paths that are needed; None: all.
  """
  try:
    given = by_path(arrays)
  except DataError as error:
    return Converted({}, [str(error)], {}, {})
  found = Converted({}, [], {}, {})
  for path in given if only is None else [path for path in only if path in given]:
    key = path.partition("/")[0]
    try:
      array = as_array(path, given[path])
      found.batch[path] = _CONVERT.get(key, _any)(path, array)
      found.given[path] = array
    except DataError as error:
      if has_meaning(path):
        found.problems.append(str(error))
      else:
        found.left_out[path] = str(error)
  if not found.batch and not found.problems and only is None:
    found.problems.extend(found.left_out.values())
  return found


def has_meaning(path: str) -> bool:
  """Return whether an array is, or is below, one of the keys that tasks of ours read."""
  return path.partition("/")[0] in _CONVERT


def as_array(key: str, value: Any) -> np.ndarray:
  """Return the value of a key as an array. Raise DataError if its rows are not of one shape."""
  try:
    array = np.asarray(value)
  except ValueError:
    array = None
  if (array is None or array.dtype == object) and (other := _first_other_shape(value)):
    raise DataError(f"{key} are ragged: {other}; pad or crop them to one shape")
  return np.asarray(value) if array is None else array


def _first_other_shape(rows: Any) -> str:
  first = None
  if not isinstance(rows, Sequence | np.ndarray) or isinstance(rows, str):
    return ""
  for number, row in enumerate(rows):
    try:
      shape = list(np.shape(row))
    except ValueError:
      return f"row {number} is itself ragged"
    if first is None:
      first = shape
    elif shape != first:
      return f"row 0 has shape {first}, row {number} has {shape}"
  return ""


def _inputs(path: str, array: np.ndarray) -> np.ndarray:
  if path == "inputs" and array.ndim < 2:
    raise DataError(
      f"inputs have shape {array.shape}, but need an axis of examples and an axis of features; give inputs[:, None]"
    )
  if path != "inputs":
    return _any(path, array)
  if array.dtype == np.uint8:
    return array
  if array.dtype.kind in "iu":
    return _as_integers("inputs", array)
  if array.dtype.kind == "f":
    return _as_float32("inputs", array)
  remedy = {"b": "give inputs.astype(np.float32)", "c": "give the real and imaginary parts as separate features"}
  how = remedy.get(array.dtype.kind, "encode what is not a number, and leave out what is not an input")
  raise DataError(f"inputs are {array.dtype}, but must be numbers (uint8, 32-bit integers or floats); {how}")


def _labels(path: str, array: np.ndarray) -> np.ndarray:
  if array.ndim == 0:
    raise DataError(f"{path} are a single number, but need an axis of examples")
  if array.dtype.kind in "iu":
    return _as_int32(path, array, NUMBER_THEM)
  how = NUMBER_THEM
  if array.dtype.kind == "b":
    how = "labels.astype(np.int32)"
  elif array.dtype.kind == "f":
    how = "to predict real numbers, give them as 'targets' and set task.name=regression"
    if _is_one_hot(array):
      how = "they are one-hot, so give labels.argmax(axis=-1)"
    elif np.array_equal(array, np.rint(array)):
      how = "they are whole numbers, so give labels.astype(np.int32)"
  raise DataError(f"{path} are {array.dtype}, but must be 32-bit integers; {how}")


def _targets(path: str, array: np.ndarray) -> np.ndarray:
  if array.dtype.kind not in "iufb":
    raise DataError(f"{path} are {array.dtype}, but must be numbers; give classes as integer 'labels'")
  if array.ndim == 0:
    raise DataError(f"{path} are a single number, but need an axis of examples")
  return _as_float32(path, array)


def _weights(path: str, array: np.ndarray) -> np.ndarray:
  if array.dtype.kind not in "iufb" or array.ndim == 0:
    raise DataError(f"{path} are {array.dtype}{list(array.shape)}, but must be numbers, at least one for each example")
  if (negative := np.argwhere(array < 0)).size:
    where = f", first in example {negative[0][0]}" if len(array) > 1 else ""
    raise DataError(f"{path} must not be negative{where}: {array[tuple(negative[0])]}; give 0 for what does not count")
  return _as_float32(path, array)


def _any(path: str, array: np.ndarray) -> np.ndarray:
  if array.ndim == 0:
    raise DataError(f"{path} are a single value, but need an axis of examples")
  if array.dtype.kind == "b" or array.dtype == np.uint8:
    return array
  if array.dtype.kind in "iu":
    return _as_integers(path, array)
  if array.dtype.kind == "f":
    return _as_float32(path, array)
  kind = "text" if array.dtype.kind in "US" else str(array.dtype)
  raise DataError(f"{path} are {kind}, but must be numbers or booleans; encode them as numbers")


_KEY = re.compile(r"\w+")
_CONVERT: Mapping[str, Callable[[str, np.ndarray], np.ndarray]] = {
  "inputs": _inputs,
  "labels": _labels,
  "targets": _targets,
  "weights": _weights,
}
_EXACT = tuple(map(np.dtype, ("float16", "float32", "int8", "uint8", "int16", "uint16")))
NUMBER_THEM = "number the classes from 0, the same in all splits: np.unique(labels, return_inverse=True)[1]"


def _is_one_hot(array: np.ndarray) -> bool:
  return (
    array.ndim > 1 and array.shape[-1] > 1 and bool(((array == 0) | (array == 1)).all() & (array.sum(-1) == 1).all())
  )


def _as_integers(key: str, array: np.ndarray) -> np.ndarray:
  """Return numbers such as ids: what is unsigned and wide stays unsigned, whatever its values, up to 2³² - 1."""
  if array.dtype not in (np.uint32, np.uint64):
    return _as_int32(key, array, "give ids below 2**32 as np.uint32, others as floats, or subtract the smallest")
  if array.size and array.max() > np.iinfo(np.uint32).max:
    raise DataError(f"{key} are uint64 with values such as {array.max()}, but must be below 2**32; hash or number them")
  return array.astype(np.uint32, copy=False)


def _as_int32(key: str, array: np.ndarray, remedy: str) -> np.ndarray:
  limits = np.iinfo(np.int32)
  if array.dtype.itemsize > 2 and array.size and (array.min() < limits.min or array.max() > limits.max):
    worst = array.max() if array.max() > limits.max else array.min()
    raise DataError(f"{key} are {array.dtype} with values such as {worst}, but must be 32-bit integers; {remedy}")
  return array.astype(np.int32, copy=False)


def _as_float32(key: str, array: np.ndarray) -> np.ndarray:
  with np.errstate(over="ignore"):
    found = array.astype(np.float32, copy=False)
  if not np.isfinite(found).all():
    place = tuple(np.argwhere(~np.isfinite(found))[0])
    where = f", first in example {place[0]}" if len(array) > 1 else ""
    value = f"{array[place]}, which float32 cannot hold" if np.isfinite(array[place]) else array[place]
    raise DataError(f"{key} are not all finite{where}: {value}; leave out such examples, or fill in the values")
  return found


def as_ignore_label(given: Any) -> int | None:
  """Return the label that does not count, if one is given. Raise DataError if it is not an integer."""
  if given is None:
    return None
  if isinstance(given, bool) or not hasattr(given, "__index__"):
    raise DataError(f"ignore_label is {given!r}; it must be an integer, such as -1 or 255")
  return operator.index(given)


def label_problem(batch: Batch, num_classes: int | None, ignore_label: int | None = None) -> str | None:
  """Return what is wrong with the labels of a batch, int32 [n, ...], if anything is."""
  labels = batch.get("labels")
  if labels is None or num_classes is None or not labels.size or (labels.min() >= 0 and labels.max() < num_classes):
    return None
  is_wrong = (labels < 0) | (labels >= num_classes)
  if ignore_label is not None:
    is_wrong &= labels != ignore_label
  wrong = np.argwhere(is_wrong)
  if not len(wrong):
    return None
  first = labels[tuple(wrong[0])]
  how = "correct the labels or num_classes"
  if first < 0:
    how = f"leave out such examples, or say that such labels do not count: ignore_label={first}"
  if labels.min() == 1 and labels.max() == num_classes:
    how = "they start at 1, so give labels - 1"
  where = f" in example {wrong[0][0]}" if len(labels) > 1 else ""
  return (
    f"labels must be 0 to {num_classes - 1} for {num_classes} classes; {len(wrong)} are not, such as {first}{where};"
    f" {how}"
  )


def is_rounded(key: str, array: np.ndarray) -> bool:
  """Return whether conversion to float32 may round."""
  kinds = {"labels": "", "targets": "iuf", "weights": "iuf"}.get(key.partition("/")[0], "f")
  return array.dtype.kind in kinds and array.dtype not in _EXACT


def rounding_warnings(given: Mapping[str, np.ndarray]) -> list[str]:
  """Return where conversion to float32 merges values that differ, as a sample of the examples {key: [n, ...]} shows."""
  found = []
  for key, array in given.items():
    if not is_rounded(key, array):
      continue
    each = max(1, array[0].size)
    count = min(len(array), max(2, _NUMBERS_FOR_ROUNDING // each))
    sample = array[evenly(len(array), count)].reshape(count, each).astype(np.float64)
    rounded = np.abs(sample - sample.astype(np.float32)).max(axis=0)
    span = np.ptp(sample, axis=0)
    # Float32 keeps less than three digits of what tells the values apart, and these are no rounding of float64.
    lost = (rounded > 1e-3 * span) & (span > 1e-12 * np.abs(sample).max(axis=0))
    if lost.any():
      worst = int(np.argmax(np.where(lost, rounded / np.where(lost, span, 1), 0)))
      found.append(
        f"train: {key} are {array.dtype}, and float32 rounds feature {worst} by up to {rounded[worst]:.2g}, while its"
        f" values span {span[worst]:.2g} (timestamps?); subtract the mean first, in float64"
      )
  return found
