"""What only a GPU can show; skipped where there is none."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXPERIMENT = f"""
import sys
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
import tiny

def get_config():
  return tiny.resnet()
"""


@pytest.mark.long
@pytest.mark.skipif(not pathlib.Path("/dev/nvidia0").exists(), reason="there is no NVIDIA GPU on this machine")
def test_a_run_on_a_gpu_comes_to_its_end(tmp_path: pathlib.Path):
  experiment = tmp_path / "experiment.py"
  experiment.write_text(EXPERIMENT)
  command = [sys.executable, "-m", "trialbook", "train", f"--config={experiment}", f"--workdir={tmp_path / 'run'}"]
  environment = {name: value for name, value in os.environ.items() if name != "JAX_PLATFORMS"}
  subprocess.run([*command, "--platform=cuda"], cwd=ROOT, env=environment, check=True, timeout=600)
  record = json.loads((tmp_path / "run" / "run.json").read_text())
  assert (record["status"], record["platform"]) == ("complete", "gpu")
