"""What the hosts of a job print: gathered in files of the launcher, and shown by whole lines."""

import pathlib
import sys

from trialbook.launch.processes import write_line


class HostOutput:
  """The output of one host in one attempt. A launcher that comes later continues where the file ends.

  Args:
    path: of the file; its folder is made.
    prefix: of each line on the terminal.
  """

  def __init__(self, path: pathlib.Path, prefix: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    self._path, self._prefix = path, prefix
    self.offset = path.stat().st_size if path.exists() else 0
    self._rest = b""

  def add(self, output: bytes) -> None:
    """Take what follows: `offset` moves on by its length."""
    if not output:
      return
    with self._path.open("ab") as file:
      file.write(output)
    self.offset += len(output)
    *lines, self._rest = (self._rest + output).split(b"\n")
    for line in lines:
      self._show(line)

  def close(self) -> None:
    """Show a last line that has no end."""
    if self._rest:
      self._show(self._rest)
    self._rest = b""

  def _show(self, line: bytes) -> None:
    write_line(sys.stdout, self._prefix + line.decode(errors="replace"))
