"""Hosts whose devices do not stand together in the mesh, with real processes."""

import pathlib

import pytest
from forked import ROOT
from test_topologies import assert_same, launch

EXPERIMENT = f"""
import os, pathlib, sys
sys.path.insert(0, {str(ROOT / "tests" / "trainer")!r})
from jax.sharding import Mesh
from language import language
from trialbook.trainer import sharding

make_mesh = sharding.make_mesh

def alternating(*arguments):
  # As the order of a torus may have them: a device of one host, then one of the other.
  mesh = make_mesh(*arguments)
  devices = mesh.devices.ravel()[[0, 2, 1, 3]].reshape(mesh.devices.shape)
  return Mesh(devices, mesh.axis_names, axis_types=mesh.axis_types)

sharding.make_mesh = alternating

def get_config():
  return language(pathlib.Path(os.environ["TEXT"]), mesh__tensor=int(os.environ["TENSOR"]), model__depth=1)
"""


@pytest.mark.slow
@pytest.mark.evidence
@pytest.mark.parametrize("tensor", [1, 2])
def test_hosts_whose_devices_alternate_train_to_the_bits_of_one_host(
  tmp_path: pathlib.Path, tensor: int, monkeypatch: pytest.MonkeyPatch
):
  """With tensor 2, both hosts read all examples."""
  for hosts in (1, 2):
    monkeypatch.setenv("TEXT", str(tmp_path))
    monkeypatch.setenv("TENSOR", str(tensor))
    code, output = launch(tmp_path, f"hosts{hosts}", hosts, 4 // hosts, experiment=EXPERIMENT)
    assert code == 0, output
  assert_same(tmp_path / "hosts1", tmp_path / "hosts2")
