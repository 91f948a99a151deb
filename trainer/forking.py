"""A new run that starts from another's checkpoint: its files up to that step are copied, then it is resumed."""

import pathlib
import shutil
from typing import Any

from trainer import checkpoints, records
from trainer.overrides import ConfigError


def problems(source: pathlib.Path, folder: pathlib.Path) -> list[str]:
  """Why no run in `folder` can be forked from the run in `source`."""
  found = []
  if (folder / "config.json").exists():
    found.append(f"--fork: workdir {folder} holds a run already; choose a new one")
  if not checkpoints.saved_steps(source / "checkpoints"):
    found.append(f"--fork={source}: there is no checkpoint")
  return found


def copy(source: pathlib.Path, folder: pathlib.Path, template: Any) -> None:
  """Copies the newest checkpoint that is whole, and the metrics up to its step.

  Raises:
    UserError: if none can be read, or it does not fit what this run trains.
  """
  restored = checkpoints.restore_newest(source / "checkpoints", template)
  if restored is None:
    raise ConfigError(f"--fork={source}: there is no checkpoint")
  step, _ = restored
  shutil.copy(source / "metrics.jsonl", folder / "metrics.jsonl")
  records.cut_lines(folder / "metrics.jsonl", step)
  records.write_json(folder / "fork.json", {"format": records.FORMAT, "source": str(source.resolve()), "step": step})
  (folder / "checkpoints").mkdir(exist_ok=True)
  incomplete = folder / "checkpoints" / f"{step}.incomplete"
  shutil.rmtree(incomplete, ignore_errors=True)
  shutil.copytree(source / "checkpoints" / str(step), incomplete)
  incomplete.rename(folder / "checkpoints" / str(step))
