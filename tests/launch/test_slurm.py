"""Jobs of a Slurm cluster: a real one, of two nodes on this machine, and what happens where there is none."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import pytest
from json_lines import read_json_lines
from scripted import wait_for
from slurm_cluster import NODES, SlurmCluster, missing, slurm_cluster
from tiny import numbers

from trialbook.errors import TryAgainError, UserError
from trialbook.launch import slurm
from trialbook.launch.slurm import JobState, SlurmOptions, SlurmUnavailableError
from trialbook.launch.slurm_job import run_slurm
from trialbook.trainer.hosts.secret import VARIABLE

on_a_cluster = pytest.mark.long
# Tells that it has started, and what it was told, in a file for each start.
PRELUDE = """
import json, os, pathlib, signal, sys, time
here = pathlib.Path(sys.argv[1])
start = os.environ.get("SLURM_RESTART_COUNT", "0")
text = json.dumps({"arguments": sys.argv[2:], "folder": os.getcwd(), "environment": dict(os.environ)})
name = f"{os.environ['SLURM_ARRAY_TASK_ID']}_{os.environ['SLURM_PROCID']}_{start}.json"
def ready():
  (here / f"{name}.part").write_text(text)
  (here / f"{name}.part").rename(here / name)
"""
SAVES_ON_SIGTERM = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
ready()
if start == "0":
  time.sleep(300)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
  if lacking := missing():
    pytest.skip(lacking)
  with slurm_cluster() as started:
    yield started


def submit(folder: pathlib.Path, scripts: Sequence[str], *arguments: str, **options: Any) -> list[str]:
  commands = [["-c", PRELUDE + script, str(folder), *arguments] for script in scripts]
  return slurm.submit(commands, folder / "slurm", SlurmOptions(**{"minutes": 5, **options}), "test")


def starts(folder: pathlib.Path) -> dict[str, dict]:
  """What each start of each host of each job was told, by "JOB_HOST_START"."""
  return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def ends(jobs: Collection[str], seconds: float = 20.0) -> list[JobState]:
  """How the jobs ended; waits for that."""
  deadline = time.monotonic() + seconds
  while True:
    found = [*slurm.states(jobs).values()]
    if all(state.phase == "ended" for state in found):
      return found
    assert time.monotonic() < deadline, f"waited in vain: {found}"
    time.sleep(0.1)


def words_and_codes(states: Collection[JobState]) -> list[tuple[str, int | None]]:
  return [(state.word, state.code) for state in states]


class TestOnACluster:
  pytestmark = on_a_cluster

  def test_each_job_of_an_array_does_what_it_was_told(
    self, cluster: SlurmCluster, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
  ):
    monkeypatch.setenv("GIVEN", "by the caller")
    monkeypatch.chdir(tmp_path)
    awkward = ["two words", "$HOME", "'", "*"]
    jobs = submit(tmp_path, ["ready(); print('said')"] * 3, *awkward, setup=["export SET_UP=first"])
    array = jobs[0].partition("_")[0]
    assert jobs == [f"{array}_0", f"{array}_1", f"{array}_2"]
    assert words_and_codes(ends(jobs)) == [("COMPLETED", 0)] * 3
    assert list(starts(tmp_path)) == ["0_0_0", "1_0_0", "2_0_0"]
    for told in starts(tmp_path).values():
      assert told["arguments"] == awkward
      assert told["folder"] == str(tmp_path)
      assert told["environment"]["GIVEN"] == "by the caller"
      assert told["environment"]["SET_UP"] == "first"
    assert (tmp_path / "slurm" / f"{jobs[1]}_0_log.out").read_text().endswith("said\n")

  def test_a_job_asks_for_what_the_options_say(self, cluster: SlurmCluster, tmp_path: pathlib.Path):
    options = {"hosts": 2, "cores": 3, "memory": "2G", "minutes": 7, "partition": "main", "max_parallel": 1}
    jobs = submit(tmp_path, ["ready()", "ready()"], **options, sbatch={"comment": "a b", "hold": True})
    assert [state.phase for state in slurm.states(jobs).values()] == ["waiting", "waiting"]
    asked = cluster.ask("scontrol", "show", "job", jobs[0])
    for field in ("NumNodes=2-2", "NumTasks=2", "CPUs/Task=3", "MinMemoryNode=2G", "TimeLimit=00:07:00", "Requeue=1"):
      assert field in asked
    assert "Comment=a b" in asked
    assert "ArrayTaskThrottle=1 " in asked
    cluster.ask("scontrol", "release", jobs[0])
    cluster.ask("scontrol", "release", jobs[1])
    assert words_and_codes(ends(jobs)) == [("COMPLETED", 0)] * 2
    assert list(starts(tmp_path)) == ["0_0_0", "0_1_0", "1_0_0", "1_1_0"]
    told = [told["environment"] for told in starts(tmp_path).values()]
    assert [one["SLURMD_NODENAME"] for one in told] == [*NODES, *NODES]
    assert {one["SLURM_CPUS_PER_TASK"] for one in told} == {"3"}
    # All hosts know the job's secret; no list of jobs shows it, nor does it stay in the environment of who submits.
    (secret,) = {one[VARIABLE] for one in told}
    assert secret not in asked + cluster.ask("scontrol", "show", "job", jobs[1])
    assert VARIABLE not in os.environ
    assert not [path for path in tmp_path.glob("slurm/*") if secret.encode() in path.read_bytes()]

  def test_what_slurm_refuses_is_the_users_mistake(self, cluster: SlurmCluster, tmp_path: pathlib.Path):
    with pytest.raises(UserError, match=r"Slurm refused the jobs: .*invalid partition"):
      submit(tmp_path, ["ready()"], partition="none")
    with pytest.raises(UserError, match=r"Slurm refused the jobs: .*generic resource"):
      submit(tmp_path, ["ready()"], gpus=1)

  def test_a_failing_job_tells_its_code(self, cluster: SlurmCluster, tmp_path: pathlib.Path):
    killed = "os.kill(os.getpid(), signal.SIGKILL)"
    jobs = submit(tmp_path, ["ready(); sys.exit(7)", f"ready(); {killed}", "ready(); sys.exit(75)"], max_requeues=0)
    assert words_and_codes(ends(jobs)) == [("FAILED", 7), ("FAILED", 128 + signal.SIGKILL), ("FAILED", 75)]
    assert list(starts(tmp_path)) == ["0_0_0", "1_0_0", "2_0_0"]

  def test_a_cancelled_job_may_save_and_does_not_come_back(self, cluster: SlurmCluster, tmp_path: pathlib.Path):
    saved = SAVES_ON_SIGTERM.replace("sys.exit(75)", "[(here / 'saved').touch(), sys.exit(75)]")
    jobs = submit(tmp_path, [saved, "ready()", "ready(); time.sleep(300)"], max_parallel=1)
    wait_for((tmp_path / "0_0_0.json").exists)
    assert [state.phase for state in slurm.states(jobs).values()] == ["running", "waiting", "waiting"]
    assert slurm.states(jobs)[jobs[1]].reason == "JobArrayTaskLimit"
    slurm.cancel(jobs[:2])
    # Without accounting nothing remains of one that had not begun.
    assert [state.word for state in ends(jobs[:2])] == ["CANCELLED", ""]
    assert (tmp_path / "saved").exists()
    wait_for((tmp_path / "2_0_0.json").exists)
    slurm.cancel(jobs)
    assert [state.word for state in ends(jobs)] == ["CANCELLED", "", "CANCELLED"]
    assert list(starts(tmp_path)) == ["0_0_0", "2_0_0"]

  def test_a_controller_that_is_away_says_nothing_of_jobs(self, cluster: SlurmCluster, tmp_path: pathlib.Path):
    jobs = submit(tmp_path, ["ready(); time.sleep(300)"] * 2)
    wait_for((tmp_path / "1_0_0.json").exists)
    cluster.stop_controller()
    try:
      with pytest.raises(SlurmUnavailableError, match="Unable to contact slurm controller"):
        slurm.states(jobs)
    finally:
      cluster.start_controller()
    assert [state.phase for state in slurm.states(jobs).values()] == ["running"] * 2
    slurm.cancel(jobs)
    ends(jobs)

  def test_a_job_that_slurm_has_forgotten_has_ended(self, cluster: SlurmCluster):
    forgotten = JobState("ended", None, "", "")
    assert slurm.states(["4000000_1"]) == {"4000000_1": forgotten}
    assert slurm.states(["4000000_1", "4000001"]) == {"4000000_1": forgotten, "4000001": forgotten}
    slurm.cancel(["4000000_1"])

  def test_a_job_takes_over_nothing_from_the_job_that_it_was_submitted_from(
    self, cluster: SlurmCluster, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
  ):
    outer = {"JOB_ID": "5", "NTASKS": "3", "RESTART_COUNT": "9", "ARRAY_TASK_ID": "8", "MEM_PER_CPU": "100"}
    for name, value in outer.items():
      monkeypatch.setenv(f"SLURM_{name}", value)
    assert words_and_codes(ends(submit(tmp_path, ["ready()", ""], memory="1G"))) == [("COMPLETED", 0)] * 2
    assert list(starts(tmp_path)) == ["0_0_0"]
    assert os.environ["SLURM_NTASKS"] == "3"

  def test_a_job_whose_node_dies_is_started_again_elsewhere(self, cluster: SlurmCluster, tmp_path: pathlib.Path):
    jobs = submit(tmp_path, ["ready(); time.sleep(300 * (start == '0'))", "ready(); time.sleep(3)"])
    wait_for((tmp_path / "0_0_0.json").exists)
    node = starts(tmp_path)["0_0_0"]["environment"]["SLURMD_NODENAME"]
    cluster.kill_node(node)
    try:
      phases = set()
      deadline = time.monotonic() + 40
      while (state := slurm.states(jobs[:1])[jobs[0]]).phase != "ended" and time.monotonic() < deadline:
        phases.add(state.phase)
        time.sleep(0.1)
      assert (state.word, state.code) == ("COMPLETED", 0)
      assert phases == {"running", "waiting"}
      assert starts(tmp_path)["0_0_1"]["environment"]["SLURMD_NODENAME"] != node
    finally:
      cluster.start_node(node)
      wait_for(lambda: cluster.ask("sinfo", "-hN", "-o%t").split() == ["idle"] * 2)
    ends(jobs)

  def test_sigterm_comes_before_the_time_limit_and_a_job_that_leaves_with_75_alone_comes_back(
    self, cluster: SlurmCluster, tmp_path: pathlib.Path
  ):
    # The last job of an array has the array's own id.
    jobs = submit(tmp_path, ["ready()", SAVES_ON_SIGTERM], minutes=3)
    wait_for((tmp_path / "1_0_0.json").exists)
    cluster.ask("scontrol", "update", f"JobId={jobs[1]}", "TimeLimit=1")
    # Slurm looks at time limits every 30 s.
    wait_for(lambda: slurm.states(jobs)[jobs[1]].phase == "waiting", seconds=45)
    cluster.ask("scontrol", "update", f"JobId={jobs[1]}", "TimeLimit=3")
    assert words_and_codes(ends(jobs)) == [("COMPLETED", 0)] * 2
    assert list(starts(tmp_path)) == ["0_0_0", "1_0_0", "1_0_1"]


class TestTraining:
  pytestmark = on_a_cluster

  @staticmethod
  def command(workdir: pathlib.Path, steps: int) -> list[str]:
    changes = {
      "dataset.name": "digits",
      "model.name": "mlp",
      "model.widths": "[32]",
      "schedule.name": "constant",
      "batch_size": 32,
      "evaluation.every_steps": 500,
      "max_train_steps": steps,
      "export": "false",
    }
    return [
      "-m",
      "trialbook",
      "train",
      f"--workdir={workdir}",
      *(f"--set={path}={value}" for path, value in changes.items()),
    ]

  def test_a_preempted_run_saves_and_is_completed_by_the_same_job(self, cluster: SlurmCluster, tmp_path: pathlib.Path):
    run = tmp_path / "run"
    options = SlurmOptions(minutes=5, cores=2)
    jobs = slurm.submit([self.command(run, 5_000)], tmp_path / "slurm", options, "test")
    assert jobs[0].isdecimal()
    wait_for(lambda: (run / "metrics.jsonl").exists() and len(read_json_lines(run / "metrics.jsonl")) > 100, seconds=60)
    cluster.ask("scontrol", "requeue", jobs[0])
    assert words_and_codes(ends(jobs, seconds=60)) == [("COMPLETED", 0)]
    record = json.loads((run / "run.json").read_text())
    (earlier,) = record["earlier"]
    assert (earlier["status"], earlier["reason"], record["status"]) == ("preempted", "received SIGTERM", "complete")
    assert 0 < earlier["step"] == record["restored_step"] < 5_000
    assert [line["step"] for line in read_json_lines(run / "metrics.jsonl")] == list(range(5_001))

  def test_the_hosts_of_a_job_find_each_other(self, cluster: SlurmCluster, tmp_path: pathlib.Path):
    run = tmp_path / "run"
    command = [*self.command(run, 20), "--set=job.hosts=2"]
    jobs = slurm.submit([command], tmp_path / "slurm", SlurmOptions(minutes=5, hosts=2), "test")
    assert words_and_codes(ends(jobs, seconds=60)) == [("COMPLETED", 0)]
    record = json.loads((run / "run.json").read_text())
    assert (record["status"], record["step"]) == ("complete", 20)
    assert len(record["devices"]) == 2
    for host in (0, 1):
      assert json.loads((run / "logs" / f"host_{host}.exit.json").read_text())["code"] == 0

  def test_the_command_follows_a_job_of_two_hosts_through_a_preemption_to_the_same_end(
    self, cluster: SlurmCluster, tmp_path: pathlib.Path
  ):
    def launch(name: str, during: Callable[[str, pathlib.Path], None]) -> pathlib.Path:
      run = tmp_path / name
      flags = ["--hosts=2", "--minutes=5", f"--logs={tmp_path / name}.slurm"]
      command = ["-m", "trialbook", "launch", "slurm", *flags, "--", *self.command(run, 2_000), "--set=job.hosts=2"]
      process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True)
      assert process.stderr is not None
      job = re.findall(r"job (\d+) is submitted", process.stderr.readline())[0]
      during(job, run)
      told = process.communicate(timeout=120)[1]
      assert process.returncode == 0, told
      assert f"job {job}: COMPLETED" in told
      return run

    def preempt(job: str, run: pathlib.Path) -> None:
      lines = run / "metrics.jsonl"
      wait_for(lambda: lines.exists() and len(read_json_lines(lines)) > 100, seconds=60)
      cluster.ask("scontrol", "requeue", job)
      # A job that was queued again waits for two minutes.
      wait_for(lambda: slurm.states([job])[job].phase == "waiting", seconds=60)
      cluster.ask("scontrol", "update", f"JobId={job}", "StartTime=now")

    undisturbed = launch("undisturbed", lambda job, run: None)
    preempted = launch("preempted", preempt)
    assert json.loads((preempted / "run.json").read_text())["earlier"][0]["status"] == "preempted"
    assert numbers(preempted) == numbers(undisturbed)


def test_a_job_that_is_followed_ends_with_its_code_and_says_what_slurm_says(monkeypatch: pytest.MonkeyPatch):
  said: list[str] = []
  answers = iter(
    [
      JobState("waiting", None, "PENDING", "Resources"),
      JobState("waiting", None, "PENDING", "Resources"),
      SlurmUnavailableError("no answer"),
      JobState("running", None, "RUNNING", "None"),
      JobState("ended", 3, "FAILED", "NonZeroExitCode"),
    ]
  )

  def states(jobs: Sequence[str]) -> dict[str, JobState]:
    answer = next(answers)
    if isinstance(answer, Exception):
      raise answer
    return {jobs[0]: answer}

  monkeypatch.setattr(slurm, "submit", lambda commands, logs, options, name: ["17"])
  monkeypatch.setattr(slurm, "states", states)

  def follow(**changes: Any) -> int:
    given = {"name": "a", "wait": True, "say": said.append, "sleep": lambda seconds: None} | changes
    return run_slurm(["-m", "x"], "logs", SlurmOptions(), **given)

  assert follow() == 3
  assert [line.partition(": ")[2] for line in said[1:]] == [
    "PENDING Resources",
    "no answer",
    "RUNNING",
    "FAILED NonZeroExitCode",
    "FAILED, exit code 3: infeasible",
  ]
  answers = iter([JobState("ended", 0, "CANCELLED", "None")])
  assert follow() == 75, "a job that was cancelled before it ran is not done"
  assert follow(wait=False) == 0

  def interrupt(seconds: float) -> None:
    raise KeyboardInterrupt

  answers = iter([JobState("running", None, "RUNNING", "None")])
  assert follow(sleep=interrupt) == 130
  assert said[-1] == "job 17 goes on; to end it: scancel 17"

  def unavailable(*_: Any) -> list[str]:
    raise SlurmUnavailableError("timed out")

  monkeypatch.setattr(slurm, "submit", unavailable)
  with pytest.raises(TryAgainError, match="timed out; see with squeue whether it took the job"):
    follow()


def test_without_slurm_or_submitit_it_is_said_what_is_missing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch):
  commands = [["-c", ""]]
  monkeypatch.setenv("PATH", str(tmp_path))
  for call in (
    lambda: slurm.submit(commands, tmp_path, SlurmOptions(), "test"),
    lambda: slurm.states(["1"]),
    lambda: slurm.cancel(["1"]),
  ):
    with pytest.raises(UserError, match=r"no (sbatch and no srun|squeue|scancel) on the PATH"):
      call()
  monkeypatch.setitem(sys.modules, "submitit", None)
  with pytest.raises(UserError, match=r"pip install 'trialbook\[slurm\]'"):
    slurm.submit(commands, tmp_path, SlurmOptions(), "test")
  assert slurm.submit([], tmp_path, SlurmOptions(), "test") == []
  assert slurm.states([]) == {}


def test_options_that_cannot_work_are_refused_all_at_once():
  with pytest.raises(UserError) as caught:
    SlurmOptions(hosts=0, gpus=-1, max_parallel=0, minutes=2, sbatch={"open_mode": "truncate", "array": "0-3"})
  text = str(caught.value)
  for problem in ("hosts is 0", "gpus is -1", "max_parallel is 0", "at least 3", "array, open-mode"):
    assert problem in text
  SlurmOptions(minutes=3)
  SlurmOptions(minutes=5, seconds_to_save=239)
  with pytest.raises(UserError, match="240 s before the time limit"):
    SlurmOptions(minutes=5, seconds_to_save=240)


@pytest.fixture
def programs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
  """Puts programs onto the PATH that print what they are given."""
  monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")

  def put(name: str, prints: str) -> None:
    (tmp_path / name).write_text(f"#!/bin/sh\ncat << END\n{prints}END\n")
    (tmp_path / name).chmod(0o755)

  return put


@pytest.mark.parametrize("answer", ["slurm_load_jobs error: strange\n", "1|2|RUNNING\n"])
def test_an_answer_that_is_not_understood_is_not_the_end_of_a_job(programs: Callable[[str, str], None], answer: str):
  programs("squeue", answer)
  with pytest.raises(SlurmUnavailableError, match="squeue printed"):
    slurm.states(["1_2"])


def test_accounting_tells_how_jobs_ended_that_the_controller_has_forgotten(programs: Callable[[str, str], None]):
  programs("squeue", "17|0|RUNNING|0|None|\n9|N/A|FAILED|1792|NonZeroExitCode|\n")
  programs("sacct", "17_1|COMPLETED\n17_2|CANCELLED by 0\n17_3|RUNNING\n8|NODE_FAIL\n")
  assert slurm.states(["17_0", "17_1", "17_2", "17_3", "8", "9"]) == {
    "17_0": JobState("running", None, "RUNNING", "None"),
    "17_1": JobState("ended", 0, "COMPLETED", ""),
    "17_2": JobState("ended", None, "CANCELLED", "by 0"),
    "17_3": JobState("ended", None, "", ""),
    "8": JobState("ended", None, "NODE_FAIL", ""),
    "9": JobState("ended", 7, "FAILED", "NonZeroExitCode"),
  }
