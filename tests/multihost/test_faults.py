"""Whatever happens to a host, at whatever moment: all leave soon with the true cause, and the end is the same.

`pytest tests/multihost/test_faults.py -s -m long` prints the table of docs/reliability.md.
"""

import json
import os
import pathlib
import random
import re
import signal
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from faulty import Attempt, Job
from forked import Forked, New
from tiny import numbers, state_of

# With something of everything that could go another way after a restart.
CHANGES = {
  "optimizer__name": "adam",
  "averaging__decay": 0.9,
  "schedule__warmup_steps": 30,
  "clip_norm": 0.5,
  "max_train_steps": 60,
  "evaluation__every_steps": 10,
  # Neither the watchdog nor the launcher ends a host that does not hear of the fault before the test would fail.
  "job__step_seconds": 60.0,
}
# All hosts leave within seconds; on a busy machine these are more.
SECONDS = 30.0


def send(host: int, number: signal.Signals) -> Callable[[Attempt], float]:
  return lambda attempt: attempt.signal(host, number)


def stop(attempt: Attempt) -> float:
  attempt.signal(1, signal.SIGSTOP)
  attempt.job.hold.release()
  # From when the watchdog may act: the limit is the user's.
  attempt.wait_for(lambda: "no progress" in attempt.job.output())
  return time.monotonic()


class Fault(NamedTuple):
  """What is done when which host has come to which phase; the exit code; who notices; what the cause says.

  `saves`: whether what was trained is saved at the end.
  """

  phase: str
  host: int
  do: Callable[[Attempt], float]
  code: int
  who: str
  cause: str
  saves: bool = False


THE_LEAD, THE_OTHERS = "the lead, by its connection", "the other hosts, by its connection"
FAULTS = {
  "SIGTERM to the lead": Fault("step", 0, send(0, signal.SIGTERM), 75, "the host", "host 0 received SIGTERM", True),
  "SIGTERM to another host": Fault("step", 1, send(1, signal.SIGTERM), 75, "the host", "host 1 received SIGTERM", True),
  "SIGTERM during an evaluation": Fault(
    "evaluating", 1, send(1, signal.SIGTERM), 75, "the host", "host 1 received SIGTERM", True
  ),
  "SIGKILL to the lead": Fault("step", 0, send(0, signal.SIGKILL), 75, THE_OTHERS, "host 0: ended by SIGKILL"),
  "SIGKILL to another host": Fault("step", 1, send(1, signal.SIGKILL), 75, THE_LEAD, "host 1: ended by SIGKILL"),
  "SIGKILL during a save": Fault("saving", 0, send(0, signal.SIGKILL), 75, THE_OTHERS, "SIGKILL"),
  "SIGKILL during an evaluation": Fault("evaluating", 1, send(1, signal.SIGKILL), 75, THE_LEAD, "SIGKILL"),
  "SIGSTOP: a host is stuck": Fault("step", 1, stop, 75, "the watchdogs of the others", ": host 1 did not answer"),
  "an exception on one host": Fault(
    "evaluating", 1, lambda attempt: time.monotonic(), 1, "the host", "ZeroDivisionError: a planted bug"
  ),
}
# One of each kind that ends a job otherwise, in as many phases.
KINDS = (
  "SIGTERM to another host",
  "SIGKILL during a save",
  "SIGKILL during an evaluation",
  "an exception on one host",
  "SIGSTOP: a host is stuck",
)


def check_left_by_themselves(job: Job, seconds: float) -> None:
  """That all hosts heard of what ended the job: none was ended by a limit."""
  assert "no progress" not in job.output(), job.output()
  assert "did not exit; sending" not in job.output(), job.output()
  assert seconds < SECONDS, f"{seconds:.1f} s\n{job.output()}"


def meet(job: Job, name: str, step: int, by: type[Forked] = Forked) -> str:
  """A fault from a step on; returns its row of the table."""
  fault = FAULTS[name]
  job.hold.at(fault.phase, step, fault.host, "raise" if "exception" in name else "wait")
  is_stuck = "SIGSTOP" in name
  # Only a limit notices it. A stopped process cannot leave: the launcher waits for it, and 1 s more to kill it.
  flags, grace = (["--set=job.step_seconds=4"], 1) if is_stuck else ([], 60)
  attempt = job.start(2, 1, *flags, grace=grace, by=by)
  step = attempt.held()
  committed = job.newest()
  seconds = attempt.seconds_until_gone(fault.do(attempt))
  assert attempt.end() == fault.code, f"{name}:\n{job.output()}"
  told = [line for line in job.output().splitlines() if line.startswith("launch: attempt 1 ended")]
  assert fault.cause in told[0], f"{name}:\n{job.output()}"
  if is_stuck:
    assert seconds < SECONDS, f"{seconds:.1f} s\n{job.output()}"
  else:
    check_left_by_themselves(job, seconds)
  if "SIGKILL" in name:
    assert f"host {fault.host} ended the job: " in job.output()
    assert "was lost: its process is gone" in job.output()
  assert job.newest() >= committed
  lost = max(step - job.newest(), 0)
  if fault.saves:
    assert job.newest() >= step, job.output()
  job.hold.release()
  return f"| {name} | {fault.who} | {seconds:.1f} | {fault.code} | {lost} |"


