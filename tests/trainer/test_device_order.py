"""Devices stand in a mesh as the network between them has them."""

import types
from typing import Any

import numpy as np
import pytest

from trialbook.errors import UserError
from trialbook.trainer import sharding
from trialbook.trainer.config import MeshSettings

SIDE = 4


def tpus(slices: int = 1) -> list[Any]:
  """Devices of slices of 4 × 4 chips, in the order in which jax lists them: host after host, of 2 × 2 chips each."""
  found = []
  for index in range(slices):
    for host in range(4):
      for chip in range(4):
        coords = (2 * (host % 2) + chip % 2, 2 * (host // 2) + chip // 2, 0)
        found.append(
          types.SimpleNamespace(
            platform="tpu",
            device_kind="TPU v5p",
            coords=coords,
            core_on_chip=0,
            slice_index=index,
            process_index=4 * index + host,
          )
        )
  return found


def ordered(monkeypatch: pytest.MonkeyPatch, devices: list[Any], **sizes: int) -> np.ndarray:
  monkeypatch.setattr(sharding, "Mesh", lambda devices, axes, axis_types: devices)
  return np.asarray(sharding.make_mesh(MeshSettings(**sizes), devices))


def hops(one: Any, other: Any) -> int:
  """Links between two chips of a torus."""
  assert one.slice_index == other.slice_index
  ways = [abs(a - b) for a, b in zip(one.coords, other.coords, strict=True)]
  return sum(min(way, SIDE - way) for way in ways)


@pytest.mark.parametrize(("sizes", "slices"), [({"fsdp": 4}, 1), ({"fsdp": 4}, 2), ({"fsdp": 4, "tensor": 4}, 2)])
def test_neighbours_in_the_mesh_are_neighbours_in_the_torus(
  monkeypatch: pytest.MonkeyPatch, sizes: dict[str, int], slices: int
):
  devices = tpus(slices)
  mesh = ordered(monkeypatch, devices, **sizes)
  assert mesh.shape == (16 * slices // (4 * sizes.get("tensor", 1)), 4, sizes.get("tensor", 1))
  for axis in (1, 2):
    for ring in np.moveaxis(mesh, axis, -1).reshape(-1, mesh.shape[axis]):
      # From each to the next, and from the last to the first.
      assert {hops(one, other) for one, other in zip(ring, np.roll(ring, 1), strict=True)} <= {0, 1}
  # Not so in the order of hosts.
  by_host = np.asarray(devices[:16]).reshape(-1, 4)
  assert max(hops(one, other) for ring in by_host for one, other in zip(ring, np.roll(ring, 1), strict=True)) > 1


def test_data_goes_through_the_slices_first(monkeypatch: pytest.MonkeyPatch):
  mesh = ordered(monkeypatch, tpus(2), fsdp=4)
  assert [{device.slice_index for device in row.ravel()} for row in mesh] == [{0}] * 4 + [{1}] * 4


def test_sizes_that_no_axis_of_the_torus_has_take_a_part_of_one(monkeypatch: pytest.MonkeyPatch):
  mesh = ordered(monkeypatch, tpus(), fsdp=8)
  assert len({device.coords for device in mesh.ravel()}) == 16


def test_parameters_are_not_split_over_slices(monkeypatch: pytest.MonkeyPatch):
  with pytest.raises(
    UserError, match=r"^mesh\.fsdp = 32 does not divide the 16 devices of each of 2 slices; these do:"
  ):
    ordered(monkeypatch, tpus(2), fsdp=32)
