"""A run for which the devices have no room says what fits, and ends as infeasible."""

import pathlib
import re

import pytest
from in_process_command import run_command

from trialbook import errors
from trialbook.trainer import largest_batch

CONFIG = """
import sys
sys.path[:0] = [{here!r}, {folder!r}]
import tiny
from trialbook.models.plugin import PluginConfig

def get_config():
  return tiny.mlp(model=PluginConfig(name="hungry:Hungry"), batch_size=128, evaluation__batch_size=128)
"""
MODEL = """
import jax.numpy as jnp
from flax import nnx
from jax import lax

class Hungry(nnx.Module):
  def __init__(self, num_classes, rngs):
    self.linear = nnx.Linear(64, num_classes, rngs=rngs)

  def __call__(self, x):
    x = x.reshape(len(x), -1)
    # A row of 1 GiB for each example: 64 of them, one device's, are more than this machine has.
    row = jnp.sort(lax.stop_gradient(x[:, :1]) * jnp.arange(2**28, dtype=x.dtype), axis=1)
    return self.linear(x) + row[:, :1] * 0
"""


@pytest.fixture
def config(tmp_path: pathlib.Path) -> pathlib.Path:
  (tmp_path / "hungry.py").write_text(MODEL)
  path = tmp_path / "config.py"
  path.write_text(CONFIG.format(here=str(pathlib.Path(__file__).parent), folder=str(tmp_path)))
  return path


@pytest.mark.slow
def test_a_run_without_room_names_the_largest_batch_that_fits(
  config: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
  monkeypatch.setattr(largest_batch, "available_bytes", lambda device: 20 * 2**30)
  code, _, told = run_command(capsys, "train", f"--config={config}", f"--workdir={tmp_path / 'run'}")
  assert code == errors.INFEASIBLE, told
  assert "trialbook train: out of device memory: " in told
  found = re.search(
    r"the largest batch size that fits, by the compiler's analysis, is (\d+): --set batch_size=\1", told
  )
  assert found, told
  # Two devices; each example takes at least its row, and a second one to sort it.
  assert 2 <= int(found[1]) <= 40
