"""The types of what a launcher keeps in a workdir."""

import pathlib
from typing import Literal

from typing_extensions import TypedDict

from trialbook.launch.budgets import FILE
from trialbook.record import Count, Format, Kind, stored


@stored
class Restarted(TypedDict):
  """`restarts.json`: what `trialbook.launch.budgets.Budgets` has counted."""

  format: Format
  state: Literal["running", "waiting", "ended"]
  started: float
  preemptions: Count
  failures: Count
  stalled: Count
  first_cause: str | None


RESTARTED = Kind(Restarted, "Remove the file to count restarts from zero")


def read_restarted(workdir: pathlib.Path) -> Restarted | None:
  """Return `restarts.json`; None if there is none. Raises UserError."""
  return RESTARTED.read(workdir / FILE)
