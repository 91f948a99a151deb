"""Jobs on Cloud TPU VMs: the real gcloud asks a stand-in of the API, and the machines have a real sshd."""

import json
import pathlib
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from held import Hold, write_experiment
from scripted import wait_for
from tiny import numbers, state_of
from tpu_cloud import ADDRESSES, PROJECT, ZONE, Launcher, TpuCloud, missing, tpu_cloud

from trialbook.launch import run_local
from trialbook.launch.local import free_port

pytestmark = pytest.mark.evidence
WHERE = (f"--project={PROJECT}", f"--zone={ZONE}")
CHANGES = {"max_train_steps": 40, "evaluation__every_steps": 10}


@pytest.fixture
def cloud() -> Iterator[TpuCloud]:
  if lacking := missing():
    pytest.skip(lacking)
  with tpu_cloud() as made:
    yield made


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
  """A working tree of git, from which jobs are launched."""
  folder = tmp_path / "tree"
  folder.mkdir()
  subprocess.run(["git", "init", "--quiet"], cwd=folder, check=True)
  return folder


def flags(*more: str, name: str = "job") -> list[str]:
  """The flags of a job on two hosts that have all packages."""
  quick = ("--poll_seconds=0.5", "--first_delay=0.1", f"--port={free_port()}", f"--python={sys.executable}")
  variables = ("--env=JAX_PLATFORMS=cpu", "--env=TRIALBOOK_LOCAL_DEVICES=1", "--env=NPROC=2")
  return ["tpu-vm", f"--name={name}", *WHERE, "--accelerator_type=v5litepod-16", *quick, *variables, *more]


def train(folder: pathlib.Path, experiment: pathlib.Path, name: str) -> list[str]:
  return ["-m", "trialbook", "train", f"--config={experiment}", f"--workdir={folder / name}"]


def assert_equal(one: pathlib.Path, other: pathlib.Path) -> None:
  assert numbers(one) == numbers(other)
  arrays, others = state_of(one), state_of(other)
  assert arrays.keys() == others.keys()
  assert all((arrays[name] == others[name]).all() for name in arrays)


