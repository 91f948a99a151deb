"""Checksums of arrays, computed where they lie.

Orbax restores a flipped byte without a word, as a wrong weight. The checksum of an array is the wrapping sum of
its 32-bit words, each times an odd number that its position gives: the same on any sharding, and any single word
that differs changes it, because an odd factor loses nothing modulo 2**32.
"""

from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32


def checksums(arrays: Mapping[str, Array]) -> UInt32[Array, " N"]:
  """Return a checksum for each of N arrays, for `by_name` to read; for use inside jit.

  A mapping that crosses the boundary of jit loses its order, so the order here is that of the sorted names.
  """
  return jnp.stack([_checksum(arrays[name]) for name in sorted(arrays)])


def by_name(names: Iterable[str], sums: UInt32[Array, " N"]) -> dict[str, int]:
  """Return name -> checksum for what `checksums` returned for arrays of these names, given in any order."""
  return dict(zip(sorted(names), jax.device_get(sums).tolist(), strict=True))


def _checksum(array: Array) -> UInt32[Array, ""]:
  if array.dtype == jnp.bool_:
    words = array.astype(jnp.uint32)
  else:
    # 8 bytes become two words of four along a new last axis; 1 and 2 bytes become one word each.
    width = min(array.dtype.itemsize, 4)
    words = jax.lax.bitcast_convert_type(array, f"uint{8 * width}").astype(jnp.uint32)
  position = jax.lax.iota(jnp.uint32, words.size).reshape(words.shape)
  return jnp.sum(words * (2 * position + 1), dtype=jnp.uint32)
