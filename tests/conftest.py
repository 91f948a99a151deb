"""Settings that every test shares: tiers, one device set, strict dtypes, one compilation cache, one set of programs."""

import json
import math
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

# Before jax starts: two CPU devices, so that every test also shards, and no accelerator.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault(
  "JAX_COMPILATION_CACHE_DIR",
  str(pathlib.Path(tempfile.gettempdir()) / f"trialbook-test-cache-{os.getuid()}"),
)

import jax
import pytest
import shape_checks

if TYPE_CHECKING:
  from trialbook.trainer import Programs

# Before anything of ours is imported.
shape_checks.install()
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
# Nearly all of the time of most tests would be XLA's. Processes that tests start do not inherit this, so what a kill, a
# preemption or another number of hosts must not change is compared on the code that users run. `optimized` is for other
# tests of bits and of memory.
jax.config.update("jax_disable_most_optimizations", True)

TIERS = ("long", "evidence")
"""Markers of the tests that `make test` leaves to `make test-long` and `make evidence`."""


SECONDS = pathlib.Path(__file__).with_name("seconds.json")
"""What each file took, written by `python tests/times.py --keep`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
  """Refuse a test in two tiers; where several processes share the tests, put the longest files first.

  A long file that begins last would keep one process busy while the others have nothing left. A file that is not in
  the list is taken for a long one.
  """
  for item in items:
    if sum(item.get_closest_marker(tier) is not None for tier in TIERS) > 1:
      raise pytest.UsageError(f"{item.nodeid} is in two tiers; keep one of {', '.join(TIERS)}")
  if "PYTEST_XDIST_WORKER" in os.environ:
    seconds = json.loads(SECONDS.read_text())
    items.sort(key=lambda item: -seconds.get(item.path.relative_to(SECONDS.parent).as_posix(), math.inf))


@pytest.fixture
def optimized() -> Iterator[None]:
  """Compile as users do, with all of XLA's optimizations."""
  jax.config.update("jax_disable_most_optimizations", False)
  yield
  jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="session")
def programs() -> "Programs":
  """Compiled programs that tests of a process share, since compiling is most of what they would do.

  Tests that count compilations make their own.
  """
  from trialbook.trainer import Programs

  return Programs(capacity=64)
