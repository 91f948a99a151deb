"""The boundaries of a run, by its config alone: the steps after which it evaluates, and after which it saves."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from trialbook.input_pipeline import Info
  from trialbook.trainer.config import Config

TRAIN_SUBSET = "train_subset"
"""Name under which a fixed part of the training set is evaluated."""


def evaluation_steps(config: "Config") -> list[int]:
  """Return the steps after which a run evaluates: 0, each multiple of the interval, and the last."""
  last = config.max_train_steps
  return [*range(0, last, config.evaluation.every_steps), last]


def checkpoint_due(config: "Config", step: int) -> bool:
  """Return whether the state of an evaluated step is saved."""
  evaluations, steps = config.checkpointing.every_evaluations, config.checkpointing.every_steps
  if evaluations == 0:
    return False
  intervals = [evaluations * config.evaluation.every_steps, *([] if steps is None else [steps])]
  return step == config.max_train_steps or any(step % interval == 0 for interval in intervals)


def evaluated_splits(config: "Config", info: "Info | None" = None) -> list[str]:
  """Return the splits that are evaluated periodically: a part of the training set, and each of the validation splits.

  Without a dataset's facts, only those that every dataset has.
  """
  validation = ["validation"] if info is None else info.splits("validation")
  return [*([TRAIN_SUBSET] if config.evaluation.train_examples else []), *validation]
