"""Which evaluation of a run was the best one: retrospective selection (PB-20), never early stopping (PB-69)."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from trainer.config import Config, Selection
from trainer.evaluation import TRAIN_SUBSET
from trainer.overrides import ConfigError, nearest


def check_selection(config: Config, eval_names: Iterable[str]) -> None:
  """Raises ConfigError if no evaluation writes the metric that "best" is about."""
  splits = ["validation", *([TRAIN_SUBSET] if config.evaluation.train_examples else [])]
  known = [f"{split}/{name}" for split in splits for name in eval_names]
  metric = config.selection.metric or ""
  if metric not in known:
    raise ConfigError(f"selection.metric = {metric!r} is not evaluated{nearest(metric, known)}")


class History:
  """The evaluations of a run so far.

  Attributes:
    best_step: the step of the best one, of the earliest among equals; None before there is one.
    best: its values.
    latest: the newest value of everything that was evaluated.
  """

  def __init__(self, selection: Selection):
    self._metric, self._sign = str(selection.metric), 1 if selection.mode == "min" else -1
    self.best_step: int | None = None
    self.best: Mapping[str, Any] = {}
    self.latest: dict[str, Any] = {}

  def add(self, step: int, values: Mapping[str, Any]) -> str:
    """Takes the evaluation after `step`. Returns it as one line for a person."""
    self.latest |= values
    value = values[self._metric]
    is_best = math.isfinite(value) and (
      self.best_step is None or self._sign * value < self._sign * self.best[self._metric]
    )
    if is_best:
      self.best_step, self.best = step, values
    shown = [f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, float)]
    return f"step {step:,} evaluated: {'  '.join(shown)}{'  (best so far)' if is_best else ''}"
