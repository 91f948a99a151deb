"""The difference of two configs: the fields that change what is trained, as values and in words."""

from collections.abc import Mapping
from typing import Any

from trialbook.settings import leaves
from trialbook.trainer import Config

SHOWN = 8
"""Changed fields that are named."""


def changed(baseline: Config, candidate: Config) -> dict[str, tuple[Any, Any]]:
  """Return the fields that differ, but for the seed: path -> (value of the baseline, of the candidate)."""
  before = {path: value for path, kind, _, value in leaves(baseline) if kind != "host"}
  after = {path: value for path, kind, _, value in leaves(candidate) if kind != "host"}
  before["max_train_steps"], after["max_train_steps"] = baseline.max_train_steps, candidate.max_train_steps
  # What the candidate has no field for, such as the length of a decay that it does not have, is no change to make.
  return {
    path: (before.get(path), value)
    for path, value in after.items()
    if path != "seed" and (path not in before or before[path] != value)
  }


def changes_in_words(changes: Mapping[str, tuple[Any, Any]]) -> str:
  """Return the changed fields of `changed` in words, with their values before and after, the first `SHOWN`."""
  shown = ", ".join(f"{path} {_text(old)} -> {_text(new)}" for path, (old, new) in list(changes.items())[:SHOWN])
  return shown + (f" and {len(changes) - SHOWN} more" if len(changes) > SHOWN else "")


def _text(value: Any) -> str:
  return f"{value:.4g}" if isinstance(value, float) else str(value)
