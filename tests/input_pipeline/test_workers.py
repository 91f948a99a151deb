"""Worker processes change nothing but who does the work; one that dies is an error; none is left behind."""

import collections
import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from trialbook.errors import DataError
from trialbook.input_pipeline import ArrayRecord, Augmentation, Dataset, Digits, load, prefetch, write_array_record
from trialbook.input_pipeline.datasets import record_files

AUGMENTATION = Augmentation(crop_padding=1, flip_probability=0.5)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ArrayRecord:
  path = tmp_path_factory.mktemp("data") / "digits"
  write_array_record(path, Digits().read().arrays, num_classes=10)
  return ArrayRecord(path=str(path), augmentation=AUGMENTATION)


def _with_workers(config: ArrayRecord, count: int = 2) -> Dataset:
  return load(config.model_copy(update={"workers": count}), seed=5, batch_size=32)


def _processes(dataset: Dataset) -> list[subprocess.Popen]:
  assert dataset._workers is not None
  return dataset._workers._workers


@pytest.mark.slow
def test_batches_are_the_same_in_order_out_of_order_and_again(config):
  alone = load(config, seed=5, batch_size=32)
  with _with_workers(config) as dataset:
    for step in (*range(12), 700, 701, 3, 4, 4, 10**9):
      one, other = alone.train_batch(step), dataset.train_batch(step)
      assert one.keys() == other.keys()
      assert all(np.array_equal(one[key], other[key]) and one[key].dtype == other[key].dtype for key in one)
      for array in other.values():
        array[...] = 0


@pytest.mark.slow
def test_several_threads_may_ask(config):
  alone = load(config, seed=5, batch_size=32)
  failures = []

  def ask(steps: range) -> None:
    for step in steps:
      if not np.array_equal(dataset.train_batch(step)["inputs"], alone.train_batch(step)["inputs"]):
        failures.append(step)

  with _with_workers(config) as dataset:
    threads = [threading.Thread(target=ask, args=(range(start, 30, 3),)) for start in range(3)]
    for thread in threads:
      thread.start()
    for thread in threads:
      thread.join()
  assert not failures


@pytest.mark.slow
def test_a_worker_that_dies_is_named_and_ends_the_others(config):
  with _with_workers(config) as dataset:
    dataset.train_batch(0)
    processes = _processes(dataset)
    os.kill(processes[1].pid, signal.SIGKILL)
    message = rf"data worker 1 of 2 \(process {processes[1].pid}\) died: killed by SIGKILL"
    with pytest.raises(RuntimeError, match=message):
      list(map(dataset.train_batch, range(1, 8)))
    assert all(process.poll() is not None for process in processes)
    with pytest.raises(RuntimeError, match="had ended"):
      dataset.train_batch(1)


@pytest.mark.slow
def test_closing_ends_the_processes_and_may_be_repeated(config):
  dataset = _with_workers(config)
  dataset.close()
  with pytest.raises(RuntimeError, match="after the dataset was closed"):
    dataset.train_batch(0)
  with _with_workers(config) as dataset:
    dataset.train_batch(0)
    processes = _processes(dataset)
  assert all(process.poll() is not None for process in processes)
  dataset.close()


def decode(record: bytes) -> dict[str, np.ndarray]:
  sys.stdout.write("this must not mix with the batches\n")
  if record == b"5":
    raise ValueError("five")
  return {"inputs": np.array([float(record)]), "targets": np.array(0.0)}


@pytest.mark.slow
def test_what_is_raised_in_a_worker_is_raised_here_and_printing_does_no_harm(tmp_path, capfd):
  from trialbook.input_pipeline.datasets.record_files import array_record_module

  for name in ("train", "held"):
    writer = array_record_module().ArrayRecordWriter(str(tmp_path / name), "group_size:1")
    for number in range(6 if name == "train" else 1):
      writer.write(str(number).encode())
    writer.close()
  config = ArrayRecord(
    path=str(tmp_path), files={"train": "train", "validation": "held"}, decode="test_workers:decode", workers=1
  )
  with load(config, seed=0, batch_size=1) as dataset:
    numbers, failures = [], []
    for step in range(6):
      try:
        numbers.append(dataset.train_batch(step)["inputs"].item())
      except DataError as error:
        failures.append(str(error))
  assert sorted(numbers) == [0, 1, 2, 3, 4]
  assert len(failures) == 1
  assert "train, record 5: cannot be decoded: ValueError: five" in failures[0]


