"""Named random streams: a key is a function of (seed, stream, step, host) and is never split and carried.

The order of the data and its augmentation are drawn on the host, by `input_pipeline`, from the same seed and
from global example positions; they are in the table because the table is where randomness is declared.
"""

import dataclasses
import zlib

import jax
from jaxtyping import Array, ArrayLike


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stream:
  """One use of randomness.

  Attributes:
    per_host: whether the key is folded with the host's index, so that hosts draw differently.
    reason: why.
  """

  per_host: bool
  reason: str


STREAMS = {
  "init": Stream(per_host=False, reason="all hosts must hold the same parameters"),
  "dropout": Stream(per_host=False, reason="one global program draws one mask over the global batch"),
  "data_order": Stream(per_host=False, reason="hosts take disjoint slices of one global order"),
  "host_shuffle": Stream(per_host=True, reason="file-sharded sources: each host shuffles files of its own"),
  "host_preprocessing": Stream(per_host=True, reason="user-written randomness on the host's own examples"),
}


def key(seed: ArrayLike, stream: str, *, step: ArrayLike | None = None, host: int | None = None) -> Array:
  """Return the key of a stream, at a step if it is drawn anew each step; all may be traced except the names.

  Raises:
    KeyError: if the stream is not declared in `STREAMS`.
    ValueError: if `host` is given for a stream that all hosts share, or is missing for one that they do not.
  """
  declared = STREAMS[stream]
  if declared.per_host != (host is not None):
    raise ValueError(f"stream {stream!r} is {'' if declared.per_host else 'not '}per host: {declared.reason}")
  made = jax.random.fold_in(jax.random.key(seed), zlib.crc32(stream.encode()))
  if step is not None:
    made = jax.random.fold_in(made, step)
  return made if host is None else jax.random.fold_in(made, host)
