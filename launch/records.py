"""The types of what a launcher keeps in a workdir."""

from typing import Literal

from typing_extensions import TypedDict

from trialbook.record import Count, Format, Kind, stored


@stored
class Restarted(TypedDict):
  """`restarts.json`: what `trialbook.launch.budgets.Budgets` has counted."""

  format: Format
  state: Literal["running", "waiting", "ended"]
  preemptions: Count
  failures: Count
  stalled: Count
  first_cause: str | None


RESTARTED = Kind(Restarted, "Remove the file to count restarts from zero")
