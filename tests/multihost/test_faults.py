"""Whatever happens to a host, at whatever moment: all leave soon with the true cause, and the end is the same.

`pytest tests/multihost/test_faults.py -s` prints the table of docs/reliability.md.
"""

import json
import os
import pathlib
import random
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from faulty import Attempt, Job
from tiny import numbers, state_of

CHANGES = {"optimizer__name": "adam", "max_train_steps": 500, "evaluation__every_steps": 25, "job__step_seconds": 8.0}
# As CHANGES, with something of everything that could go another way after a restart.
CHANGES |= {"averaging__decay": 0.9, "schedule__warmup_steps": 100, "clip_norm": 0.5}
SECONDS = 5.0


def terminate(host: int) -> Callable[[Attempt], float]:
  return lambda attempt: attempt.signal(host, signal.SIGTERM)


def kill(host: int) -> Callable[[Attempt], float]:
  return lambda attempt: attempt.signal(host, signal.SIGKILL)


def kill_while(host: int, phase: str) -> Callable[[Attempt], float]:
  def fault(attempt: Attempt) -> float:
    attempt.wait_for(lambda: attempt.job.phase(host) == phase)
    return attempt.signal(host, signal.SIGKILL)

  return fault


def terminate_while(host: int, phase: str) -> Callable[[Attempt], float]:
  def fault(attempt: Attempt) -> float:
    attempt.wait_for(lambda: attempt.job.phase(host) == phase)
    return attempt.signal(host, signal.SIGTERM)

  return fault


def stop(attempt: Attempt) -> float:
  attempt.signal(1, signal.SIGSTOP)
  # From when the watchdog may act: the limit is the user's.
  attempt.wait_for(lambda: "no progress" in attempt.job.output())
  return time.monotonic()


def raise_on_one(attempt: Attempt) -> float:
  planted = attempt.job.folder / "raise_on_1"
  planted.touch()
  attempt.wait_for(lambda: not planted.exists())
  return time.monotonic()


# What is done, exit code, who notices, what the job's cause says, whether what was trained is saved at the end.
FAULTS = {
  "SIGTERM to the lead": (terminate(0), 75, "the host", "SIGTERM came to host 0", True),
  "SIGTERM to another host": (terminate(1), 75, "the host", "SIGTERM came to host 1", True),
  "SIGTERM during an evaluation": (terminate_while(1, "evaluating"), 75, "the host", "SIGTERM came to host 1", True),
  "SIGKILL to the lead": (kill(0), 75, "the other hosts, by its connection", "host 0: ended by SIGKILL", False),
  "SIGKILL to another host": (kill(1), 75, "the lead, by its connection", "host 1: ended by SIGKILL", False),
  "SIGKILL during a save": (kill_while(0, "saving"), 75, "the other hosts, by its connection", "SIGKILL", False),
  "SIGKILL during an evaluation": (kill_while(1, "evaluating"), 75, "the lead, by its connection", "SIGKILL", False),
  "SIGSTOP: a host is stuck": (stop, 75, "the watchdogs of the others", ": host 1 does not answer", False),
  "an exception on one host": (raise_on_one, 1, "the host", "ZeroDivisionError: a planted bug", False),
}
rows: list[str] = []


@pytest.fixture(scope="module")
def table() -> Iterator[None]:
  """Tells what was measured, for the docs."""
  yield
  sys.stdout.write(
    "\n| fault | who notices | seconds until all have left | exit code | steps lost |\n|---|---|---|---|---|\n"
  )
  sys.stdout.write("\n".join([*rows, ""]))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  job = Job(tmp_path_factory.mktemp("undisturbed"), "mlp", CHANGES)
  attempt = job.start()
  assert attempt.end() == 0, job.output()
  return job.workdir


@pytest.mark.slow
@pytest.mark.usefixtures("table")
def test_faults_at_random_moments_end_soon_with_their_cause_and_change_no_bit_of_the_end(
  tmp_path: pathlib.Path, undisturbed: pathlib.Path
):
  rng = random.Random(os.environ.get("TRIALBOOK_KILL_SEED", "faults"))
  job = Job(tmp_path, "mlp", CHANGES)
  names = list(FAULTS)
  rng.shuffle(names)
  for name in names:
    fault, code, who, cause, saves = FAULTS[name]
    attempt = job.start()
    attempt.wait_until_training(rng)
    committed = job.newest()
    seconds = attempt.seconds_until_gone(fault(attempt))
    assert attempt.end() == code, f"{name}:\n{job.output()}"
    told = [line for line in job.output().splitlines() if line.startswith("launch: attempt 1 ended")]
    assert cause in told[0], f"{name}:\n{job.output()}"
    # A stopped process cannot leave; the launcher waits 6 s for it, and 1 s more to kill it.
    assert seconds < SECONDS + (8 if "SIGSTOP" in name else 0), f"{name}: {seconds:.1f} s\n{job.output()}"
    assert job.newest() >= committed
    lost = max(job.step(0), job.step(1)) - job.newest()
    if saves:
      assert lost == 0, job.output()
    rows.append(f"| {name} | {who} | {seconds:.1f} | {code} | {lost} |")
  # The rest on half of the hosts, with the same devices.
  attempt = job.start(1, 2)
  assert attempt.end() == 0, job.output()
  assert re.search(r"continues from the checkpoint of step \d+", job.output())
  assert_same(job.workdir, undisturbed)
  record = json.loads((job.workdir / "run.json").read_text())
  assert record["status"] == "complete"
  assert len(record["earlier"]) == len(names)


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["starting", "compiling"])
def test_sigterm_before_the_first_step_ends_the_job_at_once(tmp_path: pathlib.Path, phase: str):
  job = Job(tmp_path, "mlp", CHANGES | {"model__widths": (33, 33, 33, 33)})
  attempt = job.start()
  if phase == "compiling":
    attempt.wait_for(lambda: job.phase(1) == "compiling")
  else:
    attempt.wait_for(lambda: "host 1 of 2" in job.output())
  seconds = attempt.seconds_until_gone(attempt.signal(1, signal.SIGTERM))
  assert attempt.end() == 75, job.output()
  assert "SIGTERM came to host 1 before the first step" in job.output()
  assert seconds < SECONDS


@pytest.mark.slow
def test_the_launcher_restarts_after_a_preemption_and_a_loss(tmp_path: pathlib.Path, undisturbed: pathlib.Path):
  job = Job(tmp_path, "mlp", CHANGES)
  attempt = job.start(max_restarts=2)
  rng = random.Random("restarts")
  for number in (signal.SIGTERM, signal.SIGKILL):
    attempt.wait_until_training(rng)
    gone = attempt.pid(1)
    attempt.signal(1, number)
    attempt.wait_for(lambda gone=gone: gone not in job.running())
    attempt.wait_for(lambda gone=gone: 1 in job.running().values())
  assert attempt.end() == 0, job.output()
  assert_same(job.workdir, undisturbed)
  assert json.loads((job.workdir / "run.json").read_text())["exit"]["code"] == 0


def assert_same(one: pathlib.Path, other: pathlib.Path) -> None:
  assert numbers(one) == numbers(other)
  first, second = state_of(one), state_of(other)
  assert first.keys() == second.keys()
  for name, array in first.items():
    np.testing.assert_array_equal(array, second[name], err_msg=name)
  assert (one / "best.json").read_bytes() == (other / "best.json").read_bytes()
