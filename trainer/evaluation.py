"""Evaluation: weighted sums over a split, each example counted once, whatever the batch size (PB-66)."""

import collections
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from trialbook.errors import PreemptedError
from trialbook.input_pipeline import Dataset, Prefetcher
from trialbook.trainer import custom_metrics, sharding
from trialbook.trainer.config import Config
from trialbook.trainer.evaluation_schedule import TRAIN_SUBSET
from trialbook.trainer.hosts.shutdown_guard import Guard
from trialbook.trainer.metric_recorder import AHEAD
from trialbook.trainer.program import Program
from trialbook.trainer.tasks import OfSplit
from trialbook.trainer.train_step import State
from trialbook.trainer.user_code_errors import COUNT, ROW


def evaluated_weights(config: Config, state: State) -> State:
  """Return the part of a state that evaluations see: the averaged parameters and variables, or the current ones."""
  if config.averaging is not None and config.averaging.evaluate == "average":
    return {"average": state["average"]}
  return {"params": state["params"], "variables": state["variables"]}


def evaluate(
  program: Program,
  weights: State,
  settings: Mapping[str, Array],
  dataset: Dataset,
  split: str,
  config: Config,
  guard: Guard | None = None,
  *,
  sampled: bool = False,
) -> dict[str, Any]:
  """Return metrics of one split by `split/name`: floats, and lists of counts by class.

  Sums of batches are float32 from the device; they are added in float64 on the host, so that the result does
  not depend on how the split is cut into batches.

  Args:
    program: whose eval step is compiled for batches of `config.evaluation.batch_size`.
    weights: as `evaluated_weights` gives them.
    settings: the run's traced settings.
    dataset: where the split is.
    split: "validation", "test", or "train_subset".
    config: the run's.
    guard: asked before each batch whether to continue; None: all batches are evaluated.
    sampled: whether the fixed part of the validation set stands for all of it, where there is one.

  Raises:
    PreemptedError: if all hosts have agreed to stop.
  """
  params, variables = program.seen(weights)
  batch_size = config.evaluation.batch_size
  source, examples = ("train", config.evaluation.train_examples) if split == TRAIN_SUBSET else (split, None)
  if sampled and split == "validation":
    examples = config.evaluation.validation_examples
  totals: dict[str, Any] = {}
  rows: dict[str, list[np.ndarray]] = {}
  pending: collections.deque[dict[str, Array]] = collections.deque()

  def add(sums: dict[str, Array]) -> None:
    for name, value in jax.device_get(sums).items():
      if name.startswith(ROW):
        rows.setdefault(name.removeprefix(ROW), []).append(value)
      else:
        totals[name] = totals.get(name, 0.0) + np.asarray(value, np.float64)

  def make(index: int) -> dict[str, np.ndarray]:
    return dataset.eval_batch(index, source, batch_size, examples)

  batches = dataset.num_eval_batches(source, batch_size, examples)
  with Prefetcher(make, lambda batch: sharding.put_batch(program.mesh, batch), 0, batches) as prefetcher:
    for _, batch in prefetcher:
      if guard is not None and guard.poll():
        raise PreemptedError(guard.cause)
      sums = program.eval_step(params, variables, settings, batch)
      sums.pop("outputs", None)
      pending.append(sums)
      if len(pending) > AHEAD:
        add(pending.popleft())
  for sums in pending:
    add(sums)

  examples_seen = totals.pop("weights")
  values: dict[str, Any] = {}
  for name, total in totals.items():
    if name.startswith(COUNT):
      values[f"{split}/{name.removeprefix(COUNT)}"] = [round(float(x)) for x in total]
    else:
      values[f"{split}/{name}"] = float(total / examples_seen)
  means = {name.partition("/")[2]: value for name, value in values.items() if isinstance(value, float)}
  others = program.task.of_split(means) if isinstance(program.task, OfSplit) else {}
  others |= custom_metrics.compute(config, {name: np.concatenate(parts) for name, parts in rows.items()})
  values |= {f"{split}/{name}": value for name, value in others.items()}
  values[f"{split}/examples"] = round(float(examples_seen))
  return values
