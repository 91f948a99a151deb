"""Hosts that are started by hand, one after the other: secrets, and mistakes of one host, which end all at once."""

import os
import pathlib
import time

import pytest
from forked import ROOT, Forked, ended, wait_for
from scripted import MARK

from trialbook import errors
from trialbook.launch.local import free_port
from trialbook.trainer.hosts.secret import VARIABLE

SECRET = "the secret of these hosts"
EXPERIMENT = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests" / "trainer")!r})
import tiny

def get_config():
  return tiny.mlp(max_train_steps=2, evaluation__every_steps=2)
"""


class ByHand:
  """Hosts of one job, in a folder."""

  def __init__(self, folder: pathlib.Path):
    self._folder, self._address, self._experiment = folder, f"127.0.0.1:{free_port()}", folder / "experiment.py"
    self._experiment.write_text(EXPERIMENT)

  def start(self, index: int, *flags: str, secret: str | None = SECRET) -> Forked:
    environment = {**os.environ, MARK: str(self._folder), "JAX_PLATFORMS": "cpu", "NPROC": "2"}
    environment |= {} if secret is None else {VARIABLE: secret}
    command = ["-m", "trialbook", "train", f"--config={self._experiment}", f"--coordinator={self._address}"]
    command += [f"--workdir={self._folder / 'run'}", "--host_count=2", f"--host_index={index}", *flags]
    return Forked(command, self._folder / f"output_{index}", environment=environment)

  def end(self, *hosts: Forked) -> tuple[list[int], list[str]]:
    """Exit codes and outputs, once all have ended."""
    with ended(hosts[0]), ended(hosts[-1]):
      return [host.wait() for host in hosts], [host.text() for host in hosts]


@pytest.fixture
def by_hand(tmp_path: pathlib.Path) -> ByHand:
  return ByHand(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("wrong", [0, 1])
def test_a_mistake_in_the_config_of_one_host_ends_all_at_once(by_hand: ByHand, wrong: int):
  good = by_hand.start(1 - wrong)
  bad = by_hand.start(wrong, "--set=batch_size=-1")
  codes, (output, other) = by_hand.end(bad, good)
  assert codes == [errors.USER_MISTAKE] * 2
  assert "batch_size = -1: should be" in output
  assert f"  - host {wrong} ended the job: batch_size = -1: should be" in other
  assert "Traceback" not in output + other


@pytest.mark.slow
def test_a_mistake_is_printed_before_other_hosts_are_waited_for_and_they_are_for_as_long_as_given(by_hand: ByHand):
  with ended(by_hand.start(0, "--set=batch_size=-1", "--set=job.startup_seconds=3")) as host:
    wait_for(lambda: "batch_size = -1" in host.text(), 60)
    started = time.monotonic()
    assert host.poll() is None, "it did not wait for the other host"
    assert host.wait(30) == errors.USER_MISTAKE
  assert time.monotonic() - started < 20


@pytest.mark.slow
def test_hosts_without_a_secret_are_refused_and_told_how_to_pass_one(by_hand: ByHand):
  codes, outputs = by_hand.end(*(by_hand.start(index, secret=None) for index in range(2)))
  assert codes == [errors.USER_MISTAKE] * 2
  for output in outputs:
    assert "the hosts of this job have no secret" in output
    assert "set TRIALBOOK_SECRET, or name a file by --secret_file" in output
    assert "--open_job" in output


@pytest.mark.slow
def test_an_open_job_needs_no_secret_and_a_file_can_hold_one(by_hand: ByHand, tmp_path: pathlib.Path):
  codes, outputs = by_hand.end(*(by_hand.start(index, "--open_job", secret=None) for index in range(2)))
  assert codes == [errors.DONE] * 2, outputs
  (file := tmp_path / "secret").write_text(SECRET + "\n")
  codes, outputs = by_hand.end(by_hand.start(0), by_hand.start(1, f"--secret_file={file}", secret=None))
  assert codes == [errors.DONE] * 2, outputs


@pytest.mark.slow
def test_a_host_with_another_secret_leaves_with_2_and_the_lead_counts_it(by_hand: ByHand):
  lead = by_hand.start(0, "--set=job.startup_seconds=5")
  codes, (output, other) = by_hand.end(
    lead, by_hand.start(1, "--set=job.startup_seconds=20", secret="another secret of hosts")
  )
  assert codes == [errors.TRY_AGAIN, errors.USER_MISTAKE]
  assert "the secrets differ: that of this host, 1, is not that of the lead" in other
  assert "did not connect to 127.0.0.1:" in output
  assert "1 greeting came with another secret" in output
