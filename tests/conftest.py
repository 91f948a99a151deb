"""Settings that every test shares: one device set, strict dtypes, one compilation cache for the session."""

import os
import pathlib
import tempfile

# Before jax starts: two CPU devices, so that every test also shards, and no accelerator.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault(
  "JAX_COMPILATION_CACHE_DIR",
  str(pathlib.Path(tempfile.gettempdir()) / f"trialbook-test-cache-{os.getuid()}"),
)

import jax

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
