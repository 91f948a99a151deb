"""Studies on disk in a moment: tables that a test writes, imported."""

import csv
import json
import pathlib
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from trialbook.tuning.importers.importing import import_study

Points = Sequence[tuple[int, float]]

HOSTILE = (
  "</script><script>alert(1)</script>",
  "<!--<script>",
  '"><img src=x onerror=alert(2)>',
  "a\u2028b",
  "]]>&lt;b&gt;'`|*_x_",
)
"""Texts that would do something in a page, a script or Markdown, if they were let."""


def bowl(rate: float, steps: int = 12) -> list[tuple[int, float]]:
  """An error that falls to its end, which is lowest at a rate of 0.01 to 0.1; no two rates have the same."""
  end = 0.1 + (rate**0.25 - 0.4) ** 2
  return [(10 * step, end + 0.5 / step) for step in range(1, steps + 1)]


def imported(
  folder: pathlib.Path,
  trials: Sequence[Mapping[str, Any]],
  curves: Mapping[int, Mapping[str, Points]],
  declared: Mapping[str, Any] | None = None,
  **options: Any,
) -> pathlib.Path:
  """Writes tables beside a folder, and imports them into it.

  Args:
    folder: of the study.
    trials: the cells of each, by column, beside its number.
    curves: trial -> metric -> (step, value).
    declared: `study.json`.
    options: of `import_study`.
  """
  tables = folder.with_name(f".{folder.name}_tables")
  tables.mkdir(parents=True, exist_ok=True)
  with (tables / "trials.csv").open("w", newline="") as file:
    writer = csv.DictWriter(file, ["trial", *dict.fromkeys(name for cells in trials for name in cells)])
    writer.writeheader()
    writer.writerows({"trial": number, **cells} for number, cells in enumerate(trials))
  with (tables / "curves.csv").open("w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(["trial", "step", "metric", "value"])
    for number, logged in curves.items():
      for metric, points in logged.items():
        writer.writerows([number, step, metric, value] for step, value in points)
  (tables / "study.json").write_text(json.dumps(declared or {}))
  return import_study("csv", tables, folder, **options)[0]


def rates(folder: pathlib.Path, count: int = 8, **options: Any) -> pathlib.Path:
  """A study of a learning rate from 1e-4 to 1 on a log scale, with an error and a loss."""
  values = [10.0 ** (-4 + 4 * number / (count - 1)) for number in range(count)]
  return imported(
    folder,
    [{"learning_rate": repr(rate)} for rate in values],
    {
      number: {
        "validation/error": bowl(rate),
        # Another order: the largest rate has the smallest loss.
        "validation/loss": [(step, value - rate) for step, value in bowl(rate)],
      }
      for number, rate in enumerate(values)
    },
    **{"name": folder.name, "goal": "Which rate?", **options},
  )


def hostile(folder: pathlib.Path) -> pathlib.Path:
  """A study whose every text is an attack."""
  first, second, third, line, last = HOSTILE
  return imported(
    folder,
    [{"reason": "", first: 0.1 * (n + 1), second: third if n % 2 else last} for n in range(6)]
    + [{"state": "infeasible", "reason": " ".join(HOSTILE), first: 2.0, second: last}],
    {n: {"validation/error": bowl(0.1 * (n + 1)), third: bowl(0.1)} for n in range(6)},
    {"hyperparameters": {second: {"role": "scientific"}}},
    name=f"{first} {line}",
    goal=" ".join(HOSTILE),
  )


def unfinished(folder: pathlib.Path, target: pathlib.Path, **changes: Any) -> pathlib.Path:
  """A copy of a study whose record says something else."""
  shutil.copytree(folder, target)
  stored = json.loads((target / "study.json").read_text())
  (target / "study.json").write_text(json.dumps(stored | changes))
  return target
