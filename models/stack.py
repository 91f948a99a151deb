"""Layers of one kind applied in turn by one loop of the compiled program, so that depth costs no compile time."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from trialbook.models import layout
from trialbook.models.layout import Placement
from trialbook.models.rematerialization import INPUT, Remat, rematerialized, saved


class Stack(nnx.Module):
  """`depth` layers that differ in their parameters alone, which lie stacked: [depth, ...] each.

  Settings (`Hyperparameter`) are shared. So is random state, and it moves from layer to layer, so that each draws
  anew. A layer may keep no other state that a call changes (batch statistics).

  On a mesh that splits parameters, the loop gathers those of one layer at a time, going forward and going back, and
  splits their gradient at once. For that, the backward pass must not keep them: set `remat`.

  Args:
    make: makes a layer, called as `layer(x, train=bool)`, whose output has the shape and dtype of x.
    depth: number of layers.
    remat: what the backward pass computes again; None: it keeps all that it needs.
    rngs: of the parameters and of what is random.
  """

  def __init__(self, make: Callable[[nnx.Rngs], nnx.Module], depth: int, *, remat: Remat | None, rngs: nnx.Rngs):
    key = rngs.params()

    def params(index: Array) -> nnx.State:
      return nnx.state(make(nnx.Rngs(params=jax.random.fold_in(key, index), dropout=0)), nnx.Param)

    self.layer = make(rngs)
    nnx.update(self.layer, jax.vmap(params)(jnp.arange(depth)))
    for _, node in nnx.iter_graph(self.layer):
      if isinstance(node, nnx.Param):
        node.set_metadata(layout.PLACEMENT, Placement(stacked=True, kept=remat is None))
    self.depth = depth
    self.remat: Remat | None = remat

  @property
  def sharding_rules(self) -> Mapping[str, layout.Axes]:
    """Return those of a layer, by the names that its parameters have here."""
    rules = getattr(self.layer, "sharding_rules", {})
    return {f"layer/{pattern}": axes for pattern, axes in rules.items()}

  def __call__(self, x: Float[Array, "batch ..."], *, train: bool) -> Float[Array, "batch ..."]:
    graph, stacked, random, rest = nnx.split(self.layer, nnx.Param, nnx.RngState, ...)

    def apply(carry: tuple[Array, nnx.State], params: nnx.State) -> tuple[tuple[Array, Any], None]:
      x, random = carry
      # Inside what is computed again, so that no gathered layer is kept.
      layer = nnx.merge(graph, layout.gathered_layer(params), random, rest, copy=True)
      x = saved(layout.activations(x, layout.DATA_AXES), INPUT)
      x = layer(x, train=train)
      return (x, nnx.state(layer, nnx.RngState)), None

    (x, random), _ = jax.lax.scan(rematerialized(apply, self.remat), (x, random), stacked, length=self.depth)
    nnx.update(self.layer, random)
    return x