@pytest.mark.slow
def test_workers_end_when_their_parent_is_killed(config):
  code = f"""
import time
from trialbook.input_pipeline import ArrayRecord, load
dataset = load(ArrayRecord(path={config.path!r}, workers=2), seed=0, batch_size=8)
dataset.train_batch(0)
print(*[process.pid for process in dataset._workers._workers], flush=True)
time.sleep(60)
"""
  with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
    assert parent.stdout is not None
    workers = [int(number) for number in parent.stdout.readline().split()]
    parent.kill()
  assert len(workers) == 2
  deadline = time.monotonic() + 10
  while time.monotonic() < deadline and any(os.path.exists(f"/proc/{pid}/cmdline") and _alive(pid) for pid in workers):
    time.sleep(0.02)
  assert not any(_alive(pid) for pid in workers)


decoded = collections.Counter[bytes]()


def hang(record: bytes) -> dict[str, np.ndarray]:
  """Decodes, but for one record, which it decodes in a worker a few times (HANGS_AFTER) and then never."""
  decoded[record] += 1
  is_worker = any("serve()" in argument for argument in sys.orig_argv)
  if record == b"5" and is_worker and decoded[record] > int(os.environ.get("HANGS_AFTER", "0")):
    time.sleep(3600)
  return {"inputs": np.array([float(record)], np.float32), "labels": np.array(int(record) % 2)}


@pytest.fixture
def hanging(tmp_path: pathlib.Path) -> ArrayRecord:
  """A dataset with an example that no worker ever has decoded."""
  for name in ("train", "held"):
    with contextlib.closing(
      record_files.array_record_module().ArrayRecordWriter(str(tmp_path / name), "group_size:1")
    ) as writer:
      for number in range(6 if name == "train" else 1):
        writer.write(str(number).encode())
  files = {"train": "train", "validation": "held"}
  return ArrayRecord(path=str(tmp_path), files=files, decode="test_workers:hang", workers=1, num_classes=2)


def test_a_worker_that_hangs_delays_no_closing(hanging: ArrayRecord, monkeypatch: pytest.MonkeyPatch):
  monkeypatch.setattr(prefetch, "_PATIENCE_SECONDS", 0.5)
  with load(hanging, seed=0, batch_size=6) as dataset:
    batches = prefetch.Prefetcher(dataset.train_batch, lambda batch: batch, 0, 10)
    while dataset._workers is None:
      time.sleep(0.01)
    (process,) = _processes(dataset)
    # As where a run is interrupted: the prefetcher is closed first.
    started = time.monotonic()
    batches.close()
  assert time.monotonic() - started < 15
  assert process.poll() is not None


@pytest.mark.slow
def test_a_worker_that_hangs_ends_when_its_parent_is_killed(hanging: ArrayRecord):
  settings = hanging.model_dump(include={"path", "files", "decode", "workers", "num_classes"})
  code = f"""
import sys, threading, time
sys.path.insert(0, {os.path.dirname(__file__)!r})
from trialbook.input_pipeline import ArrayRecord, load
dataset = load(ArrayRecord(**{settings!r}), seed=0, batch_size=6)
threading.Thread(target=dataset.train_batch, args=(0,), daemon=True).start()
while dataset._workers is None:
  time.sleep(0.01)
time.sleep(3)
print(dataset._workers._workers[0].pid, flush=True)
time.sleep(60)
"""
  with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
    assert parent.stdout is not None
    worker = int(parent.stdout.readline())
    parent.kill()
  deadline = time.monotonic() + 10
  while time.monotonic() < deadline and _alive(worker):
    time.sleep(0.02)
  assert not _alive(worker)


def _alive(pid: int) -> bool:
  try:
    with open(f"/proc/{pid}/stat") as file:
      return file.read().rpartition(")")[2].split()[0] != "Z"
  except FileNotFoundError:
    return False
