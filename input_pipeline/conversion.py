"""Arrays of a user's as batches have them; or what is wrong with them, and what to do."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from trialbook.errors import DataError
from trialbook.input_pipeline.source import Batch
from trialbook.input_pipeline.split import evenly

_NUMBERS_FOR_ROUNDING = 2**20


def stacked(examples: Sequence[Any]) -> Batch:
  """Return examples {key: array} as a batch {key: array [n, ...]} of the same keys. Raise DataError if that is
  impossible."""
  for example in examples:
    if not isinstance(example, Mapping):
      kind = type(example).__name__
      raise DataError(f'an example is a {kind}; it must be a dict of arrays, such as {{"inputs": x, "labels": y}}')
    if problem := key_problem(example):
      raise DataError(problem)
  if any(example.keys() != examples[0].keys() for example in examples):
    raise DataError("the examples of a batch have different keys")
  arrays = {key: [as_array(key, example[key]) for example in examples] for key in examples[0]}
  for key, rows in arrays.items():
    if len({row.shape for row in rows}) > 1:
      raise DataError(f"{key} of a batch have different shapes; pad or crop them to one")
  return {key: np.stack(rows) for key, rows in arrays.items()}


def converted(arrays: Mapping[str, Any]) -> tuple[Batch, list[str]]:
  """Return arrays [n, ...] as batches have them, and what is wrong with them.

  Inputs are uint8, float32 or int32, labels int32, targets float32 [n, k]. What is not finite is wrong.
  """
  if problem := key_problem(arrays):
    return {}, [problem]
  found: Batch = {}
  problems = []
  for key, convert in _CONVERT.items():
    if key in arrays:
      try:
        found[key] = convert(as_array(key, arrays[key]))
      except DataError as error:
        problems.append(str(error))
  return found, problems


def key_problem(keys: Mapping[str, Any]) -> str | None:
  """Return what is wrong with the keys of a batch or an example, if anything is."""
  missing = [] if "inputs" in keys else ["'inputs'"]
  missing += [] if "labels" in keys or "targets" in keys else ["'labels' (or 'targets')"]
  if unknown := [key for key in keys if key not in _CONVERT]:
    if missing:
      rest = ", and leave out the rest" if len(unknown) > len(missing) else ""
      has, wrong = ", ".join(map(repr, keys)), ", ".join(map(repr, unknown))
      return f"has {has}: rename {'them' if wrong == has else wrong} to {' and '.join(missing)}{rest}"
    return (
      f"has {', '.join(map(repr, unknown))}, but a batch carries only 'inputs' and either 'labels' or 'targets'."
      " Leave it out, or put it into columns of 'targets' for a task of your own (task.name=my_task:MyTask)"
    )
  if missing or ("labels" in keys and "targets" in keys):
    return f"must have 'inputs' and either 'labels' or 'targets'; it has {', '.join(map(repr, keys)) or 'nothing'}"
  return None


def as_array(key: str, value: Any) -> np.ndarray:
  """Return the value of a key as an array. Raise DataError if its rows are not of one shape."""
  if isinstance(value, Mapping):
    raise DataError(
      f"{key} are a dict of {', '.join(map(repr, value))}; a model receives one array, so concatenate them"
    )
  try:
    array = np.asarray(value)
  except ValueError:
    array = None
  if (array is None or array.dtype == object) and (other := _first_other_shape(value)):
    raise DataError(f"{key} are ragged: {other}; pad or crop them to one shape")
  return np.asarray(value) if array is None else array


def _first_other_shape(rows: Any) -> str:
  first = None
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


def _inputs(array: np.ndarray) -> np.ndarray:
  if array.ndim < 2:
    raise DataError(
      f"inputs have shape {array.shape}, but need an axis of examples and an axis of features; give inputs[:, None]"
    )
  if array.dtype == np.uint8:
    return array
  if array.dtype.kind in "iu":
    return _as_int32("inputs", array, "give floats, or subtract the smallest")
  if array.dtype.kind == "f":
    return _as_float32("inputs", array)
  remedy = {"b": "give inputs.astype(np.float32)", "c": "give the real and imaginary parts as separate features"}
  how = remedy.get(array.dtype.kind, "encode what is not a number, and leave out what is not an input")
  raise DataError(f"inputs are {array.dtype}, but must be numbers (uint8, 32-bit integers or floats); {how}")


def _labels(array: np.ndarray) -> np.ndarray:
  if array.ndim == 0:
    raise DataError("labels are a single number, but need an axis of examples")
  if array.dtype.kind in "iu":
    return _as_int32("labels", array, NUMBER_THEM)
  how = NUMBER_THEM
  if array.dtype.kind == "b":
    how = "labels.astype(np.int32)"
  elif array.dtype.kind == "f":
    how = "to predict real numbers, give them as 'targets' and set task.name=regression"
    if _is_one_hot(array):
      how = "they are one-hot, so give labels.argmax(axis=-1)"
    elif np.array_equal(array, np.rint(array)):
      how = "they are whole numbers, so give labels.astype(np.int32)"
  raise DataError(f"labels are {array.dtype}, but must be 32-bit integers; {how}")


def _targets(array: np.ndarray) -> np.ndarray:
  if array.dtype.kind not in "iufb":
    raise DataError(f"targets are {array.dtype}, but must be numbers; give classes as integer 'labels'")
  if array.ndim not in (1, 2):
    raise DataError(
      f"targets are {array.dtype}{list(array.shape[1:])} for each example, but must be a row of numbers;"
      " give targets.reshape(len(targets), -1)"
    )
  return _as_float32("targets", array.reshape(len(array), -1))


_CONVERT: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
  "inputs": _inputs,
  "labels": _labels,
  "targets": _targets,
}
_EXACT = tuple(map(np.dtype, ("float16", "float32", "int8", "uint8", "int16", "uint16")))
NUMBER_THEM = "number the classes from 0, the same in all splits: np.unique(labels, return_inverse=True)[1]"


def _is_one_hot(array: np.ndarray) -> bool:
  return (
    array.ndim > 1 and array.shape[-1] > 1 and bool(((array == 0) | (array == 1)).all() & (array.sum(-1) == 1).all())
  )


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


def label_problem(batch: Batch, num_classes: int | None) -> str | None:
  """Return what is wrong with the labels of a batch, int32 [n, ...], if anything is."""
  labels = batch.get("labels")
  if labels is None or num_classes is None or not labels.size or (labels.min() >= 0 and labels.max() < num_classes):
    return None
  wrong = np.argwhere((labels < 0) | (labels >= num_classes))
  first = labels[tuple(wrong[0])]
  how = "leave out such examples" if first < 0 else "correct the labels or num_classes"
  if labels.min() == 1 and labels.max() == num_classes:
    how = "they start at 1, so give labels - 1"
  where = f" in example {wrong[0][0]}" if len(labels) > 1 else ""
  return (
    f"labels must be 0 to {num_classes - 1} for {num_classes} classes; {len(wrong)} are not, such as {first}{where};"
    f" {how}"
  )


def is_rounded(key: str, array: np.ndarray) -> bool:
  """Return whether conversion to float32 may round."""
  return array.dtype.kind in {"inputs": "f", "labels": "", "targets": "iuf"}[key] and array.dtype not in _EXACT


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
