"""The command `trialbook tune advice-benchmark`."""

import argparse
import json
from typing import Any

from trialbook import errors
from trialbook.errors import UserError
from trialbook.naming import nearest
from trialbook.tuning.advice_benchmark.jobs import Job, results_of
from trialbook.tuning.advice_benchmark.rates import Rate
from trialbook.tuning.advice_benchmark.tables import TABLES

MOST_FALSE, MOST_HIGH = 0.05, 0.08
"""Targets of the share of studies with a false alarm or a wrong winner, and of the upper end of its interval."""
SHOWN = 40
"""Studies with a false alarm that are listed, the first ones."""


def run(options: argparse.Namespace) -> int:
  """Execute `trialbook tune advice-benchmark`."""
  chosen = [(table, names) for table in TABLES if (names := table.chosen(options.only))]
  if not chosen:
    known = {word for table in TABLES for word in (table.group, *table.names)}
    raise UserError(f"--only={options.only}: no table and no row has this name{nearest(options.only, known)}")
  jobs = dict.fromkeys(
    job for table, names in chosen for name in names for job in table.jobs(name, options.studies, options.seed)
  )
  results = results_of(list(jobs), options.workers, progress=not options.json)
  results = {job: results[job] for job in jobs}  # In the order of the jobs, not in that in which they were done.
  tables = [(table, table.rows(names, results)) for table, names in chosen]
  if options.json:
    found = [
      {"group": table.group, "title": table.title, "rows": [numbers for _, numbers in rows]} for table, rows in tables
    ]
    print(json.dumps({"tables": found, "false": _false(results)}, indent=2))
    return errors.DONE
  for table, rows in tables:
    print(f"{table.title}\n\n{table.markdown(rows)}\n")
  for line in [*_listed(results), *_summary(results)]:
    print(line)
  return errors.DONE


def _false(results: dict[Job, Any]) -> list[dict[str, Any]]:
  """Return the false alarms and wrong winners, by seed."""
  return [
    {"kind": job.kind, "seed": job.seed, "question": question, "severity": severity, "title": title}
    for job, result in results.items()
    if job.kind in ("healthy", "winner")
    for question, severity, title in result["false"]
  ]


def _listed(results: dict[Job, Any]) -> list[str]:
  """Return a line for each false alarm, and how to draw the study again."""
  false = _false(results)
  if not false:
    return []
  lines = [f"{one['kind']}, seed {one['seed']}: {one['question']}: {one['title']}" for one in false[:SHOWN]]
  more = [f"and {len(false) - SHOWN} more"] if len(false) > SHOWN else []
  return ["False alarms and wrong winners:", "", *(f"- {line}" for line in [*lines, *more]), ""]


def _summary(results: dict[Job, Any]) -> list[str]:
  """Return the rates that have a target, and whether they reach it."""
  lines = []
  for kind, what in (
    ("healthy", "healthy studies have a false alarm"),
    ("winner", "studies of equal settings have a winner"),
  ):
    own = [bool(result["false"]) for job, result in results.items() if job.kind == kind]
    if not own:
      continue
    rate = Rate(sum(own), len(own))
    verdict = (
      "missed"
      if rate.share > MOST_FALSE
      else "reached"
      if rate.interval[1] <= MOST_HIGH
      else "not shown, because there are too few studies"
    )
    lines.append(
      f"{rate.count} of {rate.studies} {what}: {rate}. Target: at most {MOST_FALSE:.0%}, and at most {MOST_HIGH:.0%} at"
      f" the upper end of the interval: {verdict}."
    )
  return lines
