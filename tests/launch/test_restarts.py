"""When a job is started again, how often, and when it is given up."""

import json
import os
import pathlib
import time

import pytest
from scripted import Job

from trialbook.launch import Restarts, run_local
from trialbook.launch.supervisor import newest_step

ATTEMPTS = "host or (here / f'attempt_{attempt}').touch()\n"


def attempts(folder: pathlib.Path) -> int:
  return len(list(folder.glob("attempt_*")))


def test_a_job_that_can_go_on_is_started_again_and_its_second_attempt_counts(tmp_path: pathlib.Path):
  (tmp_path / "run.json").write_text("{}")
  job = Job(tmp_path)
  assert job.run(ATTEMPTS + "cause(75, 'preempted')\nsys.exit(75 if attempt == 1 else 0)") == 0
  assert attempts(tmp_path) == 2
  assert any("ended with 75 because of host" in line and line.endswith(": preempted") for line in job.said)
  exit_record = json.loads((tmp_path / "run.json").read_text())["exit"]
  assert exit_record == {"code": 0, "culprit": None, "reason": "all hosts ended with exit code 0", "attempt": 2}


def test_two_attempts_in_a_row_without_a_new_checkpoint_are_a_crash_loop(tmp_path: pathlib.Path):
  job = Job(tmp_path)
  # What is not a committed step is no progress; nor is a step that was there before.
  script = "attempt == 1 and not host and commit(5)\nattempt > 1 and not host and commit(f'{attempt}.tmp')\n"
  assert job.run(ATTEMPTS + script + "sys.exit(75)") == 75
  assert attempts(tmp_path) == 3
  assert job.said[-1] == f"giving up: 2 attempts in a row committed no new checkpoint in {tmp_path / 'checkpoints'}"


def test_progress_in_every_second_attempt_is_no_crash_loop_and_the_limit_ends_it(tmp_path: pathlib.Path):
  job = Job(tmp_path)
  script = "attempt % 2 and commit(attempt)\nos.kill(os.getpid(), signal.SIGKILL)"
  assert job.run(ATTEMPTS + script, hosts=1, restarts=Restarts(limit=4, first_delay=0.0)) == 75
  assert attempts(tmp_path) == 5
  assert job.said[-1] == "giving up after 4 restarts"


def test_the_workdir_is_found_among_the_arguments_of_the_command(tmp_path: pathlib.Path):
  counter, said = tmp_path / "counter", []
  script = f"import sys; open({str(counter)!r}, 'a').write('x'); sys.exit(75)"
  for workdir in (["--workdir", str(tmp_path)], [f"--workdir={tmp_path}"], [f"-workdir={tmp_path}"]):
    counter.unlink(missing_ok=True)
    code = run_local(["-ISc", script, *workdir], 1, restarts=Restarts(limit=4, first_delay=0.0), say=said.append)
    assert (code, counter.read_text()) == (75, "xx")
  # The checkpoints of another machine's folder cannot be looked at, so nothing can be concluded from them.
  counter.unlink()
  command = ["-ISc", script, "--workdir=gs://bucket/run"]
  assert run_local(command, 1, restarts=Restarts(limit=3, first_delay=0.0), say=said.append) == 75
  assert counter.read_text() == "xxxx"


def test_the_wait_before_a_restart_doubles_up_to_a_limit():
  assert [Restarts().delay(restart) for restart in (1, 2, 3, 6, 7, 8, 2000)] == [1, 2, 4, 32, 60, 60, 60]


def test_the_wait_is_kept(tmp_path: pathlib.Path):
  started = time.monotonic()
  job = Job(tmp_path)
  assert job.run("sys.exit(75 * (attempt == 1))", restarts=Restarts(first_delay=0.4)) == 0
  assert time.monotonic() - started > 0.4
  assert job.said[-1] == "restart 1 of at most 10 in 0.4 s"


@pytest.mark.parametrize(
  ("names", "step"), [([], -1), (["0"], 0), (["9", "10", "11.tmp", "x12", "²"], 10), (["tmp-7"], -1)]
)
def test_the_newest_step_is_the_largest_all_digit_name(tmp_path: pathlib.Path, names: list[str], step: int):
  for name in names:
    os.makedirs(tmp_path / "checkpoints" / name)
  assert newest_step(tmp_path) == step
