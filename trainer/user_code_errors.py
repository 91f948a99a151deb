"""Errors in the user's code, reported as what they are: which part fails, why, in which file and line."""

import contextlib
import traceback
from collections.abc import Iterator

from trialbook.errors import UserError, said


@contextlib.contextmanager
def explained(what: str) -> Iterator[None]:
  """Turn an error that is raised inside into a UserError that begins with `what` and ends with the place."""
  try:
    yield
  except UserError:
    raise
  except Exception as error:
    told = said(error)
    if (problem := told.removeprefix(f"{type(error).__name__}: ")).startswith("model."):
      raise UserError(problem) from error  # It says by itself which field is wrong.
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "site-packages" not in f.filename]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    raise UserError(f"{what}: {told}{where}") from error
