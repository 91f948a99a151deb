"""The text of compiled programs: computations, loops, collectives, FLOPs and traffic, counted by hand."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trialbook.launch.preflight import costs, hlo
from trialbook.launch.preflight.collectives import Places, collectives, link_bytes, place

TEXT = pathlib.Path(__file__).with_name("scanned_step.hlo.txt").read_text()
"""A loop of 12 rounds gathers a slice of a stack asynchronously and multiplies with it. Then gradients are reduced,
three arrays at once, and one more is scattered in a fusion, as the compiler of TPUs writes it."""
PLACES = Places(
  axes={"data": 8, "fsdp": 2},
  coordinates=[(index // 4, index % 4) for index in range(16)],
  slices=[index // 8 for index in range(16)],
)


@pytest.fixture(scope="module")
def module() -> hlo.Module:
  return hlo.parse(TEXT)


def test_a_loop_runs_as_often_as_its_condition_says_and_scalar_functions_do_not(module):
  assert module.entry == "main.1"
  assert module.trips["body.1"] == module.trips["slice_of_stack"] == 12
  assert module.trips["all-reduce-scatter.1"] == 1
  assert not module.trips["add.1"]
  assert module.loops == {"body.1", "slice_of_stack"}
  assert {"slice_of_stack", "all-reduce-scatter.1"} <= module.fused
  assert "body.1" not in module.fused


def test_the_count_that_the_compiler_wrote_goes_before_the_condition():
  written = TEXT.replace("body=%body.1", 'body=%body.1, backend_config={"known_trip_count":{"n":"7"}}')
  assert hlo.parse(written).trips["body.1"] == 7


@pytest.mark.parametrize(("steps", "rounds"), [("1", 12), ("2", 6), ("5", 3)])
def test_a_loop_that_counts_by_more_than_one_runs_less_often(steps: str, rounds: int):
  counted = f"  %by.1 = s32[] constant({steps})\n  %next.1 = s32[] add(%index.2, %by.1)\n  ROOT %tuple.1 ="
  written = TEXT.replace("  ROOT %tuple.1 =", counted).replace("tuple(%index.2, %stack.2", "tuple(%next.1, %stack.2")
  assert hlo.parse(written).trips["body.1"] == rounds


def test_every_collective_is_found_once_with_its_bytes_group_and_place(module):
  found = collectives(module, 16)
  assert len(found) == 4
  kinds = ("all-gather", "reduce-scatter", "all-reduce", "collective-permute")
  gather, scatter, combined, permute = (next(one for one in found if one.kind == kind) for kind in kinds)
  assert (gather.kind, gather.bytes, gather.times, gather.in_loop) == ("all-gather", 2 * 2048 * 512, 12, True)
  assert gather.group == (0, 2, 4, 6, 8, 10, 12, 14)
  assert gather.shape == "bf16[2048,512]"
  assert place(gather.op_name) == "forward: gather"
  assert (scatter.kind, scatter.bytes, scatter.group) == ("reduce-scatter", 4 * 2048 * 64, tuple(range(16)))
  assert (combined.arrays, combined.bytes, combined.largest) == (3, 4 * (100 + 100 + 1), 400)
  assert combined.group == (0, 1)
  assert place(combined.op_name) == "backward: loss/reduce_sum"
  assert (permute.bytes, permute.group) == (400, (0, 2))


@pytest.mark.parametrize(
  ("written", "group"),
  [
    ("replica_groups={{0,2},{1,3}}", (0, 2)),
    ("replica_groups=[2,2]<=[4]", (0, 1)),
    ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
    ("replica_groups={}", (0, 1, 2, 3, 4, 5, 6, 7)),
    ("replica_groups=mesh['x'=2,'y'=4] {'y'}", (0, 1, 2, 3)),
    ("replica_groups=mesh['x'=4,'y'=1,'z'=2], device_ids=([2,4]T(1,0)) {'x'}", (0, 1, 2, 3)),
    ("replica_groups=mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'y'}", (0, 4)),
    ("replica_groups=mesh['x'=2,'y'=4] {'x','y'}", (0, 1, 2, 3, 4, 5, 6, 7)),
    ("replica_groups=mesh['x'=8] {'x':(1)2}", (0, 4)),
    ("replica_groups=mesh['x'=8] {'x':(2)4}", (0, 1, 2, 3)),
  ],
)
def test_groups_are_read_in_every_form(written: str, group: tuple[int, ...]):
  lines = [
    "ENTRY %main (x: f32[4]) -> f32[4] {",
    "%x = f32[4] parameter(0)",
    f"ROOT %y = f32[4] all-reduce(%x), {written}",
  ]
  text = "\n".join([*lines, "}"])
  (found,) = collectives(hlo.parse(text), 8)
  assert found.group == group


def test_a_permutation_whose_first_pair_stays_is_found_with_a_pair_that_moves():
  text = """HloModule shift

