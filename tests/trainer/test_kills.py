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
# The experiment's file runs in the process that is to be killed, so it can tell from inside what is going on.
EXPERIMENT = """
import pathlib
import sys
sys.path.insert(0, {tests!r})
import tiny
from trainer import program, train

def telling(function, phase):
  def call(*arguments, **named):
    pathlib.Path({phase!r}).write_text(phase)
    result = function(*arguments, **named)
    pathlib.Path({phase!r}).write_text("")
    return result
  return call

train.evaluate = telling(train.evaluate, "evaluating")
program.Program.compile = telling(program.Program.compile, "compiling")

def get_config():
  return tiny.{model}(**{changes!r})
"""


def write_experiment(folder: pathlib.Path, model: str, changes: dict) -> pathlib.Path:
  """An experiment's file; what its process is doing stands in the file `phase`."""
  path, tests = folder / "experiment.py", str(pathlib.Path(__file__).parent)
  path.write_text(EXPERIMENT.format(tests=tests, phase=str(folder / "phase"), model=model, changes=changes))
  return path


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


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_ten_kills_change_no_bit_of_the_end(tmp_path: pathlib.Path, case: str):
  model, changes = CASES[case]
  experiment = write_experiment(tmp_path, model, changes)
  undisturbed = start(experiment, tmp_path / "undisturbed")
  output, _ = undisturbed.communicate(timeout=300)
  assert undisturbed.returncode == 0, output

  rng, workdir = random.Random(os.environ.get("TRIALBOOK_KILL_SEED", case)), tmp_path / "killed"
  phase = tmp_path / "phase"
  moments = [
    "starting",
    "compiling",
    "saving",
    "saving",
    "saving",
    "evaluating",
    "evaluating",
    "evaluating",
    "any",
    "any",
  ]
  rng.shuffle(moments)
  for moment in moments:
    before = newest(workdir)
    phase.write_text("")
    process = start(experiment, workdir)
    if moment == "starting":  # Imports, data, restoring.
      time.sleep(rng.uniform(0.5, 4))
    elif moment == "compiling":
      wait_for(process, lambda: phase.read_text() == "compiling")
    else:
      wait_for(process, lambda before=before: newest(workdir) > before)
      if moment == "saving":
        wait_for(process, lambda: saving(workdir))
        time.sleep(rng.uniform(0, 0.1))
      elif moment == "evaluating":
        wait_for(process, lambda: phase.read_text() == "evaluating")
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
  experiment = write_experiment(tmp_path, model, changes)
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
