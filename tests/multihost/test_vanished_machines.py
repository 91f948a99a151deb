"""A machine that vanishes ends the job with 75, and says why: two network namespaces, and a link that goes down."""

import json
import os
import pathlib
import random
import socket
import sys
import time

import pytest
from forked import ROOT, wait_for
from scripted import MARK, running
from two_machines import ADDRESSES, TwoMachines, missing, two_machines

from trialbook import errors
from trialbook.launch.local import free_port
from trialbook.trainer.hosts.secret import VARIABLE, new_secret

HEARTBEAT = 4
EXPERIMENT = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests" / "trainer")!r})
import tiny

def get_config():
  return tiny.mlp(max_train_steps=1_000_000, evaluation__every_steps=100, checkpointing__every_evaluations=5)
"""


@pytest.fixture(scope="module", autouse=True)
def possible() -> None:
  if lacking := missing():
    pytest.skip(lacking)


class Training:
  """A training on both machines, started by hand; machine 0 leads."""

  def __init__(self, machines: TwoMachines, folder: pathlib.Path, coordinator: str, *flags: str):
    folder.mkdir()
    experiment, self.workdir, self._folder = folder / "experiment.py", folder / "run", folder
    experiment.write_text(EXPERIMENT)
    address = f"{coordinator}:{free_port()}"
    environment = {**os.environ, MARK: str(folder), VARIABLE: new_secret(), "JAX_PLATFORMS": "cpu", "NPROC": "2"}
    command = ["train", f"--config={experiment}", f"--workdir={self.workdir}", f"--coordinator={address}"]
    command += ["--host_count=2", *flags]
    self.hosts = [
      machines.start(index, [*command, f"--host_index={index}"], folder / f"output_{index}", environment)
      for index in range(2)
    ]

  def wait_for_step(self, step: int) -> None:
    """Returns once the lead has recorded it."""
    wait_for(lambda: self._over() or self._steps() > step)
    assert not self._over(), self.text()

  def ends(self, seconds: float) -> list[int]:
    """Exit codes, once both have ended."""
    codes = [host.wait(seconds) for host in self.hosts]
    assert not running(self._folder)
    return codes

  def kill(self) -> None:
    for host in self.hosts:
      host.kill()

  def text(self) -> str:
    return "\n".join(host.text() for host in self.hosts)

  def _over(self) -> bool:
    return any(host.poll() is not None for host in self.hosts)

  def _steps(self) -> int:
    try:
      return (self.workdir / "metrics.jsonl").read_bytes().count(b"\n")
    except OSError:
      return 0


def vanish(folder: pathlib.Path, step: int, heartbeat: float) -> tuple[float, str]:
  """Cuts the link at a step; returns the seconds until both have left, and the lead's cause."""
  with two_machines(folder) as machines:
    training = Training(machines, folder / "job", ADDRESSES[0], f"--set=job.heartbeat_seconds={heartbeat}")
    try:
      training.wait_for_step(step)
      time.sleep(random.random() / 10)
      started = time.monotonic()
      machines.cut()
      codes = training.ends(heartbeat + 60)
      seconds = time.monotonic() - started
    finally:
      training.kill()
  assert codes == [errors.TRY_AGAIN] * 2, training.text()
  assert seconds < heartbeat + 5, training.text()
  record = {}
  for index in range(2):
    record = json.loads((training.workdir / "logs" / f"host_{index}.exit.json").read_text())
    lead = ", the lead," if index else ""
    assert record["cause"].startswith(f"host {1 - index}{lead} was lost: its machine does not answer"), record
    assert (record["code"], record["host"]) == (errors.TRY_AGAIN, 1 - index)
  return seconds, record["cause"]


@pytest.mark.slow
def test_machines_whose_own_names_are_loopback_train_and_listen_at_no_other_address_than_the_coordinators(
  tmp_path: pathlib.Path,
):
  with two_machines(tmp_path) as machines:
    # Machine 0 resolves this name to 127.0.1.1, machine 1 to its address.
    training = Training(machines, tmp_path / "job", machines.names[0], "--set=max_train_steps=1000")
    try:
      training.wait_for_step(10)
      for host, address in zip(training.hosts, ADDRESSES, strict=True):
        assert listening(host.pid) == {address}
      assert training.ends(240) == [errors.DONE] * 2, training.text()
    finally:
      training.kill()


def listening(process: int) -> set[str]:
  """Addresses at which the machine of a process listens; all interfaces are 0.0.0.0."""
  found = set()
  for name in ("tcp", "tcp6"):
    for row in pathlib.Path(f"/proc/{process}/net/{name}").read_text().splitlines()[1:]:
      local, state = row.split()[1], row.split()[3]
      if state == "0A":
        found.add(socket.inet_ntoa(bytes.fromhex(local.split(":")[0][-8:])[::-1]))
  return found


@pytest.mark.slow
def test_a_machine_that_vanishes_ends_the_job_with_75_and_the_cause(tmp_path: pathlib.Path):
  vanish(tmp_path, 100, HEARTBEAT)


@pytest.mark.evidence
def test_twenty_machines_that_vanish_at_random_steps_end_their_jobs_with_75_at_any_heartbeat(tmp_path: pathlib.Path):
  rows = []
  for number in range(20):
    (folder := tmp_path / str(number)).mkdir()
    heartbeat = (1, 2, 4, 8, 20)[number % 5]
    seconds, cause = vanish(folder, random.randrange(1, 300), heartbeat)
    rows.append(f"| {heartbeat} | {seconds:.1f} | {seconds - heartbeat:.1f} | 75 | {cause} |\n")
    sys.stdout.write(rows[-1])
    sys.stdout.flush()
  assert len(rows) == 20
