"""How often a job may be restarted: preemptions and failures are counted apart, and outlive the launcher."""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any

from trialbook import files
from trialbook.errors import TryAgainError, UserError
from trialbook.launch.job_exit import JobExit

FILE = "restarts.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Restarts:
  """The rule by which a job that exited with 75 is restarted.

  Attributes:
    preemptions: how many times a machine of the job may be taken away; a training on spot machines meets thousands.
    failures: how many times it may end in any other way.
    stalled: how many failures in a row may commit no new checkpoint; then it is a crash loop.
    first_delay: seconds before the first restart; doubles with each failure in a row.
    longest_delay: seconds, where the doubling ends.
  """

  preemptions: int = 10_000
  failures: int = 10
  stalled: int = 3
  first_delay: float = 1.0
  longest_delay: float = 60.0

  def delay(self, restart: int) -> float:
    """Return the seconds to wait before restart number `restart` of a row, counted from 1."""
    # 2**63 seconds are as good as any longer time, and a float can hold them.
    return min(self.first_delay * 2.0 ** min(restart - 1, 63), self.longest_delay)


class Budgets:
  """The restarts that a job has used, in `restarts.json` of its workdir once that is there.

  A launcher that finds the record of one that was never ended continues its counts: that one vanished, with its
  machine, while the job ran. After an end, a new launcher counts from zero, since somebody started it.

  Args:
    rule: how many there may be.
    workdir: of the job; None: it is not known, and counts are kept in memory only.
    say: reports to a person.
    outlives: whether the job goes on when its launcher vanishes, so that this is no preemption.

  Attributes:
    preemptions: counted so far.
    failures: counted so far.
  """

  def __init__(
    self, rule: Restarts, workdir: pathlib.Path | None, say: Callable[[str], None], *, outlives: bool = False
  ):
    self._rule, self._workdir, self._say = rule, workdir, say
    self.preemptions, self.failures, self._stalled, self._row = 0, 0, 0, 0
    self._first: str | None = None
    self._started = time.time()
    record = self._read()
    if record is not None and record["state"] != "ended":
      self.preemptions, self.failures, self._stalled = (record[key] for key in ("preemptions", "failures", "stalled"))
      self._first, self._started = record["first_cause"], record["started"]
      vanished = record["state"] == "running" and not outlives
      self.preemptions += vanished
      how = ", whose launcher vanished while the job ran" if vanished else ""
      say(f"continues the counts of an earlier launcher{how}: {self.describe()}")

  def describe(self) -> str:
    """Return the counts in words."""
    kinds = (("preemption", self.preemptions), ("failure", self.failures))
    return ", ".join(f"{count:,} {kind}{'' if count == 1 else 's'}" for kind, count in kinds)

  def count(self, verdict: JobExit, *, progressed: bool) -> str | None:
    """Count the end of an attempt that exited with 75; return why the job is given up, or None.

    Args:
      verdict: how it ended.
      progressed: whether it committed a new checkpoint, as far as that can be seen.
    """
    # A preemption without a checkpoint is no sign of a fault: machines are taken away at any moment.
    self._row = 0 if progressed else self._row + 1
    if verdict.preempted:
      self.preemptions += 1
      return f"{self.preemptions:,} preemptions" if self.preemptions > self._rule.preemptions else None
    self.failures += 1
    self._stalled = 0 if progressed else self._stalled + 1
    self._first = verdict.reason if self._stalled <= 1 else self._first
    if self._workdir and self._stalled == self._rule.stalled:
      return (
        f"{self._stalled} failures in a row without a new checkpoint in {self._workdir / 'checkpoints'}; the first"
        f" was: {self._first}"
      )
    return f"{self.failures:,} failures, the last: {verdict.reason}" if self.failures > self._rule.failures else None

  def delay(self) -> float:
    """Return the seconds to wait before the next attempt."""
    return self._rule.delay(max(self._row, 1))

  def write(self, state: str) -> None:
    """Record the counts, if the run has begun: nothing is written for a job that never got so far.

    Args:
      state: "running" while hosts are there, "waiting" between attempts, "ended" when somebody has to start it again.
    """
    if self._workdir is None or not self._holds("run.json"):
      return
    record = {
      "format": files.FORMAT,
      "state": state,
      "started": self._started,
      "preemptions": self.preemptions,
      "failures": self.failures,
      "stalled": self._stalled,
      "first_cause": self._first,
    }
    try:
      files.write_json(self._workdir / FILE, record)
    except (OSError, TryAgainError) as error:
      self._say(f"could not record the restarts in {self._workdir / FILE}: {error}")

  def _holds(self, name: str) -> bool:
    try:
      return self._workdir is not None and (self._workdir / name).exists()
    except (OSError, TryAgainError):
      return False

  def _read(self) -> Any:
    # Imports pydantic, which starting a job does without.
    if self._workdir is None or not self._holds(FILE):
      return None
    from trialbook.launch.records import read_restarted

    try:
      return read_restarted(self._workdir)
    except (UserError, TryAgainError) as error:
      self._say(f"restarts are counted from zero: {error}")
      return None
