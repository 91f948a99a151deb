"""The difference of two configs: the fields that differ, as values and in words, and those that change what is
trained."""

from collections.abc import Mapping
from typing import Any

from trialbook.settings import leaves
from trialbook.trainer import Config

SHOWN = 8
"""Changed fields that are named."""
LENGTH = "max_train_steps"
"""A host field that changes what is trained, as no other does."""
HABITS = ("checkpointing", "compilation_cache", "export", "job", "logging", "seed")
"""Parts of a config that decide neither what is trained nor which step is selected. A study changes some, such as
the export of a model by each trial."""


def recommended(baseline: Config, candidate: Config) -> dict[str, Any]:
  """Return the changes that make the candidate of the baseline, but for `HABITS`: path -> value.

  Other host fields are among them: how often a training is evaluated, and by what, decides which step is selected.
  """
  before = {path: value for path, _, _, value in leaves(baseline)}
  # What the candidate has no field for, such as the length of a decay that it does not have, is no change to make.
  changes = {
    path: value
    for path, _, _, value in leaves(candidate)
    if path.partition(".")[0] not in HABITS and (path not in before or before[path] != value)
  }
  if baseline.resolved().selection == candidate.resolved().selection:
    changes = {path: value for path, value in changes.items() if not path.startswith("selection.")}
  elif "selection.metric" in changes:  # Another metric resets the mode.
    changes["selection.mode"] = candidate.selection.mode
  return changes


def changed(baseline: Config, candidate: Config) -> dict[str, tuple[Any, Any]]:
  """Return the changes of what is trained: path -> (value of the baseline, of the candidate)."""
  before = {path: value for path, _, _, value in leaves(baseline)}
  host = {path for path, kind, _, _ in leaves(candidate) if kind == "host" and path != LENGTH}
  return {
    path: (before.get(path), value) for path, value in recommended(baseline, candidate).items() if path not in host
  }


def changes_in_words(changes: Mapping[str, tuple[Any, Any]]) -> str:
  """Return the changed fields of `changed` in words, with their values before and after, the first `SHOWN`."""
  shown = ", ".join(f"{path} {_text(old)} -> {_text(new)}" for path, (old, new) in list(changes.items())[:SHOWN])
  return shown + (f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else "")


def _text(value: Any) -> str:
  return f"{value:.4g}" if isinstance(value, float) else str(value)
