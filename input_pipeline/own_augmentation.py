"""An augmentation of the user's: a function "module:function" of (example, rng), called for each training example."""

import traceback
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trialbook.errors import DataError, said
from trialbook.import_attribute import PluginError, import_attribute
from trialbook.input_pipeline import hashing
from trialbook.input_pipeline.source import Batch, flat, nested

FIELD = "dataset.augmentation.function"


def load(name: str, kwargs: Mapping[str, Any]) -> Callable[[Any, np.random.Generator], Any]:
  """Return the function of that name, which takes its further arguments from `kwargs`.

  Raises:
    DataError: there is no such function.
  """
  try:
    function = import_attribute(FIELD, name)
  except PluginError as error:
    raise DataError(str(error)) from error
  if not callable(function):
    raise DataError(f"{FIELD} {name!r}: is a {type(function).__name__}; it must be a function of (example, rng)")
  return lambda example, rng: function(example, rng, **kwargs)


def apply(function: Callable[..., Any], name: str, batch: Batch, seed: int, positions: np.ndarray) -> Batch:
  """Return the batch with each example as the function returns it.

  Args:
    function: of an example, arrays without an axis of examples by key, and a NumPy generator that is seeded by (seed,
      position). It returns an example with the same keys, shapes and dtypes.
    name: of the function, for messages.
    batch: arrays [n, ...] by path.
    seed: the run's.
    positions: int64 [n], the global position of each example.

  Raises:
    DataError: the function raises, or returns something else.
  """
  words = hashing.bits(hashing.stream_key(seed, "own_augmentation"), positions.astype(np.uint64))
  found: dict[str, list[np.ndarray]] = {path: [] for path in batch}
  for index, (position, word) in enumerate(zip(positions, words, strict=True)):
    example = nested({path: values[index].copy() for path, values in batch.items()})
    try:
      made = function(example, np.random.Generator(np.random.Philox(key=int(word))))
      arrays = {path: np.asarray(value) for path, value in flat(made).items()}
    except Exception as error:
      frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
      where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
      raise DataError(f"{FIELD} {name!r}: fails at position {position}: {said(error)}{where}") from error
    for path, values in batch.items():
      value = arrays.get(path)
      if value is None or (value.shape, value.dtype) != (values.shape[1:], values.dtype):
        has = "nothing" if value is None else f"{value.dtype}{list(value.shape)}"
        raise DataError(
          f"{FIELD} {name!r}: returns {has} for {path!r} at position {position}; it must be"
          f" {values.dtype}{list(values.shape[1:])}, as the dataset has it"
        )
      found[path].append(value)
    if new := [path for path in arrays if path not in batch]:
      raise DataError(f"{FIELD} {name!r}: returns {new[0]!r}, which the dataset does not have; change what is there")
  return {path: np.stack(values) for path, values in found.items()}
