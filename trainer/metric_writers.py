"""Other destinations of metrics: packages of the user's, found by entry points of the group `trialbook.writers`.

A package declares in its metadata, for example in `pyproject.toml`,

    [project.entry-points."trialbook.writers"]
    wandb = "my_package:WandbWriter"

and `logging.writers=("wandb",)` turns it on. The entry point is called with the workdir and the config (JSON
values), on the lead host, and gives a `Writer`. Each has a thread of its own, so the run never waits for it. One that
fails later is reported, and gets nothing more; for one that is slow or hangs, what does not fit into its queue is
skipped, which is reported too. The workdir has the records all the same. After a resume, steps come that it may have
had before.
"""

import concurrent.futures
import importlib.metadata
import pathlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from absl import logging

from trialbook.errors import UserError, said
from trialbook.naming import nearest
from trialbook.trainer.config import Config

GROUP = "trialbook.writers"
WAITING = 256
"""Calls of `write` that wait for a slow writer at most; more are skipped."""
START_SECONDS, CLOSE_SECONDS = 60.0, 10.0
"""Time for a writer to start, and to finish after the run; then it is left behind."""


class Writer(Protocol):
  """A writer that receives what TensorBoard does: the mean of each block of steps, and each evaluation."""

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Write numbers by name at a step. All calls of a writer come from one thread, which is not the training's."""
    ...

  def close(self) -> None:
    """Close the writer: the run is over, or interrupted."""
    ...


def load(config: Config) -> tuple[dict[str, Callable[[pathlib.Path, Mapping[str, Any]], Writer]], list[str]]:
  """Return the entry points that a config names, and what is wrong with the others."""
  found = (
    {entry.name: entry for entry in importlib.metadata.entry_points(group=GROUP)} if config.logging.writers else {}
  )
  makers, problems = {}, []
  for name in config.logging.writers:
    if name not in found:
      problems.append(
        f"logging.writers: no installed package has an entry point {name!r} of {GROUP}{nearest(name, found)}"
      )
      continue
    try:
      maker = found[name].load()
    except Exception as error:
      problems.append(f"logging.writers: {name!r} cannot be loaded: {said(error)}")
      continue
    if callable(maker):
      makers[name] = maker
    else:
      told = f"{found[name].value} is a {type(maker).__name__}; it must be a class or a function"
      problems.append(f"logging.writers: {name!r}: {told}")
  return makers, problems


def make(config: Config, workdir: pathlib.Path) -> list[Writer]:
  """Make the writers of a run. Raises UserError, with none left open, if one cannot start."""
  made = [_Behind(name, maker, workdir, config) for name, maker in load(config)[0].items()]
  for writer in made:
    try:
      writer.wait_for_start()
    except UserError:
      for one in made:
        one.close()
      raise
  return list(made)


class _Behind:
  """A writer on a thread of its own, whose failures and delays do not reach the run."""

  def __init__(self, name: str, maker: Callable[..., Writer], workdir: pathlib.Path, config: Config):
    self._name, self._failed, self._late = name, False, False
    self._given = self._written = self._skipped = 0
    self._queue: queue.Queue[tuple[int, dict[str, Any]] | None] = queue.Queue(WAITING)
    self._start: concurrent.futures.Future[None] = concurrent.futures.Future()
    arguments = maker, workdir, config.model_dump(mode="json")
    self._thread = threading.Thread(target=self._work, args=arguments, name=f"writer {name}", daemon=True)
    self._thread.start()

  def wait_for_start(self) -> None:
    """Wait until the writer has started. Raises UserError if it cannot; one that takes too long is reported."""
    concurrent.futures.wait([self._start], START_SECONDS)
    if not self._start.done():
      self._late = True
      logging.error("logging.writers: %r has not started after %g s; the run goes on", self._name, START_SECONDS)
    elif error := self._start.exception():
      raise UserError(f"logging.writers: {self._name!r} cannot start: {said(error)}") from error

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    if self._failed:
      return
    try:
      self._queue.put_nowait((step, dict(values)))
      self._given += 1
    except queue.Full:
      if not self._skipped:
        logging.error(
          "logging.writers: %r is slow or hangs: what does not fit into its queue is skipped, from step %d on",
          self._name,
          step,
        )
      self._skipped += 1

  def close(self) -> None:
    deadline = time.monotonic() + CLOSE_SECONDS
    try:
      self._queue.put(None, timeout=CLOSE_SECONDS)
      self._thread.join(max(0.0, deadline - time.monotonic()))
    except queue.Full:
      pass
    if self._thread.is_alive():
      logging.error(
        "logging.writers: %r is still busy %g s after the run, and is left behind; it has not written the last %d of"
        " what it was given, and %d before were skipped",
        self._name,
        CLOSE_SECONDS,
        self._given - self._written,
        self._skipped,
      )
    elif self._skipped:
      logging.error("logging.writers: %r was slow: %d of its calls were skipped", self._name, self._skipped)

  def _work(self, maker: Callable[..., Writer], workdir: pathlib.Path, config: Mapping[str, Any]) -> None:
    # What ends a process elsewhere, such as SystemExit, must not end the thread unseen.
    try:
      writer = maker(workdir, config)
      if missing := [member for member in ("write", "close") if not callable(getattr(writer, member, None))]:
        raise TypeError(f"a {type(writer).__name__} is not a writer: it has no {', '.join(missing)}")
    except BaseException as error:
      self._failed = True
      self._start.set_exception(error)
      if self._late:
        logging.error("logging.writers: %r cannot start, and receives nothing: %r", self._name, error)
      return
    self._start.set_result(None)
    while (given := self._queue.get()) is not None:
      step, values = given
      if self._failed:
        continue
      try:
        writer.write(step, values)
        self._written += 1
      except BaseException as error:
        self._failed = True
        logging.error("logging.writers: %r failed at step %d and receives nothing more: %r", self._name, step, error)
    try:
      writer.close()
    except BaseException as error:
      logging.error("logging.writers: %r failed when it was closed: %r", self._name, error)
