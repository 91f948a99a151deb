"""What a signal to the launcher does to its job."""

import concurrent.futures
import json
import os
import pathlib
import signal
import time

import pytest
from forked import SECONDS
from scripted import Job, wait_for

from trialbook.launch import Patience, Restarts

# Notes what it is sent, and leaves on SIGTERM, for which it needs its worker.
POLITE = """
def note(number, frame):
  with open(here / f"signals_{host}", "a") as file:
    file.write(f"{number} ")
  if number == signal.SIGTERM:
    time.sleep(0.3)
    sys.exit(LEAVES if worker.poll() is None else 99)
signal.signal(signal.SIGTERM, note)
signal.signal(signal.SIGINT, note)
worker = subprocess.Popen([sys.executable, "-ISc", "import time; time.sleep(60)"])
ready()
while True:
  time.sleep(60)
"""
# Hears nothing.
DEAF = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
worker = subprocess.Popen([sys.executable, "-ISc", "import time; time.sleep(60)"])
ready()
while True:
  time.sleep(60)
"""


@pytest.mark.slow
def test_sigterm_is_passed_on_once_and_the_job_leaves_as_its_hosts_do(tmp_path: pathlib.Path):
  job = Job(tmp_path)
  (tmp_path / "run.json").write_text("{}")
  launcher = job.fork(POLITE.replace("LEAVES", "75"))
  job.wait_until_ready()
  launcher.send(signal.SIGTERM)
  wait_for((tmp_path / "signals_0").exists)
  launcher.send(signal.SIGTERM)
  assert launcher.wait() == 75, launcher.text()
  assert [(tmp_path / f"signals_{host}").read_text().split() for host in (0, 1)] == [["15"], ["15"]]
  assert "launch: passing SIGTERM on to hosts 0, 1" in launcher.text()
  assert "restart" not in launcher.text()
  assert json.loads((tmp_path / "run.json").read_text())["exit"]["code"] == 75
  assert not job.running()


@pytest.mark.parametrize("leaves", [0, 2])
def test_the_hosts_may_answer_sigterm_with_another_code(tmp_path: pathlib.Path, leaves: int):
  patience = Patience(grace=20)
  script = POLITE.replace("LEAVES", str(leaves))
  assert Job(tmp_path).run_and_signal(script, signal.SIGTERM, patience=patience) == leaves


def test_ctrl_c_waits_for_the_hosts_and_then_insists(tmp_path: pathlib.Path):
  job = Job(tmp_path)
  assert job.run_and_signal(POLITE.replace("LEAVES", "75"), signal.SIGINT, patience=Patience(grace=0.3)) == 130
  assert [(tmp_path / f"signals_{host}").read_text().split() for host in (0, 1)] == [["2", "15"], ["2", "15"]]
  assert not job.running()


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_a_ctrl_c_after_a_signal_kills(tmp_path: pathlib.Path, first: signal.Signals):
  job = Job(tmp_path)
  started = time.monotonic()
  assert job.run_and_signal(DEAF, first, signal.SIGINT, patience=Patience(grace=60)) == 130
  assert time.monotonic() - started < 50
  assert job.said[1] == "another signal; killing hosts 0, 1"
  assert not job.running()


def test_hosts_that_do_not_hear_sigterm_are_killed_after_the_grace(tmp_path: pathlib.Path):
  job = Job(tmp_path)
  assert job.run_and_signal(DEAF, signal.SIGTERM, hosts=1, patience=Patience(grace=0.3)) == 75
  assert "host 0 did not exit; sending SIGKILL" in job.said
  assert not job.running()


def test_a_signal_while_it_waits_for_a_restart_ends_the_job(tmp_path: pathlib.Path):
  job = Job(tmp_path)

  def interrupt(text: str) -> None:
    job.said.append(text)
    if text.startswith("restart"):
      os.kill(os.getpid(), signal.SIGTERM)

  started = time.monotonic()
  assert job.run("sys.exit(75)", restarts=Restarts(first_delay=60.0), say=interrupt) == 75
  assert time.monotonic() - started < 50
  assert job.said[-1] == "restart 1 in 60 s (0 preemptions, 1 failure so far)"


def test_afterwards_signals_do_again_what_they_did(tmp_path: pathlib.Path):
  before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
  assert Job(tmp_path).run("pass", hosts=1) == 0
  assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_job_can_be_run_by_a_thread(tmp_path: pathlib.Path):
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    assert pool.submit(Job(tmp_path).run, "sys.exit(75 * (attempt == 1))").result() == 0


@pytest.mark.slow
def test_the_kill_of_the_launcher_leaves_neither_hosts_nor_their_workers(tmp_path: pathlib.Path):
  job = Job(tmp_path)
  launcher = job.start(DEAF)
  job.wait_until_ready()
  # The launcher, two hosts with a worker each, and the guard, which comes last.
  wait_for(lambda: len(job.running()) == 6)
  launcher.kill()
  launcher.communicate(timeout=SECONDS)
  wait_for(lambda: not job.running())


@pytest.mark.slow
def test_hosts_end_with_the_launcher_even_when_its_guard_has_gone(tmp_path: pathlib.Path):
  job = Job(tmp_path)
  launcher = job.fork("ready()\ntime.sleep(60)")
  job.wait_until_ready()
  wait_for(lambda: len(job.running()) == 4)
  guard = next(pid for pid, line in job.running().items() if "killpg" in line)
  os.kill(guard, signal.SIGKILL)
  launcher.kill()
  wait_for(lambda: not job.running())


@pytest.mark.slow
def test_a_reader_that_has_gone_does_not_end_the_job(tmp_path: pathlib.Path):
  job = Job(tmp_path)
  launcher = job.start("ready()\nfor _ in range(20000): print('x' * 80)\nsys.exit(3)")
  assert launcher.stdout is not None
  launcher.stdout.close()
  launcher.stdout = None
  _, errors = launcher.communicate(timeout=SECONDS)
  assert launcher.returncode == 3, errors
  assert "BrokenPipe" not in errors
