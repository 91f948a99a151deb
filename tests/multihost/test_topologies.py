"""The same experiment on any split of the same devices over hosts gives the same bits, with real processes."""

import json
import os
import pathlib

import numpy as np
import pytest
from forked import ROOT, Forked, New, python
from scripted import MARK, running
from tiny import numbers, state_of

EXPERIMENT = f"""
import os, sys
sys.path.insert(0, {str(ROOT / "tests" / "trainer")!r})
import tiny

def get_config():
  seed = int(os.environ["TRIALBOOK_HOST_INDEX"]) if "DISAGREE" in os.environ else 0
  steps = int(os.environ.get("STEPS", "20"))
  changes = dict(max_train_steps=steps, evaluation__every_steps=10, schedule__decay_steps=18, seed=seed)
  if os.environ.get("MODEL") == "resnet":
    return tiny.resnet(evaluation__batch_size=256, **changes)
  # A reduction over the global batch in the forward pass too.
  return tiny.mlp(model__normalization="batch", model__dropout_rate=0.1, averaging__decay=0.9, clip_norm=1.0, **changes)
"""


def command(folder: pathlib.Path, workdir: str, hosts: int, devices: int, code: str = EXPERIMENT) -> list[str]:
  experiment = folder / "experiment.py"
  experiment.write_text(code)
  launch = ["-m", "trialbook", "launch", "local", f"--hosts={hosts}", f"--devices_per_host={devices}"]
  launch += ["--max_preemptions=0", "--max_failures=0", "--grace=5", "--kill_after=1"]
  return [*launch, "--", "-m", "trialbook", "train", f"--config={experiment}", f"--workdir={folder / workdir}"]


def launch(
  folder: pathlib.Path,
  workdir: str,
  hosts: int,
  devices: int,
  start: type[Forked] = Forked,
  experiment: str = EXPERIMENT,
  **environment: str,
) -> tuple[int, str]:
  environment = {**os.environ, MARK: str(folder), **environment}
  arguments = command(folder, workdir, hosts, devices, experiment)
  done = python(arguments, folder / "output.txt", start, environment=environment)
  assert not running(folder)
  return done


def train(folder: pathlib.Path, workdir: str, hosts: int, devices: int, **environment: str) -> str:
  code, output = launch(folder, workdir, hosts, devices, Forked, **environment)
  assert code == 0, output
  return output


def assert_same(one: pathlib.Path, other: pathlib.Path) -> None:
  assert numbers(one) == numbers(other)
  first, second = state_of(one), state_of(other)
  assert first.keys() == second.keys()
  for name, array in first.items():
    np.testing.assert_array_equal(array, second[name], err_msg=name)


@pytest.mark.slow
def test_one_and_two_hosts_with_two_devices_give_the_same_bits(tmp_path: pathlib.Path):
  train(tmp_path, "one", 1, 2)
  code, output = launch(tmp_path, "two", 2, 1, New)
  assert code == 0, output
  assert_same(tmp_path / "one", tmp_path / "two")
  # Half of the run on two hosts, the rest on one: as if nothing had happened.
  train(tmp_path, "moved", 2, 1, STEPS="10")
  assert "continues from the checkpoint of step 10" in train(tmp_path, "moved", 1, 2)
  assert_same(tmp_path / "one", tmp_path / "moved")


@pytest.mark.slow
@pytest.mark.long
def test_one_two_and_four_hosts_with_four_devices_give_the_same_bits(tmp_path: pathlib.Path):
  for hosts in (1, 2, 4):
    train(tmp_path, f"hosts{hosts}", hosts, 4 // hosts, MODEL="resnet")
  assert_same(tmp_path / "hosts1", tmp_path / "hosts2")
  assert_same(tmp_path / "hosts1", tmp_path / "hosts4")
  train(tmp_path, "moved", 2, 2, STEPS="10", MODEL="resnet")
  assert "continues from the checkpoint of step 10" in train(tmp_path, "moved", 1, 4, MODEL="resnet")
  assert_same(tmp_path / "hosts1", tmp_path / "moved")


@pytest.mark.slow
def test_hosts_that_disagree_all_leave_with_2_and_name_what_differs(tmp_path: pathlib.Path):
  code, output = launch(tmp_path, "run", 2, 1, DISAGREE="1")
  assert code == 2, output
  assert "[host 0]   - host 1 disagrees on config" in output
  assert "[host 1]   - host 1 disagrees on config" in output
  assert not (tmp_path / "run" / "config.json").exists()
  assert "Traceback" not in output


@pytest.mark.slow
def test_only_the_lead_writes(tmp_path: pathlib.Path):
  output = train(tmp_path, "run", 2, 1, STEPS="10")
  assert len(list((tmp_path / "run").glob("events.*"))) == 1
  assert [line["step"] for line in numbers(tmp_path / "run")] == list(range(11))
  assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "complete"
  assert output.count("complete after 10 steps") == 1
