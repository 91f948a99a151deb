"""Reading gzipped idx files, the format of MNIST and its successors.

An idx file is two zero bytes, the type of its elements (8 is uint8), the number of its axes, each axis'
length as a big-endian uint32, and the elements in C order (Y. LeCun, "The MNIST database of handwritten
digits").
"""

import math
import pathlib
import zlib

import numpy as np

from trialbook.errors import DataError


def read(path: pathlib.Path, shape: tuple[int, ...]) -> np.ndarray:
  """Return the uint8 array of a gzipped idx file, which must have exactly this shape; the array is read-only.

  Raises:
    DataError: the file is missing, is not gzip, is truncated or corrupt, or holds something else. The message
      names the file, what was found and what was expected.
  """
  try:
    compressed = path.read_bytes()
  except FileNotFoundError:
    raise DataError(f"{path}: missing") from None
  except OSError as error:
    raise DataError(f"{path}: cannot be read: {error.strerror}") from error
  header = bytes([0, 0, 8, len(shape)]) + b"".join(length.to_bytes(4, "big") for length in shape)
  expected = len(header) + math.prod(shape)
  # Not gzip.open: of a truncated file, it does not say how much there was.
  stream = zlib.decompressobj(wbits=31)
  try:
    content = stream.decompress(compressed)
  except zlib.error as error:
    problem = "corrupt" if compressed.startswith(b"\x1f\x8b") else "not a gzip file"
    raise DataError(f"{path}: {problem} ({error}), {len(compressed):,} bytes") from error
  if content[:4] != header[:4] and len(content) >= 4:
    raise DataError(f"{path}: wrong magic number 0x{content[:4].hex()}, expected 0x{header[:4].hex()}")
  if content[4 : len(header)] != header[4:] and len(content) >= len(header):
    found = tuple(np.frombuffer(content, ">u4", len(shape), offset=4).tolist())
    raise DataError(f"{path}: holds an array of shape {found}, expected {shape}")
  if len(content) < expected:
    raise DataError(f"{path}: truncated: {len(content):,} of {expected:,} bytes when uncompressed")
  if len(content) == expected and not stream.eof:
    raise DataError(f"{path}: truncated: the checksum at the end is missing, {len(compressed):,} bytes")
  if len(content) > expected or stream.unused_data:
    extra = len(content) - expected + len(stream.unused_data)
    raise DataError(f"{path}: {extra:,} bytes too many, expected {expected:,} bytes when uncompressed")
  return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)