def check_end(job: Job, faults: int, undisturbed: pathlib.Path) -> None:
  """The rest on half of the hosts, with the same devices."""
  attempt = job.start(1, 2)
  assert attempt.end() == 0, job.output()
  assert re.search(r"continues from the checkpoint of step \d+", job.output())
  assert_same(job.workdir, undisturbed)
  record = json.loads((job.workdir / "run.json").read_text())
  assert record["status"] == "complete"
  assert len(record["earlier"]) == faults


def whole(folder: pathlib.Path, changes: dict) -> pathlib.Path:
  job = Job(folder, "mlp", changes)
  assert job.start().end() == 0, job.output()
  return job.workdir


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
  return whole(tmp_path_factory.mktemp("undisturbed"), CHANGES)


@pytest.mark.slow
def test_a_fault_of_each_kind_ends_all_hosts_soon_with_its_cause_and_changes_no_bit_of_the_end(
  tmp_path: pathlib.Path, undisturbed: pathlib.Path
):
  job = Job(tmp_path, "mlp", CHANGES)
  for number, name in enumerate(KINDS):
    # New interpreters have hash seeds of their own, so the hosts of one job differ in them, too.
    meet(job, name, 6 + 10 * number, New if number == 0 else Forked)
  check_end(job, len(KINDS), undisturbed)


@pytest.mark.slow
@pytest.mark.long
def test_all_faults_at_random_places_end_soon_with_their_cause_and_change_no_bit_of_the_end(tmp_path: pathlib.Path):
  rng = random.Random(os.environ.get("TRIALBOOK_KILL_SEED", "faults"))
  changes = CHANGES | {"max_train_steps": 500, "schedule__warmup_steps": 100, "evaluation__every_steps": 25}
  (tmp_path / "whole").mkdir()
  undisturbed = whole(tmp_path / "whole", changes)
  job = Job(tmp_path, "mlp", changes)
  rows, names = [], rng.sample(list(FAULTS), len(FAULTS))
  for name in names:
    rows.append(meet(job, name, max(job.newest(), 0) + rng.randrange(1, 40)))
  check_end(job, len(names), undisturbed)
  sys.stdout.write(
    "\n| fault | who notices | seconds until all have left | exit code | steps lost |\n|---|---|---|---|---|\n"
  )
  sys.stdout.write("\n".join([*rows, ""]))


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["starting", "compiling"])
def test_sigterm_before_the_first_step_ends_the_job_at_once(tmp_path: pathlib.Path, phase: str):
  job = Job(tmp_path, "mlp", CHANGES)
  job.hold.at("compiling", host=1)
  attempt = job.start()
  if phase == "compiling":
    attempt.held()
  else:
    attempt.wait_for(lambda: "host 1 of 2" in job.output())
  seconds = attempt.seconds_until_gone(attempt.signal(1, signal.SIGTERM))
  assert attempt.end() == 75, job.output()
  assert "host 1 received SIGTERM before the first step" in job.output()
  check_left_by_themselves(job, seconds)


@pytest.mark.slow
def test_the_launcher_restarts_after_a_preemption_and_a_loss(tmp_path: pathlib.Path, undisturbed: pathlib.Path):
  job = Job(tmp_path, "mlp", CHANGES)
  job.hold.at("step", 12, host=1)
  attempt = job.start(max_restarts=2)
  for number, following in ((signal.SIGTERM, ("step", 32)), (signal.SIGKILL, None)):
    attempt.held()
    gone = attempt.pid(1)
    attempt.signal(1, number)
    attempt.wait_for(lambda gone=gone: gone not in job.running())
    job.hold.release()
    if following is not None:
      job.hold.at(*following, host=1)
  assert attempt.end() == 0, job.output()
  assert re.search(r"launch: restart 2 in .* \(1 preemption, 1 failure so far\)", job.output())
  assert "did not exit; sending" not in job.output()
  assert_same(job.workdir, undisturbed)
  assert json.loads((job.workdir / "run.json").read_text())["exit"]["code"] == 0


def assert_same(one: pathlib.Path, other: pathlib.Path) -> None:
  assert numbers(one) == numbers(other)
  first, second = state_of(one), state_of(other)
  assert first.keys() == second.keys()
  for name, array in first.items():
    np.testing.assert_array_equal(array, second[name], err_msg=name)
  assert (one / "best.json").read_bytes() == (other / "best.json").read_bytes()