ENTRY %main (x: f32[8,4]) -> f32[8,4] {
  %x = f32[8,4]{1,0} parameter(0)
  ROOT %moved = f32[8,4]{1,0} collective-permute(%x), channel_id=1, source_target_pairs={{0,0},{1,2},{2,1},{3,7}}
}
"""
  (found,) = collectives(hlo.parse(text), 8)
  assert (found.group, found.bytes) == ((3, 7), 8 * 4 * 4)


def test_groups_are_named_by_the_axes_of_the_mesh():
  assert PLACES.axis((0, 1)) == "fsdp"
  assert PLACES.axis((0, 2, 4, 6, 8, 10, 12, 14)) == "data"
  assert PLACES.axis(range(16)) == "data+fsdp"
  assert PLACES.axis((0, 2)) == "part of data"
  assert PLACES.crossed((0, 2, 4, 6)) == 1
  assert PLACES.crossed(range(16)) == 2
  assert PLACES.dimensions((0, 1, 2, 3)) == 1
  assert PLACES.dimensions((0, 4)) == 1
  assert PLACES.dimensions(range(16)) == 2


def test_hops_follow_the_interconnect_and_its_rings():
  line = Places(axes={"data": 1, "fsdp": 4}, coordinates=[(0,), (1,), (2,), (3,)], slices=[0] * 4)
  assert line.hops("fsdp", (4,), [False]) == 1
  assert line.hops("fsdp", (4,), [True]) == 1
  mixed = Places(axes={"data": 1, "fsdp": 4}, coordinates=[(0,), (2,), (1,), (3,)], slices=[0] * 4)
  assert mixed.hops("fsdp", (4,), [True]) == 2
  assert Places(axes={"data": 4}, coordinates=[()] * 4, slices=[0] * 4).hops("data", (4,), [False]) is None


def test_the_least_bytes_of_a_collective(module):
  found = {one.kind: one for one in collectives(module, 16)}
  assert link_bytes(found["all-gather"], 1) == (2 * 2048 * 512 * 7 / 8, 0)
  assert link_bytes(found["all-reduce"], 1) == (804.0, 0)
  # 16 chips in two slices: 8 in each, which share what goes between the slices.
  inside, between = link_bytes(found["reduce-scatter"], 2)
  assert inside == 4 * 2048 * 64 * 7 / 8
  assert between == 4 * 2048 * 64 / 8 / 2


def test_flops_and_traffic_count_loops_and_slices(module):
  assert costs.compiled_flops(module) == {("bf16", 1): 12 * 2 * 64 * 2048 * 512}
  a_round = sum(
    (
      2 * 128 * 512 * 2 + 4,  # The slice that the fusion takes, what it writes, and the index.
      128 * 512 * 2 + 2048 * 512 * 2,  # The gather reads its part and writes the whole.
      64 * 2048 * 2 + 2048 * 512 * 2,  # The product reads both; its result stays on the chip.
      64 * 2048 * 2,  # The padded result.
    )
  )
  # The reduction reads one array of 100 three times and writes three; the permutation; the scatter.
  rest = 3 * 400 + 804 + 800 + (2048 * 64 + 128 * 64) * 4
  assert costs.traffic(module) == 12 * a_round + rest


def test_what_follows_a_kernel_with_attributes_of_several_lines_belongs_to_the_same_computation():
  text = """HloModule kernel

