"""Jobs whose hosts do not fit together end before their first step, naming what is wrong and where."""

import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import pytest
from forked import ROOT, Forked, New, python
from other_job import jax_job
from scripted import MARK, running

from trialbook import errors
from trialbook.launch.local import free_port
from trialbook.trainer.hosts.secret import VARIABLE

EXPERIMENT = f"""
import os, sys
sys.path.insert(0, {str(ROOT / "tests" / "trainer")!r})
import tiny

host = os.environ.get("TRIALBOOK_HOST_INDEX", "0")
if host == os.environ.get("FAILS_ON"):
  raise ZeroDivisionError("a bug in the experiment")

def get_config():
  seed = int(host) if "OTHER_SEED" in os.environ else 0
  return tiny.mlp(max_train_steps=2, batch_size=8, evaluation__every_steps=2, seed=seed)
"""
# Each host runs the trainer, and host 1 does so in a world of its own.
OTHER_WORLD = """
import os, runpy, sys
if os.environ["TRIALBOOK_HOST_INDEX"] == "1":
  {change}
runpy.run_module("trialbook", run_name="__main__", alter_sys=True)
"""
OTHER_CODE_VERSION_AND_DEVICES = """
  sys.path.insert(0, {tree!r})
  import importlib.metadata
  version = importlib.metadata.version
  importlib.metadata.version = lambda name: "0.0.1" if name == "optax" else version(name)
  os.environ["TRIALBOOK_LOCAL_DEVICES"] = "3"
  os.environ["JAX_THREEFRY_PARTITIONABLE"] = "0"
"""
OTHER_FILES = """
  import ctypes
  libc = ctypes.CDLL(None, use_errno=True)
  new_mounts, private_and_below, path = 0x20000, 0x44000, {folder!r}.encode()
  assert libc.unshare(new_mounts) == 0
  assert libc.mount(b"none", b"/", None, private_and_below, None) == 0
  assert libc.mount(b"tmpfs", path, b"tmpfs", 0, None) == 0
  import trialbook.trainer.hosts.joining
  trialbook.trainer.hosts.joining._SHARED_SECONDS = 1.0
"""


@pytest.fixture
def experiment(tmp_path: pathlib.Path) -> pathlib.Path:
  path = tmp_path / "experiment.py"
  path.write_text(EXPERIMENT)
  return path


def arguments(experiment: pathlib.Path, command: list[str], *flags: str) -> list[str]:
  """Those of Python for a command; `flags` follow those that every training has."""
  return [*command, f"--config={experiment}", f"--workdir={experiment.parent / 'files' / 'run'}", *flags]


def environment_of(experiment: pathlib.Path, **changes: str) -> dict[str, str]:
  """That of a host: hosts that were started by hand get their secret here."""
  return {**os.environ, MARK: str(experiment.parent), VARIABLE: "the secret of these hosts", **changes}


def run(experiment: pathlib.Path, hosts: list[list[str]], *environments: dict[str, str]) -> tuple[list[int], list[str]]:
  """Runs a trainer of each list of flags, all at once; returns exit codes and outputs."""
  started = [
    Forked(
      arguments(experiment, ["-m", "trialbook", "train"], *flags),
      experiment.with_name(f"output_{number}.txt"),
      environment=environment_of(experiment, **environment),
    )
    for number, (flags, environment) in enumerate(itertools.zip_longest(hosts, environments, fillvalue={}))
  ]
  return [host.wait() for host in started], [host.text() for host in started]


def launch(
  experiment: pathlib.Path, *flags: str, devices: int = 1, script: str = "", is_new: bool = False, **environment: str
) -> tuple[int, str]:
  """A job of two hosts, new interpreters or not; returns exit code and output. Nothing of it is left."""
  command = ["-m", "trialbook", "launch", "local", "--hosts=2", f"--devices_per_host={devices}"]
  command += ["--max_preemptions=0", "--max_failures=0"]
  command += [
    "--grace=6",
    "--kill_after=1",
    "--",
    *(["-c", script, "train"] if script else ["-m", "trialbook", "train"]),
  ]
  command, environment = arguments(experiment, command, *flags), environment_of(experiment, **environment)
  output = experiment.with_name("output.txt")
  done = python(command, output, New if is_new else Forked, environment=environment)
  assert not running(experiment.parent)
  return done


