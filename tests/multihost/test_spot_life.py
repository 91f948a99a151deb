"""A job on spot machines: taken away at random moments, it ends bit-identical, and its time is accounted for."""

import json
import os
import pathlib
import random
import signal
import sys
import time

import pytest
from faulty import Attempt, Job
from forked import wait_for
from tiny import numbers, state_of

from trialbook.launch.goodput import goodput

CHANGES = {"max_train_steps": 4_000, "evaluation__every_steps": 500, "logging__every_steps": 100}
LONGEST_LIFE = 6.0


def take_away(job: Job, attempt: Attempt, times: int, hosts: int) -> None:
  """Sends SIGTERM to a random host at a random moment of its life, each life once; every second life trains before."""
  rng = random.Random(os.environ.get("TRIALBOOK_KILL_SEED", 0))
  metrics = job.workdir / "metrics.jsonl"
  for life in range(times):
    begun = time.time()
    attempt.wait_for(lambda: {*range(hosts)} <= {*job.running().values()})
    pids = {index: pid for pid, index in job.running().items() if index is not None}
    if life % 2:
      attempt.wait_for(lambda begun=begun: (metrics.exists() and metrics.stat().st_mtime > begun) or job.hold.waiting())
    # The moment is to be any; nothing depends on it.
    time.sleep(rng.uniform(0, LONGEST_LIFE))
    os.kill(pids[rng.randrange(hosts)], signal.SIGTERM)
    wait_for(lambda pids=pids: not {*pids.values()} & {*job.running()})


def live(folder: pathlib.Path, times: int, hosts: int) -> None:
  for name in ("undisturbed", "spot"):
    (folder / name).mkdir()
  undisturbed = Job(folder / "undisturbed", "mlp", CHANGES)
  assert undisturbed.start(1, 2).end() == 0, undisturbed.output()
  job = Job(folder / "spot", "mlp", CHANGES)
  # On a fast machine, too, it is not over before it has been taken away so often.
  job.hold.at("step", CHANGES["max_train_steps"] - 10, host=0)
  started = time.time()
  attempt = job.start(hosts, 2 // hosts, max_restarts=10_000)
  take_away(job, attempt, times, hosts)
  job.hold.release()
  assert attempt.end() == 0, job.output()
  wall = time.time() - started
  assert numbers(job.workdir) == numbers(undisturbed.workdir)
  states = state_of(job.workdir), state_of(undisturbed.workdir)
  assert all((states[0][name] == array).all() for name, array in states[1].items())

  counts = json.loads((job.workdir / "restarts.json").read_text())
  # A life that ends before the run is opened is known to the launcher alone, and before the first nothing is written.
  assert (counts["preemptions"], counts["failures"]) == (times, 0), job.output()
  found = goodput(job.workdir)
  assert found["ends"]["complete"] == 1
  assert found["processes"] <= times + 1
  assert abs(sum(found["seconds"].values()) - found["wall"]) < 0.05 * found["wall"]
  assert abs(found["wall"] - wall) < 0.05 * wall + LONGEST_LIFE, (found, wall)
  sys.stdout.write(f"\n{times} preemptions, {wall:.0f} s by the clock: {json.dumps(found)}\n")


@pytest.mark.evidence
def test_two_hosts_that_are_preempted_six_times_end_bit_identical_with_six_preemptions_and_no_failure(
  tmp_path: pathlib.Path,
):
  live(tmp_path, 6, 2)


@pytest.mark.evidence
def test_a_job_that_is_preempted_thirty_times_ends_bit_identical_and_its_time_is_accounted_for(tmp_path: pathlib.Path):
  live(tmp_path, 30, 1)
