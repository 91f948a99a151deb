"""jax's persistent compilation cache: a program that was compiled once on this machine is read the next time."""

import jax

from trialbook.paths import as_path


def enable_compilation_cache(folder: str | None) -> None:
  """Turn the cache on in `folder`, unless jax's own setting names another; None leaves it as it is."""
  if folder is None:
    return
  if not jax.config.values["jax_compilation_cache_dir"]:
    jax.config.update("jax_compilation_cache_dir", str(as_path(folder)))
  # jax's defaults leave small programs out; a trial of a study is made of small programs.
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
