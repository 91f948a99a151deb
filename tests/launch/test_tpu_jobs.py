"""The life of a job on TPU VMs, from the request to the deletion, with what the API says and does on the way."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from in_process_command import run_command
from recorded_gcloud import PROJECT, WHERE, ZONE, RecordedGcloud
from scripted import wait_for

from trialbook.launch.remote import attempt as attempts
from trialbook.launch.tpu_vm import gcloud as gcloud_module
from trialbook.launch.tpu_vm import platform
from trialbook.launch.tpu_vm.accelerators import slice_of

QUOTA = (
  "RESOURCE_EXHAUSTED: Quota limit 'TPUV5sPreemptibleLitepodPerProjectPerZoneForTPUAPI' has been exceeded. Limit: 0"
)
CREATE = "ERROR: (gcloud.compute.tpus.queued-resources.create) "


@pytest.fixture
def cloud(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> RecordedGcloud:
  made = RecordedGcloud(tmp_path / "cloud")
  monkeypatch.setattr(gcloud_module, "call", made.call)
  monkeypatch.setattr(gcloud_module.shutil, "which", lambda name: name)
  monkeypatch.setattr(platform, "_RELEASE_SECONDS", 0.0)
  monkeypatch.setattr(attempts, "SILENCE_SECONDS", 0.5)
  monkeypatch.setattr(attempts, "_SETTLE_SECONDS", 0.0)
  monkeypatch.setattr(attempts, "_RETRY_SECONDS", 0.05)
  tree = tmp_path / "tree"
  (tree / "trialbook").mkdir(parents=True)
  # A package of its own, so that ours need not be shipped each time.
  (tree / "trialbook" / "__init__.py").touch()
  subprocess.run(["git", "init", "--quiet"], cwd=tree, check=True)
  monkeypatch.chdir(tree)
  return made


def flags(*more: str, script: str, workdir: pathlib.Path) -> list[str]:
  quick = ("--poll_seconds=0.05", "--first_delay=0", "--longest_delay=0", "--grace=5", f"--python={sys.executable}")
  job = ["tpu-vm", "--name=job", *WHERE, "--accelerator_type=v5litepod-8", *quick, *more]
  return [*job, "--", "-ISc", script, f"--workdir={workdir}"]


def after(condition: Callable[[], bool], then: Callable[[], object]) -> threading.Thread:
  """Do something, in a thread, as soon as a condition holds."""

  def wait() -> None:
    wait_for(condition)
    then()

  thread = threading.Thread(target=wait)
  thread.start()
  return thread


def test_a_job_is_requested_shipped_run_and_deleted_and_what_it_printed_is_gathered(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  (tmp_path / "tree" / "text.txt").write_text("shipped")
  workdir = tmp_path / "run"
  script = "import os; print(open('text.txt').read(), os.environ['COLOUR'], 'MEGASCALE_X' in os.environ)"
  arguments = flags("--env=COLOUR=red", script=script, workdir=workdir)
  code, out, err = run_command(capsys, "launch", *arguments)
  assert code == 0, err
  assert out == "shipped red False\n"
  assert cloud.resources == {}
  (log,) = (workdir / "launch" / "logs").glob("*/host_0.log")
  assert log.read_text() == out
  for said in (
    "requesting a slice of v5litepod-8 (on-demand)",
    "is WAITING_FOR_RESOURCES",
    "nothing of the job is allocated",
  ):
    assert said in err
  (life,) = json.loads((workdir / "launch" / "lives.json").read_text())["lives"]
  assert life["chips"] == 8


@pytest.mark.parametrize(
  ("more", "wanted", "unwanted"),
  [
    ([], ["--node-id=job"], ["--spot", "--reserved", "--internal-ips"]),
    (["--spot"], ["--spot", "--node-id=job"], ["--reserved"]),
    (["--reserved", "--slices=2"], ["--reserved", "--node-count=2", "--node-prefix=job"], ["--spot", "--node-id=job"]),
    (["--internal_ip", "--create_flag=--network=mine"], ["--internal-ips", "--network=mine"], []),
    (["--runtime_version=mine"], ["--runtime-version=mine"], []),
    ([], ["--runtime-version=v2-alpha-tpuv5-lite", "--accelerator-type=v5litepod-8"], []),
  ],
)
def test_gcloud_is_asked_for_what_the_flags_say(
  cloud: RecordedGcloud,
  tmp_path: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
  more: list[str],
  wanted: list[str],
  unwanted: list[str],
):
  cloud.refusals = [(1, CREATE + QUOTA)]
  assert run_command(capsys, "launch", *flags(*more, script="", workdir=tmp_path / "run"))[0] == 2
  (create,) = [call for call in cloud.calls if call[3] == "create"]
  assert {*wanted} <= {*create}
  assert not {*unwanted} & {*create}


def test_hosts_of_several_slices_find_one_another_and_share_a_secret_of_this_attempt(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  cloud.hosts = 2
  names = "('HOST_INDEX', 'HOST_COUNT', 'COORDINATOR', 'SECRET')"
  script = f"import os; print(*(os.environ.get('TRIALBOOK_' + name) for name in {names}))"
  code, out, err = run_command(capsys, "launch", *flags("--port=1234", script=script, workdir=tmp_path / "run"))
  assert code == 0, err
  lines = sorted(out.splitlines())
  assert [line.rpartition(" ")[0] for line in lines] == [
    f"[host {index}] {index} 2 127.0.0.1:1234" for index in range(2)
  ]
  (secret,) = {line.rpartition(" ")[2] for line in lines}
  assert len(secret) >= 32
  assert secret not in err + json.dumps(cloud.calls)


def test_a_preemption_is_what_the_api_says_and_new_slices_run_the_job_again(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  workdir = tmp_path / "run"
  workdir.mkdir()
  (workdir / "run.json").write_text("{}")
  began = tmp_path / "began"
  script = (
    "import os, time; n = os.environ['TRIALBOOK_ATTEMPT']\n"
    f"open({str(began)!r}, 'a').write(n); n < '3' and time.sleep(600)"
  )
  thread = after(began.exists, cloud.take_away)

  def again() -> None:
    wait_for(lambda: began.exists() and began.read_text() == "12")
    cloud.take_away()

  second = threading.Thread(target=again)
  second.start()
  code, _, err = run_command(capsys, "launch", *flags("--spot", script=script, workdir=workdir))
  thread.join()
  second.join()
  assert code == 0, err
  assert began.read_text() == "123"
  counts = json.loads((workdir / "restarts.json").read_text())
  assert (counts["preemptions"], counts["failures"], counts["state"]) == (2, 0, "ended")
  assert "attempt 1 ended with 75: its queued resource is SUSPENDED" in err
  # Deleted before each new request, and at the end.
  verbs = [call[3] for call in cloud.calls if call[3] in ("create", "delete")]
  assert verbs == ["create", "delete"] * 3
  assert cloud.resources == {}


def test_sigterm_to_a_host_is_a_failure_as_long_as_the_api_knows_of_no_preemption(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  workdir = tmp_path / "run"
  workdir.mkdir()
  (workdir / "run.json").write_text("{}")
  script = "import os, sys; os.environ['TRIALBOOK_ATTEMPT'] == '2' or os.kill(os.getpid(), 15)"
  code, _, err = run_command(capsys, "launch", *flags(script=script, workdir=workdir))
  assert code == 0, err
  counts = json.loads((workdir / "restarts.json").read_text())
  assert (counts["preemptions"], counts["failures"]) == (0, 1)
  # On the same machines.
  assert [call[3] for call in cloud.calls if call[3] in ("create", "delete")] == ["create", "delete"]


def test_a_crash_loop_stops_with_the_first_cause_and_nothing_stays_allocated(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  record = '{"format": 1, "code": 75, "cause": "cause " + n, "time": time.time(), "host": 0}'
  script = (
    "import json, os, pathlib, sys, time\nn = os.environ['TRIALBOOK_ATTEMPT']\n"
    f"pathlib.Path(os.environ['TRIALBOOK_EXITS'], 'host_0.exit.json').write_text(json.dumps({record}))\nsys.exit(75)"
  )
  code, _, err = run_command(capsys, "launch", *flags(script=script, workdir=tmp_path / "run"))
  assert code == 75
  assert "giving up after 3 failures in a row without a new checkpoint in" in err
  assert "the first was: cause 1" in err
  assert "attempt 3 ended with 75 because of host 0: cause 3" in err
  assert "attempt 4" not in err
  assert cloud.resources == {}


@pytest.mark.parametrize("code", [1, 2, 3])
def test_a_verdict_of_the_job_is_final(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], code: int
):
  script = f"import sys; sys.exit({code})"
  assert run_command(capsys, "launch", *flags(script=script, workdir=tmp_path / "run"))[0] == code
  assert cloud.resources == {}


@pytest.mark.parametrize(
  ("words", "said"),
  [
    (CREATE + QUOTA, "Cloud TPU refuses the request: .*Quota limit"),
    (CREATE + "INVALID_ARGUMENT: Accelerator type v5litepod-8 is not known in zone", "Cloud TPU refuses .*v5litepod-8"),
    (CREATE + "PERMISSION_DENIED: Cloud TPU API has not been used in project p", "has not been used in project p"),
    (CREATE + '{"code": 7, "message": "no right"}', "no right"),
    (
      "ERROR: (gcloud.x) You do not currently have an active account selected. Please run: gcloud auth login",
      "nobody is",
    ),
  ],
)
def test_a_request_that_is_refused_is_a_mistake_in_gclouds_words_and_leaves_nothing(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], words: str, said: str
):
  cloud.refusals = [(1, words)]
  code, _, err = run_command(capsys, "launch", *flags(script="", workdir=tmp_path / "run"))
  assert code == 2
  assert re.search(said, err), err
  assert cloud.resources == {}
  assert "delete" not in [call[3] for call in cloud.calls]


def test_requests_that_come_to_nothing_are_deleted_and_made_again(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  cloud.refusals = [
    (1, CREATE + "UNAVAILABLE: The service is currently unavailable"),
    (1, CREATE + "RESOURCE_EXHAUSTED: There is no more capacity in the zone"),
  ]
  cloud.scripts = [["FAILED"], ["ACCEPTED", "SUSPENDED"]]
  code, _, err = run_command(capsys, "launch", *flags(script="print('ran')", workdir=tmp_path / "run"))
  assert code == 0, err
  for said in (
    "it is not known whether the request was received",
    "there is no capacity",
    "queued resource job is FAILED: There is no more capacity in the zone",
    "queued resource job is SUSPENDED",
  ):
    assert said in err
  assert [call[3] for call in cloud.calls if call[3] in ("create", "delete")] == [
    *("create", "create", "create", "delete", "create", "delete", "create", "delete")
  ]
  cloud.scripts, cloud.failure = [["FAILED"]], "Quota exceeded for v5litepod"
  code, _, err = run_command(capsys, "launch", *flags(script="", workdir=tmp_path / "other"))
  assert (code, cloud.resources) == (2, {})
  assert "Quota exceeded for v5litepod. Ask for quota" in err


def test_slices_that_are_not_granted_in_time_are_given_up(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  cloud.scripts = [["WAITING_FOR_RESOURCES"]]
  arguments = flags("--queue_hours=0.0001", script="", workdir=tmp_path / "run")
  code, _, err = run_command(capsys, "launch", *arguments)
  assert (code, cloud.resources) == (75, {})
  assert "queued resource job was WAITING_FOR_RESOURCES for" in err


def test_a_machine_on_which_a_process_cannot_be_ended_is_replaced(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
  ask, dirty = attempts.SshHosts.ask, iter(["/dev/vfio/0 is in use by process 7 (python)"])

  def with_dirt(self, requests, *more):  # type: ignore[no-untyped-def]
    answers = ask(self, requests, *more)
    if requests[0]["do"] == "stop" and (found := next(dirty, None)):
      answers = [{**answer, "busy": [found]} for answer in answers if not isinstance(answer, Exception)]
    return answers

  monkeypatch.setattr(attempts.SshHosts, "ask", with_dirt)
  code, out, err = run_command(capsys, "launch", *flags(script="print('ran')", workdir=tmp_path / "run"))
  assert (code, out) == (0, "ran\n"), err
  assert "host 0 of job is dirty: /dev/vfio/0 is in use by process 7 (python)" in err
  assert [call[3] for call in cloud.calls if call[3] in ("create", "delete")] == ["create", "delete"] * 2


@pytest.mark.parametrize("stage", ["waiting", "running"])
def test_ctrl_c_ends_the_job_and_gives_the_slices_back(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], stage: str
):
  ready, saved = tmp_path / "ready", tmp_path / "saved"
  script = (
    "import pathlib, signal, sys, time\n"
    f"signal.signal(15, lambda *_: [pathlib.Path({str(saved)!r}).touch(), sys.exit(75)])\n"
    f"pathlib.Path({str(ready)!r}).touch(); time.sleep(600)"
  )
  if stage == "waiting":
    cloud.scripts = [["WAITING_FOR_RESOURCES"]]
  condition = ready.exists if stage == "running" else lambda: bool(cloud.resources)
  thread = after(condition, lambda: os.kill(os.getpid(), signal.SIGINT))
  code, _, err = run_command(capsys, "launch", *flags(script=script, workdir=tmp_path / "run"))
  thread.join()
  assert (code, cloud.resources) == (130, {}), err
  assert saved.exists() == (stage == "running")


def test_a_job_goes_on_without_its_launcher_and_another_one_follows_it_from_another_folder(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
  workdir, ready, go = tmp_path / "run", tmp_path / "ready", tmp_path / "go"
  script = (
    "import pathlib, time\n"
    f"open({str(ready)!r}, 'a').write('x'); print('one', flush=True)\n"
    f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\nprint('two')"
  )
  thread = after(ready.exists, lambda: os.kill(os.getpid(), signal.SIGTERM))
  code, _, err = run_command(capsys, "launch", *flags(script=script, workdir=workdir))
  thread.join()
  assert code == 75
  assert f"trialbook launch resume job --project={PROJECT} --zone={ZONE}" in err
  assert [*cloud.resources] == ["job"]
  monkeypatch.chdir(tmp_path)

  code, out, _ = run_command(capsys, "launch", "list", *WHERE)
  assert (code, out.splitlines()[1].split()) == (0, ["job", "ACTIVE", "v5litepod-8", "on-demand", "1", str(workdir)])
  code, out, _ = run_command(capsys, "launch", "status", "job", *WHERE, "--price=1.2")
  assert code == 0
  for said in ("ACTIVE", "host 0 of job      running", "chip-hours"):
    assert said in out
  code, out, _ = run_command(capsys, "launch", "logs", "job", *WHERE)
  assert (code, out) == (0, "== host 0 of job\none\n")
  # While somebody follows it, nobody else does.
  arguments = flags(script=script, workdir=workdir)
  assert run_command(capsys, "launch", *arguments)[0] == 2

  go.touch()
  code, out, err = run_command(capsys, "launch", "resume", "job", *WHERE, "--poll_seconds=0.05")
  assert code == 0, err
  assert "the job is there; following attempt" in err
  # It was started once; all of its output is gathered, and what the first launcher had shown is not shown again.
  assert ready.read_text() == "x"
  (log,) = (workdir / "launch" / "logs").glob("*/host_0.log")
  assert log.read_text() == "one\ntwo\n"
  assert out.endswith("two\n")
  assert cloud.resources == {}
  code, out, _ = run_command(capsys, "launch", "logs", "job", *WHERE, f"--workdir={workdir}")
  assert (code, out) == (0, "== host_0\none\ntwo\n")
  code, _, err = run_command(capsys, "launch", "status", "job", *WHERE)
  assert code == 2
  assert "there is no queued resource job in project p" in err


def test_a_launcher_that_vanished_between_deletion_and_request_is_followed_by_the_workdir_alone(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
  workdir, ready = tmp_path / "run", tmp_path / "ready"
  script = (
    f"import pathlib, time; ready = pathlib.Path({str(ready)!r}); first = not ready.exists()\n"
    "ready.touch(); first and time.sleep(600)"
  )
  thread = after(ready.exists, lambda: os.kill(os.getpid(), signal.SIGTERM))
  assert run_command(capsys, "launch", *flags(script=script, workdir=workdir))[0] == 75
  thread.join()
  cloud.resources.clear()
  monkeypatch.chdir(tmp_path)
  code, _, err = run_command(
    *(capsys, "launch", "resume", "job", *WHERE, f"--workdir={workdir}", "--poll_seconds=0.05", "--first_delay=0")
  )
  assert code == 0, err
  assert cloud.resources == {}


def test_stop_ends_a_job_that_another_launcher_follows_and_that_one_recreates_nothing(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  ready, printed = tmp_path / "ready", []
  script = f"import pathlib, time; pathlib.Path({str(ready)!r}).touch(); time.sleep(600)"

  def stop() -> None:
    from trialbook.__main__ import main

    printed.append(main(["launch", "stop", "job", *WHERE, "--grace=1"]))

  thread = after(ready.exists, stop)
  code, _, err = run_command(capsys, "launch", *flags("--spot", script=script, workdir=tmp_path / "run"))
  thread.join()
  assert printed == [0]
  assert (code, cloud.resources) == (130, {}), err
  assert "somebody stopped the job" in err
  assert [call[3] for call in cloud.calls].count("create") == 1


def test_slices_that_cannot_be_deleted_are_told_with_the_command(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
  def refuse(*_: object) -> bool:
    raise gcloud_module.GcloudUnavailableError("no route")

  monkeypatch.setattr(platform.queued_resources, "delete", refuse)
  code, _, err = run_command(capsys, "launch", *flags(script="", workdir=tmp_path / "run"))
  assert code == 75
  command = f"gcloud compute tpus queued-resources delete job --force --project={PROJECT} --zone={ZONE}"
  assert f"IT IS STILL ALLOCATED, AND PAID FOR: job was not deleted (no route); run {command}" in err


def test_keep_leaves_the_slices_and_says_how_to_delete_them(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  code, _, err = run_command(capsys, "launch", *flags("--keep", script="", workdir=tmp_path / "run"))
  assert (code, [*cloud.resources]) == (0, ["job"])
  assert f"to end it: trialbook launch stop job --project={PROJECT} --zone={ZONE}" in err
  assert run_command(capsys, "launch", "stop", "job", *WHERE)[0] == 0
  assert cloud.resources == {}


@pytest.mark.parametrize(
  ("changes", "said"),
  [
    (["--name=My_Job"], "--name=My_Job is not a name"),
    (["--accelerator_type=v5lite-8"], "--accelerator_type=v5lite-8 is unknown; did you mean 'v5litepod'?"),
    (["--accelerator_type=v4-7"], "7 is a number of cores"),
    (["--runtime_version=v2-alpha-tpuv6e"], "is for v6e, and does not know v5litepod-8; leave it out"),
    (["--env=COLOUR"], "--env=COLOUR is not NAME=VALUE"),
    (["--spot", "--reserved"], "not allowed with argument"),
    (["--acelerator_type=v4-8"], "unknown flag --acelerator_type; did you mean '--accelerator_type'?"),
  ],
)
def test_a_mistake_in_the_flags_is_told_before_anything_is_asked(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], changes: list[str], said: str
):
  code, _, err = run_command(capsys, "launch", *flags(*changes, script="", workdir=tmp_path / "run"))
  assert code == 2
  assert said in err
  assert cloud.calls == []


def test_mistakes_of_the_command_and_of_the_place_are_told_together(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
  begin = ["launch", "tpu-vm", "--name=job", "--accelerator_type=v5litepod-16"]
  code, _, err = run_command(capsys, *begin, *WHERE, "--", "-m", "trialbook", "tune", "run", "--dir=runs/a")
  assert code == 2
  assert "a study runs on a slice of one host, and this would have 4" in err
  assert "the workdir runs/a would be on the disk of a machine" in err
  assert run_command(capsys, *begin, *WHERE)[2].count("there is no command to run") == 1
  code, _, err = run_command(capsys, *begin, *WHERE, "--", "-m", "trialbook", "train", "--workdir=/runs/a")
  assert (code, "requirements.lock is not in this folder" in err) == (2, True)
  code, _, err = run_command(capsys, *begin, "--", "-m", "trialbook", "train", "--workdir=/runs/a")
  assert code == 2
  for name in ("project", "zone"):
    assert f"--{name} is missing, and gcloud's configuration has none" in err
  monkeypatch.setattr(gcloud_module.shutil, "which", lambda name: None)
  code, _, err = run_command(capsys, "launch", "list", *WHERE)
  assert (code, "gcloud is not installed" in err) == (2, True)


def test_a_queued_resource_of_others_is_left_alone(
  cloud: RecordedGcloud, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
):
  cloud.resources["job"] = {"tpu": {"nodeSpec": [{"nodeId": "job", "node": {}}]}, "states": ["ACTIVE"]}
  for arguments in (flags(script="", workdir=tmp_path / "run"), ["stop", "job", *WHERE], ["resume", "job", *WHERE]):
    assert run_command(capsys, "launch", *arguments)[0] == 2
  assert [*cloud.resources] == ["job"]


@pytest.mark.parametrize(
  ("kind", "chips", "hosts"),
  [
    *(("v5litepod-1", 1, 1), ("v5litepod-8", 8, 1), ("v5litepod-16", 16, 4), ("v5litepod-256", 256, 64)),
    *(("v6e-8", 8, 1), ("v6e-16", 16, 4), ("v4-8", 4, 1), ("v4-16", 8, 2), ("v5p-8", 4, 1), ("v5p-128", 64, 16)),
  ],
)
def test_chips_and_hosts_of_a_type(kind: str, chips: int, hosts: int):
  found = slice_of(kind)
  assert (found.chips, found.hosts) == (chips, hosts)
