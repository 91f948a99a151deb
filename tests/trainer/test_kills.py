"""A run that is killed at any moment, any number of times, ends as if nothing had happened."""

import json
import os
import pathlib
import random
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from forked import Forked, New, ended, python, wait_for
from held import PHASES, Hold, write_experiment
from tiny import numbers, state_of

from trialbook.launch.supervisor import newest_step


def command(experiment: pathlib.Path, workdir: pathlib.Path) -> list[str]:
  return ["-m", "trialbook", "train", f"--config={experiment}", f"--workdir={workdir}"]


def to_its_end(experiment: pathlib.Path, workdir: pathlib.Path) -> str:
  """Run all, or what is left, by a new interpreter, which has a hash seed of its own; return what it printed."""
  code, output = python(command(experiment, workdir), experiment.with_name("output.txt"), New)
  assert code == 0, output
  return output


def kill(
  experiment: pathlib.Path, workdir: pathlib.Path, phase: str, step: int, *, seconds: float = 0.0, last: int = 0
) -> None:
  """Start the run and kill it when it reaches `phase` at or after `step`.

  Args:
    experiment: the file of the config.
    workdir: of the run.
    phase: one of `PHASES`.
    step: from which on the phase counts.
    seconds: for which it goes on before it is killed.
    last: step of its last evaluation, beyond which it does not go on.
  """
  hold, output = Hold(experiment.parent), experiment.with_name("output.txt")
  hold.at(phase, step)
  with ended(Forked(command(experiment, workdir), output)) as process:
    wait_for(lambda: hold.waiting() or process.poll() is not None)
    assert process.poll() is None, f"over before {phase} from step {step} on:\n{process.text()}"
    if seconds:
      hold.at("evaluating", last)
      time.sleep(seconds)
    process.send(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
  hold.release()


def check_end(experiment: pathlib.Path, workdir: pathlib.Path, whole: pathlib.Path) -> None:
  """Run what is left, and compare all of it with the undisturbed run."""
  assert "continues from the checkpoint of step" in to_its_end(experiment, workdir)
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
  ("starting", 0),
  ("compiling", 0),
  ("step", 2),
  ("restoring", 0),
  ("evaluating", 4),
  ("saving", 4),
  ("committing", 8),
  ("telling", 8),
  ("removing", 12),
  ("step", 14),
  ("selecting", 20),
)


@pytest.mark.slow
def test_a_kill_in_each_phase_changes_no_bit_of_the_end(tmp_path: pathlib.Path):
  assert {phase for phase, _ in PLACES} == set(PHASES)
  experiment, workdir = write_experiment(tmp_path, "resnet", CHANGES), tmp_path / "killed"
  to_its_end(experiment, tmp_path / "whole")
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
  every, last = changes["evaluation__every_steps"], changes["max_train_steps"]
  experiment, workdir = write_experiment(tmp_path, model, changes), tmp_path / "killed"
  to_its_end(experiment, tmp_path / "whole")
  rng = random.Random(os.environ.get("TRIALBOOK_KILL_SEED", case))
  phases: Sequence[str] = ["starting", "compiling", *["committing", "evaluating", "step", "saving"] * 3]
  for phase in rng.sample(phases, len(phases)):
    early = phase in ("starting", "compiling")
    step = 0 if early else max(newest_step(workdir), 0) + rng.randrange(1, 2 * every)
    if step >= last - every:
      break  # On a fast machine it has gone on for so long that no place is left.
    kill(experiment, workdir, phase, step, seconds=rng.choice([0.0, rng.uniform(0, 0.3)]), last=last)
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
