"""Searches for the largest batch that fits into memory."""

import math
from collections.abc import Callable
from typing import NamedTuple


class Tried(NamedTuple):
  """A size that was compiled.

  Attributes:
    fits: whether it fits.
    bytes: that a chip needs; 0: not known.
    limit: bytes that a chip has.
  """

  fits: bool
  bytes: int
  limit: int


def largest(compile_size: Callable[[int], Tried], first: int = 1) -> tuple[int, int]:
  """Return the largest size that fits (0: none), and the smallest one that was refused.

  Memory grows about linearly with the size, so each next size is where a line through two tried ones meets the limit;
  if that has twice not halved the interval, it is the middle. Both ends of the last interval were compiled.

  Args:
    compile_size: compiles a size of at least 1; is called once for each.
    first: the size to begin with.
  """
  known: dict[int, Tried] = {}
  low, high, size, missed = 0, 0, max(1, first), 0
  while True:
    before = high - low
    tried = known[size] = compile_size(size)
    low, high = (size, high) if tried.fits else (low, size)
    if high - low == 1:
      return low, high
    guess = _meets_limit(known)
    if not high:
      # Not beyond four times what fits, because the line is a guess.
      size = min(max(guess or 2 * low, low + 1), 4 * low)
      continue
    missed = missed + 1 if 0 < before < 2 * (high - low) else 0
    size = min(max(guess, low + 1), high - 1) if guess and missed < 2 else (low + high) // 2


def _meets_limit(known: dict[int, Tried]) -> int:
  """Return the largest size that fits if memory is a line through the two sizes nearest to the limit; 0: unknown."""
  points = sorted(((size, tried) for size, tried in known.items() if tried.bytes), key=lambda point: point[0])
  if len(points) < 2:
    return 0
  points.sort(key=lambda point: abs(point[1].bytes - point[1].limit))
  (one, at_one), (other, at_other) = points[:2]
  slope = (at_other.bytes - at_one.bytes) / (other - one)
  return math.floor(one + (at_one.limit - at_one.bytes) / slope) if slope > 0 else 0
