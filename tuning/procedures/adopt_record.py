"""The recorded baseline: the config that was adopted last, and the evidence of each adoption (PB-44)."""

import datetime
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from typing_extensions import TypedDict

from trialbook import files
from trialbook.errors import UserError
from trialbook.paths import as_path
from trialbook.record import Kind, stored
from trialbook.trainer import Config
from trialbook.tuning.procedures.conclusion import write_config
from trialbook.tuning.procedures.lab import Lab

FOLDER, HISTORY = "recorded_baseline", "adoptions.jsonl"
"""Folder of the recorded baseline, beside that of the procedure, and its file with a line for each adoption."""


@stored
class Adoption(TypedDict):
  """A line of `adoptions.jsonl`: a config that became the baseline."""

  adopted: str
  origin: str
  evidence: str
  numbers: dict[str, Any]
  config: dict[str, Any]


ADOPTIONS = Kind(Adoption, "Restore the file from a copy, or move it away to begin another record", version=None)


def folder_of(lab: Lab, record: str | pathlib.Path | None) -> pathlib.Path:
  """Return the folder of the recorded baseline, which is `FOLDER` beside the lab's unless another one is named.

  Raises:
    UserError: if that holds something else, such as a run, whose config would be replaced.
  """
  folder = lab.folder.parent / FOLDER if record is None else as_path(record)
  if folder.exists() and not folder.is_dir():
    raise UserError(f"{folder} is a file, and the adopted config is recorded in a folder; name one with --record=DIR")
  if folder.exists() and any(folder.iterdir()) and not (folder / HISTORY).exists():
    raise UserError(
      f"{folder} holds no record of adoptions but something else, which an adopted config might replace; name another"
      " folder with --record=DIR"
    )
  return folder


def write(lab: Lab, folder: pathlib.Path, config: Config, numbers: Mapping[str, Any], origin: str) -> pathlib.Path:
  """Make a config the recorded baseline, add a line to the record of adoptions, and return the config's file."""
  line = {
    "adopted": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    "origin": origin,
    "evidence": str(lab.folder),
    "numbers": dict(numbers),
    "config": config.model_dump(mode="json"),
  }
  path = folder / HISTORY
  known = ADOPTIONS.lines(path)
  # A second call of the same procedure decides the same, and is the same adoption.
  if not any(one["evidence"] == line["evidence"] and one["config"] == line["config"] for one in known):
    folder.mkdir(parents=True, exist_ok=True)
    # Before the config: the folder is known by it, also if a call is killed here.
    files.write_text(path, "".join(json.dumps(files.jsonable(one)) + "\n" for one in [*known, line]))
  return write_config(config, folder)
