"""What to do after a study: read its findings in the playbook's order, and write the next study, ready to run.

The playbook tunes in rounds: each study's results decide the next one. Mistakes are fixed first, then the space is
moved to where the best points are, then training itself is changed, and only then are more points worth their cost.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from trialbook.tuning.findings import Finding, findings
from trialbook.tuning.findings.optimization import NOISY_END
from trialbook.tuning.procedures.study_source import study_of
from trialbook.tuning.results import StudyResults
from trialbook.tuning.search.halton import Halton
from trialbook.tuning.space.scales import scale_from_json
from trialbook.tuning.study import Study

Kind = Literal["resume", "fix", "stability", "search", "extend", "unsure", "adopt"]

HEADINGS: Mapping[Kind, str] = {
  "resume": "Let the study end first:",
  "fix": "Fix this first. No search mends it:",
  "stability": "Make training stable first:",
  "search": "Search again, with these changes:",
  "extend": "Run more points of the same study:",
  "unsure": "No finding asks for another search, but most questions about the curves are open:",
  "adopt": "Stop searching, and decide about the best point:",
}
"""What to do, for a person."""
MOVES = ("boundary", "infeasible")
"""Questions whose findings move the edges of the space."""
TRAINS = ("convergence", "overfitting", "late_noise", "gradient_norm", "selected_step")
"""Questions whose findings change how each trial trains."""
CURVES = ("overfitting", "late_noise", "convergence", "selected_step", "gradient_norm", "optimization")
"""Questions that the curves of the trials answer."""
POINTS = ("density", "comparison", "stopping", "boundary", "importance", "variance")
"""Questions whose findings ask for more points."""
GRAVE = ("problem", "warning")
MOST = 0.5
"""Share of the questions about the curves from which on a search is not called settled if they are open."""
MOST_TIMES = 3
"""Most points that are added, as a multiple of those run: for more, a smaller question is better."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextStep:
  """What to do after a study.

  Attributes:
    kind: "resume": it has not ended; "fix": something is wrong that no search mends; "stability": fix training first;
      "search": run the next study; "extend": run more points of the same study; "unsure": nothing asks for a search,
      but too little is known of the curves to call it over; "adopt": the search is over.
    reasons: what decided, each a sentence with its requirement.
    study: of "search", the next one; None otherwise.
    trials: of "extend", how many trials there are to be in all.
    command: that does it; None for "fix".
    findings: of the study, the gravest first.
  """

  kind: Kind
  reasons: tuple[str, ...]
  study: Study | None = None
  trials: int | None = None
  command: str | None = None
  findings: Sequence[Finding] = ()


def next_step(results: StudyResults) -> NextStep:
  """Return what to do after a study, by its findings."""
  seen = findings(results)
  folder = results.folder
  waiting = [trial for trial in results.trials if trial.state in ("pending", "running", "stopped")]
  if results.study.source is None and (waiting or len(results.trials) < results.study.trials):
    left = results.study.trials - len(results.trials) + len(waiting)
    return _step("resume", [f"{left} of {results.study.trials} trials have not ended."], seen, results.study.command)
  wrong = [one for one in seen if one.severity == "problem" and one.space is None and one.changes is None]
  wrong = [one for one in wrong if one.question in ("infeasible", "convergence")]
  if results.best is None or wrong:
    return _step("fix", [_reason(one) for one in wrong] or ["No trial has a value."], seen, None)
  unstable = [one for one in seen if one.severity in GRAVE and _is_unstable(one)]
  if unstable and results.study.config is not None:
    command = f"trialbook tune stability --config={_config(folder)} --dir={folder.parent / f'{folder.name}_stability'}"
    return _step("stability", [_reason(one) for one in unstable], seen, command)
  scales, fixed, changes, reasons = _changes(results, seen)
  if scales or changes:
    study = _study(results, scales, fixed, changes)
    return _step("search", reasons, seen, None, study=study)
  more = max((int(one.numbers["more"]) for one in seen if _asks_for_points(one)), default=0)
  if more:
    asked = [one for one in seen if _asks_for_points(one)]
    trials = results.study.trials + min(more, MOST_TIMES * results.study.trials)
    command = None if results.study.source is not None else f"{results.study.command} --trials={trials}"
    return _step("extend", [_reason(one) for one in asked], seen, command, trials=trials)
  if fixed:
    return _step("search", reasons, seen, None, study=_study(results, {}, fixed, {}))
  command = f"trialbook tune adopt --study={folder} --config=BASELINE --dir={folder.parent / f'{folder.name}_adopt'}"
  if unanswered := _open(seen):
    return _step("unsure", [_reason(one) for one in unanswered], seen, command)
  return _step("adopt", ["No finding asks for another search of this space."], seen, command)