def assert_refused(experiment: pathlib.Path, code: int, output: str) -> None:
  """A mistake that was found before anything was done."""
  assert code == errors.USER_MISTAKE, output
  assert "Traceback" not in output
  assert "sending SIG" not in output, f"some host did not leave by itself:\n{output}"
  files = experiment.parent / "files"
  assert not files.exists() or not [path for path in files.rglob("*") if path.is_file()]


@pytest.mark.slow
def test_another_seed_code_version_or_number_of_devices_on_one_host_is_named_by_all(experiment: pathlib.Path):
  tree = experiment.parent / "tree"
  for place in ("", "models", "input_pipeline", "trainer"):
    for path in (ROOT / "trialbook" / place).rglob("*.py*"):
      copy = tree / path.relative_to(ROOT)
      copy.parent.mkdir(parents=True, exist_ok=True)
      copy.write_text(path.read_text() + ("# Changed.\n" if path.name == "rng.py" else ""))
  script = OTHER_WORLD.format(change=OTHER_CODE_VERSION_AND_DEVICES.format(tree=str(tree)).strip())
  code, output = launch(experiment, script=script, is_new=True, OTHER_SEED="1")
  assert_refused(experiment, code, output)
  for host in (0, 1):
    said = [line for line in output.splitlines() if line.startswith(f"[host {host}]   - ")]
    for fact in (
      "config seed: it has 1, host 0 has 0",
      "the code of trainer/rng.py: it has ",
      'the version of optax: it has "0.0.1", host 0 has "',
      "the number of its devices: it has 3, host 0 has 1",
      "jax's setting jax_threefry_partitionable: it has false, host 0 has true",
    ):
      assert any(f"host 1 disagrees on {fact}" in line for line in said), (fact, output)
    assert len(said) == 5, output


@pytest.mark.slow
def test_a_workdir_that_is_not_shared_is_refused(experiment: pathlib.Path):
  probe = "import ctypes, sys; sys.exit(ctypes.CDLL(None).unshare(0x20000) != 0)"
  if subprocess.run([sys.executable, "-c", probe]).returncode:
    pytest.skip("a mount namespace of its own is not allowed here")
  files = experiment.parent / "files"
  files.mkdir()
  code, output = launch(experiment, script=OTHER_WORLD.format(change=OTHER_FILES.format(folder=str(files)).strip()))
  assert_refused(experiment, code, output)
  for host in (0, 1):
    assert (
      f"[host {host}]   - the workdir is not shared: host 1 cannot see a file that host 0 has written into" in output
    )
  assert f"{files}; --workdir must lie on a file system that all hosts mount" in output
  assert not list(files.iterdir())


@pytest.mark.slow
def test_batches_that_the_devices_cannot_share_are_refused_and_sizes_that_fit_are_named(experiment: pathlib.Path):
  # On six devices; 8 would fit the two hosts only.
  code, output = launch(experiment, "--set=batch_size=9", "--set=evaluation.batch_size=20", devices=3)
  assert_refused(experiment, code, output)
  assert "batch_size = 9 cannot be split over 6 devices; 6 and 12 can" in output
  assert "evaluation.batch_size = 20 cannot be split over 6 devices; 18 and 24 can" in output


@pytest.mark.slow
def test_another_number_of_hosts_than_the_config_expects_is_refused_by_all(experiment: pathlib.Path):
  code, output = launch(experiment, "--set=job.hosts=3")
  assert_refused(experiment, code, output)
  said = r"job\.hosts = 3, but the number of hosts is 2 \(found by TRIALBOOK_COORDINATOR=127\.0\.0\.1:\d+\)"
  for host in (0, 1):
    assert re.search(rf"\[host {host}\]   - {said}", output), output


