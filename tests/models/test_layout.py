"""How parameters are split over a mesh, by their shapes and by what models say of them."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from trialbook.models import layout
from trialbook.models.layout import Placement
from trialbook.models.rematerialization import Remat
from trialbook.models.stack import Stack

SIZES = {"data": 2, "fsdp": 4, "tensor": 2}
STACKED = Placement(stacked=True)


@pytest.mark.parametrize(
  ("shape", "placement", "expected"),
  [
    ((64, 512), Placement(), P(None, "fsdp")),
    ((64, 512), Placement((None, "tensor")), P("fsdp", "tensor")),
    ((512, 64), Placement(("tensor",)), P("tensor", "fsdp")),
    ((513, 64), Placement((None, "tensor")), P(None, "tensor")),
    ((64, 512), Placement(("fsdp", None)), P("fsdp")),
    # Too small for fsdp, but a rule is a rule.
    ((64,), Placement(("tensor",)), P("tensor")),
    ((8, 4), Placement(("fsdp",)), P("fsdp")),
    # The depth, however large, is no axis to split, and a layer counts by its own size.
    ((4096, 128, 128), STACKED, P(None, "fsdp")),
    ((4096, 127, 129), STACKED, P()),
    ((4096, 64), STACKED, P()),
    ((16, 64, 512), Placement((None, "tensor"), stacked=True), P(None, "fsdp", "tensor")),
    ((16, 64), Placement(("tensor",), stacked=True), P(None, "tensor")),
  ],
)
def test_fsdp_takes_the_largest_axis_that_no_rule_and_no_depth_takes(shape, placement, expected):
  assert layout.split(shape, placement, SIZES) == expected
  # An axis of one device splits nothing.
  assert layout.split(shape, placement, dict.fromkeys(SIZES, 1)) == P()
  assert layout.split(shape, placement, {}) == P()


class Layer(nnx.Module):
  sharding_rules: ClassVar = {"linear/kernel": (None, "tensor")}

  def __init__(self, rngs):
    self.linear = nnx.Linear(4, 4, rngs=rngs)

  def __call__(self, x, *, train):
    return self.linear(x)


def test_a_stack_says_of_its_parameters_that_they_are_stacked_and_names_the_rules_of_its_layers():
  cases: tuple[tuple[Remat | None, bool], ...] = ((None, True), ("full", False))
  for remat, kept in cases:
    stack = Stack(Layer, 3, remat=remat, rngs=nnx.Rngs(0))
    params = [param for _, param in nnx.to_flat_state(nnx.state(stack, nnx.Param))]
    assert [layout.placement_of(param) for param in params] == [Placement(stacked=True, kept=kept)] * 2
    assert stack.sharding_rules == {"layer/linear/kernel": (None, "tensor")}


def test_without_a_mesh_nothing_changes():
  x = jnp.ones((4, 4))
  assert layout.gathered(x, Placement(("tensor",))) is x
  assert layout.activations(x, layout.DATA_AXES, "tensor") is x
  assert layout.divides("tensor", 7)
  assert (layout.data_axes(), layout.num_replicas()) == ((), 1)


def test_an_axis_of_the_mesh_splits_activations_only_where_it_divides_them():
  mesh = jax.sharding.AbstractMesh((1, 2, 1), layout.AXES, axis_types=(jax.sharding.AxisType.Auto,) * 3)

  def specs(shape):
    with jax.sharding.use_abstract_mesh(mesh):
      traced = jax.make_jaxpr(lambda x: layout.activations(x, layout.DATA_AXES, "tensor"))(np.zeros(shape, np.float32))
    return str(traced)

  assert "('data', 'fsdp')" in specs((4, 3, 2))
  assert "('data', 'fsdp')" not in specs((3, 3, 2))
