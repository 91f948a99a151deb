"""Errors in the user's code, reported as what they are: which part fails, why, in which file and line."""

import contextlib
import functools
import numbers
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from trialbook.errors import UserError

COUNT, ROW = "count/", "row/"
"""Prefixes of the names of an evaluation step's counts, and of its numbers for each example."""


def is_metric(name: str) -> bool:
  """Return whether a number of an evaluation step has the name of a metric, and not of something else."""
  return not name.startswith((COUNT, ROW)) and name not in ("weights", "outputs")


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
  """Turn an error that is raised inside into a UserError that begins with `what` and ends with the place."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    if str(error).startswith("model."):  # Says by itself which field is wrong.
      raise UserError(str(error)) from error
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    raise UserError(f"{what}: {type(error).__name__}: {error}{where}") from error


def _is_batch(found: Any) -> bool:
  return isinstance(found, Mapping) and "inputs" in found and all(map(_is_array, found.values()))


def _is_array(found: Any) -> bool:
  return hasattr(found, "shape") and hasattr(found, "dtype")


def _are_arrays(found: Any) -> bool:
  return isinstance(found, Mapping) and all(map(_is_array, found.values()))


def _are_metrics(found: Any) -> bool:
  return _are_arrays(found) and all(map(is_metric, found))


def _are_numbers(found: Any) -> bool:
  return isinstance(found, Mapping) and all(isinstance(value, numbers.Real) for value in found.values())


RETURNS: dict[str, tuple[str, Callable[[Any], bool]]] = {
  "num_outputs": ("a whole number", lambda found: isinstance(found, int | np.integer)),
  "initial_batch": ("a dict of jax.ShapeDtypeStruct with 'inputs' in it", _is_batch),
  "training_batch": ("a dict of jax.ShapeDtypeStruct with 'inputs' in it", _is_batch),
  "loss": ("an array of floats", lambda found: _is_array(found) and jnp.issubdtype(found.dtype, jnp.floating)),
  "metrics": (
    f"a dict of arrays, none of them named 'weights' or 'outputs', or '{COUNT}…' or '{ROW}…'",
    _are_metrics,
  ),
  "counts": ("a dict of arrays", _are_arrays),
  "of_split": ("a dict of numbers", _are_numbers),
}
"""The result of each member of a task: a description, and a test whether a value fits it."""


class UserTask:
  """A task of the user's with the members of `RETURNS` that it has: each explains its errors and what it returns.

  Attributes:
    kind: the task's class.
  """

  def __init__(self, name: str, task: Any):
    self.kind = type(task)
    for member, (what, fits) in RETURNS.items():
      if hasattr(task, member):
        setattr(self, member, _asked(f"task {name!r}: {member}", getattr(task, member), what, fits))


def _asked(where: str, call: Callable[..., Any], what: str, fits: Callable[[Any], bool]) -> Callable[..., Any]:
  @functools.wraps(call)
  def asked(*arguments: Any, **named: Any) -> Any:
    keys = [f"({', '.join(argument)})" for argument in arguments if isinstance(argument, Mapping) and argument]
    with explained(where + (f", given {' and '.join(keys)}" if keys else "")):
      found = call(*arguments, **named)
    if not fits(found):
      kind = type(found).__name__ + (f" of {', '.join(map(str, found))}" if isinstance(found, Mapping) else "")
      kind += f" of {getattr(found, 'dtype', '')}" if _is_array(found) else ""
      raise UserError(f"{where} returned a {kind}; it must return {what}")
    return found

  return asked
