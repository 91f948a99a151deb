"""`metrics.jsonl`, the step lines of a run: one object a line, written as steps end."""

import json
import math
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from trialbook.files import jsonable, write_text
from trialbook.spool import Spool
from trialbook.trainer.records import read_metrics


def cut_lines(workdir: pathlib.Path, last_step: int, first: int = 0) -> None:
  """Remove all lines after that of `last_step` from `metrics.jsonl`, atomically. Raises UserError as `read_metrics`."""
  path = workdir / "metrics.jsonl"
  kept = sum(line["step"] <= last_step for line in read_metrics(workdir, first))
  write_text(path, "".join(f"{line}\n" for line in path.read_text().split("\n")[:kept]))


class StepLines:
  """The writer of `metrics.jsonl`: an object a line, `step` in each, no step twice.

  The line of step *s* holds the metrics of the update that led to *s* and, where there was one, the evaluation
  after it.
  """

  def __init__(self, path: pathlib.Path, names: Iterable[str]):
    self._path = path
    self._open()
    self._names = tuple(names)
    # float32 needs nine digits to come back the same; a format string is several times faster than json.dumps.
    fields = [f'"{name}": %.9g' for name in self._names]
    self._template = ", ".join(['{"step": %d', *fields])

  def _open(self) -> None:
    self._spool = Spool(self._path.parent, [self._path.name])
    self._file = (self._spool.folder / self._path.name).open("a")

  def write(self, step: int, row: Iterable[float], extra: Mapping[str, Any]) -> None:
    """Write one line: the metrics in the order of the names, then `extra`. Buffered until `flush` or `sync`."""
    row = tuple(row)
    if row and not all(map(math.isfinite, row)):
      extra, row = dict(zip(self._names, row, strict=True)) | dict(extra), ()
    line = self._template % (step, *row) if row else '{"step": %d' % step  # noqa: UP031
    rest = json.dumps(jsonable(extra), allow_nan=False)[1:-1] if extra else ""
    self._file.write(f"{line}, {rest}}}\n" if rest else f"{line}}}\n")

  def extend_last(self, extra: Mapping[str, Any]) -> None:
    """Add to the last line of the file, atomically."""
    self.close()
    *lines, last, _ = self._path.read_text().split("\n")
    last = json.dumps(jsonable({**json.loads(last), **extra}), allow_nan=False)
    write_text(self._path, "".join(f"{line}\n" for line in [*lines, last]))
    self._open()

  def flush(self) -> None:
    """Hand what is buffered to the operating system."""
    self._file.flush()

  def sync(self) -> None:
    """Return when all lines are on the disk, or in the store."""
    self._file.flush()
    os.fsync(self._file.fileno())
    self._spool.upload()

  def close(self) -> None:
    """Sync and close the file."""
    self.sync()
    self._file.close()
    self._spool.close()
