"""The choice of the best evaluation of a run: retrospective selection (PB-20, PB-69), never early stopping."""

import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from absl import logging
from jaxtyping import Array

from trialbook import files
from trialbook.errors import UserError
from trialbook.input_pipeline import Dataset
from trialbook.trainer import custom_metrics
from trialbook.trainer.checkpoints.storage import DamagedCheckpointError, restore, saved_steps
from trialbook.trainer.config import Config, Selection
from trialbook.trainer.evaluation import evaluate, evaluated_weights
from trialbook.trainer.evaluation_schedule import TRAIN_SUBSET
from trialbook.trainer.hosts.shutdown_guard import Guard
from trialbook.trainer.overrides import nearest
from trialbook.trainer.program import Program
from trialbook.trainer.records import read_metrics
from trialbook.trainer.train_step import State

BYTE, TOKEN = "bits_per_byte", "bits_per_token"
"""Names of one metric of a language model: the earlier one, and the present one if a token is not a byte."""


def problems(config: Config, eval_names: Iterable[str], splits: Iterable[str], lists: Iterable[str] = ()) -> list[str]:
  """Return what is wrong with the names of metrics.

  Two metrics have one name, no evaluation writes the one that "best" is about, or its better direction is unknown.

  Args:
    config: resolved.
    eval_names: the task's metrics without the split.
    splits: those that are evaluated periodically.
    lists: the task's metrics that are lists of numbers.
  """
  own, custom = list(eval_names), custom_metrics.names(config)
  found = [
    f"evaluation.metrics: an evaluation already has a metric {name!r}; give the function another name"
    for name in custom
    if name in (*own, *lists, "examples")
  ]
  known = [f"{split}/{name}" for split in splits for name in (*own, *custom)]
  metric = config.selection.metric or ""
  if metric not in known:
    found.append(f"selection.metric = {metric!r} is not evaluated{nearest(metric, known)}")
  elif config.selection.mode is None:
    found.append(f"selection.mode is required: the direction of {metric!r} is unknown. Set min or max.")
  return found


