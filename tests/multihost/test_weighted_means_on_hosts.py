"""Masked and weighted means over hosts equal float64 NumPy, with real processes."""

import pathlib

import masked_tokens
import pytest
from forked import ROOT, Forked
from test_topologies import launch
from tiny import numbers, read_arrays

from trialbook.input_pipeline import load
from trialbook.trainer import Config

STEPS = 4
EXPERIMENT = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests" / "trainer")!r})
import masked_tokens
from trialbook import Config

def get_config():
  return Config(compilation_cache=None, export=False).override(masked_tokens.overrides() | {{
    "max_train_steps": {STEPS}, "evaluation.every_steps": {STEPS}, "gradient_accumulation": PARTS}})
"""


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("parts", [1, 4])
@pytest.mark.parametrize(("hosts", "devices"), [(1, 4), (2, 2), (4, 1)])
def test_masked_and_weighted_tokens_are_float64s_on_hosts(tmp_path: pathlib.Path, hosts: int, devices: int, parts: int):
  experiment = EXPERIMENT.replace("PARTS", str(parts))
  code, output = launch(tmp_path, "run", hosts, devices, Forked, experiment=experiment)
  assert code == 0, output
  config = Config().override(masked_tokens.overrides())
  dataset = load(config.dataset, seed=0, batch_size=config.batch_size)
  kernel = read_arrays(tmp_path / "run" / "checkpoints" / "0")["params/kernel"]
  lines = {line["step"]: line for line in numbers(tmp_path / "run")}
  for step in range(STEPS):
    values, kernel = masked_tokens.expected(kernel, dataset.train_batch(step))
    for name, value in values.items():
      told = lines[step + 1][name if name == "grad_norm" else f"train/{name}"]
      assert told == pytest.approx(value, rel=1e-6, abs=1e-6), f"{name} at step {step}"
