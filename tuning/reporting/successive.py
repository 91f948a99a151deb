"""What changed since the last report of a study: a small record beside the report, and what is said from it.

The record, `findings.json` in the study's folder, holds what the newest report found, and what the report on the study
before it was extended found. So reports of the same trials, in any format, all say the same.
"""

import collections
import contextlib
import dataclasses
import hashlib
import json
import math
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging
from typing_extensions import TypedDict

from trialbook import files
from trialbook.errors import UserError
from trialbook.record import Count, Format, Kind, stored
from trialbook.tuning.findings import Finding
from trialbook.tuning.findings.statistics.points import feasible, points_of
from trialbook.tuning.findings.wording import apart, many
from trialbook.tuning.results import StudyResults

FORMAT = 1
"""Version of the record."""
RECORD = "findings.json"
"""Name of the record in a study's folder."""
_SERIOUS = ("problem", "warning", "note")
_ENDED = ("complete", "infeasible", "failed", "pruned")


class Changes(TypedDict):
  """What changed since the last report.

  Attributes:
    summary: when that was, how many more trials there are, and how the best value changed, in a sentence.
    findings: what changed in the findings, a line each.
  """

  summary: str
  findings: list[str]


@stored
class StoredFinding(TypedDict):
  """A finding of an earlier report."""

  question: str
  id: str
  about: str | None
  subject: str | None
  severity: str
  title: str


@stored
class Snapshot(TypedDict):
  """What a report found."""

  written: float
  study: str
  objective: dict[str, Any]
  data: str
  trials: Count
  best: float | None
  best_trial: Count | None
  findings: list[StoredFinding]


@stored
class Found(TypedDict):
  """The record."""

  format: Format
  last: Snapshot
  before: Snapshot | None


FOUND = Kind(Found, "Remove it, and the next report begins anew", FORMAT)


def snapshot(results: StudyResults, findings: Sequence[Finding]) -> dict[str, Any]:
  """Return what a report found, as the record holds it."""
  best = results.best
  ranked = feasible(points_of(results))
  data = [(trial.trial, trial.state, repr(trial.objective)) for trial in results.trials]
  imported = results.study.source is not None
  return {
    "written": time.time(),
    "study": results.study.name,
    "objective": dataclasses.asdict(results.objective),
    "data": hashlib.sha256(json.dumps(data).encode()).hexdigest(),
    # Where a study was made elsewhere, a trial that was cut short does not go on.
    "trials": sum(trial.state in _ENDED or (imported and trial.state == "stopped") for trial in results.trials),
    "best": results.objective.sign * ranked[0].cost if ranked else None,
    "best_trial": best.trial if best is not None else None,
    "findings": [
      {
        "question": one.question,
        "id": one.id,
        # The subject of a verdict is the winner, which may change.
        "about": one.numbers.get("hyperparameter") if "settings" in one.numbers else one.subject,
        "subject": one.subject,
        "severity": one.severity,
        "title": one.title,
      }
      for one in findings
    ],
  }


def changes(results: StudyResults, findings: Sequence[Finding]) -> Changes | None:
  """Return what changed since the last report on fewer or other trials; None if there was none, or if these results are
  not ranked by the study's own objective."""
  if not _is_own(results):
    return None
  now = snapshot(results, findings)
  before = _before(_read(results.folder), now)
  return None if before is None else _changes(before, now)


def write_record(results: StudyResults, findings: Sequence[Finding]) -> None:
  """Record what a report found, for the next one; nothing where a file of that name is not ours, or none can be
  written."""
  path = results.folder / RECORD
  if not _is_own(results):
    return
  stored = _read(results.folder)
  if stored is None and path.exists():
    return
  now = snapshot(results, findings)
  with contextlib.suppress(OSError):
    files.write_json(path, {"format": FORMAT, "last": now, "before": _before(stored, now)})


def _is_own(results: StudyResults) -> bool:
  return results.objective == results.study.objective


def _read(folder: pathlib.Path) -> Mapping[str, Any] | None:
  """Return the record in a folder; None if there is none of ours."""
  try:
    return FOUND.read(folder / RECORD)
  except UserError as error:
    logging.warning("what changed since the last report is unknown: %s", error)
    return None


def _before(stored: Mapping[str, Any] | None, now: Mapping[str, Any]) -> Mapping[str, Any] | None:
  """Return what the last report on other data than now's found; None if there was none of the same question."""
  if stored is None:
    return None
  last = stored["last"]
  before = stored.get("before") if last["data"] == now["data"] else last
  if before is None:
    return None
  return before if all(before.get(name) == now[name] for name in ("study", "objective")) else None


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
  day = time.strftime("%Y-%m-%d", time.gmtime(before["written"]))
  further = now["trials"] - before["trials"]
  said = [
    f"{many(further, 'more trial')}" if further > 0 else f"{-further} fewer trials" if further else "the same trials",
    _best(before, now),
  ]
  summary = (
    f"Since the last report ({many(before['trials'], 'trial')}, {day}): {'; '.join(one for one in said if one)}."
  )
  lines = _finding_changes(before["findings"], now["findings"])
  return Changes(summary=summary, findings=lines or ["No finding changed."])


def _best(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
  old, new = (each.get("best") for each in (before, now))
  if new is None:
    return ""
  new_text, *rest = apart([new] if old is None else [new, old])
  if old is None:
    return f"the first value is {new_text} (trial {now['best_trial']})"
  if math.isclose(old, new, rel_tol=1e-12) and before.get("best_trial") == now["best_trial"]:
    return f"the best is still {new_text} (trial {now['best_trial']})"
  return f"best {rest[0]} → {new_text} (trial {now['best_trial']})"


def _finding_changes(before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> list[str]:
  """Return what is new, gone, or of another severity, the gravest first."""
  pairs, new, gone = _paired(before, now)
  lines = [f"new {one['severity']}: {one['title']}" for one in new if one["severity"] in _SERIOUS]
  lines += [
    f"{_word(old['severity'])} → {_word(one['severity'])}: {one['title']}"
    for old, one in pairs
    if old["severity"] != one["severity"]
  ]
  lines += [
    f"changed: {one['title']} (before: {old['title']})"
    for old, one in pairs
    if old["severity"] == one["severity"] in (*_SERIOUS, "ok") and old["subject"] != one["subject"]
  ]
  return lines + [f"gone: {one['title']}" for one in gone if one["severity"] in _SERIOUS]


def _paired(
  before: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[Mapping[str, Any], Mapping[str, Any]]], list[Mapping[str, Any]], list[Mapping[str, Any]]]:
  """Return the findings that are in both, as pairs, those that are only in the second, and only in the first."""
  waiting: dict[Any, collections.deque] = {}
  for one in before:
    waiting.setdefault((one["question"], one["id"], one["about"]), collections.deque()).append(one)
  pairs, new = [], []
  for one in now:
    same = waiting.get((one["question"], one["id"], one["about"]))
    if same:
      pairs.append((same.popleft(), one))
    else:
      new.append(one)
  left = [one for queue in waiting.values() for one in queue]
  # A finding on the whole study, such as that the data do not suffice, becomes one on a hyperparameter.
  for one in list(new):
    for old in left:
      alike = (old["question"], old["id"]) == (one["question"], one["id"])
      if alike and None in (old["about"], one["about"]):
        pairs.append((old, one))
        new.remove(one)
        left.remove(old)
        break
  return pairs, new, left


def _word(severity: str) -> str:
  return severity.replace("_", " ")
