"""When a job is started again, how often, and when it is given up."""

import json
import os
import pathlib
import time

import pytest
from scripted import Job, wait_for

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
  assert exit_record == {
    "code": 0,
    "culprit": None,
    "reason": "all hosts ended with exit code 0",
    "preempted": False,
    "attempt": 2,
  }


def test_three_failures_in_a_row_without_a_new_checkpoint_are_a_crash_loop_and_the_first_cause_is_told(
  tmp_path: pathlib.Path,
):
  job = Job(tmp_path)
  # What is not a committed step is no progress; nor is a step that was there before.
  script = "attempt == 1 and not host and commit(5)\nattempt > 1 and not host and commit(f'{attempt}.tmp')\n"
  assert job.run(ATTEMPTS + script + "cause(75, f'cause {attempt}', 0)\nsys.exit(75)") == 75
  assert attempts(tmp_path) == 4
  folder = tmp_path / "checkpoints"
  assert job.said[-1] == (
    f"giving up after 3 failures in a row without a new checkpoint in {folder}; the first was: cause 2"
  )


def test_progress_in_every_second_attempt_is_no_crash_loop_and_the_limit_ends_it(tmp_path: pathlib.Path):
  job = Job(tmp_path)
  script = "attempt % 2 and commit(attempt)\nos.kill(os.getpid(), signal.SIGKILL)"
  assert job.run(ATTEMPTS + script, hosts=1, restarts=Restarts(failures=4, first_delay=0.0)) == 75
  assert attempts(tmp_path) == 5
  assert job.said[-1] == "giving up after 5 failures, the last: ended by SIGKILL: the host was lost"


def test_preemptions_are_counted_apart_and_need_no_checkpoint(tmp_path: pathlib.Path):
  (tmp_path / "run.json").write_text("{}")
  job = Job(tmp_path)
  # As machines are taken away on a bad day: twelve times, before anything is saved. One failure is between them.
  script = "attempt == 5 or cause(75, 'received SIGTERM', preempted=True)\nsys.exit(75 if attempt < 14 else 0)"
  assert job.run(ATTEMPTS + script, hosts=1, restarts=Restarts(failures=2, first_delay=0.0)) == 0
  assert attempts(tmp_path) == 14
  counts = json.loads((tmp_path / "restarts.json").read_text())
  assert (counts["preemptions"], counts["failures"], counts["state"]) == (12, 1, "ended")
  assert "restart 13 in 0 s (12 preemptions, 1 failure so far)" in job.said
  limited = Job(tmp_path)
  script = "cause(75, 'received SIGTERM', preempted=True)\nsys.exit(75)"
  assert limited.run(script, hosts=1, restarts=Restarts(preemptions=2, first_delay=0.0)) == 75
  assert limited.said[-1] == "giving up after 3 preemptions"


def test_counts_outlive_a_launcher_that_vanishes_and_begin_again_after_an_end(tmp_path: pathlib.Path):
  (tmp_path / "run.json").write_text("{}")
  script = "attempt == 2 and (ready(), time.sleep(600))\nsys.exit(75)"
  launcher = Job(tmp_path).start(script, hosts=1)
  wait_for(lambda: (tmp_path / "ready_0").exists())
  launcher.kill()
  launcher.communicate()
  again = Job(tmp_path)
  assert again.run("sys.exit(75)", hosts=1) == 75
  whose = "whose launcher vanished while the job ran: 1 preemption, 1 failure"
  assert again.said[0] == f"continues the counts of an earlier launcher, {whose}"
  assert again.said[-1].startswith("giving up after 3 failures in a row")
  # Of these the vanished launcher saw one.
  assert sum("ended with 75" in line for line in again.said) == 2
  started = Job(tmp_path)
  assert started.run("sys.exit(75 * (attempt == 1))", hosts=1) == 0
  assert "restart 1 in 0 s (0 preemptions, 1 failure so far)" in started.said


@pytest.mark.parametrize("content", ["{", "null", '{"format": 1, "state": "odd"}', '{"format": 99}'])
def test_a_damaged_count_is_told_and_begins_at_zero(tmp_path: pathlib.Path, content: str):
  (tmp_path / "restarts.json").write_text(content)
  job = Job(tmp_path)
  assert job.run("sys.exit(0)", hosts=1) == 0
  assert "restarts are counted from zero" in job.said[0]
  assert "restarts.json" in job.said[0]


def test_a_job_that_never_began_leaves_nothing_in_its_workdir(tmp_path: pathlib.Path):
  assert Job(tmp_path).run("sys.exit(75)", hosts=1) == 75
  assert not list(tmp_path.iterdir())


def test_the_workdir_is_found_among_the_arguments_of_the_command(tmp_path: pathlib.Path):
  counter, said = tmp_path / "counter", []
  script = f"import sys; open({str(counter)!r}, 'a').write('x'); sys.exit(75)"
  for workdir in (["--workdir", str(tmp_path)], [f"--workdir={tmp_path}"], [f"-workdir={tmp_path}"]):
    counter.unlink(missing_ok=True)
    code = run_local(["-ISc", script, *workdir], 1, restarts=Restarts(failures=4, first_delay=0.0), say=said.append)
    assert (code, counter.read_text()) == (75, "xxx")
  # The checkpoints of another machine's folder cannot be looked at, so nothing can be concluded from them.
  counter.unlink()
  command = ["-ISc", script, "--workdir=gs://bucket/run"]
  assert run_local(command, 1, restarts=Restarts(failures=3, first_delay=0.0), say=said.append) == 75
  assert counter.read_text() == "xxxx"


def test_the_wait_before_a_restart_doubles_up_to_a_limit():
  assert [Restarts().delay(restart) for restart in (1, 2, 3, 6, 7, 8, 2000)] == [1, 2, 4, 32, 60, 60, 60]


def test_the_wait_is_kept(tmp_path: pathlib.Path):
  started = time.monotonic()
  job = Job(tmp_path)
  assert job.run("sys.exit(75 * (attempt == 1))", restarts=Restarts(first_delay=0.4)) == 0
  assert time.monotonic() - started > 0.4
  assert job.said[-1] == "restart 1 in 0.4 s (0 preemptions, 1 failure so far)"


@pytest.mark.parametrize(
  ("names", "step"), [([], -1), (["0"], 0), (["9", "10", "11.tmp", "x12", "²"], 10), (["tmp-7"], -1)]
)
def test_the_newest_step_is_the_largest_all_digit_name(tmp_path: pathlib.Path, names: list[str], step: int):
  for name in names:
    os.makedirs(tmp_path / "checkpoints" / name)
  assert newest_step(tmp_path) == step
