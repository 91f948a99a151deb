"""The budget of the autopilot, in training steps or in hours, and what has been used of it."""

import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from trialbook.errors import UserError
from trialbook.progress import duration
from trialbook.tuning import records
from trialbook.tuning.procedures import measurement_record
from trialbook.tuning.records import StudyRecord, TrialRecord
from trialbook.tuning.results import StudyResults


@dataclasses.dataclass
class Budget:
  """A budget, and what has been used of it. Exactly one of `steps` and `hours` is a number.

  All comes from records of what was run, so a call that resumes counts what earlier calls used.

  Attributes:
    steps: training steps in all.
    hours: of work in all: from the start of each study, or measurement, to its end.
    used_steps, used_seconds: so far.
    step_seconds: seconds of work for a training step, in the newest study: it starts processes, compiles and evaluates
      too; 0: nothing has been run.
  """

  steps: int | None
  hours: float | None
  used_steps: int = 0
  used_seconds: float = 0.0
  step_seconds: float = 0.0
  _charged: dict[pathlib.Path, tuple[int, float]] = dataclasses.field(default_factory=dict, repr=False)

  def __post_init__(self):
    if (self.steps is None) == (self.hours is None):
      raise UserError("say what it may cost: --steps=N, or --hours=H")
    if self.hours is not None and not 0 < self.hours < math.inf:
      raise UserError(f"--hours={self.hours:g}: should be more than 0")

  def charge(self, studies: Iterable[StudyResults]) -> tuple[int, float]:
    """Add the cost of studies, the newest last, without what has been added of them already; return their whole cost in
    steps and seconds."""
    steps, seconds = 0, 0.0
    for study in studies:
      trained, worked = sum(trial.last_step for trial in study.trials), study_seconds(study)
      if trained and worked:
        self.step_seconds = worked / trained
      before = self._charged.get(study.folder, (0, 0.0))
      self.add(trained - before[0], worked - before[1])
      self._charged[study.folder] = trained, worked
      steps, seconds = steps + trained, seconds + worked
    return steps, seconds

  def charge_measurements(self, folder: pathlib.Path) -> tuple[int, float]:
    """Add the seconds of the measurements in a folder, and return their cost. Their steps train nothing."""
    found = measurement_record.read(folder / measurement_record.NAME)
    return self.add(0, sum(one.seconds for one in found))

  def add(self, steps: int, seconds: float) -> tuple[int, float]:
    """Add a cost, and return it."""
    self.used_steps += steps
    self.used_seconds += seconds
    return steps, seconds

  def left(self, share: float = 1.0) -> int:
    """Return the training steps that a share of the budget still allows, by the speed of the newest study."""
    if self.steps is not None:
      return max(int(share * self.steps) - self.used_steps, 0)
    assert self.hours is not None
    seconds = share * self.hours * 3600 - self.used_seconds
    return max(int(seconds / self.step_seconds), 0) if self.step_seconds else 0

  def needed(self, more: int, share: float) -> float:
    """Return the budget, in its own unit, of which a share pays for what was used and some more steps."""
    if self.steps is not None:
      return math.ceil((self.used_steps + more) / share)
    hours = (self.used_seconds + more * self.step_seconds) / share / 3600
    digits = 1 - math.floor(math.log10(hours)) if hours > 0 else 0
    return math.ceil(hours * 10**digits) / 10**digits

  @property
  def flag(self) -> str:
    """Return the name of its flag."""
    return "--steps" if self.steps is not None else "--hours"

  @property
  def words(self) -> str:
    """Return the budget in words."""
    return f"{self.steps:,} steps" if self.steps is not None else duration((self.hours or 0.0) * 3600)

  @property
  def used(self) -> str:
    """Return what has been used, in words."""
    if self.steps is not None:
      return f"{self.used_steps:,} of {self.words}"
    return f"{duration(self.used_seconds)} of {self.words}"

  def as_json(self) -> dict[str, Any]:
    """Return the numbers of a conclusion: of a budget in hours these are seconds."""
    if self.steps is not None:
      return {"budget": self.steps, "spent": self.used_steps}
    return {"budget": (self.hours or 0.0) * 3600, "spent": self.used_seconds, "spent_steps": self.used_steps}


def study_seconds(study: StudyResults) -> float:
  """Return the seconds in which a study was worked on, by its own record."""
  return worked_seconds(study.study, records.read_trials(study.folder).values())


def worked_seconds(study: StudyRecord, trials: Iterable[TrialRecord]) -> float:
  """Return the seconds in which a study was worked on: of each session, from its start to its end.

  A session that was killed has no end, and counts until the last time that one of its trials started or ended. Without
  sessions, the attempts of the trials count, one after the other.
  """
  attempts: list[Mapping[str, Any]] = [attempt for trial in trials for attempt in trial.attempts]
  if not study.sessions:
    spans = [(one["started"], one.get("finished")) for one in attempts]
    return sum(max(end - start, 0.0) for start, end in spans if start is not None and end is not None)
  starts = [session["started"] for session in study.sessions]
  seconds = 0.0
  for start, following, session in zip(starts, [*starts[1:], math.inf], study.sessions, strict=True):
    end = session.get("finished")
    if end is None:
      known = [one[name] for one in attempts for name in ("started", "finished") if one.get(name) is not None]
      # An attempt that was lost is recorded as ended when the next session begins.
      end = max((time for time in known if start <= time < following), default=start)
    seconds += max(end - start, 0.0)  # The clock may have been set back.
  return seconds