@pytest.mark.slow
@pytest.mark.parametrize("fails_on", ["0", "1"])
def test_a_config_file_that_fails_on_one_host_ends_all(experiment: pathlib.Path, fails_on: str):
  started = time.monotonic()
  code, output = launch(experiment, FAILS_ON=fails_on)
  assert_refused(experiment, code, output)
  assert time.monotonic() - started < 60
  other = 1 - int(fails_on)
  assert f"[host {fails_on}]   - " in output
  assert "a bug in the experiment" in output
  assert f"[host {other}]   - host {fails_on} ended the job: " in output
  assert f"launch: attempt 1 ended with 2 because of host {fails_on}: " in output


@pytest.mark.slow
def test_a_port_of_another_job_is_refused_and_that_job_stays_well(experiment: pathlib.Path):
  port = free_port()
  flags = [f"--coordinator=127.0.0.1:{port}", "--host_count=2", "--set=job.startup_seconds=5"]
  with jax_job(port) as is_well:
    codes, outputs = run(experiment, [[*flags, f"--host_index={index}"] for index in (0, 1)])
    assert is_well()
  assert codes == [errors.USER_MISTAKE, errors.TRY_AGAIN], outputs
  assert f"the coordinator's port {port} cannot be opened on this host, the lead" in outputs[0]
  assert f"host 0, the lead, did not answer at 127.0.0.1:{port} within 5 s" in outputs[1]
  for output in outputs:
    assert "Traceback" not in output
  assert not (experiment.parent / "files").exists()


@pytest.mark.slow
def test_hosts_that_never_come_are_named_and_the_others_leave_with_75(experiment: pathlib.Path):
  without_lead, without_follower = free_port(), free_port()
  started = time.monotonic()
  # Host 2 is started before the lead, and waits for it for longer: on a busy machine either may be late.
  places = ((without_lead, 1, 5), (without_follower, 2, 30), (without_follower, 0, 5))
  hosts = [
    [
      "--host_count=3",
      f"--coordinator=127.0.0.1:{port}",
      f"--host_index={index}",
      f"--set=job.startup_seconds={seconds}",
    ]
    for port, index, seconds in places
  ]
  codes, outputs = run(experiment, hosts)
  assert codes == [errors.TRY_AGAIN] * 3, outputs
  assert time.monotonic() - started < 60
  assert f"host 0, the lead, did not answer at 127.0.0.1:{without_lead} within 5 s" in outputs[0]
  for output in outputs[1:]:
    assert f"host 1 of 3 did not connect to 127.0.0.1:{without_follower} within 5 s" in output, outputs
  for output in outputs:
    assert "Traceback" not in output
    assert "no progress" not in output
  assert not (experiment.parent / "files").exists()


@pytest.mark.slow
def test_hosts_that_slurm_started_find_each_other_and_train(experiment: pathlib.Path):
  slurm = {
    "SLURM_JOB_ID": str(free_port()),
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_STEP_NUM_NODES": "1",
    "SLURM_NTASKS": "2",
    "JAX_COORDINATOR_PORT": str(free_port()),
  }
  environments = [{**slurm, "SLURM_PROCID": index, "SLURM_LOCALID": index} for index in ("0", "1")]
  codes, outputs = run(experiment, [["--set=job.hosts=2"]] * 2, *environments)
  assert codes == [errors.DONE] * 2, outputs
  for index, output in enumerate(outputs):
    assert f"host {index} of 2, found by jax's cluster detection, devices: 1 x cpu" in output
  assert "complete after 2 steps" in outputs[0]
  record = json.loads((experiment.parent / "files" / "run" / "run.json").read_text())
  assert (record["status"], len(record["devices"])) == ("complete", 2)