def test_a_training_on_two_hosts_that_is_preempted_resumes_on_new_slices_and_ends_bit_identical(
  cloud: TpuCloud, tree: pathlib.Path, tmp_path: pathlib.Path
):
  experiment = write_experiment(tree, "mlp", CHANGES)
  assert run_local(train(tmp_path, experiment, "undisturbed"), 2, 1) == 0
  hold = Hold(tree)
  hold.at("step", 25, host=0)
  cloud.scripts = [["ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]]
  launcher = Launcher(cloud, tree, *flags("--spot"), "--", *train(tmp_path, experiment, "run"))
  wait_for(lambda: bool(hold.waiting()) or launcher.process.poll() is not None, 300)
  assert hold.waiting(), launcher.output()
  before = cloud.all_machines()
  cloud.preempt()
  hold.release()
  assert launcher.end() == 0, launcher.output()
  assert_equal(tmp_path / "run", tmp_path / "undisturbed")
  # New machines, of which none is left.
  assert len(cloud.bodies) == 2
  assert all("spot" in body for body in cloud.bodies)
  assert not {machine.folder for machine in cloud.all_machines()} & {machine.folder for machine in before}
  assert cloud.resources == {}
  counts = json.loads((tmp_path / "run" / "restarts.json").read_text())
  assert (counts["preemptions"], counts["failures"]) == (1, 0), launcher.output()
  assert "slice job is PREEMPTED" in launcher.output() or "queued resource is SUSPENDED" in launcher.output()
  gathered = sorted((tmp_path / "run" / "launch" / "logs").glob("*/host_*.log"))
  assert len(gathered) == 4


def sleeps(folder: pathlib.Path) -> list[str]:
  """A job that is `ready` on each host, saves on SIGTERM, and ends when `go` is there."""
  script = (
    "import os, pathlib, signal, sys, time\n"
    f"here, host = pathlib.Path({str(folder)!r}), os.environ['TRIALBOOK_HOST_INDEX']\n"
    "signal.signal(15, lambda *_: [(here / f'saved_{host}').touch(), sys.exit(75)])\n"
    "open(here / f'ready_{host}', 'a').write('x')\n"
    "while not (here / 'go').exists():\n  time.sleep(0.01)\n"
    "print('metadata hidden:', not any(name.startswith('MEGASCALE') for name in os.environ))"
  )
  return ["--", "-ISc", script, f"--workdir={folder / 'run'}"]


def are_ready(folder: pathlib.Path) -> bool:
  return all((folder / f"ready_{host}").exists() for host in range(2))


def test_a_launcher_that_is_killed_is_followed_by_one_in_another_folder(
  cloud: TpuCloud, tree: pathlib.Path, tmp_path: pathlib.Path
):
  launcher = Launcher(cloud, tree, *flags("--reserved"), *sleeps(tmp_path))
  wait_for(lambda: are_ready(tmp_path) or launcher.process.poll() is not None, 300)
  assert are_ready(tmp_path), launcher.output()
  launcher.send(signal.SIGKILL)
  assert launcher.end() == -signal.SIGKILL
  assert len(cloud.all_machines()) == 2
  (tmp_path / "go").touch()
  resumed = Launcher(cloud, tmp_path, "resume", "job", *WHERE, "--poll_seconds=0.5")
  assert resumed.end() == 0, resumed.output()
  assert "the job is there; following attempt" in resumed.output()
  assert resumed.output().count("metadata hidden: True") == 2
  # Started once, and nothing is left.
  assert (tmp_path / "ready_0").read_text() == "x"
  assert "reservationName" in cloud.bodies[0]
  assert (cloud.resources, cloud.all_machines()) == ({}, [])


def test_ctrl_c_saves_on_all_hosts_and_leaves_nothing(cloud: TpuCloud, tree: pathlib.Path, tmp_path: pathlib.Path):
  launcher = Launcher(cloud, tree, *flags(), *sleeps(tmp_path))
  wait_for(lambda: are_ready(tmp_path) or launcher.process.poll() is not None, 300)
  assert are_ready(tmp_path), launcher.output()
  launcher.send(signal.SIGINT)
  assert launcher.end() == 130, launcher.output()
  assert sorted(path.name for path in tmp_path.glob("saved_*")) == ["saved_0", "saved_1"]
  assert (cloud.resources, cloud.all_machines()) == ({}, [])
  assert "nothing of the job is allocated any more" in launcher.output()


@pytest.mark.parametrize("stage", ["is WAITING_FOR_RESOURCES", "is ACTIVE"])
def test_ctrl_c_before_the_job_runs_leaves_nothing(
  cloud: TpuCloud, tree: pathlib.Path, tmp_path: pathlib.Path, stage: str
):
  states = ("ACCEPTED", "WAITING_FOR_RESOURCES") if "WAITING" in stage else ("ACCEPTED", "ACTIVE")
  cloud.scripts, cloud.silent = [states], {ADDRESSES[1]}
  launcher = Launcher(cloud, tree, *flags(), *sleeps(tmp_path))
  launcher.wait_for(stage)
  launcher.send(signal.SIGINT)
  assert launcher.end() == 130, launcher.output()
  assert (cloud.resources, cloud.all_machines()) == ({}, [])


def test_requests_that_fail_and_machines_that_are_of_no_use_are_replaced(
  cloud: TpuCloud, tree: pathlib.Path, tmp_path: pathlib.Path
):
  cloud.scripts, cloud.dirty = [["FAILED"], ["ACCEPTED", "SUSPENDED"]], 1
  launcher = Launcher(cloud, tree, *flags("--spot"), *sleeps(tmp_path))
  wait_for(lambda: are_ready(tmp_path) or launcher.process.poll() is not None, 300)
  (tmp_path / "go").touch()
  assert launcher.end() == 0, launcher.output()
  for said in (
    "queued resource job is FAILED: There is no more capacity in the zone",
    "queued resource job is SUSPENDED",
    "host 0 of job is dirty: /dev/vfio/0 is in use by process",
  ):
    assert said in launcher.output()
  assert len(cloud.bodies) == 4
  assert (cloud.resources, cloud.all_machines()) == ({}, [])


def test_a_host_that_refuses_ssh_is_named_and_the_job_is_given_up_after_the_stated_failures(
  cloud: TpuCloud, tree: pathlib.Path, tmp_path: pathlib.Path
):
  cloud.silent = {ADDRESSES[1]}
  launcher = Launcher(cloud, tree, *flags("--max_failures=0"), *sleeps(tmp_path))
  assert launcher.end() == 75, launcher.output()
  assert "a host cannot be reached by ssh" in launcher.output()
  assert "giving up after 1 failures" in launcher.output()
  assert not (tmp_path / "ready_0").exists()
  assert (cloud.resources, cloud.all_machines()) == ({}, [])


def test_what_the_api_and_gcloud_refuse_is_told_in_their_words(
  cloud: TpuCloud, tree: pathlib.Path, tmp_path: pathlib.Path
):
  cloud.refusal = (429, "RESOURCE_EXHAUSTED", "Quota limit 'TPUV5s' has been exceeded. Limit: 0 in zone us-test1-a.")
  for more, said in (
    ([], "Quota limit 'TPUV5s' has been exceeded"),
    (["--create_flag=--networks=mine"], "--network"),
  ):
    launcher = Launcher(cloud, tree, *flags(*more), *sleeps(tmp_path))
    assert launcher.end() == 2, launcher.output()
    assert said in launcher.output()
  nowhere = [flag for flag in flags() if not flag.startswith("--zone")]
  launcher = Launcher(cloud, tree, *nowhere, *sleeps(tmp_path))
  assert launcher.end() == 2, launcher.output()
  assert "--zone is missing, and gcloud's configuration has none" in launcher.output()
  assert (cloud.resources, cloud.all_machines()) == ({}, [])


def test_two_slices_of_one_host_are_one_job(tree: pathlib.Path, tmp_path: pathlib.Path):
  if lacking := missing():
    pytest.skip(lacking)
  with tpu_cloud(hosts=1) as cloud:
    arguments = [flag.replace("v5litepod-16", "v5litepod-8") for flag in flags("--slices=2")]
    (tmp_path / "go").touch()
    launcher = Launcher(cloud, tree, *arguments, *sleeps(tmp_path))
    assert launcher.end() == 0, launcher.output()
    assert are_ready(tmp_path)
    spec = cloud.bodies[0]["tpu"]["nodeSpec"][0]["multisliceParams"]
    assert (spec["nodeCount"], spec["nodeIdPrefix"]) == (2, "job")
    assert (cloud.resources, cloud.all_machines()) == ({}, [])
