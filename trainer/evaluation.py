"""Evaluation: sums over a split, each example counted once, whatever the batch size (PB-66)."""

import collections
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from trialbook.errors import PreemptedError, UserError
from trialbook.input_pipeline import Dataset, Prefetcher
from trialbook.input_pipeline.source import IS_EXAMPLE
from trialbook.trainer import custom_metrics, sharding
from trialbook.trainer.config import Config
from trialbook.trainer.evaluation_schedule import TRAIN_SUBSET
from trialbook.trainer.hosts.shutdown_guard import Guard
from trialbook.trainer.metric_recorder import AHEAD
from trialbook.trainer.program import Program
from trialbook.trainer.train_step import State, has_average


def evaluated_weights(config: Config, state: State) -> State:
  """Return the part of a state that evaluations see: the averaged parameters and variables, or the current ones.

  An optimizer's own parameters for evaluations take the place of averaged ones.
  """
  if has_average(config) and (config.averaging is None or config.averaging.evaluate == "average"):
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
  """Return metrics of one split by `split/name`: floats, and lists of sums such as counts by class.

  Sums of batches are float32 from the device; they are added in float64 on the host, so that the result does
  not depend on how the split is cut into batches.

  Args:
    program: whose eval step is compiled for batches of `config.evaluation.batch_size`.
    weights: as `evaluated_weights` gives them.
    settings: the run's traced settings.
    dataset: where the split is.
    split: one of the dataset's, or "train_subset".
    config: the run's.
    guard: asked before each batch whether to continue; None: all batches are evaluated.
    sampled: whether the fixed part of a validation split stands for all of it, where there is one.

  Raises:
    PreemptedError: if all hosts have agreed to stop.
  """
  params, variables = program.seen(weights)
  batch_size = config.evaluation.batch_size
  source, examples = ("train", config.evaluation.train_examples) if split == TRAIN_SUBSET else (split, None)
  if sampled and split in dataset.info.splits("validation"):
    examples = config.evaluation.validation_examples
  added = _Added()
  pending: collections.deque[dict[str, Any]] = collections.deque()

  def make(index: int) -> dict[str, np.ndarray]:
    return dataset.eval_batch(index, source, batch_size, examples)

  put = functools.partial(sharding.put_batch, program.mesh, paths=program.task.eval_paths)
  batches = dataset.num_eval_batches(source, batch_size, examples)
  with Prefetcher(make, put, 0, batches) as prefetcher:
    for _, batch in prefetcher:
      if guard is not None and guard.poll():
        raise PreemptedError(guard.cause)
      sums = program.eval_step(params, variables, settings, batch)
      sums.pop("outputs", None)
      pending.append(sums)
      if len(pending) > AHEAD:
        added.add(jax.device_get(pending.popleft()))
  for sums in pending:
    added.add(jax.device_get(sums))

  values: dict[str, Any] = added.means() | added.sums()
  rows = added.split_rows("rows")
  others = {name: program.task.split_metric(name, dict(values), rows) for name in program.task.split_metrics()}
  if config.evaluation.metrics:
    others |= custom_metrics.compute(config, added.split_rows("split"))
  values |= others
  values["examples"] = round(added.examples)
  return {f"{split}/{name}": value for name, value in values.items()}


class _Added:
  """Sums of the batches of a split, in float64, and the rows of its examples.

  Attributes:
    examples: their number.
  """

  def __init__(self):
    self.examples = 0.0
    self._totals: dict[tuple[str, str], Any] = {}
    self._coefficients: dict[str, float] = {}
    self._rows: dict[str, list[Any]] = {"rows": [], "split": []}

  def add(self, batch: dict[str, Any]) -> None:
    """Add what `Steps.eval_step` returned, on the host."""
    self.examples += float(batch["examples"])
    for name, (*_, coefficient) in batch["terms"].items():
      self._check_coefficient(name, float(coefficient))
    for kind in ("means", "terms", "sums"):
      for name, value in batch[kind].items():
        new = [np.asarray(part, np.float64) for part in (value[:2] if isinstance(value, tuple) else (value,))]
        old = self._totals.get((kind, name), [0.0] * len(new))
        self._totals[kind, name] = [one + other for one, other in zip(old, new, strict=True)]
    for kind, kept in self._rows.items():
      if kind in batch:
        kept.append(_of_examples(batch[kind], batch[IS_EXAMPLE]))

  def _check_coefficient(self, name: str, coefficient: float) -> None:
    """Raise UserError if a term's coefficient is not that of the first batch."""
    known = self._coefficients.setdefault(name, coefficient)
    if not math.isclose(coefficient, known, rel_tol=1e-5) and math.isfinite(coefficient):
      raise UserError(
        f"the coefficient of the loss's term {name!r} is {known:.6g} in one batch of an evaluation and"
        f" {coefficient:.6g} in another; it must be a number or a traced setting"
      )

  def means(self) -> dict[str, float]:
    """Return the means, and the objective of the loss."""
    found = {name: _ratio(*pair) for name, pair in self._of("means")}
    terms = self._of("terms")
    if terms:
      found = {"loss": sum(self._coefficients[name] * _ratio(*pair) for name, pair in terms)} | found
    return found

  def sums(self) -> dict[str, Any]:
    """Return the sums: numbers, and lists of numbers."""
    return {name: _whole(total) if np.ndim(total) else float(total) for name, (total,) in self._of("sums")}

  def split_rows(self, kind: str) -> Any:
    """Return arrays [N, ...] of all examples, by name."""
    kept = self._rows[kind]
    return jax.tree.map(lambda *arrays: np.concatenate(arrays) if arrays[0].ndim else arrays[0], *kept) if kept else {}

  def _of(self, kind: str) -> list[tuple[str, Any]]:
    return [(name, value) for (found, name), value in self._totals.items() if found == kind]


def _of_examples(tree: Any, is_example: np.ndarray) -> Any:
  """Return the rows that are no padding; an array that has none for each example, such as a temperature, as it is."""
  return jax.tree.map(lambda array: array[is_example] if array.shape[:1] == is_example.shape else array, tree)


def _ratio(total: Any, count: Any) -> float:
  return float(total / count) if count != 0 else math.nan


def _whole(numbers: Any) -> list[Any]:
  """Return a list of numbers, those of counts as integers."""
  return [int(number) if number.is_integer() else number for number in np.asarray(numbers).tolist()]
