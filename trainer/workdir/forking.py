"""A new run that starts from another's checkpoint: its files up to that step are copied, then it is resumed."""

import pathlib
from typing import Any

from trialbook import files, folders
from trialbook.errors import UserError
from trialbook.trainer.checkpoints import places, storage
from trialbook.trainer.records import read_fork
from trialbook.trainer.workdir import step_lines


def problems(source: pathlib.Path, workdir: pathlib.Path, max_train_steps: int) -> list[str]:
  """Return why the run in `source` cannot be forked into `workdir`; [] if it can, or if it was and may resume."""
  if (workdir / "config.json").exists():
    if _is_copied(source, workdir):
      return []
    return [f"--fork: workdir {workdir} already holds a run that is not a fork of {source}; choose a new one"]
  saved = storage.saved_steps(source / "checkpoints")
  if not saved or not (source / "metrics.jsonl").exists():
    return [f"--fork={source}: there is no run with a checkpoint"]
  if saved[-1] < max_train_steps:
    return []
  nothing = f"so max_train_steps = {max_train_steps} leaves nothing to train"
  return [f"--fork={source}: its checkpoint is at step {saved[-1]}, {nothing}"]


def check(source: pathlib.Path, workdir: pathlib.Path, template: Any) -> None:
  """Raise OtherStateError if the newest checkpoint does not fit what this run trains."""
  if not _is_copied(source, workdir):
    newest = storage.saved_steps(source / "checkpoints")[-1]
    storage.check(source / "checkpoints" / str(newest), template, whole=True)


def copy(source: pathlib.Path, workdir: pathlib.Path, template: Any) -> None:
  """Copy the newest checkpoint that is whole, and the metrics up to its step, unless that was done before.

  Raises:
    UserError: if none can be read, or it does not fit what this run trains.
  """
  if _is_copied(source, workdir):
    return
  restored = storage.restore_newest(source / "checkpoints", template)
  if restored is None:
    raise UserError(f"--fork={source}: there is no checkpoint")
  step, _ = restored
  folders.copy_file(source / "metrics.jsonl", workdir / "metrics.jsonl")
  step_lines.cut_lines(workdir, step)
  saved_by = storage.run_of(source / "checkpoints" / str(step))
  record = _record(source) | {"step": step} | ({"run": saved_by} if saved_by else {})
  files.write_json(workdir / "fork.json", record)
  # The last act: from here on the workdir holds a run that was interrupted.
  places.copy(source / "checkpoints" / str(step), workdir / "checkpoints")


def step(workdir: pathlib.Path) -> int:
  """Return the step that the run in a workdir was forked at; 0 if it is not a fork."""
  fork = read_fork(workdir)
  return 0 if fork is None else fork["step"]


def _record(source: pathlib.Path) -> dict[str, Any]:
  return {"format": files.FORMAT, "source": str(source.resolve())}


def _is_copied(source: pathlib.Path, workdir: pathlib.Path) -> bool:
  fork = read_fork(workdir)
  is_of_source = fork is not None and fork["source"] == _record(source)["source"]
  return is_of_source and bool(storage.saved_steps(workdir / "checkpoints"))
