"""Metrics of the user's own: functions of a whole split, which need not be means over examples.

A function `module:function` in `evaluation.metrics` is called with outputs [N, ...] (or a tree of such arrays, as the
model returns them) and a mapping of what else the batches of an evaluation have, such as labels [N], each example once
and in order, whatever the batches and hosts.
It returns a number, which is recorded as `validation/function`. `area_under_curve` is an example.
"""

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from trialbook.errors import UserError
from trialbook.import_attribute import PluginError, import_attribute
from trialbook.input_pipeline.source import nested
from trialbook.trainer.config import Config
from trialbook.trainer.user_code_errors import explained

Function = Callable[[np.ndarray, Mapping[str, np.ndarray]], float]


def load(config: Config) -> tuple[dict[str, Function], list[str]]:
  """Return the functions that a config names by the names of their metrics, and what is wrong with the others."""
  functions: dict[str, Function] = {}
  problems = []
  for path in config.evaluation.metrics:
    name = path.rpartition(":")[2]
    if not name or ":" not in path:
      problems.append(f"evaluation.metrics {path!r}: must be written module:function")
      continue
    try:
      function = import_attribute("evaluation.metrics", path)
    except PluginError as error:
      problems.append(str(error))
      continue
    if not callable(function):
      problems.append(f"evaluation.metrics {path!r}: is a {type(function).__name__}; it must be a function")
    elif name in functions:
      problems.append(
        f"evaluation.metrics has two functions named {name!r}; rename one, since metrics are named after functions"
      )
    functions[name] = cast(Function, function)
  return functions, problems


def names(config: Config) -> list[str]:
  """Return the names of the metrics that a config adds to each evaluation."""
  return [path.rpartition(":")[2] for path in config.evaluation.metrics]


def compute(config: Config, rows: Mapping[str, Any]) -> dict[str, float]:
  """Return the metrics of one split; `rows` has the outputs, and the batch without inputs by path.

  Raises:
    UserError: if a function raises, or returns something else than a number.
  """
  if not rows:
    return {}
  outputs, batch = rows["outputs"], nested(rows["batch"])
  values = {}
  for name, function in load(config)[0].items():
    with explained(f"evaluation.metrics {name!r}"):
      value = function(outputs, batch)
    if np.shape(value) != () or np.asarray(value).dtype.kind not in "biuf":
      shape = f" of shape {list(value.shape)}" if isinstance(value, np.ndarray) else ""
      raise UserError(f"evaluation.metrics {name!r}: returned a {type(value).__name__}{shape}; it must be a number")
    values[name] = float(value)
  return values


def area_under_curve(outputs: np.ndarray, batch: Mapping[str, np.ndarray]) -> float:
  """Return the area under the receiver operating characteristic of two classes, ties counted half.

  NaN if one of the classes is missing.

  By ranks (Mann & Whitney 1947): the probability that a random example of class 1 scores higher than one of class 0.

  Args:
    outputs: logits [N, 2].
    batch: with labels [N], 0 or 1.

  Raises:
    ValueError: if there are not two classes.
  """
  if outputs.shape[1:] != (2,):
    raise ValueError(f"the area under the curve needs two classes, outputs [N, 2]; they are {list(outputs.shape)}")
  scores, positive = outputs[:, 1].astype(np.float64) - outputs[:, 0], batch["labels"] == 1
  pairs = positive.sum() * (~positive).sum()
  if pairs == 0:
    return float("nan")
  from scipy.stats import rankdata  # Takes a second, which most runs need not wait.

  ranks = rankdata(scores)[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
  return float(ranks / pairs)
