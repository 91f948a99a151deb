"""From arrays on the device to records, without making the loop wait: metrics are read some steps behind."""

import collections
import contextlib
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from jaxtyping import Array, Float

from trialbook.errors import InfeasibleError, TryAgainError
from trialbook.spool import LOG_SECONDS, Spool
from trialbook.trainer.config import Config
from trialbook.trainer.metric_writers import Writer, make
from trialbook.trainer.timing import Times
from trialbook.trainer.workdir.step_lines import StepLines

AHEAD = 4
"""Steps that may be dispatched and not yet read: enough to hide the host's work, few enough to stop soon."""

WATCHED = ("train/loss", "update_norm")
"""Metrics that end a run when they are not finite: the loss, and what the parameters are about to become."""


class WaitingSource(Protocol):
  """The source of batches."""

  wait_seconds: float


class Recorder:
  """A recorder that takes each step's metrics as they are dispatched and writes them when they are there.

  Args:
    workdir: where `metrics.jsonl` and the event files are.
    names: of the step's metrics, in their order.
    config: whose `logging` says how many steps make a block. A block is written at once; TensorBoard gets its mean.
    first_step: the first step that will be recorded.
    batches: says how long the loop has waited for data.
    times: takes the time that the loop waits for the devices.
    writes: whether this is the host that writes; the others only watch.

  Attributes:
    first_step_time: when the first step of this process was read, in seconds since the epoch.
  """

  def __init__(
    self,
    workdir: pathlib.Path,
    names: Sequence[str],
    config: Config,
    first_step: int,
    batches: WaitingSource,
    times: Times | None = None,
    *,
    writes: bool = True,
  ):
    self._names, self._batch_size, self._every_steps = tuple(names), config.batch_size, config.logging.every_steps
    self._watched = [self._names.index(name) for name in WATCHED if name in self._names]
    self._batches, self._times = batches, Times() if times is None else times
    self.first_step_time: float | None = None
    self._pending: collections.deque[tuple[int, Array]] = collections.deque()
    self._rows: list[tuple[int, list[float]]] = []
    self._latest: dict[str, float] = {}
    self._writers: list[Writer] = make(config, workdir) if writes else []
    self._lines = StepLines(workdir / "metrics.jsonl", names) if writes else None
    if config.logging.tensorboard and writes:
      self._writers.append(_Events(workdir, first_step))
    self.restart_clock()

  def describe(self) -> str:
    """Return the newest loss and rate that are known, for the progress line."""
    if not self._rows and not self._latest:
      return ""
    loss = self._rows[-1][1][self._names.index("train/loss")] if self._rows else self._latest["train/loss"]
    rate = self._latest.get("examples_per_second")
    return f"train/loss {loss:.4g}" + (f"  {rate:,.0f} examples/s" if rate else "")

  def times(self) -> dict[str, float]:
    """Return seconds by what they went into, see `trialbook.trainer.timing.NAMES`."""
    return {**self._times.as_dict(), "wait_for_data": round(self._batches.wait_seconds, 6)}

  def restart_clock(self) -> None:
    """Restart the clock when training continues: rates are measured from now on."""
    self._started, self._waited_before = time.perf_counter(), self._batches.wait_seconds
    self._stopped = None

  def step(self, step: int, metrics: Float[Array, " K"]) -> None:
    """Take the metrics of the update that led to `step`, and read those of a few steps before.

    Raises:
      InfeasibleError: if a step that was read is not finite.
    """
    self._pending.append((step, metrics))
    if len(self._pending) > AHEAD:
      self._read()
      if len(self._rows) >= self._every_steps:
        self._write_block({})

  def evaluation(self, step: int, values: Mapping[str, Any]) -> None:
    """Write all that came before, and the values of an evaluation on the line of `step`, durably."""
    self.drain()
    if step > 0 and not self._rows and self._lines is not None:
      # The process before this one was stopped between the step and its evaluation.
      self._lines.extend_last(values)
      for writer in self._writers:
        writer.write(step, values)
    else:
      self._write_block(values, step)
    if self._lines is not None:
      self._lines.sync()

  def sync(self) -> None:
    """Write all steps that were dispatched, durably. Raises InfeasibleError as `step` does."""
    self.drain()
    if self._rows:
      self._write_block({})
    if self._lines is not None:
      self._lines.sync()

  def drain(self) -> None:
    """Wait for all steps that were dispatched; training stops here. Raises InfeasibleError as `step` does."""
    while self._pending:
      self._read()
    self._stopped = self._stopped or (time.perf_counter(), self._batches.wait_seconds)

  def __enter__(self) -> "Recorder":
    return self

  def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
    self.close(suppress=() if kind is None else (OSError, TryAgainError))

  def close(self, suppress: Any = ()) -> None:
    """Write what has been read, and close the files; after a failure, its own failures are not reported."""
    with contextlib.suppress(suppress):
      if self._rows:
        self._write_block({})
      if self._lines is not None:
        self._lines.close()
    for writer in self._writers:
      with contextlib.suppress(suppress):
        writer.close()

  def _read(self) -> None:
    step, metrics = self._pending.popleft()
    with self._times.of("wait_for_device"):
      row = np.asarray(metrics).tolist()
    self.first_step_time = self.first_step_time or time.time()
    self._rows.append((step, row))
    for index in self._watched:
      if not math.isfinite(row[index]):
        self._pending.clear()
        raise InfeasibleError(f"{self._names[index]} is {row[index]}", step)

  def _write_block(self, evaluation: Mapping[str, Any], step: int | None = None) -> None:
    """Write the rows; the last line also has the block's rates and the evaluation after it."""
    rows, self._rows = self._rows, []
    extra = dict(evaluation)
    if rows:
      extra = self._rates(len(rows)) | extra
      self._latest = dict(zip(self._names, rows[-1][1], strict=True)) | extra
    if self._lines is None:
      return
    for row_step, row in rows[:-1]:
      self._lines.write(row_step, row, {})
    if rows:
      self._lines.write(*rows[-1], extra)
      mean = np.mean([row for _, row in rows], axis=0)
      step, extra = rows[-1][0], dict(zip(self._names, mean.tolist(), strict=True)) | extra
    elif step is not None:
      self._lines.write(step, (), extra)
    if step is not None:
      for writer in self._writers:
        writer.write(step, extra)
    self._lines.flush()

  def _rates(self, steps: int) -> dict[str, float]:
    """Return the rates of the block that ends now, or ended when the training stopped; the next one begins there."""
    now, waited = self._stopped or (time.perf_counter(), self._batches.wait_seconds)
    seconds = max(now - self._started, 1e-9)
    rates = {
      "examples_per_second": round(steps * self._batch_size / seconds, 1),
      "data_wait_fraction": round((waited - self._waited_before) / seconds, 4),
    }
    self._started, self._waited_before = now, waited
    return rates


class _Events:
  """TensorBoard event files: one summary a block instead of one a scalar, which would cost more than a step."""

  def __init__(self, workdir: pathlib.Path, first_step: int):
    from tensorboardX.event_file_writer import EventFileWriter
    from tensorboardX.proto import event_pb2, summary_pb2

    self._event, self._summary = event_pb2.Event, summary_pb2.Summary  # pyright: ignore[reportAttributeAccessIssue]
    self._spool = Spool(workdir, every_seconds=LOG_SECONDS)
    self._writer = EventFileWriter(str(self._spool.folder))
    # Tells TensorBoard to forget what an interrupted run wrote about this step and later ones.
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)  # pyright: ignore[reportAttributeAccessIssue]
    self._writer.add_event(self._event(session_log=start, step=first_step, wall_time=time.time()))

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    scalars = [
      self._summary.Value(tag=name, simple_value=value)
      for name, value in values.items()
      if isinstance(value, int | float)
    ]
    event = self._event(summary=self._summary(value=scalars), step=step, wall_time=time.time())
    self._writer.add_event(event)

  def close(self) -> None:
    self._writer.close()
    self._spool.close()
