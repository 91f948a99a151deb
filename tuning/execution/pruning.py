"""The study's rule for ending trials early, at work: in the process of a trial, and in the coordinator.

What a trial reached at the rule's steps is in its record as soon as it is known. The process of a trial reads the
records of the trials of lower index. While one of them has not come to the step, the trial goes on, and the decision is
made later: by the same process, or by the coordinator if the trial has ended by then. What was logged after the step is
then removed. So the record is the same whoever decides, and when.
"""

import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from trialbook import files, folders
from trialbook.trainer.records import read_run
from trialbook.trainer.workdir.step_lines import cut_lines
from trialbook.tuning.curves import read_log
from trialbook.tuning.early_stopping import QuantileStopping, Standing, Verdict, verdicts
from trialbook.tuning.records import FINAL, StudyRecord, TrialRecord, read_trial, trial_folder, write_trial
from trialbook.tuning.standings import REACHED, reached, standing_of_record

LOOK_AGAIN_SECONDS = 1.0
"""Seconds between looks at the records of earlier trials: a look reads a small file for each trial that has not ended,
and a function may yield thousands of values a second."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RuleAtWork:
  """The rule of a study with what it needs to decide.

  Attributes:
    rule: of the study.
    since: index of the first trial under it.
    steps: from which trials are compared.
    study: the study's record.
  """

  rule: QuantileStopping
  since: int
  steps: tuple[int, ...]
  study: StudyRecord

  @classmethod
  def of(cls, study: StudyRecord) -> "RuleAtWork | None":
    """Return the rule of a study; None if it has none."""
    if study.stopping is None:
      return None
    rule = QuantileStopping.from_json(study.stopping)
    length = None if study.config is None else study.config.max_train_steps
    return cls(rule=rule, since=study.stopping.get("since", 0), steps=rule.steps(length), study=study)

  def standing(self, record: TrialRecord | None) -> Standing:
    """Return a trial as the rule sees it; None: it has not begun."""
    return standing_of_record(record, len(self.steps), self.study.objective.sign)

  def reason(self, record: TrialRecord, verdict: Verdict) -> str:
    """Return why a trial is ended, in words."""
    objective = self.study.objective
    step, value = record.summary[REACHED][verdict.at]
    limit = objective.sign * verdict.limit
    # With so many digits that the two numbers differ.
    digits = next((digits for digits in range(4, 17) if f"{value:.{digits}g}" != f"{limit:.{digits}g}"), 17)
    if self.rule.quantile == 0.5:
      than = f"the median {limit:.{digits}g} of {verdict.among} earlier trials"
    else:
      than = f"{limit:.{digits}g}, which {self.rule.quantile:.0%} of {verdict.among} earlier trials reach"
    return f"pruned at step {step}: {objective.metric} {value:.{digits}g} is worse than {than}"

  def with_reached(self, record: TrialRecord, folder: pathlib.Path) -> TrialRecord:
    """Return the record of a trial with what it reached by its log."""
    points = read_log(folder).curves.get(self.study.objective.metric, [])
    return _with(record, reached=reached(self.steps, self.study.objective, points))

  def ended(self, record: TrialRecord, verdict: Verdict, folder: pathlib.Path) -> TrialRecord:
    """Return the record of a trial that is ended early, and remove what it logged and saved after that."""
    step, _ = record.summary[REACHED][verdict.at]
    reason = self.reason(record, verdict)
    if (folder / "metrics.jsonl").exists():
      cut_lines(folder, step, self.study.first_step or 0)
    # Which checkpoints there are depends on when the decision was made, so none stays.
    folders.remove(folder / "checkpoints")
    (folder / "best.json").unlink(missing_ok=True)
    for path in (folder / "predictions").glob("*.npz"):
      if path.stem.isdecimal() and int(path.stem) > step:
        path.unlink()
    if (run := read_run(folder)) is not None and run["status"] != "pruned":
      files.write_json(folder / "run.json", {**run, "status": "pruned", "reason": reason})
    attempts = list(record.attempts)
    if attempts:
      finished = attempts[-1].get("finished") or time.time()
      attempts[-1] = {**attempts[-1], "finished": finished, "end": "pruned", "checkpoint": None}
    kept = {name: record.summary[name] for name in ("seconds", "training_seconds") if name in record.summary}
    summary = {"step": step, REACHED: record.summary[REACHED][: verdict.at + 1], **kept}
    return dataclasses.replace(record, state="pruned", reason=reason, attempts=tuple(attempts), summary=summary)


def settle(folder: pathlib.Path, at_work: RuleAtWork, trials: Mapping[int, TrialRecord]) -> list[TrialRecord]:
  """End the trials early that had ended before the decision on them was known; return their new records, written.

  Args:
    folder: of the study.
    at_work: its rule.
    trials: the records of its trials by number; of those that run, how they were before.
  """
  current = {
    trial: record if record.state in FINAL else read_trial(trial_folder(folder, trial)) or record
    for trial, record in trials.items()
  }
  standings = [at_work.standing(current.get(trial)) for trial in range(max(current, default=-1) + 1)]
  found = []
  for trial, verdict in enumerate(verdicts(at_work.rule, standings, at_work.since)):
    record = trials.get(trial)
    if record is None or record.state not in FINAL or record.state == "pruned" or not isinstance(verdict, Verdict):
      continue
    here = trial_folder(folder, trial)
    if record.state == "failed" and len(at_work.with_reached(record, here).summary[REACHED]) <= verdict.at:
      continue  # Its last attempt did not get there again, so there is no curve to keep.
    ended = at_work.ended(record, verdict, here)
    write_trial(here, ended)
    found.append(ended)
  return found


class Watch:
  """The rule in the process of a trial: notes what the trial reaches, and decides whether it is ended.

  Args:
    study: the study's folder.
    at_work: its rule.
    record: of the trial.

  Attributes:
    at_work: the rule.
    record: of the trial, as it was last written.
  """

  def __init__(self, study: pathlib.Path, at_work: RuleAtWork, record: TrialRecord):
    self._study, self._folder = study, trial_folder(study, record.trial)
    self._points = list(read_log(self._folder).curves.get(at_work.study.objective.metric, []))
    self._ended: dict[int, Standing] = {}
    self._verdict: Verdict | None = None
    self._due = 0.0
    self.at_work, self.record = at_work, record
    self._note()

  def restart(self) -> None:
    """Forget what was reached, before the log is removed."""
    self._points = []
    self._note()

  def evaluated(self, step: int, value: float | None) -> bool:
    """Note the objective's metric after a step (None: it was not logged), which is on the disk already.

    Returns:
      Whether a new step of the rule was reached.
    """
    is_again = False
    while self._points and self._points[-1][0] >= step:
      # Of the process before, which had come further than its last checkpoint.
      self._points.pop()
      is_again = True
    if value is not None:
      self._points.append((step, float(value)))
    have, steps = len(self.record.summary.get(REACHED, ())), self.at_work.steps
    return (is_again or (have < len(steps) and step >= steps[have])) and self._note()

  def verdict(self, *, at_once: bool) -> Verdict | None:
    """Return the decision to end the trial, if it is known; unless `at_once`, look for it now and then only."""
    own = self.at_work.standing(self.record)
    if own.reached == 0 or self.record.trial < max(self.at_work.since, self.at_work.rule.after):
      return None
    if self._verdict is None and (at_once or time.monotonic() >= self._due):
      self._due = time.monotonic() + LOOK_AGAIN_SECONDS
      standings = [*map(self._earlier, range(self.record.trial)), own]
      found = verdicts(self.at_work.rule, standings, self.at_work.since)[-1]
      self._verdict = found if isinstance(found, Verdict) else None
    return self._verdict

  def _earlier(self, trial: int) -> Standing:
    if trial not in self._ended:
      record = read_trial(trial_folder(self._study, trial))
      found = self.at_work.standing(record)
      if record is None or record.state not in FINAL:
        return found
      # If it is ended early later on, what is left of it stands as this does.
      self._ended[trial] = found
    return self._ended[trial]

  def _note(self) -> bool:
    """Write what the trial has reached, if that is new; return whether it is more than before."""
    now = reached(self.at_work.steps, self.at_work.study.objective, self._points)
    before = self.record.summary.get(REACHED, ())
    if now != before:
      self.record = _with(self.record, reached=now)
      write_trial(self._folder, self.record)
    return len(now) > len(before)


def _with(record: TrialRecord, reached: Any) -> TrialRecord:
  return dataclasses.replace(record, summary={**record.summary, REACHED: reached})
