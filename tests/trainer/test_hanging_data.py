"""A worker that never has its batch ready: Ctrl-C ends the run, a limit of a step's time ends the job, none is left."""

import contextlib
import os
import pathlib
import signal

import pytest
from forked import ROOT, New, ended, wait_for
from test_kills_of_studies import processes

from trialbook import errors
from trialbook.input_pipeline.datasets.record_files import array_record_module

EXPERIMENT = f"""
import pathlib, sys
sys.path[:0] = [{str(ROOT / "tests" / "trainer")!r}, {str(ROOT / "tests" / "input_pipeline")!r}]
import tiny
from trialbook.input_pipeline import ArrayRecord

def get_config():
  here = str(pathlib.Path(__file__).parent)
  records = ArrayRecord(
    path=here, files=dict(train="train", validation="held"), decode="test_workers:hang", workers=1, num_classes=2
  )
  return tiny.mlp(dataset=records, batch_size=6, evaluation__batch_size=1)
"""


def start(folder: pathlib.Path, *changes: str) -> New:
  for name in ("train", "held"):
    with contextlib.closing(array_record_module().ArrayRecordWriter(str(folder / name), "group_size:1")) as writer:
      for number in range(6 if name == "train" else 1):
        writer.write(str(number).encode())
  (folder / "experiment.py").write_text(EXPERIMENT)
  command = ["-m", "trialbook", "train", f"--config={folder / 'experiment.py'}", f"--workdir={folder / 'run'}"]
  environment = {**os.environ, "HANGS_AFTER": "8"}
  return New([*command, *(f"--set={change}" for change in changes)], folder / "output.txt", environment)


def workers_of(parent: int) -> set[int]:
  return {process for process, (above, command) in processes().items() if above == parent and "serve()" in command}


@pytest.mark.slow
@pytest.mark.long
def test_ctrl_c_ends_a_run_whose_worker_hangs(tmp_path: pathlib.Path):
  with ended(start(tmp_path)) as process:
    wait_for(lambda: process.poll() is not None or (tmp_path / "run/metrics.jsonl").exists(), 120)
    (worker,) = workers_of(process.pid)
    process.send(signal.SIGINT)
    assert process.wait(60) == errors.INTERRUPTED, process.text()
  assert "Traceback" not in process.text()
  wait_for(lambda: worker not in processes(), 10)


@pytest.mark.slow
@pytest.mark.long
def test_a_limit_of_a_steps_time_ends_a_job_whose_worker_hangs(tmp_path: pathlib.Path):
  with ended(start(tmp_path, "job.step_seconds=3")) as process:
    wait_for(lambda: process.poll() is not None or workers_of(process.pid))
    found = workers_of(process.pid)
    assert process.wait() == errors.TRY_AGAIN, process.text()
  assert "no progress for 3 s (step" in process.text()
  assert "in _receive" in (tmp_path / "run/logs/host_0.log").read_text()
  wait_for(lambda: not found & processes().keys(), 10)
