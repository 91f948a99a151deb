"""The table of all studies below a root, and that of a study's trials, rewritten whenever a study changes (PB-70)."""

import csv
import dataclasses
import io
import pathlib
import shlex

from trialbook import escaping, files
from trialbook.errors import UserError, said
from trialbook.tuning.records import read_round_record
from trialbook.tuning.results import StudyResults, read_results
from trialbook.tuning.tables import number

COLUMNS = ("study", "config", "goal", "trials", "best", "reproduce")


def write_trials(folder: pathlib.Path, results: StudyResults) -> None:
  """Write the study's `trials.csv`."""
  files.write_text(folder / "trials.csv", results.csv())


@dataclasses.dataclass(frozen=True)
class Shelf:
  """The studies in the folders below a root, rounds included.

  Attributes:
    rows: the playbook's six columns for each study, in order of their creation: name, link to the config, description,
      trials, best, reproduction.
    passed_over: why a study is not among them, a sentence each.
  """

  rows: list[dict[str, str]]
  passed_over: list[str]


def read(root: pathlib.Path) -> Shelf:
  """Return the studies below a root. What is wrong with one of them hides no other."""
  found, passed_over = [], []
  for path in sorted([*root.glob("*/study.json"), *root.glob("*/*/study.json")]):
    try:
      results = read_results(path.parent)
      found.append((results.study.created, _row(root, results)))
    except UserError as error:
      passed_over.append(f"{path.parent} is left out: {error.problems[0]}")
    except Exception as error:
      # A table about others is a convenience: whatever they hold must not end a study beside them.
      passed_over.append(f"{path.parent} is left out: {said(error)}")
  return Shelf([row for _, row in sorted(found, key=lambda pair: pair[0])], passed_over)


def _row(root: pathlib.Path, results: StudyResults) -> dict[str, str]:
  return {
    "study": _full_name(results),
    "config": str((results.folder / "study.json").relative_to(root)),
    "goal": results.study.goal,
    "trials": f"{sum(map(results.count, ('complete', 'infeasible', 'pruned')))} of {results.study.trials}",
    "best": best_text(results),
    "reproduce": reproduction(results),
  }


def _full_name(results: StudyResults) -> str:
  """Return the name of a study; that of a study of a round follows the round's name."""
  round_ = read_round_record(results.folder.parent)
  return results.study.name if round_ is None else f"{round_['name']}/{results.study.name}"


def best_text(results: StudyResults) -> str:
  """Return the best value of a study in words."""
  best = results.best
  if best is None:
    return "none yet"
  return f"{results.objective.metric} {number(best.objective)} (trial {best.trial}, step {best.step})"


def reproduction(results: StudyResults) -> str:
  """Return the command that ran a study, with the state of the code that it ran on."""
  study = results.study
  commit = f"git checkout {study.commit[:12]}; " if study.commit else ""
  changes = f"git apply {shlex.quote(str(results.folder / 'study.diff'))}; " if study.diff else ""
  return f"{commit}{changes}{study.command}"


def update(root: pathlib.Path) -> list[str]:
  """Rewrite `studies.csv` and `studies.md` in a root; return what is not in them, and why, a sentence each.

  A file that is not ours to write is left as it is.
  """
  if not files.may_write(root):
    return []
  shelf = read(root)
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerows([COLUMNS, *([escaping.spreadsheet(row[column]) for column in COLUMNS] for row in shelf.rows)])
  lines = ["# Studies", "", f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
  for row in shelf.rows:
    cells = {name: escaping.markdown(value) for name, value in row.items()}
    cells["config"] = escaping.markdown_link("study.json", row["config"])
    cells["reproduce"] = escaping.markdown_code(row["reproduce"])
    lines.append(f"| {' | '.join(cells[name] for name in COLUMNS)} |")
  lines += ["", *(f"- {escaping.markdown(one)}" for one in shelf.passed_over)] if shelf.passed_over else []
  problems = []
  for name, content in (("studies.csv", text.getvalue()), ("studies.md", "\n".join(lines) + "\n")):
    try:
      files.write_text(root / name, content)
    except (IsADirectoryError, PermissionError) as error:
      problems.append(f"{root / name} cannot be written: {error.strerror}")
  return shelf.passed_over + problems