ENTRY %main (x: bf16[8,4], w: bf16[4,2]) -> bf16[8,2] {
  %x = bf16[8,4]{1,0} parameter(0)
  %w = bf16[4,2]{1,0} parameter(1)
  %kernel = bf16[8,4]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", frontend_attributes={kernel_metadata={
"xprof_metadata":"{block: 512}"
}}, metadata={op_name="attention"}
  ROOT %dot = bf16[8,2]{1,0} dot(%kernel, %w), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}
"""
  assert costs.compiled_flops(hlo.parse(text)) == {("bf16", 1): 2 * 8 * 4 * 2}


def test_padding_follows_the_tiles_of_the_layout():
  (one,) = hlo.array_types("f32[3,130]{1,0:T(8,128)}")
  assert (one.bytes, one.padded_bytes) == (4 * 390, 4 * 8 * 256)
  (turned,) = hlo.array_types("bf16[130,3]{0,1:T(8,128)(2,1)}")
  assert turned.padded_bytes == 2 * 8 * 256
  assert hlo.array_types("f8e4m3fn[16]{0}")[0].bytes == 16
  assert hlo.array_types("token[]")[0].bytes == 0


@pytest.mark.parametrize("stride", [1, 2])
def test_flops_of_convolutions_count_the_inputs_that_a_window_meets(stride: int):
  def forward(x, w):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jnp.sum(jax.lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=numbers))

  x, w = jnp.ones((2, 6, 5, 3)), jnp.ones((3, 3, 3, 4))
  taps = [
    sum(0 <= o * stride + k - low < n for o in range(-(-n // stride)) for k in range(3))
    for n, low in ((6, 1 if stride == 1 else 0), (5, 1))
  ]
  expected = 2 * 2 * 3 * 4 * taps[0] * taps[1]
  assert costs.asked_flops(jax.make_jaxpr(forward)(x, w)) == expected
  # Of the gradient by the inputs, zeros between the outputs of a stride count as little.
  backward = costs.asked_flops(jax.make_jaxpr(jax.grad(forward, argnums=0))(x, w))
  assert backward == 2 * expected


def test_the_flops_of_a_compiled_program_are_those_that_it_asks_for(optimized):
  def loss(stack, x):
    x, _ = jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, stack)
    return jnp.sum(x)

  stack, x = jnp.ones((5, 16, 16)), jnp.ones((8, 16))
  traced = jax.jit(jax.value_and_grad(loss)).trace(stack, x)
  compiled = traced.lower().compile()
  asked = costs.asked_flops(traced.jaxpr)
  assert asked == 5 * 3 * 2 * 8 * 16 * 16
  found = costs.compiled_flops(hlo.parse(compiled.as_text() or ""))
  assert sum(found.values()) == asked
  # Which is why the compiler's own analysis is not used.
  analysis: Any = compiled.cost_analysis()
  assert analysis["flops"] < 0.7 * asked


def test_collectives_of_a_real_program_on_two_devices(optimized):
  mesh = jax.sharding.Mesh(np.array(jax.devices()[:2]), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  rows = jax.NamedSharding(mesh, jax.P("data"))
  whole = jax.NamedSharding(mesh, jax.P())

  def step(w, x):
    return jax.lax.with_sharding_constraint(jnp.tanh(x @ w), whole), jnp.sum(x @ w, axis=0)

  shapes = jax.ShapeDtypeStruct((16, 32), jnp.float32), jax.ShapeDtypeStruct((8, 16), jnp.float32)
  compiled = jax.jit(step, in_shardings=(whole, rows), out_shardings=(whole, whole)).lower(*shapes).compile()
  found = {one.kind: one for one in collectives(hlo.parse(compiled.as_text() or ""), 2)}
  assert found["all-gather"].bytes == 4 * 8 * 32
  assert found["all-reduce"].bytes == 4 * 32
  assert found["all-reduce"].group == (0, 1)
