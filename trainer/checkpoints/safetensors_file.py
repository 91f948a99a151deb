"""Safetensors files: eight bytes with the length of a JSON header, the header, then the bytes of all arrays.

Reading one needs no package, and nothing in it can be run.
"""

import functools
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

_DTYPES = {
  "BOOL": np.bool_,
  "U8": np.uint8,
  "I8": np.int8,
  "U16": np.uint16,
  "I16": np.int16,
  "U32": np.uint32,
  "I32": np.int32,
  "U64": np.uint64,
  "I64": np.int64,
  "F16": np.float16,
  "BF16": jnp.bfloat16,
  "F32": np.float32,
  "F64": np.float64,
  "F8_E4M3": jnp.float8_e4m3fn,
  "F8_E5M2": jnp.float8_e5m2,
}
_LONGEST_HEADER = 100_000_000
_PREFIX = 8


class Safetensors:
  """The arrays of a safetensors file; each is read when it is asked for.

  Raises:
    ValueError: the file is not one, or was cut off.
    OSError: it cannot be read.
  """

  def __init__(self, path: pathlib.Path):
    with path.open("rb") as file:
      prefix = file.read(_PREFIX)
      size = file.seek(0, 2) - _PREFIX
      length = int.from_bytes(prefix, "little")
      if len(prefix) < _PREFIX or not 2 <= length <= min(size, _LONGEST_HEADER):
        raise ValueError("its first eight bytes are not the length of a header")
      file.seek(_PREFIX)
      header = file.read(length)
    try:
      described = json.loads(header)
    except ValueError:
      raise ValueError("its header is not JSON") from None
    if not isinstance(described, dict):
      raise ValueError("its header is not a JSON object")
    described.pop("__metadata__", None)
    self._path, self._start = path, _PREFIX + length
    self._entries = {name: _entry(name, entry, size - length) for name, entry in described.items()}

  @property
  def arrays(self) -> Mapping[str, tuple[tuple[int, ...], np.dtype]]:
    """Return shape and dtype of each array, by name."""
    return {name: (shape, dtype) for name, (shape, dtype, _, _) in self._entries.items()}

  def read(self, name: str) -> np.ndarray:
    """Return an array; of the file, only its bytes are read."""
    shape, dtype, first, stop = self._entries[name]
    if first == stop:
      return np.zeros(shape, dtype)
    # Its bytes need not be aligned, so they are copied.
    return np.frombuffer(self._bytes[first:stop].tobytes(), dtype).reshape(shape)

  @functools.cached_property
  def _bytes(self) -> np.ndarray:
    return np.memmap(self._path, np.uint8, mode="r", offset=self._start)


def _entry(name: str, entry: Any, size: int) -> tuple[tuple[int, ...], np.dtype, int, int]:
  """Return shape, dtype, first byte and one past the last of an array. Raise ValueError if they do not fit."""
  try:
    kind, shape, (first, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
    numbers = [*shape, first, stop]
  except (KeyError, TypeError, ValueError):
    raise ValueError(f"its header does not say dtype, shape and place of {name!r}") from None
  if kind not in _DTYPES:
    raise ValueError(f"{name!r} has the dtype {kind!r}, which is not known; known: {', '.join(_DTYPES)}")
  dtype = np.dtype(_DTYPES[kind])
  if not all(type(number) is int and number >= 0 for number in numbers) or not first <= stop <= size:
    raise ValueError(f"the bytes of {name!r} are not in the file, which was cut off or damaged")
  if stop - first != math.prod(shape) * dtype.itemsize:
    raise ValueError(f"{name!r} has {stop - first} bytes, but {kind}{shape} needs {math.prod(shape) * dtype.itemsize}")
  return tuple(shape), dtype, first, stop
