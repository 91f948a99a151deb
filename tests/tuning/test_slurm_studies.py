"""A study whose trials are jobs of a Slurm cluster: a real one, of two nodes on this machine, which die."""

import csv
import os
import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
from json_lines import read_json_lines
from slurm_cluster import NODES, missing, slurm_cluster

from trialbook import errors
from trialbook.errors import UserError
from trialbook.tuning import Halton, Log, Minimize, Study
from trialbook.tuning.execution.slurm_jobs import parse_options
from trialbook.tuning.records import FINAL, read_trials, trial_folder
from trialbook.tuning.results import read_results

ROOT = pathlib.Path(__file__).resolve().parents[2]
TRIALS = 6
KILLS = 5
STUDY = f"""
from tiny import mlp
from trialbook.tuning import Halton, Log, Minimize, Study

def get_study():
  return Study(
    name="on_slurm",
    goal="Does each trial come to its end?",
    config=mlp(max_train_steps=1000, evaluation__every_steps=200),
    objective=Minimize("validation/error"),
    nuisance={{"optimizer.learning_rate": Log(1e-3, 1e-1)}},
    trials={TRIALS},
    search=Halton(seed=0),
  )
"""


def start(folder: pathlib.Path, trials: int = TRIALS) -> "subprocess.Popen[bytes]":
  """The coordinator, as a user starts it."""
  file = folder / "study.py"
  file.write_text(STUDY)
  environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'trainer'}"}
  command = [sys.executable, "-m", "trialbook", "tune", "run", f"--study={file}", f"--dir={folder / 'study'}"]
  command += ["--executor=slurm", "--slurm=max_parallel=2", "--slurm=minutes=10", f"--trials={trials}"]
  with (folder / "output").open("ab") as output:
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True)


def ended(folder: pathlib.Path) -> dict[int, float]:
  """When each trial that has ended was recorded."""
  trials = read_trials(folder / "study")
  return {
    trial: (trial_folder(folder / "study", trial) / "trial.json").stat().st_mtime
    for trial, record in trials.items()
    if record.state in FINAL
  }


@pytest.mark.long
def test_nodes_and_a_coordinator_that_die_lose_no_trial_and_repeat_none(tmp_path: pathlib.Path):
  if lacking := missing():
    pytest.skip(lacking)
  moments = random.Random(6)
  with slurm_cluster() as cluster:
    coordinator = start(tmp_path)
    try:
      _wait_for_a_step(tmp_path / "study", coordinator)
      for kill in range(KILLS):
        time.sleep(moments.uniform(0.5, 4.0))
        before = ended(tmp_path)
        node = moments.choice(NODES)
        cluster.kill_node(node)
        if kill == KILLS // 2:
          coordinator.kill()
          coordinator.wait()
          coordinator = start(tmp_path)
        time.sleep(moments.uniform(0.0, 4.0))
        cluster.start_node(node)
        assert before.items() <= ended(tmp_path).items()
      assert coordinator.wait(timeout=300) == errors.DONE, (tmp_path / "output").read_text()
    finally:
      coordinator.kill()
      coordinator.wait()
  results = read_results(tmp_path / "study")
  assert [trial.trial for trial in results.trials] == list(range(TRIALS))
  assert results.count("complete") == TRIALS
  with (tmp_path / "study" / "trials.csv").open() as file:
    assert [int(row["trial"]) for row in csv.DictReader(file)] == list(range(TRIALS))
  for trial in results.trials:
    steps = [line["step"] for line in read_json_lines(trial.folder / "metrics.jsonl")]
    assert steps == list(range(1001))


def _wait_for_a_step(study: pathlib.Path, coordinator: "subprocess.Popen[bytes]") -> None:
  deadline = time.monotonic() + 60
  while not list(study.glob("trials/*/metrics.jsonl")):
    assert coordinator.poll() is None
    assert time.monotonic() < deadline
    time.sleep(0.1)


@pytest.mark.long
def test_ctrl_c_cancels_the_jobs_and_the_same_command_goes_on(tmp_path: pathlib.Path):
  if lacking := missing():
    pytest.skip(lacking)
  with slurm_cluster() as cluster:
    coordinator = start(tmp_path, 2)
    _wait_for_a_step(tmp_path / "study", coordinator)
    coordinator.send_signal(signal.SIGINT)
    assert coordinator.wait(timeout=60) == errors.INTERRUPTED, (tmp_path / "output").read_text()
    assert cluster.ask("squeue", "-h") == ""
    assert {record.state for record in read_trials(tmp_path / "study").values()} <= {"stopped", "complete"}
    coordinator = start(tmp_path, 2)
    assert coordinator.wait(timeout=200) == errors.DONE, (tmp_path / "output").read_text()
  assert read_results(tmp_path / "study").count("complete") == 2


def test_an_option_that_slurm_has_not_is_told_with_the_nearest():
  study = Study(name="s", goal="g", objective=Minimize("loss"), nuisance={"x": Log(1, 2)}, search=Halton(), trials=1)
  with pytest.raises(UserError, match=r"--slurm=minute=3: unknown option 'minute'; did you mean 'minutes'\?"):
    parse_options(["minute=3"], study)
  with pytest.raises(UserError, match="NAME=VALUE"):
    parse_options(["minutes"], study)
  with pytest.raises(UserError, match="minutes"):
    parse_options(["minutes=1"], study)
  assert parse_options(["hosts=2", "partition=gpu"], study).hosts == 2
