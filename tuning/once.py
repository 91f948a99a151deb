"""Functions whose value several findings need: called once for the same results, or for a study by any objective."""

import functools
import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast

import numpy as np

if TYPE_CHECKING:
  from trialbook.tuning.results import StudyResults

P = ParamSpec("P")
T = TypeVar("T")


def once(function: Callable[P, T]) -> Callable[P, T]:
  """Decorator: the function is called once for the same results and the same other arguments, which are hashable.

  It must be pure, and nobody may change what it returns.
  """

  @functools.wraps(function)
  def found(*arguments: P.args, **more: P.kwargs) -> T:
    results, *others = arguments
    known = cast("StudyResults", results).known
    key = (function, *others, *more.items())
    if key not in known:
      known[key] = function(*arguments, **more)
    return known[key]

  return found


def by_any_objective(results: "StudyResults", function: Callable[..., T], *arguments: Any) -> T:
  """Return what a pure function of arrays, and of what `repr` shows whole, gives; it is called once for a study.

  Objectives of one metric look at the same curves, and points lie where they lie.
  """
  key = (function, *map(_digest, arguments))
  if key not in results.shared:
    results.shared[key] = function(*arguments)
  return results.shared[key]


def _digest(argument: Any) -> bytes:
  content = argument.tobytes() if isinstance(argument, np.ndarray) else repr(argument).encode()
  return hashlib.blake2b(content, digest_size=16).digest()
