"""Other destinations of metrics: packages of the user's, found by entry points of the group `trialbook.writers`.

A package declares in its metadata, for example in `pyproject.toml`,

    [project.entry-points."trialbook.writers"]
    wandb = "my_package:WandbWriter"

and `logging.writers=("wandb",)` turns it on. The entry point is called with the workdir and the config (JSON
values), on the lead host, and gives a `Writer`. One that fails later is reported, and gets nothing more: the workdir
has the records, so the run continues without it. After a resume, steps come that it may have had before.
"""

import importlib.metadata
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from absl import logging

from trialbook.errors import UserError, said
from trialbook.naming import nearest
from trialbook.trainer.config import Config

GROUP = "trialbook.writers"


class Writer(Protocol):
  """A writer that receives what TensorBoard does: the mean of each block of steps, and each evaluation."""

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    """Write numbers by name at a step; called from the training loop, so it must not wait for a network."""
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
  made: list[Writer] = []
  for name, maker in load(config)[0].items():
    try:
      writer = maker(workdir, config.model_dump(mode="json"))
      missing = [member for member in ("write", "close") if not callable(getattr(writer, member, None))]
      if missing:
        raise TypeError(f"a {type(writer).__name__} is not a writer: it has no {', '.join(missing)}")
      made.append(_Guarded(name, writer))
    except Exception as error:
      for writer in made:
        writer.close()
      raise UserError(f"logging.writers: {name!r} cannot start: {said(error)}") from error
  return made


class _Guarded:
  """A writer whose failures do not end the run."""

  def __init__(self, name: str, writer: Writer):
    self._name, self._writer, self._failed = name, writer, False

  def write(self, step: int, values: Mapping[str, Any]) -> None:
    if self._failed:
      return
    try:
      self._writer.write(step, dict(values))
    except Exception as error:
      self._failed = True
      logging.error("logging.writers: %r failed at step %d and receives nothing more: %r", self._name, step, error)

  def close(self) -> None:
    try:
      self._writer.close()
    except Exception as error:
      logging.error("logging.writers: %r failed when it was closed: %r", self._name, error)
