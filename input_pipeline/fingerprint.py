"""A fingerprint of what the splits hold: cheap, bounded, and the same wherever the data lies.

A run records it, so that a resume notices other data. It is no proof: it is made from a sample, and a change that no
sample sees changes nothing.
"""

import concurrent.futures
import hashlib
import math
import os
import pathlib
from collections.abc import Iterator, Mapping

import numpy as np

from input_pipeline import hashing
from input_pipeline.checked import Checked
from input_pipeline.errors import DataError
from input_pipeline.record_files import Part, RecordFiles
from input_pipeline.source import Arrays, Split
from input_pipeline.split import evenly
from input_pipeline.text import Windows

_FILES = 64
_EDGE_BYTES = 4096
_BLOCKS, _BLOCK_BYTES = 64, 2**14
_EXAMPLES = 8
_BITS = 20


def fingerprints(splits: Mapping[str, Split]) -> dict[str, str]:
  """The fingerprint of each split.

  It is made from at most 64 of all files (names below their common folder, sizes, first and last bytes; the names of
  the others too), from 1 MB of each array in memory (or 64 rows, if they are larger), or from eight examples that are
  read twice. Where these differ between the two readings, the split has no fingerprint.

  Raises:
    DataError: a file or an example cannot be read.
  """
  found = {}
  for name, split in splits.items():
    parts = list(_parts(split, _FILES // len(splits)))
    if parts:
      found[name] = hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]
  return found


def _parts(split: Split, files: int) -> Iterator[bytes]:
  held = split.split if isinstance(split, Checked) else split
  records = getattr(held, "files", None)
  if isinstance(records, RecordFiles):
    yield from _of_files(records.parts, files)
  elif isinstance(held, Windows):
    yield from _of_array(held.text)
  elif isinstance(held, Arrays):
    yield from _of_batch(held.arrays)
  else:
    indices = evenly(len(split), min(len(split), _EXAMPLES))
    first, second = split.read(indices), split.read(indices)
    if all(np.array_equal(first[key], second[key]) for key in first):
      yield from _of_batch(first)


def _of_batch(batch: Mapping[str, np.ndarray]) -> Iterator[bytes]:
  for key, array in sorted(batch.items()):
    yield key.encode()
    yield from _of_array(array)


def _of_files(parts: tuple[Part, ...], count: int) -> Iterator[bytes]:
  names = [os.fspath(part.path) for part in parts]
  root = len(os.path.commonpath([os.path.dirname(name) for name in names]))
  yield repr([(name[root:], part.first, part.count) for name, part in zip(names, parts, strict=True)]).encode()
  chosen = [parts[index].path for index in evenly(len(parts), min(len(parts), count))]
  # A file far away answers after a while, all of them together after the same.
  with concurrent.futures.ThreadPoolExecutor(16) as pool:
    yield from pool.map(_edges, chosen)


def _edges(path: pathlib.Path) -> bytes:
  try:
    with path.open("rb") as file:
      size = file.seek(0, os.SEEK_END)
      file.seek(0)
      first = file.read(_EDGE_BYTES)
      file.seek(max(0, size - _EDGE_BYTES))
      return b"%d " % size + first + file.read()
  except OSError as error:
    raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _of_array(array: np.ndarray) -> Iterator[bytes]:
  yield f"{array.dtype} {array.shape}".encode()
  rows = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
  if len(array) > rows * _BLOCKS:
    starts = evenly(len(array) - rows, _BLOCKS)
    array = np.concatenate([array[start : start + rows] for start in starts])
  yield _sums(array) if array.dtype.kind == "f" else np.ascontiguousarray(array).tobytes()


def _sums(array: np.ndarray) -> bytes:
  """Sums of an array under random signs, to 20 bits: another machine may have computed the numbers with other last
  bits, and the data are the same."""
  values = array.ravel().astype(np.float64)
  signs = hashing.bits(hashing.stream_key(0, "fingerprint"), np.arange(values.size, dtype=np.uint64))
  values *= np.where(signs & np.uint64(1), 1.0, -1.0)
  sums = []
  for start in range(8):
    part = values[start::8]
    exponent = math.frexp(float(np.abs(part).sum()))[1]
    sums.append((exponent, round(math.ldexp(float(part.sum()), _BITS - exponent))))
  return repr(sums).encode()
