"""Random numbers without a generator: each is a hash of what it is for.

`bits(key, counter)` is output number `counter` of the splitmix64 generator (Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", 2014) started in state `key`. So the number for example position
10**14 costs as much as the first, and does not depend on what was drawn before, by whom or on which host.
"""

import functools
import zlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1 = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = np.uint64(0x94D049BB133111EB)
_1, _27, _30, _31, _32 = (np.uint64(n) for n in (1, 27, 30, 31, 32))
_2_POW_MINUS_53 = 2.0**-53


@functools.lru_cache(maxsize=256)
def stream_key(seed: int, stream: str) -> np.ndarray:
  """Return the uint64 [1] key of the named stream of a run with this seed (0 <= seed < 2**64), read-only."""
  # Arrays, not scalars: NumPy lets arrays of uint64 wrap silently and warns for scalars.
  run_key = bits(np.array([seed], np.uint64), np.zeros(1, np.uint64))
  key = bits(run_key, np.array([zlib.crc32(stream.encode())], np.uint64))
  key.setflags(write=False)
  return key


def bits(key: np.ndarray, counter: np.ndarray) -> np.ndarray:
  """Return 64 random bits for each counter: uint64 [n], from key uint64 [n] or [1] and counter uint64 [n]."""
  z = counter + _1
  z *= _GOLDEN
  z = z + key
  z ^= z >> _30
  z *= _MULTIPLY_1
  z ^= z >> _27
  z *= _MULTIPLY_2
  z ^= z >> _31
  return z


def below(limit: int, random_bits: np.ndarray) -> np.ndarray:
  """Return integers in [0, limit) from random bits, uint64 [n]; biased by less than limit / 2**32."""
  scaled = random_bits >> _32
  scaled *= np.uint64(limit)
  scaled >>= _32
  return scaled


def uniform(random_bits: np.ndarray) -> np.ndarray:
  """Return numbers in [0, 1) from random bits, float64 [n]."""
  return (random_bits >> np.uint64(11)) * _2_POW_MINUS_53
