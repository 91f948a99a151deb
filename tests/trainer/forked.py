"""Functions run in processes that start in milliseconds, forked from one that has imported jax already."""

import multiprocessing
import os
import pathlib
import time
from collections.abc import Callable

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Processes that start in milliseconds, because the one that they are forked from has imported jax already.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["trainer.train", "trainer.summary", "sklearn.datasets"])


def wait_for(condition: Callable[[], object], seconds: float = 20.0) -> None:
  deadline = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < deadline, "waited in vain"
    time.sleep(0.005)


def _in_process(output: pathlib.Path, target: Callable[..., object], arguments: tuple) -> None:
  file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
  os.dup2(file, 1)
  os.dup2(file, 2)
  target(*arguments)


def in_process(output: pathlib.Path, target: Callable[..., object], *arguments: object) -> int:
  """Calls a function in the main thread of another process, whose output goes to a file; returns its exit code."""
  process = PROCESSES.Process(target=_in_process, args=(output, target, arguments))
  process.start()
  process.join(120)
  if process.is_alive():
    process.kill()
    process.join()
    pytest.fail(f"still there: {output.read_text()}")
  assert process.exitcode is not None
  code = process.exitcode
  process.close()
  return code
