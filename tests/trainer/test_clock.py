"""Clocks that are set forwards and back while a run trains change nothing but the times that are recorded."""

import json
import os
import pathlib
import shutil
import signal
import subprocess

import numpy as np
import pytest
from forked import New, ended, wait_for
from held import Hold, write_experiment
from tiny import numbers, state_of

CHANGES = {"optimizer__name": "adam", "max_train_steps": 24, "evaluation__every_steps": 4}


class Clock:
  """The clock of processes, which a test sets while they run; their monotonic clock goes on as it does."""

  def __init__(self, folder: pathlib.Path):
    self._file, library = folder / "clock", folder / "set_clock.so"
    source = pathlib.Path(__file__).with_name("set_clock.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    self.set(0)
    self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(self._file), "JAX_PLATFORMS": "cpu"}

  def set(self, days: int) -> None:
    """Set it so many days from now."""
    new = self._file.with_suffix(".new")
    new.write_text(str(days * 24 * 3600))
    new.rename(self._file)


@pytest.fixture
def clock(tmp_path: pathlib.Path) -> Clock:
  if shutil.which("cc") is None:
    pytest.skip("needs a C compiler")
  return Clock(tmp_path)


def started(arguments: list[str], folder: pathlib.Path, clock: Clock, name: str) -> New:
  return New(["-m", "trialbook", *arguments], folder / f"{name}.txt", environment={**os.environ, **clock.environment})


@pytest.mark.slow
@pytest.mark.long
def test_a_clock_that_jumps_changes_no_bit_of_a_run_that_is_killed_and_resumes(tmp_path: pathlib.Path, clock: Clock):
  experiment, hold = write_experiment(tmp_path, "mlp", CHANGES), Hold(tmp_path)
  train = ["train", f"--config={experiment}"]
  assert started([*train, f"--workdir={tmp_path / 'whole'}"], tmp_path, clock, "whole").wait() == 0
  workdir = tmp_path / "jumps"
  command = [*train, f"--workdir={workdir}", "--set", "job.step_seconds=20", "--set", "job.startup_seconds=200"]
  hold.at("step", 6)
  with ended(started(command, tmp_path, clock, "first")) as process:
    wait_for(lambda: process.poll() is not None or hold.waiting())
    clock.set(-3650)
    hold.at("step", 14)
    wait_for(lambda: process.poll() is not None or hold.waiting())
    assert process.poll() is None, process.text()
    process.send(signal.SIGKILL)
    process.wait()
  clock.set(3650)
  hold.at("step", 18)
  with ended(started(command, tmp_path, clock, "second")) as process:
    wait_for(lambda: process.poll() is not None or hold.waiting())
    clock.set(-30)
    hold.release()
    assert process.wait() == 0, process.text()
  assert numbers(workdir) == numbers(tmp_path / "whole")
  jumped, whole = state_of(workdir), state_of(tmp_path / "whole")
  assert jumped.keys() == whole.keys()
  for name, array in whole.items():
    np.testing.assert_array_equal(jumped[name], array, err_msg=name)
  record = json.loads((workdir / "run.json").read_text())
  assert record["finished"] < record["started"], "the clock was set back"
  assert all(seconds >= 0 for seconds in record["times"].values())
  assert "complete after 24 steps, " in process.text()
  assert ", -" not in process.text()
