"""Worker processes that make training batches, where decoding examples is what takes the time.

Worker w of W makes the whole steps t with t % W = w, a few ahead of what was asked for. A batch being a function of
(seed, step), it does not matter who makes it: the batches are those of a dataset without workers. A worker is a fresh
interpreter (nothing is forked, and a script needs no `__main__` guard), which ends when its input ends, so that none
outlives a process that was killed.
"""

import collections
import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import Any, BinaryIO

from trialbook.errors import DataError, said
from trialbook.input_pipeline.source import Batch

# Steps that each worker has been asked for beyond the one that is waited for.
_AHEAD = 2
_CODE = (
  "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer);"
  " from trialbook.input_pipeline.workers import serve; serve()"
)


class Workers:
  """Batches of a dataset, made by worker processes. Safe to use from several threads.

  Args:
    count: number of processes.
    load_arguments: of `trialbook.input_pipeline.load`, with a config that asks for no workers itself.
  """

  def __init__(self, count: int, **load_arguments: Any):
    self._lock = threading.Lock()
    self._asked: list[collections.deque[int]] = [collections.deque() for _ in range(count)]
    self._closed = False
    self._workers: list[subprocess.Popen] = []
    # One thread of computation each: there are as many workers as the user wants cores to be busy.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
    try:
      for _ in range(count):
        command = [sys.executable, "-c", _CODE]
        worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        self._workers.append(worker)
      for number in range(count):
        self._send(number, [os.getcwd() if entry == "" else entry for entry in sys.path])
        self._send(number, load_arguments)
    except BaseException:
      self.close()
      raise

  def train_batch(self, step: int) -> Batch:
    """Return the batch of `Dataset.train_batch`.

    Raises:
      RuntimeError: a worker died, which ends the others, too; or all were closed.
    """
    with self._lock:
      if self._closed:
        raise RuntimeError(f"batch {step} was requested after the worker processes had ended")
      number = step % len(self._workers)
      asked = self._asked[number]
      if step not in asked:
        self._ask(number, step)
      try:
        while True:
          made, batch = asked.popleft(), self._receive(number)
          # What was made for a step that nobody wants, after a jump, is dropped.
          if made == step:
            break
      finally:
        self._ask_ahead(step)
      if isinstance(batch, BaseException):
        raise batch
      return batch

  def close(self) -> None:
    """End the processes; may be repeated."""
    # First, since another thread may hold the lock while it waits for one that hangs.
    for worker in self._workers:
      worker.kill()
    with self._lock:
      self._end()

  def _ask_ahead(self, step: int) -> None:
    if self._closed:
      return
    for later in range(step + 1, step + 1 + _AHEAD * len(self._workers)):
      number = later % len(self._workers)
      # After a jump, what is still being made is enough to wait for.
      if later not in self._asked[number] and len(self._asked[number]) < _AHEAD:
        self._ask(number, later)

  def _ask(self, number: int, step: int) -> None:
    self._send(number, step)
    self._asked[number].append(step)

  def _send(self, number: int, message: Any) -> None:
    pipe = self._workers[number].stdin
    assert pipe is not None
    try:
      pickle.dump(message, pipe, protocol=5)
      pipe.flush()
    except OSError:
      raise self._death(number) from None

  def _receive(self, number: int) -> Any:
    pipe = self._workers[number].stdout
    assert pipe is not None
    try:
      return pickle.load(pipe)
    except (EOFError, OSError, pickle.UnpicklingError):
      raise self._death(number) from None

  def _death(self, number: int) -> RuntimeError:
    worker = self._workers[number]
    with contextlib.suppress(subprocess.TimeoutExpired):
      worker.wait(timeout=5)
    code = worker.returncode
    how = f"killed by {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"
    self._end()
    return RuntimeError(f"data worker {number} of {len(self._workers)} (process {worker.pid}) died: {how}")

  def _end(self) -> None:
    self._closed = True
    for worker in self._workers:
      worker.kill()
    for worker in self._workers:
      worker.wait()
      for pipe in (worker.stdin, worker.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):
          pipe.close()


def serve() -> None:
  """Run a worker: read what to load, then steps, and write batches, or what was raised in place of one."""
  # Ctrl-C and SIGTERM, which may come to the whole group, are the parent's to handle; it then closes the input.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
  answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
  # What decoding code of the user's prints must not mix with the answers.
  os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
  threading.Thread(target=_read, args=(requests,), daemon=True).start()
  with contextlib.suppress(BrokenPipeError):
    _answer(requests, answers)
  # Without the interpreter's farewell, which would flush into pipes that are closed.
  os._exit(0)


def _read(requests: queue.SimpleQueue[Any]) -> None:
  """Receive all requests, and end this process with the last one, also while a batch is made that may never be done."""
  code = 1
  try:
    with contextlib.suppress(EOFError, pickle.UnpicklingError):
      while True:
        requests.put(pickle.load(sys.stdin.buffer))
    code = 0
  finally:
    if code:
      traceback.print_exc()
    os._exit(code)


def _answer(requests: queue.SimpleQueue[Any], answers: BinaryIO) -> None:
  load_arguments: Mapping[str, Any] = requests.get()
  dataset, failure = None, None
  try:
    # Here, since `trialbook.input_pipeline.dataset` imports this module.
    from trialbook.input_pipeline.dataset import load

    dataset = load(**load_arguments)
  except Exception as error:
    failure = error
  while True:
    step = requests.get()
    try:
      if dataset is None:
        raise failure or RuntimeError("no dataset")
      answer = dataset.train_batch(step)
    except Exception as error:
      answer = error if isinstance(error, DataError | ValueError) else RuntimeError(said(error))
    pickle.dump(answer, answers, protocol=5)
    answers.flush()
