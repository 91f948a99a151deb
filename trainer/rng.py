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
  "task": Stream(
    per_host=False, reason="each example draws for itself, by its number in the global batch or the split"
  ),
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


class TaskRngs:
  """Random keys of a task, by the name of what is drawn.

  In training they follow from (seed, step, name, number of the example in the global batch), in evaluation from (seed,
  name, split, number of the example in the split). So they depend neither on devices, hosts and gradient accumulation
  nor on the size of evaluation batches.

  Args:
    key: of the seed, and of the step in training.
    fixed: of the seed.
    examples: uint32 [B], a number for each example.
  """

  def __init__(self, key: Array, fixed: Array, examples: Array):
    self._key, self._fixed, self._examples = key, fixed, examples

  def __call__(self, name: str) -> Array:
    """Return a key for each example, [B], for `jax.vmap`."""
    named = jax.random.fold_in(self._key, zlib.crc32(name.encode()))
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(named, self._examples)

  def fixed(self, name: str) -> Array:
    """Return one key, the same at every step and evaluation."""
    # Another branch than that of the keys for examples.
    return jax.random.fold_in(jax.random.fold_in(self._fixed, zlib.crc32(b"fixed")), zlib.crc32(name.encode()))