def _step(
  kind: Kind,
  reasons: Sequence[str],
  seen: Sequence[Finding],
  command: str | None,
  *,
  study: Study | None = None,
  trials: int | None = None,
) -> NextStep:
  return NextStep(kind=kind, reasons=tuple(reasons), findings=seen, command=command or None, study=study, trials=trials)


def _reason(one: Finding) -> str:
  return f"({one.id}) {one.title}." + (f" {one.action}" if one.action else "")


def _is_unstable(one: Finding) -> bool:
  if one.question == "optimization":
    return list(one.numbers.get("signs", ())) not in ([], [NOISY_END])
  return one.id == "PB-80" and one.question in ("boundary", "outcomes")


def _open(seen: Sequence[Finding]) -> list[Finding]:
  """Return the findings that leave a question about the curves open, if these are most questions; else none."""
  gravest = {one.question: one for one in reversed(seen) if one.question in CURVES}
  unanswered = [one for one in gravest.values() if one.severity == "cannot_tell"]
  return unanswered if len(unanswered) > MOST * len(gravest) else []


def _asks_for_points(one: Finding) -> bool:
  more = one.numbers.get("more")
  if one.question not in POINTS or not isinstance(more, int | float) or more <= 0:
    return False
  return one.severity in GRAVE or (one.severity == "cannot_tell" and one.question in ("boundary", "density"))


def _changes(
  results: StudyResults, seen: Sequence[Finding]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], list[str]]:
  """Return the new scales, the hyperparameters to fix, the changes of the config, and the reasons."""
  scales: dict[str, Any] = {}
  fixed: dict[str, Any] = {}
  changes: dict[str, Any] = {}
  reasons = []
  for one in seen:
    if one.question in MOVES and one.space and one.severity in (*GRAVE, "note"):
      for name, stored in one.space.items():
        scales[name] = _both(scales.get(name), scale_from_json(stored), results.space[name].scale)
      reasons.append(_reason(one))
    elif one.question in TRAINS and one.changes and one.severity in GRAVE:
      new = {path: value for path, value in one.changes.items() if path not in changes}
      changes |= new
      reasons += [_reason(one)] if new else []
    elif one.question == "importance" and one.changes and one.subject in results.space:
      hyperparameter = results.space[one.subject]
      best = results.best
      if hyperparameter.role == "nuisance" and best is not None and one.subject in best.values:
        fixed[one.subject] = best.values[one.subject]
        reasons.append(_reason(one))
  varied = [one.name for one in results.varied if one.role != "fixed"]
  if varied and set(varied) <= set(fixed):
    fixed = {}  # Something must be left to search.
  return {name: scale for name, scale in scales.items() if name not in fixed}, fixed, changes, reasons


def _both(earlier: Any, new: Any, own: Any) -> Any:
  """Return a scale with the changes of two findings, each of which moves one of its sides."""
  if earlier is None or not (hasattr(earlier, "min") and hasattr(new, "min") and hasattr(own, "min")):
    return new
  low = new.min if new.min != own.min else earlier.min
  high = new.max if new.max != own.max else earlier.max
  return dataclasses.replace(new, min=low, max=high)


def _study(
  results: StudyResults, scales: Mapping[str, Any], fixed: Mapping[str, Any], changes: Mapping[str, Any]
) -> Study:
  record = results.study
  base, _, number = record.name.rpartition("_")
  name = f"{base}_{int(number) + 1}" if base and number.isdecimal() else f"{record.name}_2"
  seed = record.search.get("seed", 0)
  return study_of(
    record,
    Halton(seed=int(seed) + 1 if isinstance(seed, int) else 1),
    scales=scales,
    fixed=fixed,
    changes=changes,
    name=name,
  )


def _config(folder: pathlib.Path) -> pathlib.Path:
  return folder / "next" / "config.json"


def checklist(seen: Sequence[Finding]) -> list[dict[str, str]]:
  """Return the playbook's checklist (PB-20 to PB-41) with ticks: a row for each question that was asked."""
  marks = {"ok": "ok", "note": "ok", "warning": "!", "problem": "!!", "cannot_tell": "?"}
  rows: dict[str, dict[str, str]] = {}
  for one in seen:
    if one.question not in rows:  # The gravest of a question comes first.
      rows[one.question] = {"": marks[one.severity], "id": one.id, "question": one.question, "answer": one.title}
  return sorted(rows.values(), key=lambda row: row["id"])
