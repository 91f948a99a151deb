"""Layers of one kind applied in turn by one loop of the compiled program, so that depth costs no compile time."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


class Stack(nnx.Module):
  """`depth` layers that differ in their parameters alone, which lie stacked: [depth, ...] each.

  Settings (`Hyperparameter`) are shared. So is random state, and it moves from layer to layer, so that each draws
  anew. A layer may keep no other state that a call changes (batch statistics).

  Args:
    make: makes a layer, called as `layer(x, train=bool)`, whose output has the shape and dtype of x.
    depth: number of layers.
    remat: whether the backward pass keeps the layers' inputs only, and computes the rest of each layer again.
    rngs: of the parameters and of what is random.
  """

  def __init__(self, make: Callable[[nnx.Rngs], nnx.Module], depth: int, *, remat: bool, rngs: nnx.Rngs):
    key = rngs.params()

    def params(index: Array) -> nnx.State:
      return nnx.state(make(nnx.Rngs(params=jax.random.fold_in(key, index), dropout=0)), nnx.Param)

    self.layer = make(rngs)
    nnx.update(self.layer, jax.vmap(params)(jnp.arange(depth)))
    self.depth = depth
    self.remat = remat

  def __call__(self, x: Float[Array, "batch ..."], *, train: bool) -> Float[Array, "batch ..."]:
    graph, stacked, random, rest = nnx.split(self.layer, nnx.Param, nnx.RngState, ...)

    def apply(carry: tuple[Array, nnx.State], params: nnx.State) -> tuple[tuple[Array, Any], None]:
      x, random = carry
      layer = nnx.merge(graph, params, random, rest, copy=True)
      x = layer(x, train=train)
      return (x, nnx.state(layer, nnx.RngState)), None

    if self.remat:
      # Forward and backward are two loops, which the compiler does not merge, so no barrier has to prevent it.
      apply = jax.checkpoint(apply, prevent_cse=False)
    (x, random), _ = jax.lax.scan(apply, (x, random), stacked, length=self.depth)
    nnx.update(self.layer, random)
    return x
