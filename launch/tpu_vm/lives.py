"""What a job has used: chips times the time that its machines were there, also while they waited or failed."""

import datetime
import pathlib
import time
from collections.abc import Callable, Sequence

from trialbook import files
from trialbook.errors import UserError
from trialbook.launch.remote.records import Life, read_lives
from trialbook.launch.tpu_vm.queued_resources import Node


class LivesFile:
  """The lives of a job's machines, in `lives.json`.

  Args:
    folder: of the launcher.
    chips: of a slice.
    say: reports to a person.
  """

  def __init__(self, folder: pathlib.Path, chips: int, say: Callable[[str], None]):
    self._folder, self._chips, self._say = folder, chips, say

  def seen(self, nodes: Sequence[Node | None]) -> None:
    """Record that these slices are there now."""
    now = time.time()
    try:
      kept = {(life["created"], life["chips"]): life for life in read_lives(self._folder)}
      known = {created_at(node) for node in nodes if node is not None}
      for created in sorted(created for created in known if created is not None):
        chips = self._chips * sum(node is not None and created_at(node) == created for node in nodes)
        kept[created, chips] = {"created": created, "seen": now, "chips": chips}
      files.write_json(self._folder / "lives.json", {"format": files.FORMAT, "lives": list(kept.values())})
    except (OSError, UserError) as error:
      self._say(f"could not count chip-hours: {error}")


def chip_hours(lives: Sequence[Life]) -> float:
  """Return the chip-hours of these lives."""
  return sum(life["chips"] * max(life["seen"] - life["created"], 0.0) for life in lives) / 3600


def created_at(node: Node) -> float | None:
  """Return when a slice was created, in seconds since the epoch; None if the API does not say it."""
  try:
    return datetime.datetime.fromisoformat(node.created.replace("Z", "+00:00")).timestamp()
  except ValueError:
    return None