class History:
  """The evaluations of a run so far.

  Attributes:
    evaluations: step -> values, in order of steps.
    passing: steps whose checkpoint a preemption left, where none was due: they are not selected among, so that the
      result is that of a run without interruptions.
  """

  def __init__(self, selection: Selection):
    assert selection.metric is not None, "the selection of a resolved config"
    assert selection.mode is not None, "the selection of a resolved config"
    self.metric, self.mode = selection.metric, selection.mode
    self.evaluations: dict[int, Mapping[str, Any]] = {}
    self.passing: set[int] = set()

  @classmethod
  def read(cls, workdir: pathlib.Path, selection: Selection) -> "History":
    """Return the history in the `metrics.jsonl` of a workdir; an empty one if there is no such file."""
    return cls.of(read_metrics(workdir), selection)

  @classmethod
  def of(cls, lines: Iterable[Mapping[str, Any]], selection: Selection) -> "History":
    """Return the history in the lines of a `metrics.jsonl`."""
    history = cls(selection)
    for line in lines:
      values = {name: files.number(value) for name, value in line.items() if _EVALUATED.match(name)}
      if history.metric.endswith(f"/{TOKEN}"):
        for name in [name for name in values if name.endswith(f"/{BYTE}")]:
          if (now := name.removesuffix(BYTE) + TOKEN) not in values:
            values[now] = values.pop(name)
      if values:
        history.evaluations[line["step"]] = values
    return history

  def ranked(self, steps: Iterable[int] | None = None) -> list[int]:
    """Return the evaluated steps (among `steps`) with a finite value, best first, the earlier one among equals."""
    sign = 1 if self.mode == "min" else -1
    chosen = self.evaluations.keys() if steps is None else set(steps) - self.passing
    values = {
      step: sign * evaluation.get(self.metric, math.nan)
      for step, evaluation in self.evaluations.items()
      if step in chosen
    }
    return sorted((step for step in values if math.isfinite(values[step])), key=lambda step: (values[step], step))

  @property
  def latest(self) -> dict[str, Any]:
    """Return the newest value of everything that was evaluated."""
    return {name: value for values in self.evaluations.values() for name, value in values.items()}

  def describe(self, step: int) -> str:
    """Return an evaluation as one line for a person."""
    values = self.evaluations[step]
    shown = [f"{name} {value:.4g}" for name, value in values.items() if isinstance(value, float)]
    best = "  (best so far)" if self.ranked()[:1] == [step] else ""
    return f"step {step:,} evaluated: {'  '.join(shown)}{best}"

  def add(self, step: int, values: Mapping[str, Any]) -> None:
    """Add the evaluation after `step`."""
    # Another dictionary, because the thread that saves may be reading the old one.
    self.evaluations = {**self.evaluations, step: values}

  def to_keep(self, config: Config) -> Callable[[list[int]], set[int]]:
    """Return a function that chooses which steps with a checkpoint keep it: the latest, and the best.

    What a preemption saved between two evaluations stays until there is something newer.
    """
    keep = config.checkpointing

    def chosen(steps: list[int]) -> set[int]:
      evaluated = [step for step in steps if step in self.evaluations and step not in self.passing]
      return {*steps[-1:], *evaluated[-keep.keep_latest :], *self.ranked(steps)[: keep.keep_best]}

    return chosen

  def _sample(self, config: Config, best: Sequence[int], final: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how far the part of the validation set that was evaluated is from all of it, at the selected step."""
    seen = self.evaluations[best[0]] if best else {}
    whole, part = (values.get("validation/examples") for values in (final, seen))
    if config.evaluation.validation_examples is None or whole is None or part is None:
      return None
    skew = {
      name: seen[name] - value
      for name, value in final.items()
      if name.startswith("validation") and isinstance(value, float) and isinstance(seen.get(name), float)
    }
    return {"examples": part, "of": whole, "skew": skew}

  def record(self, config: Config, saved: Sequence[int], final: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what `best.json` records.

    Args:
      config: the run's.
      saved: the steps that have a checkpoint.
      final: the evaluation of the selected checkpoint after the run.
    """
    off = config.checkpointing.every_evaluations == 0
    best_evaluated = self.ranked()[:1]
    best = best_evaluated if off else self.ranked(saved)[:1]
    notes = []
    if not best_evaluated:
      notes.append(f"no evaluation has a finite {self.metric}")
    elif off:
      notes.append("checkpoints are off, so the best evaluation has none")
    elif best != best_evaluated:
      notes.append(f"step {best_evaluated[0]} was better than the selected one, but it has no checkpoint")
    if best == [0] and len(self.evaluations) > 1:
      better, later = "smaller" if self.mode == "min" else "larger", "evaluation" if off else "checkpoint"
      notes.append(f"the untrained model (step 0) was selected: no later {later} has a {better} {self.metric}")
    return {
      "format": files.FORMAT,
      "metric": self.metric,
      "mode": self.mode,
      "step": best[0] if best else None,
      "value": self.evaluations[best[0]][self.metric] if best else None,
      "checkpoint": f"checkpoints/{best[0]}" if best and not off else None,
      "note": "; ".join(notes) or None,
      "sample": self._sample(config, best, final or {}),
      "final": final or {},
      "evaluations": [
        {"step": step, "value": values[self.metric]}
        for step, values in self.evaluations.items()
        if self.metric in values
      ],
    }


def evaluate_selected(
  workdir: pathlib.Path,
  history: History,
  program: Program,
  settings: Mapping[str, Array],
  dataset: Dataset,
  config: Config,
  state: State,
  guard: Guard,
) -> tuple[dict[str, Any], State]:
  """Evaluate the selected checkpoint as it lies on the disk: on each validation split again, on test if asked (PB-43).

  Without checkpoints the last state is evaluated instead, on test if asked.

  Returns:
    What `best.json` says, and the weights that were evaluated.

  Raises:
    UserError: if no checkpoint can be read.
    PreemptedError: as `evaluate`.
  """
  info, validation = dataset.info, dataset.info.splits("validation")
  splits = [*validation, *(info.splits("test") if config.evaluation.test else [])]
  weights, usable = evaluated_weights(config, state), []
  if config.checkpointing.every_evaluations == 0:
    # What the last evaluation has seen already need not be seen again.
    splits = splits if config.evaluation.validation_examples is not None else splits[len(validation) :]
  elif not history.ranked():
    return history.record(config, []), weights
  else:
    folder = workdir / "checkpoints"
    saved = guard.hosts.from_lead("the checkpoints that are kept", saved_steps(folder))
    weights, usable = _restore_best(folder, saved, history, evaluated_weights(config, program.state_template))
  values: dict[str, Any] = {}
  for split in splits:
    values |= evaluate(program, weights, settings, dataset, split, config, guard)
  return history.record(config, usable, values), weights


def _restore_best(folder: pathlib.Path, saved: Sequence[int], history: History, template: Any) -> tuple[Any, list[int]]:
  """Restore the best checkpoint that is whole; return it, and the steps of those that may be: itself and worse ones."""
  ranked = history.ranked(saved)
  for position, step in enumerate(ranked):
    try:
      return restore(folder / str(step), template), ranked[position:]
    except DamagedCheckpointError as error:
      logging.error("damaged checkpoint: %s", error)
  raise UserError(f"none of the checkpoints in {folder} can be read")


_EVALUATED = re.compile(rf"({TRAIN_SUBSET}|(validation|test)(_\w+)?)/")
