"""The hyperparameters that were not varied, for whose values alone the conclusions hold (PB-10).

The playbook: fixed hyperparameters are caveats on a study's conclusions. Nothing is tested here; those that change most
what other values are best are named first, in the order of `CONSEQUENTIAL`.
"""

from typing import Any

from trialbook.settings import flat
from trialbook.tuning.findings.finding import Finding, finding_of
from trialbook.tuning.results import StudyResults

_finding = finding_of("PB-10", "fixed")

CONSEQUENTIAL = (
  "model.name",
  "optimizer.name",
  "optimizer.learning_rate",
  "batch_size",
  "max_train_steps",
  "schedule.name",
  "optimizer.",
  "schedule.",
  "model.",
  "task.",
  "dataset.augmentation.",
  "clip_norm",
  "averaging",
)
"""Fields, or groups of them, with which the best values of others move, those that move them most first."""
NAMED = 6
"""Number of names in the title's sentence, few enough to read; `numbers` has all."""


def find(results: StudyResults) -> list[Finding]:
  """Return one note that names what was held fixed."""
  fixed: dict[str, Any] = {}
  config = results.study.config
  varied = {one.path for one in results.varied}
  named = {f"{one.path}.name" for one in results.varied if one.sets == "name"}
  gone = {one.path for one in results.varied if one.sets in ("name", "presence")}
  if config is not None:
    for path, value in flat(config.model_dump()).items():
      # Under a group that is chosen by name, the fixed part of one choice says nothing of the others.
      inside = any(path.startswith(f"{group}.") for group in gone)
      if path in varied | named or inside or _rank(path) is None:
        continue
      fixed[path] = value
  partly: dict[str, int] = {}
  for one in results.space.values():
    values = [trial.values[one.name] for trial in results.trials if one.name in trial.values]
    if not values or one.path in varied or one.path == "seed" or one.name in {v.name for v in results.varied}:
      continue
    if one.parent is None and len(values) < len(results.trials):
      # What the others have instead is not known: it is not the same in all trials.
      partly[one.path] = len(values)
    else:
      fixed[one.path] = values[0]
  some = ", ".join(f"{path} in {count} of {len(results.trials)} trials" for path, count in partly.items())
  some = f" Not fixed, but recorded only for some: {some}." if some else ""
  if not fixed:
    return [
      _finding(
        severity="ok",
        title="No fixed hyperparameter is recorded",
        why=f"The study has no config, and all that its trials name is varied.{some}",
      )
    ]
  order = sorted(fixed, key=lambda path: (len(CONSEQUENTIAL) if _rank(path) is None else _rank(path), path))
  set_ones = [path for path in order if fixed[path] is not None] or order
  text = ", ".join(f"{path} = {fixed[path]}" for path in set_ones[:NAMED])
  more = len(order) - len(set_ones[:NAMED])
  return [
    _finding(
      severity="note",
      title=f"Only {text}{f', and {more} more' if more else ''} was tried",
      why="All trials have the same"
      + (" value" if len(order) == 1 else " values")
      + f" there. With another, another point or setting may be best.{some}",
      numbers={path: fixed[path] for path in order},
      action="Before you rely on a conclusion for another value, repeat the comparison with it.",
    )
  ]


def _rank(path: str) -> int | None:
  """Return the index of the first entry of `CONSEQUENTIAL` that a path is, or is in; None if there is none."""
  for position, entry in enumerate(CONSEQUENTIAL):
    if path == entry or path.startswith(entry if entry.endswith(".") else f"{entry}."):
      return position
  return None
