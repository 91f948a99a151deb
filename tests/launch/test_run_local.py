"""A job on this machine: what its hosts are told, what is seen of them, and how the job ends when one of them does."""

import json
import os
import pathlib
import socket
import sys
import time

import pytest
from scripted import Job

from trialbook.errors import UserError
from trialbook.launch import Patience, Restarts, run_local
from trialbook.launch.flags import main


def test_each_host_is_told_its_place_in_the_job(tmp_path: pathlib.Path):
  script = "(here / f'{attempt}_{host}.json').write_text(json.dumps(dict(os.environ))); sys.exit(75 * (attempt == 1))"
  without = {key: value for key, value in os.environ.items() if key != "JAX_PLATFORMS"}
  assert Job(tmp_path).run(script, devices_per_host=3, environment=without) == 0
  told = {path.stem: json.loads(path.read_text()) for path in tmp_path.glob("?_?.json")}
  assert sorted(told) == ["1_0", "1_1", "2_0", "2_1"]
  for name, environment in told.items():
    attempt, host = name.split("_")
    assert environment["TRIALBOOK_HOST_INDEX"] == host
    assert environment["TRIALBOOK_ATTEMPT"] == attempt
    assert environment["TRIALBOOK_HOST_COUNT"] == "2"
    assert environment["TRIALBOOK_LOCAL_DEVICES"] == "3"
    assert environment["JAX_PLATFORMS"] == "cpu"
  coordinators = {name: environment["TRIALBOOK_COORDINATOR"] for name, environment in told.items()}
  assert coordinators["1_0"] == coordinators["1_1"] != coordinators["2_0"] == coordinators["2_1"]
  address, _, port = coordinators["2_0"].partition(":")
  with socket.socket() as probe:
    probe.bind((address, int(port)))


def test_a_single_host_is_told_too_and_a_platform_that_was_chosen_stays(tmp_path: pathlib.Path):
  script = "(here / 'environment.json').write_text(json.dumps(dict(os.environ)))"
  assert Job(tmp_path).run(script, hosts=1, environment={**os.environ, "JAX_PLATFORMS": "cuda"}) == 0
  told = json.loads((tmp_path / "environment.json").read_text())
  assert told["TRIALBOOK_COORDINATOR"].startswith("127.0.0.1:")
  assert (told["TRIALBOOK_HOST_COUNT"], told["TRIALBOOK_HOST_INDEX"]) == ("1", "0")
  assert told["JAX_PLATFORMS"] == "cuda"


def test_lines_of_several_hosts_stay_whole_and_say_whose_they_are(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  script = """
for number in range(300):
  for part in ("begin ", "x" * 50, f" {number}\\n"):
    sys.stdout.write(part); sys.stdout.flush()
os.write(1, b"not utf-8: \\xff\\n")
os.write(2, b"no end of line")
"""
  assert Job(tmp_path).run(script) == 0
  output, errors = capsys.readouterr()
  for host in (0, 1):
    lines = [line for line in output.splitlines() if line.startswith(f"[host {host}] ")]
    expected = [f"[host {host}] begin {'x' * 50} {number}" for number in range(300)]
    assert lines == [*expected, f"[host {host}] not utf-8: \ufffd"]
  assert len(output.splitlines()) == 2 * 301
  assert sorted(errors.splitlines()) == ["[host 0] no end of line", "[host 1] no end of line"]


def test_a_single_host_writes_where_the_launcher_does(tmp_path: pathlib.Path, capfd: pytest.CaptureFixture[str]):
  assert Job(tmp_path).run("print('out', flush=True); print('error', file=sys.stderr)", hosts=1) == 0
  assert capfd.readouterr() == ("out\n", "error\n")


@pytest.mark.parametrize("code", [2, 3, 1])
def test_what_does_not_get_better_is_not_tried_again(tmp_path: pathlib.Path, code: int):
  job = Job(tmp_path)
  assert job.run(f"meet(); commit(f'{{host}}{{attempt}}'); sys.exit({code} * host)") == code
  assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.endswith("2")] == []
  assert job.said[-1].startswith(f"attempt 1 ended with {code} because of host 1: exit code {code}")


def test_the_peers_of_a_killed_host_are_ended_and_the_job_leaves_with_75(tmp_path: pathlib.Path):
  script = """
signal.signal(signal.SIGTERM, lambda *_: (here / "asked").touch())
worker = subprocess.Popen([sys.executable, "-ISc", "import time; time.sleep(60)"])
meet()
if host == 1:
  os.kill(os.getpid(), signal.SIGKILL)
while True:
  time.sleep(60)
"""
  job = Job(tmp_path)
  started = time.monotonic()
  assert job.run(script, restarts=Restarts(failures=0), patience=Patience(grace=0.5, kill_after=0.5)) == 75
  assert 1.0 <= time.monotonic() - started < 30
  assert (tmp_path / "asked").exists()
  assert "attempt 1 ended with 75 because of host 1: ended by SIGKILL: the host was lost" in job.said
  assert not job.running()


