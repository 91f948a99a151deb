"""A run whose batches are made by processes is preempted like any other, whoever gets the signal."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from trialbook.input_pipeline import write_array_record

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_sigterm_to_the_whole_group_saves_and_leaves_nothing_behind(tmp_path: pathlib.Path):
  rng = np.random.default_rng(0)
  examples = {"inputs": rng.standard_normal((300, 8), np.float32), "labels": rng.integers(0, 3, 300).astype(np.int32)}
  write_array_record(tmp_path / "records", {"train": examples, "validation": examples}, num_classes=3)
  settings = {
    "dataset.name": "array_record",
    "dataset.path": tmp_path / "records",
    "dataset.workers": 2,
    "model.name": "mlp",
    "max_train_steps": 1_000_000,
    "evaluation.every_steps": 50,
  }
  command = [sys.executable, "-m", "trialbook", "train", f"--workdir={tmp_path / 'run'}"]
  command += [f"--set={path}={value}" for path, value in settings.items()]
  with (tmp_path / "output.txt").open("w") as output:
    process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output, start_new_session=True)
  deadline = time.monotonic() + 100
  while not list((tmp_path / "run" / "checkpoints").glob("[1-9]*0")) and process.poll() is None:
    assert time.monotonic() < deadline
    time.sleep(0.02)
  os.killpg(process.pid, signal.SIGTERM)
  try:
    assert process.wait(30) == 75, (tmp_path / "output.txt").read_text()
  finally:
    process.kill()
  assert "received SIGTERM: stopped at step" in (tmp_path / "output.txt").read_text()
  deadline = time.monotonic() + 60
  while subprocess.run(["pgrep", "-g", str(process.pid)], capture_output=True).returncode == 0:
    assert time.monotonic() < deadline, "workers are left"
    time.sleep(0.05)
