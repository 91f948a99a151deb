"""The table of all studies below a root, and that of a study's trials, rewritten whenever a study changes (PB-70)."""

import contextlib
import csv
import io
import os
import pathlib
import shlex

from trialbook import files
from trialbook.errors import UserError
from trialbook.tuning.results import StudyResults, read_results
from trialbook.tuning.tables import number

COLUMNS = ("study", "config", "goal", "trials", "best", "reproduce")


def write_trials(folder: pathlib.Path, results: StudyResults) -> None:
  """Write the study's `trials.csv`."""
  files.write_text(folder / "trials.csv", results.csv())


def studies(root: pathlib.Path) -> list[StudyResults]:
  """Return the studies in the folders below a root, rounds included, in order of their creation; others are passed
  over."""
  found = []
  for path in sorted([*root.glob("*/study.json"), *root.glob("*/*/study.json")]):
    with contextlib.suppress(UserError):
      found.append(read_results(path.parent))
  return sorted(found, key=lambda results: results.study.created)


def rows(root: pathlib.Path) -> list[dict[str, str]]:
  """Return the playbook's six columns for each study: name, link to the config, description, trials, best,
  reproduction."""
  return [
    {
      "study": _full_name(results),
      "config": str((results.folder / "study.json").relative_to(root)),
      "goal": results.study.goal,
      "trials": f"{sum(map(results.count, ('complete', 'infeasible', 'pruned')))} of {results.study.trials}",
      "best": best_text(results),
      "reproduce": reproduction(results),
    }
    for results in studies(root)
  ]


def _full_name(results: StudyResults) -> str:
  """Return the name of a study; that of a study of a round follows the round's name."""
  round_ = files.read_json(results.folder.parent / "round.json")
  return results.study.name if round_ is None else f"{round_.get('name')}/{results.study.name}"


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


def update(root: pathlib.Path) -> None:
  """Rewrite `studies.csv` and `studies.md` in a root; a file that is not ours to write is left as it is."""
  if not os.access(root, os.W_OK):
    return
  table = rows(root)
  text = io.StringIO()
  writer = csv.writer(text, lineterminator="\n")
  writer.writerows([COLUMNS, *([row[column] for column in COLUMNS] for row in table)])
  files.write_text(root / "studies.csv", text.getvalue())
  lines = ["# Studies", "", f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
  for row in table:
    cells = {name: value.replace("|", "\\|").replace("\n", " ") for name, value in row.items()}
    cells["config"] = f"[study.json]({cells['config']})"
    cells["reproduce"] = f"`{cells['reproduce']}`"
    lines.append(f"| {' | '.join(cells[name] for name in COLUMNS)} |")
  files.write_text(root / "studies.md", "\n".join(lines) + "\n")
