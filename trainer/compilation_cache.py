"""jax's persistent compilation cache: a program that was compiled once is read the next time, from this machine or from
an object store."""

import jax
from absl import logging

from trialbook import object_store
from trialbook.errors import TryAgainError, UserError
from trialbook.object_store import StorePath
from trialbook.paths import as_path

_PATIENCE_SECONDS = 10.0
"""Seconds for which a store may fail before the run does without it: compiling takes about as long."""


def enable_compilation_cache(folder: str | None) -> None:
  """Turn the cache on in `folder`, unless jax's own setting names another; None leaves it as it is.

  A folder in an object store that cannot be reached is not used, with a warning.
  """
  if folder is None:
    return
  if not jax.config.values["jax_compilation_cache_dir"]:
    path = as_path(folder)
    if isinstance(path, StorePath) and (problem := _problem(path)) is not None:
      logging.warning("compilation_cache = %s is not used, so programs are compiled: %s", folder, problem)
      return
    jax.config.update("jax_compilation_cache_dir", str(path))
  # jax's defaults leave small programs out; a trial of a study is made of small programs.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _problem(folder: StorePath) -> str | None:
  """Return why nothing can be written into a folder, found out soon; None if it can."""
  try:
    object_store.check(folder, patience=_PATIENCE_SECONDS)
  except (UserError, TryAgainError) as error:
    return str(error)
  return None
