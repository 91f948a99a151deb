"""Logits over a large vocabulary that are never in memory all at once."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from trialbook.models import layout


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TiledLogits:
  """The logits x @ kernel of an output layer, [batch, length, vocabulary], computed for a part of the length at a time.

  A loss needs one number of each position, but the logits behind it, and their gradient, are `vocabulary` times as
  large: for 4,096 tokens and 32,000 words half a GiB each in float32. `at_positions` computes those of a tile, and
  again in the backward pass, so that one tile is the most that is there.

  Attributes:
    x: what the output layer is applied to.
    kernel: its matrix.
    tiles: parts of the length; they divide it.
  """

  x: Float[Array, "batch length width"]
  kernel: Float[Array, "width vocabulary"]
  tiles: int = dataclasses.field(metadata={"static": True})

  @property
  def shape(self) -> tuple[int, ...]:
    """Return the shape of the logits."""
    return (*self.x.shape[:-1], self.kernel.shape[-1])

  @property
  def dtype(self) -> jnp.dtype:
    """Return the dtype in which the output layer computes."""
    return self.x.dtype

  def at_positions(self, function: Callable[..., Any], *arrays: Array) -> Any:
    """Return `function(logits, *arrays)` of all positions, computed tile by tile.

    Args:
      function: of float32 logits [batch, part of the length, vocabulary] and the same part of each array; returns
        arrays [batch, part of the length, ...].
      *arrays: [batch, length, ...].
    """

    @jax.checkpoint
    def of_tile(tile: tuple[Array, ...]) -> Any:
      x, *rest = tile
      logits = layout.activations(x @ self.kernel, layout.DATA_AXES, None, layout.TENSOR)
      return function(logits.astype(jnp.float32), *rest)

    def cut(array: Array) -> Array:
      return array.reshape(array.shape[0], self.tiles, -1, *array.shape[2:]).swapaxes(0, 1)

    def join(array: Array) -> Array:
      return array.swapaxes(0, 1).reshape(array.shape[1], -1, *array.shape[3:])

    return jax.tree.map(join, jax.lax.map(of_tile, jax.tree.map(cut, (self.x, *arrays))))


def at_positions(logits: Array | TiledLogits, function: Callable[..., Any], *arrays: Array) -> Any:
  """Return `function(logits, *arrays)`; tile by tile, if the logits are tiled.

  Args:
    logits: [batch, length, vocabulary].
    function: computes each position on its own, see `TiledLogits.at_positions`.
    *arrays: [batch, length, ...].
  """
  return logits.at_positions(function, *arrays) if isinstance(logits, TiledLogits) else function(logits, *arrays)


def is_tiled(value: Any) -> bool:
  """Return whether a part of a model's outputs is tiled logits, for the `is_leaf` of functions on trees."""
  return isinstance(value, TiledLogits)
