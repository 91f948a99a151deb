"""A fingerprint of what a split holds: cheap, bounded, and the same wherever the data lies.

A run records it, so that a resume notices other data. It is not a proof: it is made from a sample, and a change that no
sample sees changes nothing.
"""

import concurrent.futures
import hashlib
import operator
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from trialbook.errors import DataError
from trialbook.input_pipeline import hashing
from trialbook.input_pipeline.checked_source import Checked
from trialbook.input_pipeline.datasets.image_folder import ImageFiles
from trialbook.input_pipeline.datasets.record_files import Part, RecordFiles
from trialbook.input_pipeline.datasets.text import Windows
from trialbook.input_pipeline.source import Arrays, Split
from trialbook.input_pipeline.split import evenly

_FILES = 21
_EDGE_BYTES = 4096
_BLOCKS, _BLOCK_BYTES = 64, 2**14
_EXAMPLES = 4
_TOLERANCE = 1e-5

Fingerprint = Mapping[str, Any]
"""A fingerprint as JSON has it: `hash` of all that must be the same to the bit, and `sums` of each array of floats, see
`same`."""


def fingerprint(split: Split) -> Fingerprint | None:
  """Return the fingerprint of a split.

  It is made from at most 21 of all files (names below their common folder, sizes, first and last bytes; the names of
  the others too), from 1 MB of each array in memory (or 64 rows, if they are larger), or from four examples that are
  read twice. Where these differ between the two readings, there is none.

  Raises:
    DataError: a file or an example cannot be read.
  """
  parts = list(_parts(split))
  if not parts:
    return None
  exact = b"".join(hashlib.sha256(part).digest() for part in parts if isinstance(part, bytes))
  sums = [part for part in parts if not isinstance(part, bytes)]
  return {"hash": hashlib.sha256(exact).hexdigest()[:16], "sums": sums}


def same(before: Fingerprint, now: Fingerprint) -> bool:
  """Return whether two fingerprints are those of the same data.

  Sums may differ by the last bits of the numbers, as another machine may have computed them.
  """
  lengths = ([len(sums) for sums in each["sums"]] for each in (before, now))
  return (
    before["hash"] == now["hash"]
    and operator.eq(*lengths)
    and all(
      abs(one - other) <= _TOLERANCE * first[-1]
      for first, second in zip(before["sums"], now["sums"], strict=True)
      for one, other in zip(first, second, strict=True)
    )
  )


def _parts(split: Split) -> Iterator[bytes | list[float]]:
  held = split.split if isinstance(split, Checked) else split
  records = getattr(held, "files", None)
  if isinstance(records, RecordFiles):
    yield from _of_files(records.parts)
  elif isinstance(held, ImageFiles):
    yield from _of_files(tuple(Part(path=path, first=0, count=1) for path in held.paths))
  elif isinstance(held, Windows):
    yield from _of_array(held.text)
  elif isinstance(held, Arrays):
    yield from _of_batch(held.arrays)
  else:
    indices = evenly(len(split), min(len(split), _EXAMPLES))
    read = split.read_leniently if isinstance(split, Checked) else split.read
    first, second = read(indices), read(indices)
    if first.keys() == second.keys() and all(np.array_equal(first[key], second[key]) for key in first):
      yield from _of_batch(first)


def _of_batch(batch: Mapping[str, np.ndarray]) -> Iterator[bytes | list[float]]:
  for key, array in sorted(batch.items()):
    yield key.encode()
    yield from _of_array(array)


def _of_files(parts: tuple[Part, ...]) -> Iterator[bytes]:
  names = [os.fspath(part.path) for part in parts]
  root = len(os.path.commonpath([os.path.dirname(name) for name in names]))
  yield repr([(name[root:], part.first, part.count) for name, part in zip(names, parts, strict=True)]).encode()
  chosen = [parts[index].path for index in evenly(len(parts), min(len(parts), _FILES))]
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


def _of_array(array: np.ndarray) -> Iterator[bytes | list[float]]:
  yield f"{array.dtype} {array.shape}".encode()
  rows = max(1, _BLOCK_BYTES // max(1, array[:1].nbytes))
  if len(array) > rows * _BLOCKS:
    starts = evenly(len(array) - rows, _BLOCKS)
    array = np.concatenate([array[start : start + rows] for start in starts])
  yield _sums(array) if array.dtype.kind == "f" else np.ascontiguousarray(array).tobytes()


def _sums(array: np.ndarray) -> list[float]:
  """Return eight sums of an array under random signs, and the mean of what they would be at most."""
  values = array.ravel().astype(np.float64)
  signs = hashing.bits(hashing.stream_key(0, "fingerprint"), np.arange(values.size, dtype=np.uint64))
  values *= np.where(signs & np.uint64(1), 1.0, -1.0)
  return [*(float(values[start::8].sum()) for start in range(8)), float(np.abs(values).sum()) / 8]