def test_a_host_that_leaves_within_the_grace_is_not_disturbed(tmp_path: pathlib.Path):
  script = """
signal.signal(signal.SIGTERM, lambda *_: (here / "asked").touch())
meet()
if host == 0:
  cause(1, "ValueError: no such thing")
  sys.exit(1)
time.sleep(0.3)
"""
  job = Job(tmp_path)
  (tmp_path / "run.json").write_text('{"format": 1, "status": "failed"}')
  assert job.run(script, patience=Patience(grace=20, kill_after=20)) == 1
  assert not (tmp_path / "asked").exists()
  exit_record = {"code": 1, "culprit": 0, "reason": "ValueError: no such thing", "preempted": False, "attempt": 1}
  assert json.loads((tmp_path / "run.json").read_text()) == {"format": 1, "status": "failed", "exit": exit_record}
  assert [path.name for path in tmp_path.glob(".*")] == []


def test_a_mistake_before_the_run_began_leaves_the_record_of_an_earlier_run_alone(tmp_path: pathlib.Path):
  (tmp_path / "run.json").write_text('{"status": "complete"}')
  assert Job(tmp_path).run("sys.exit(2)") == 2
  assert json.loads((tmp_path / "run.json").read_text()) == {"status": "complete"}
  assert Job(tmp_path).run("host or (here / 'run.json').write_text('{}'); sys.exit(2)") == 2
  assert json.loads((tmp_path / "run.json").read_text())["exit"]["code"] == 2


def test_a_worker_that_its_host_left_behind_is_ended(tmp_path: pathlib.Path):
  job = Job(tmp_path)
  script = "subprocess.Popen([sys.executable, '-ISc', 'import time; time.sleep(60)']); sys.exit(0)"
  started = time.monotonic()
  assert job.run(script) == 0
  assert time.monotonic() - started < 30
  assert not job.running()


def test_a_failure_of_the_launcher_itself_leaves_nothing_behind(tmp_path: pathlib.Path):
  job = Job(tmp_path)

  def broken(_: str) -> None:
    raise RuntimeError("no voice")

  with pytest.raises(RuntimeError, match="no voice"):
    job.run("meet(); sys.exit(1) if host else time.sleep(60)", say=broken)
  assert not job.running()


@pytest.mark.parametrize(
  ("arguments", "problem"),
  [
    (["local", "--hosts=2"], "there is no command"),
    (["local", "--hosts=2", "--"], "there is no command"),
    (["local", "--hosts=0", "--", "-c", "1"], "hosts is 0; it must be at least 1"),
    (["local", "--devices_per_host=0", "--", "-c", "1"], "devices_per_host is 0; it must be at least 1"),
    (["local", "--hosts=two", "--", "-c", "1"], "--hosts: invalid whole number value: 'two'"),
    (["local", "--grace=-1", "--", "-c", "1"], "--grace: -1 is not a number from 0"),
    (["local", "--host=2", "--", "-c", "1"], "unknown flag --host; did you mean '--hosts'?"),
    (["locale", "--", "-c", "1"], "unknown command 'locale'; did you mean 'local'?"),
    ([], "PLACE"),
  ],
)
def test_a_mistake_is_one_clear_line_and_exit_code_2(
  arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
):
  try:
    code = main(arguments)
  except SystemExit as leaving:
    code = leaving.code
  message = capsys.readouterr().err
  assert code == 2
  assert problem in message
  assert message.count("\n") == 2


def test_a_mistake_in_the_function_s_arguments_is_a_user_error():
  with pytest.raises(UserError, match="no command") as raised:
    run_local([], hosts=0)
  assert len(raised.value.problems) == 2


def test_help_shows_the_flags_and_an_example(capsys: pytest.CaptureFixture[str]):
  with pytest.raises(SystemExit) as leaving:
    main(["local", "--help"])
  assert leaving.value.code == 0
  shown = capsys.readouterr().out
  assert "trialbook launch local --hosts=2 -- -m trialbook train" in shown
  assert "--max_preemptions" in shown


def test_the_interpreter_is_the_launcher_s(tmp_path: pathlib.Path):
  assert Job(tmp_path).run("(here / 'executable').write_text(sys.executable)", hosts=1) == 0
  assert (tmp_path / "executable").read_text() == sys.executable
