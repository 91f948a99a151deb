"""A run that is killed at any moment, any number of times, ends as if nothing had happened."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
from tiny import numbers, state_of

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXPERIMENT = """
import sys
sys.path.insert(0, {tests!r})
import tiny

def get_config():
  return tiny.{model}(**{changes!r})
"""
CASES = {
  "ResNet with dropout, augmentation, averaging": (
    "resnet",
    {
      "optimizer__name": "nesterov",
      "model__dropout_rate": 0.2,
      "averaging__decay": 0.95,
      "max_train_steps": 500,
      "evaluation__every_steps": 10,
    },
  ),
  "Adam with warmup and clipping": (
    "mlp",
    {
      "optimizer__name": "adam",
      "schedule__warmup_steps": 300,
      "clip_norm": 0.5,
      "max_train_steps": 6000,
      "evaluation__every_steps": 200,
      "evaluation__batch_size": 2,
    },
  ),
}


def start(experiment: pathlib.Path, workdir: pathlib.Path) -> subprocess.Popen[str]:
  command = [sys.executable, "-m", "trainer", f"--config={experiment}", f"--workdir={workdir}"]
  return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
  while process.poll() is None and not condition():
    time.sleep(0.001)


def newest(workdir: pathlib.Path) -> int:
  names = [path.name for path in (workdir / "checkpoints").glob("*")] if (workdir / "checkpoints").exists() else []
  return max((int(name) for name in names if name.isdigit()), default=-1)


def saving(workdir: pathlib.Path) -> bool:
  return any("tmp" in path.name for path in (workdir / "checkpoints").glob("*"))


def evaluating(workdir: pathlib.Path, interval: int) -> bool:
  """All steps before an evaluation are dispatched, and its line is not written yet; seen from outside, by steps."""
  path = workdir / "metrics.jsonl"
  lines = path.read_text().split("\n")[:-1] if path.exists() else []
  return bool(lines) and "validation/" in lines[-1] and json.loads(lines[-1])["step"] % interval == 0


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_ten_kills_change_no_bit_of_the_end(tmp_path: pathlib.Path, case: str):
  model, changes = CASES[case]
  experiment = tmp_path / "experiment.py"
  experiment.write_text(EXPERIMENT.format(tests=str(pathlib.Path(__file__).parent), model=model, changes=changes))
  undisturbed = start(experiment, tmp_path / "undisturbed")
  output, _ = undisturbed.communicate(timeout=300)
  assert undisturbed.returncode == 0, output

  rng, workdir = random.Random(os.environ.get("TRIALBOOK_KILL_SEED", case)), tmp_path / "killed"
  moments = ["starting", "starting", "saving", "saving", "saving", "evaluated", "evaluated", "any", "any", "any"]
  rng.shuffle(moments)
  for moment in moments:
    before = newest(workdir)
    process = start(experiment, workdir)
    if moment == "starting":  # Imports, compilation, restoring.
      time.sleep(rng.uniform(0.5, 4))
    else:
      wait_for(process, lambda before=before: newest(workdir) > before)
      if moment == "saving":
        wait_for(process, lambda: saving(workdir))
        time.sleep(rng.uniform(0, 0.1))
      elif moment == "evaluated":
        wait_for(process, lambda: evaluating(workdir, changes["evaluation__every_steps"]))
      else:
        time.sleep(rng.uniform(0, 0.5))
    assert process.poll() is None, f"over before it could be killed ({moment}): {process.communicate()[0]}"
    process.send_signal(signal.SIGKILL)
    process.communicate()
  last = start(experiment, workdir)
  output, _ = last.communicate(timeout=300)
  assert last.returncode == 0, output
  assert "continues from the checkpoint of step" in output

  assert numbers(workdir) == numbers(tmp_path / "undisturbed")
  killed, whole = state_of(workdir), state_of(tmp_path / "undisturbed")
  assert killed.keys() == whole.keys()
  assert {name.partition("/")[0] for name in whole} >= {"step", "params", "opt_state"}
  for name, array in whole.items():
    np.testing.assert_array_equal(killed[name], array, err_msg=name)
  assert (workdir / "best.json").read_bytes() == (tmp_path / "undisturbed" / "best.json").read_bytes()
  record = json.loads((workdir / "run.json").read_text())
  assert record["status"] == "complete"


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system of its own needs root to be mounted")
def test_a_full_disk_ends_the_run_with_a_message_and_costs_nothing_that_was_committed(tmp_path: pathlib.Path):
  model, changes = "mlp", {"max_train_steps": 300, "evaluation__every_steps": 10, "model__widths": (400, 400)}
  experiment = tmp_path / "experiment.py"
  experiment.write_text(EXPERIMENT.format(tests=str(pathlib.Path(__file__).parent), model=model, changes=changes))
  whole = start(experiment, tmp_path / "whole")
  output, _ = whole.communicate(timeout=300)
  assert whole.returncode == 0, output

  small = tmp_path / "small"
  small.mkdir()
  mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], capture_output=True)
  if mounted.returncode:
    pytest.skip("mounting a tmpfs is not allowed here")
  try:
    process = start(experiment, small / "run")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 2, output
    assert "No space left on device" in output
    assert "Traceback" not in output
    subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
    again = start(experiment, small / "run")
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output
    assert numbers(small / "run") == numbers(tmp_path / "whole")
  finally:
    subprocess.run(["umount", str(small)], check=True)
