"""The state of a call of the autopilot: the config so far, the budget, the logbook, and what is decided already."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Annotated

import pydantic
from typing_extensions import TypedDict

from trialbook import files
from trialbook.progress import ProgressLine, duration
from trialbook.record import Count, Format, Kind, stored
from trialbook.trainer import Config
from trialbook.tuning.procedures import autopilot_logbook
from trialbook.tuning.procedures.autopilot_budget import Budget
from trialbook.tuning.procedures.autopilot_logbook import Entry
from trialbook.tuning.procedures.lab import Lab

EXPLORATION, ADOPTION = 0.6, 0.75
"""Shares of the budget by which exploration and adoption end: what exploration finds decides the most, and what is left
is for the refined search, the seeds that choose among the best, and the final trainings."""
LEAST_TRIALS = 6
"""Fewest trials of a round: fewer say nothing of a space."""
SOURCES = ("conclusion.md", "study.py")
"""Files of a stage that the logbook links to."""


@stored
class Plan(TypedDict):
  """`plan.json`: what was decided by what was left of the budget. A call that resumes keeps to it.

  Attributes:
    numbers: by name.
    rounds: the trials of each round that was extended, by its stage: the first number, and each larger one.
  """

  format: Format
  numbers: dict[str, int]
  rounds: dict[str, Annotated[list[Count], pydantic.Field(min_length=1)]]


PLAN = Kind(Plan, "Restore the file from a copy, or choose another --dir")


@dataclasses.dataclass
class Flight:
  """The state of a call: the config so far, the budget, the logbook, and what each round has cost, by its stage."""

  lab: Lab
  config: Config
  budget: Budget
  entries: list[Entry] = dataclasses.field(default_factory=list)
  costs: dict[str, tuple[int, float]] = dataclasses.field(default_factory=dict)

  def stage(self, name: str) -> Lab:
    """Return the lab of a stage."""
    return dataclasses.replace(self.lab, folder=self.lab.folder / name, config=self.config, results={})

  def begin(self, stage: str) -> None:
    """Print which stage begins."""
    line = ProgressLine(enabled=self.lab.progress)
    line.note(f"[{stage}] {autopilot_logbook.question(stage)} {self.budget.used} used.")

  def log(
    self,
    stage: str,
    decision: str,
    evidence: Sequence[str],
    cost: tuple[int, float],
    consequence: str = "",
    folder: pathlib.Path | None = None,
  ) -> None:
    """Add a decision, and write the logbook."""
    steps, seconds = cost
    spent = (
      f"{steps:,} steps, {duration(seconds)}" if steps else f"{duration(seconds)} of measuring" if seconds else "0"
    )
    entry = Entry(
      stage=stage,
      decision=decision,
      evidence=tuple(evidence),
      consequence=consequence,
      cost=f"{spent}; {self.budget.used} so far",
      links=[
        (f"{folder.name}/{name}", (folder / name).relative_to(self.lab.folder).as_posix())
        for name in SOURCES
        if folder is not None and (folder / name).exists()
      ],
    )
    # A stage that goes on has one entry, its last: a call that resumes sees no other.
    self.entries = [one for one in self.entries if one.stage != stage] + [entry]
    self.write(f"Running. The last decision is that of {stage}.")

  def write(self, state: str) -> None:
    """Write the logbook, with a sentence on where things stand."""
    summary = f"{state} Budget: {self.budget.words}; {self.budget.used} used."
    autopilot_logbook.write(self.lab.folder, self.entries, summary)

  def left(self, share: float = 1.0) -> int:
    """Return the steps that are left of a share of the budget."""
    return self.budget.left(share)

  def pays(self, trials: int, share: float) -> bool:
    """Return whether trainings cost at most a share of the budget, and leave a round of exploration."""
    steps = trials * self.config.max_train_steps
    return steps <= self.left(share) and steps + LEAST_TRIALS * self.config.max_train_steps <= self.left(EXPLORATION)

  def decided(self, name: str, value: Callable[[], int]) -> int:
    """Return a number that an earlier call decided, or decide it now.

    A call that resumes has used a little more of a budget in hours, and would decide otherwise.
    """
    plan = self.plan
    if name not in plan["numbers"]:
      plan["numbers"][name] = value()
      self._keep(plan)
    return plan["numbers"][name]

  def extend(self, stage: str, before: int, trials: int) -> None:
    """Record that a round gets more trials than before."""
    plan = self.plan
    plan["rounds"].setdefault(stage, [before]).append(trials)
    self._keep(plan)

  @property
  def plan(self) -> Plan:
    """Return all that was decided so far. Raise UserError if it cannot be read."""
    return PLAN.read(self._plan_path) or {"format": files.FORMAT, "numbers": {}, "rounds": {}}

  @property
  def _plan_path(self) -> pathlib.Path:
    return self.lab.folder / "plan.json"

  def _keep(self, plan: Plan) -> None:
    self.lab.folder.mkdir(parents=True, exist_ok=True)
    files.write_json(self._plan_path, plan)
