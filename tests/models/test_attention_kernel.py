"""Each kernel of attention computes what XLA's does, and each is chosen where it can be used."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from trialbook.models.attention_kernel import attend, kernel, platform_of_trace

RNG = np.random.default_rng(0)


def heads(batch: int, length: int = 256, features: int = 64, dtype: str = "float32") -> list[jax.Array]:
  return [jnp.asarray(RNG.normal(size=(batch, length, 2, features)), dtype) for _ in range(3)]


@pytest.mark.parametrize("causal", [True, False])
def test_splash_attention_has_the_values_and_gradients_of_xlas(causal: bool):
  given = heads(1)
  weights = jnp.asarray(RNG.normal(size=given[0].shape), jnp.float32)

  def results(chosen: Any) -> tuple[Any, Any]:
    def total(*given: Any) -> Any:
      return jnp.sum(weights * attend(*given, causal=causal, kernel=chosen, interpret=True))

    return attend(*given, causal=causal, kernel=chosen, interpret=True), jax.grad(total, argnums=(0, 1, 2))(*given)

  jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=2e-5), results("splash"), results("xla"))


@pytest.mark.parametrize("tensor", [1, 2])
def test_on_a_mesh_each_device_computes_its_part_of_the_batch_or_of_the_heads(tensor: int):
  given = heads(2, length=128)
  devices = np.asarray(jax.devices()[:2]).reshape(2 // tensor, 1, tensor)
  mesh = Mesh(devices, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3)
  split = NamedSharding(mesh, PartitionSpec(("data", "fsdp"), None, "tensor"))

  def attention(*given: Any) -> Any:
    return attend(*given, causal=True, kernel="splash", interpret=True)

  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    compiled = jax.jit(attention, in_shardings=split, out_shardings=split).lower(*given).compile()
  assert "all-gather" not in str(compiled.as_text())
  found = compiled(*jax.device_put(given, split))
  np.testing.assert_allclose(found, attend(*given, causal=True, kernel="xla"), atol=2e-5)


@pytest.mark.parametrize(
  ("platform", "length", "features", "dtype", "capability", "expected"),
  [
    ("tpu", 1024, 128, "bfloat16", 0.0, "splash"),
    ("tpu", 1024, 128, "float32", 0.0, "splash"),
    ("tpu", 1000, 128, "bfloat16", 0.0, "xla"),
    ("tpu", 1024, 48, "bfloat16", 0.0, "xla"),
    ("gpu", 1000, 64, "bfloat16", 9.0, "cudnn"),
    ("gpu", 1000, 64, "bfloat16", 7.5, "xla"),
    ("gpu", 1000, 64, "float32", 9.0, "xla"),
    ("gpu", 1000, 60, "bfloat16", 9.0, "xla"),
    ("cpu", 1024, 128, "bfloat16", 0.0, "xla"),
    ("", 1024, 128, "bfloat16", 0.0, "xla"),
  ],
)
def test_the_fastest_kernel_that_can_be_used_is_chosen(
  platform: str, length: int, features: int, dtype: str, capability: float, expected: str
):
  assert kernel(platform, length, features, jnp.dtype(dtype), capability) == expected


def test_the_platform_is_that_of_the_mesh_of_the_trace():
  assert platform_of_trace() == ""
  mesh = Mesh(np.asarray(jax.devices()[:1]), ("data",), axis_types=(AxisType.Auto,))
  with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
    assert platform_of_trace() == "cpu"
