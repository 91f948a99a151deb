"""A workdir that may hold a run already: whether this run may resume there, and from where; one process at a time."""

import dataclasses
import math
import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

from trialbook import files
from trialbook.errors import OtherDataError, UserError
from trialbook.files import check_unlocked
from trialbook.input_pipeline import Dataset, Fingerprint
from trialbook.input_pipeline.fingerprint import same as same_fingerprint
from trialbook.object_store import StorePath
from trialbook.settings import leaves
from trialbook.trainer.checkpoints import storage
from trialbook.trainer.config import Config
from trialbook.trainer.records import read_config, read_metrics, read_run

_TOLERANCE = 1e-5
"""Relative tolerance for statistics of the data: another machine may have computed other last bits."""


def problems(workdir: pathlib.Path, config: Config) -> list[str]:
  """Return why the run of `config` (resolved) may not be made in `workdir`; nothing is left there."""
  try:
    _check_writable(workdir)
  except OSError as error:
    reason = error.strerror or str(error)
    return [f"workdir {os.fspath(workdir)} cannot be written: {reason}; choose another with --workdir"]
  try:
    check_unlocked(lock(workdir), f"workdir {os.fspath(workdir)}")
    if not (workdir / "config.json").exists():
      return []
    stored = stored_config(workdir)
    read_run(workdir)
    read_metrics(workdir)
  except UserError as error:
    return error.problems
  except OSError as error:
    return [f"workdir {os.fspath(workdir)} cannot be used: {error}"]
  differing = differences(stored, config, kinds=("static", "traced"), layout=False)
  if not differing:
    return []
  return [
    f"workdir {os.fspath(workdir)} holds a run with another config; choose another --workdir, or fork it (--fork)",
    *(f"{path}: the run has {old!r}, this config {new!r}" for path, (old, new) in differing.items()),
  ]


def _check_writable(workdir: pathlib.Path) -> None:
  """Raise OSError, or UserError, if nothing can be written in a workdir, which need not be there yet."""
  files.check_reachable(workdir)
  if isinstance(workdir, StorePath):
    return
  existing = workdir
  while not existing.exists() and not existing.is_symlink() and existing != existing.parent:
    existing = existing.parent
  if not existing.is_dir():
    raise NotADirectoryError(f"{existing} is not a folder")
  with tempfile.TemporaryFile(dir=existing):
    pass


def lock(workdir: pathlib.Path) -> pathlib.Path:
  """Return the lock file of a run, which a process holds while it trains."""
  return workdir / ".lock"


def fingerprints(config: Config, dataset: Dataset) -> dict[str, Fingerprint]:
  """Return fingerprints of the splits that a run reads. Raises DataError if they cannot be read."""
  info = dataset.info
  return dataset.fingerprints(
    ("train", *info.splits("validation"), *(info.splits("test") if config.evaluation.test else ()))
  )


def check_data(workdir: pathlib.Path, config: Config, dataset: Dataset) -> None:
  """Raise OtherDataError, with the differences, if the run in `workdir` may not resume with this data.

  A run without a checkpoint starts from the beginning, with any data. Raises DataError if the data cannot be read.
  """
  if not is_begun(workdir):
    return
  found = data_differences(workdir, config, dataset)
  if not found:
    return
  told = f"workdir {os.fspath(workdir)} holds a run on other data; restore its data, choose another --workdir"
  raise OtherDataError([f"{told}, or {fork_hint(workdir)}", *found], found)


def is_begun(workdir: pathlib.Path) -> bool:
  """Return whether `workdir` holds a run that would not start from the beginning.

  Such a run has ended, or has a checkpoint.
  """
  record = read_run(workdir)
  has_ended = record is not None and record["status"] in ("complete", "infeasible")
  return has_ended or bool(storage.saved_steps(workdir / "checkpoints"))


def fork_hint(workdir: pathlib.Path) -> str:
  """Return how to continue a run with other data, for a message."""
  return f"fork it into a new workdir (--fork={os.fspath(workdir)} --workdir=NEW)"


def data_differences(workdir: pathlib.Path, config: Config, dataset: Dataset) -> list[str]:
  """Return where the data differ from what the run in `workdir`, if there is one, recorded of its own.

  Raises DataError if the data cannot be read.
  """
  record = read_run(workdir)
  if record is None or "dataset" not in record:
    return []
  before, now = record["dataset"], dataclasses.asdict(dataset.info)
  found = [
    f"{split}: the run has {count:,} examples, the data {now['examples'].get(split, 0):,}"
    for split, count in before["examples"].items()
    if now["examples"].get(split) != count
  ]
  # Earlier versions recorded no fingerprints, or others; other facts may be new as well.
  recorded = record.get("fingerprints", {})
  if recorded:
    found += [
      f"{split}: same number of examples, different content"
      for split, one in fingerprints(config, dataset).items()
      if isinstance(earlier := recorded.get(split), dict)
      and not same_fingerprint(earlier, one)
      and now["examples"][split] == before["examples"].get(split)
    ]
  return found + [
    f"{name}: the run has {value!r}, the data {now[name]!r}"
    for name, value in before.items()
    if name not in _UNIMPORTANT and name in now and not _is_same(name, value, now[name])
  ]


_UNIMPORTANT = ("examples", "notice", "mixes_labels", "left_out")
"""Facts of a dataset that may change, or that are told in other words."""


def _is_same(name: str, before: Any, now: Any) -> bool:
  if name != "normalization" or before is None or now is None:
    return before == now
  if isinstance(before, Mapping) != isinstance(now, Mapping):
    return False
  if isinstance(before, Mapping):
    return before.keys() == now.keys() and all(_is_same(name, before[path], now[path]) for path in before)
  deviation = min(before[1])
  return all(
    len(one) == len(other)
    and all(
      math.isclose(*pair, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE * deviation) for pair in zip(one, other, strict=True)
    )
    for one, other in zip(before, now, strict=True)
  )


def stored_config(workdir: pathlib.Path) -> Config:
  """Return the config of the run in `workdir`.

  Raises:
    ConfigError: if there is none, it cannot be read, or a newer version wrote it.
  """
  return read_config(workdir / "config.json")


def differences(old: Config, new: Config, kinds: tuple[str, ...], *, layout: bool) -> dict[str, tuple[Any, Any]]:
  """Return path -> (old, new) of the fields of these kinds that differ.

  `layout` says whether the layout on devices (`mesh`) counts.

  The layout changes the program and not what it computes, so a run may resume with another one. None stands for a
  field that is not there.
  """

  def chosen(config: Config) -> dict[str, Any]:
    return {
      path: value for path, kind, _, value in leaves(config) if (layout if path.startswith("mesh.") else kind in kinds)
    }

  before, after = chosen(old), chosen(new)
  return {
    path: (before.get(path), after.get(path))
    for path in dict.fromkeys([*before, *after])
    if before.get(path) != after.get(path) or (path in before) != (path in after)
  }


def is_finished(workdir: pathlib.Path, config: Config) -> bool:
  """Return whether the run in `workdir` is complete and `config` (resolved) asks for no more steps."""
  record = read_run(workdir)
  if record is not None and record["status"] == "complete":
    return (record["step"] or 0) >= config.max_train_steps
  return record is not None and record["status"] == "infeasible"
