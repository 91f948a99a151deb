"""A run that is killed at any moment, any number of times, ends as if nothing had happened."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from forked import ROOT, SECONDS, Forked, ended, python, wait_for
from held import PHASES, Hold, write_experiment
from tiny import numbers, state_of

from launch.supervisor import newest_step


def command(experiment: pathlib.Path, workdir: pathlib.Path) -> list[str]:
  return ["-m", "trainer", f"--config={experiment}", f"--workdir={workdir}"]


def undisturbed(experiment: pathlib.Path, workdir: pathlib.Path) -> None:
  """The whole run, by a new interpreter."""
  arguments = [sys.executable, *command(experiment, workdir)]
  done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS)
  assert done.returncode == 0, done.stderr


def kill(experiment: pathlib.Path, workdir: pathlib.Path, phase: str, step: int, *, at_once: bool = True) -> None:
  """Starts the run, and kills it where it comes to a phase from a step on, or as soon as it has gone on from there."""
  hold, output = Hold(experiment.parent), experiment.with_name("output.txt")
  hold.at(phase, step)
  with ended(Forked(command(experiment, workdir), output)) as process:
    wait_for(lambda: hold.waiting() or process.poll() is not None)
    assert process.poll() is None, f"over before {phase} from step {step} on:\n{process.text()}"
    if not at_once:
      hold.release()
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
  hold.release()


def check_end(experiment: pathlib.Path, workdir: pathlib.Path, whole: pathlib.Path) -> None:
  """Runs what is left, and compares all of it with the undisturbed run."""
  code, output = python(command(experiment, workdir), experiment.with_name("output.txt"))
  assert code == 0, output
  assert "continues from the checkpoint of step" in output
  assert numbers(workdir) == numbers(whole)
  killed, arrays = state_of(workdir), state_of(whole)
  assert killed.keys() == arrays.keys()
  assert {name.partition("/")[0] for name in arrays} >= {"step", "params", "opt_state"}
  for name, array in arrays.items():
    np.testing.assert_array_equal(killed[name], array, err_msg=name)
  assert (workdir / "best.json").read_bytes() == (whole / "best.json").read_bytes()
  assert json.loads((workdir / "run.json").read_text())["status"] == "complete"


# With something of everything that could go another way after a restart.
CHANGES = {
  "optimizer__name": "nesterov",
  "model__dropout_rate": 0.2,
  "averaging__decay": 0.95,
  "max_train_steps": 20,
  "evaluation__every_steps": 4,
}
# Each place is behind those before it, and each run goes on from the newest checkpoint that they left.
PLACES = (
  *(("starting", 0), ("compiling", 0), ("step", 2), ("restoring", 0), ("evaluating", 4), ("saving", 4)),
  *(("committing", 8), ("telling", 8), ("removing", 12), ("step", 14), ("selecting", 20)),
)


@pytest.mark.slow
def test_a_kill_in_each_phase_changes_no_bit_of_the_end(tmp_path: pathlib.Path):
  assert {phase for phase, _ in PLACES} == set(PHASES)
  experiment, workdir = write_experiment(tmp_path, "resnet", CHANGES), tmp_path / "killed"
  undisturbed(experiment, tmp_path / "whole")
  newest = -1
  for phase, step in PLACES:
    kill(experiment, workdir, phase, step)
    assert newest_step(workdir) >= newest, "what was committed is lost"
    newest = newest_step(workdir)
  assert newest == 20
  check_end(experiment, workdir, tmp_path / "whole")
  # Those that were killed before the workdir was opened have no record.
  assert len(json.loads((workdir / "run.json").read_text())["earlier"]) == len(PLACES) - 3


CASES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
  "ResNet with dropout, augmentation, averaging": (
    "resnet",
    CHANGES | {"max_train_steps": 500, "evaluation__every_steps": 10},
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


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_kills_at_random_places_change_no_bit_of_the_end(tmp_path: pathlib.Path, case: str):
  model, changes = CASES[case]
  every = changes["evaluation__every_steps"]
  experiment, workdir = write_experiment(tmp_path, model, changes), tmp_path / "killed"
  undisturbed(experiment, tmp_path / "whole")
  rng = random.Random(os.environ.get("TRIALBOOK_KILL_SEED", case))
  phases: Sequence[str] = ["starting", "compiling", *["committing", "evaluating", "step", "saving"] * 3]
  for phase in rng.sample(phases, len(phases)):
    early = phase in ("starting", "compiling")
    step = 0 if early else max(newest_step(workdir), 0) + rng.randrange(1, 2 * every)
    kill(experiment, workdir, phase, step, at_once=rng.random() < 0.5)
  check_end(experiment, workdir, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="a small file system of its own needs root to be mounted")
def test_a_full_disk_ends_the_run_with_a_message_and_costs_nothing_that_was_committed(tmp_path: pathlib.Path):
  changes = {"max_train_steps": 300, "evaluation__every_steps": 10, "model__widths": (400, 400)}
  experiment, output = write_experiment(tmp_path, "mlp", changes), tmp_path / "output.txt"
  code, printed = python(command(experiment, tmp_path / "whole"), output)
  assert code == 0, printed

  small = tmp_path / "small"
  small.mkdir()
  mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(small)], capture_output=True)
  if mounted.returncode:
    pytest.skip("mounting a tmpfs is not allowed here")
  try:
    code, printed = python(command(experiment, small / "run"), output)
    assert code == 2, printed
    assert "No space left on device" in printed
    assert "Traceback" not in printed
    subprocess.run(["mount", "-o", "remount,size=64m", str(small)], check=True)
    code, printed = python(command(experiment, small / "run"), output)
    assert code == 0, printed
    assert numbers(small / "run") == numbers(tmp_path / "whole")
  finally:
    subprocess.run(["umount", str(small)], check=True)
