"""The origin of a run: versions, code, command, machine."""

import hashlib
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import trialbook
from trialbook.command_line import this_command

if TYPE_CHECKING:
  from trialbook.trainer.config import Config

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pydantic", "scikit-learn")
_ROOMS = ("models", "input_pipeline", "trainer")
_MAX_DIFF = 1_000_000


def versions() -> dict[str, str]:
  """Return the versions of the project, of Python, and of the libraries that a result may depend on."""
  ours = {"trialbook": trialbook.__version__, "python": platform.python_version()}
  return ours | {name: importlib.metadata.version(name) for name in _PACKAGES}


def code(config: "Config") -> dict[str, str]:
  """Return a digest of each file that a run's numbers may depend on: the rooms, and the files of the user's classes."""
  package = pathlib.Path(trialbook.__file__).parent
  places = [*package.glob("*.py"), *(path for room in _ROOMS for path in (package / room).rglob("*.py"))]
  files = {str(path.relative_to(package)): path for path in sorted(places)}
  for name in (config.model.name, config.task.name, config.optimizer.name, config.schedule.name):
    module = sys.modules.get(name.partition(":")[0]) if ":" in name else None
    if module is not None and module.__file__:
      files[name] = pathlib.Path(module.__file__)
  return {name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for name, path in files.items()}


def describe() -> dict[str, Any]:
  """Return versions, git state of the working directory, command, machine and devices, as JSON values."""
  import jax  # Of a study's coordinator only the git state is wanted.

  return {
    "versions": versions(),
    "git": git_state(),
    "command": this_command(),
    "host": {
      "name": platform.node(),
      "system": platform.platform(),
      # XLA splits reductions by the number of visible cores, so bit-identity depends on it.
      "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    },
    "devices": [str(device.device_kind) for device in jax.devices()],
    "platform": jax.default_backend(),
  }


def git_state() -> dict[str, Any] | None:
  """Return commit and uncommitted changes of the repository around the working directory; None outside of one."""

  def git(*arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, errors="replace").stdout

  try:
    commit = git("rev-parse", "HEAD").strip()
    diff = git("diff", "HEAD")
  except (OSError, subprocess.CalledProcessError):
    return None
  return {"commit": commit, "diff": diff[:_MAX_DIFF], "diff_truncated": len(diff) > _MAX_DIFF}
